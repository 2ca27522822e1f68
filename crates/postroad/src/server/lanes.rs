//! Whose turn it is: of what waits, the most important first, and among what is equally important
//! the most urgent.
//!
//! ```text
//!  level 7   this round: (deadline, lane) (deadline, lane) ..   next round: ..
//!  level 6   ..                  |
//!    ..                          +--> the earliest deadline of the level that `Levels` names
//!  level 0   ..
//! ```
//!
//! A *lane* is what waits for one connection. Within a level the earliest deadline is first, of all
//! lanes that have not used up their round: a lane that has is served again when the others had
//! theirs. So a client that names short deadlines, or floods, delays others by a round of each
//! lane. What has the same deadline, or none, keeps its order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;

use postroad_proto::Time;
use postroad_proto::policy::Levels;

use crate::transport::ConnectionId;

/// Work of a lane in one round, nanoseconds. Short enough that ten busy connections delay an
/// eleventh by no more than a scheduler's time slice.
const ROUND: u64 = 500_000;
/// Work of a level after which whoever comes waits for the next round, nanoseconds: else one that
/// always has a request, and never two, would be in every round, and no round would end.
const CLOSES: u64 = 10 * ROUND;
/// A level that waits has at least one part in so many of the work; see [`Levels`].
const GUARANTEED: u64 = 127;
/// What the first turn of a level is taken to have cost, nanoseconds.
const FIRST: u64 = 1_000_000;
/// One-way messages of a lane from which on its driver reads no more. Twice what a driver takes
/// over at once, so that there is work while it reads on. Calls are bounded by the protocol.
const MESSAGES_MAX: usize = 256;
/// Bytes of a lane's payloads, likewise.
pub(crate) const BYTES_MAX: usize = 4 << 20;

/// What decides about the place of something that waits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ticket {
    /// 0 to 7, 7 most important.
    pub(crate) level: u8,
    pub(crate) deadline: Time,
    /// Bytes of its payload.
    pub(crate) bytes: usize,
    /// How long it is expected to work, nanoseconds; 0 if that is not known.
    pub(crate) cost: u64,
    /// Nobody waits for an answer.
    pub(crate) is_message: bool,
    /// Slot and generation of a call that may be called off.
    pub(crate) call: Option<(u16, u16)>,
}

/// A place in a level: the deadline, and then the order of arrival.
type Key = (Time, u64);

struct Entry<T> {
    item: T,
    ticket: Ticket,
}

/// What a lane has waiting at one level.
struct Class<T> {
    level: u8,
    waiting: BTreeMap<Key, Entry<T>>,
    /// Work of this round.
    used: u64,
    /// Where it stands in its level's rounds, unless it is parked or being served.
    turn: Option<(Key, When)>,
}

impl<T> Class<T> {
    /// Expected work of what waits, nanoseconds.
    fn work(&self) -> u64 {
        self.waiting.values().map(|entry| entry.ticket.cost).sum()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    ThisRound,
    NextRound,
}

struct Lane<O, T> {
    owner: O,
    classes: Vec<Class<T>>,
    /// Where calls wait: of many that are called off each is found at once.
    calls: HashMap<(u16, u16), (u8, Key)>,
    len: usize,
    messages: usize,
    bytes: usize,
    is_parked: bool,
    /// The driver has stopped reading and wants to be woken when there is room.
    is_awaited: bool,
}

impl<O, T> Lane<O, T> {
    fn is_full(&self) -> bool {
        self.messages >= MESSAGES_MAX || self.bytes >= BYTES_MAX
    }

    /// Whether so little is left that the driver should read on. Half, so that it is not woken for
    /// each request.
    fn is_low(&self) -> bool {
        self.messages <= MESSAGES_MAX / 2 && self.bytes <= BYTES_MAX / 2
    }

    fn class(&mut self, level: u8) -> Option<&mut Class<T>> {
        self.classes.iter_mut().find(|class| class.level == level)
    }

    fn is_empty(&self) -> bool {
        self.classes.iter().all(|class| class.waiting.is_empty())
    }
}

/// The turns of one level.
#[derive(Default)]
struct Round {
    this: BTreeSet<(Key, ConnectionId)>,
    next: BTreeSet<(Key, ConnectionId)>,
    /// Work of this round.
    served: u64,
}

impl Round {
    fn is_empty(&self) -> bool {
        self.this.is_empty() && self.next.is_empty()
    }

    fn half(&mut self, when: When) -> &mut BTreeSet<(Key, ConnectionId)> {
        match when {
            When::ThisRound => &mut self.this,
            When::NextRound => &mut self.next,
        }
    }

    /// Gives a class the turn that its earliest deadline has earned, or none if nothing waits.
    fn place<T>(&mut self, connection: ConnectionId, class: &mut Class<T>) {
        let head = class.waiting.first_key_value().map(|(key, _)| *key);
        if class.turn.map(|(key, _)| key) == head {
            return;
        }
        let when = match class.turn {
            Some((_, when)) => when,
            None if class.used >= ROUND || self.served >= CLOSES => {
                class.used = 0;
                When::NextRound
            }
            None => When::ThisRound,
        };
        self.displace(connection, class);
        if let Some(key) = head {
            self.half(when).insert((key, connection));
            class.turn = Some((key, when));
        }
    }

    fn displace<T>(&mut self, connection: ConnectionId, class: &mut Class<T>) {
        if let Some((key, when)) = class.turn.take() {
            self.half(when).remove(&(key, connection));
        }
    }

    /// The earliest of this round; when all had theirs, the next begins.
    fn pop(&mut self) -> Option<(Key, ConnectionId)> {
        if self.this.is_empty() {
            mem::swap(&mut self.this, &mut self.next);
            self.served = 0;
        }
        self.this.pop_first()
    }

    /// Who would be served last.
    fn last(&self) -> Option<ConnectionId> {
        let last = self.next.last().or_else(|| self.this.last());
        last.map(|(_, connection)| *connection)
    }
}

/// What waits, by connection. `O` is the connection itself. Decides only; it is tested without
/// connections.
pub(crate) struct Lanes<O, T> {
    lanes: HashMap<ConnectionId, Lane<O, T>>,
    rounds: [Round; 8],
    levels: Levels,
    /// What is being served.
    served: Option<(ConnectionId, u8)>,
    /// Lanes whose last item was called off and whose drivers wait to be woken.
    called_off: Vec<ConnectionId>,
    /// Expected work by level, nanoseconds.
    work: [u64; 8],
    arrivals: u64,
    /// Of all lanes but the parked ones, each of which has bounds of its own: what nobody can serve
    /// now must not keep others out.
    len: usize,
    bytes: usize,
}

/// The next to be served.
pub(crate) struct Next<O, T> {
    pub(crate) connection: ConnectionId,
    pub(crate) owner: O,
    /// `None` if all of the connection's were called off.
    pub(crate) taken: Option<Taken<T>>,
}

/// Where something waits, for whoever may give it up.
#[derive(Debug)]
pub(crate) struct Place {
    connection: ConnectionId,
    level: u8,
    key: Key,
}

/// What was taken, with its place if it has to go back.
pub(crate) struct Taken<T> {
    pub(crate) item: T,
    pub(crate) ticket: Ticket,
    key: Key,
}

/// How the requests of a connection stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneState {
    /// None waits or is being served: the next may be started in place.
    Empty,
    /// Some do.
    Waiting,
    /// Their answers find no room.
    Parked,
    /// So many are that the driver must read no more.
    Full,
}

impl<O: Clone, T> Lanes<O, T> {
    pub(crate) fn new(mut levels: Levels) -> Self {
        // A level that never had a turn would have one before all others. Here each has had one, so
        // what comes first is served by importance, and shares count from now on.
        for waiting in [u8::MAX; 8].into_iter().chain([1 << 7]) {
            if let Some(level) = levels.pick(waiting, Time(0)) {
                levels.charge(level, FIRST);
            }
        }
        Self {
            lanes: HashMap::new(),
            rounds: Default::default(),
            levels,
            served: None,
            called_off: Vec::new(),
            work: [0; 8],
            arrivals: 0,
            len: 0,
            bytes: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The most important level that waits for its turn or is being served.
    pub(crate) fn top(&self) -> Option<u8> {
        let waiting = (0..8).rev().find(|level| !self.is_level_empty(*level));
        waiting.max(self.served.map(|(_, level)| level))
    }

    fn is_level_empty(&self, level: u8) -> bool {
        self.rounds[usize::from(level)].is_empty()
    }

    /// How long something of this level would wait, nanoseconds: for what is as important or more
    /// so, or, if that is sooner, for its own level by the share that is guaranteed.
    pub(crate) fn wait(&self, level: u8) -> u64 {
        let level = usize::from(level.min(7));
        let ahead = self.work[level..].iter().sum::<u64>();
        ahead.min(self.work[level].saturating_mul(GUARANTEED))
    }

    pub(crate) fn push(
        &mut self,
        connection: ConnectionId,
        owner: impl FnOnce() -> O,
        item: T,
        ticket: Ticket,
    ) -> Place {
        self.lanes.entry(connection).or_insert_with(|| Lane {
            owner: owner(),
            classes: Vec::new(),
            calls: HashMap::new(),
            len: 0,
            messages: 0,
            bytes: 0,
            is_parked: false,
            is_awaited: false,
        });
        self.arrivals += 1;
        let key = (ticket.deadline, self.arrivals);
        self.insert(connection, key, Entry { item, ticket });
        Place {
            connection,
            level: ticket.level.min(7),
            key,
        }
    }

    /// Puts something into its lane, and gives the lane its turn.
    fn insert(&mut self, connection: ConnectionId, key: Key, entry: Entry<T>) {
        let ticket = entry.ticket;
        let level = ticket.level.min(7);
        let Some(lane) = self.lanes.get_mut(&connection) else {
            return;
        };
        lane.messages += usize::from(ticket.is_message);
        lane.bytes += ticket.bytes;
        lane.len += 1;
        if let Some(call) = ticket.call {
            lane.calls.insert(call, (level, key));
        }
        let is_parked = lane.is_parked;
        if !is_parked {
            self.len += 1;
            self.bytes += ticket.bytes;
            self.work[usize::from(level)] += ticket.cost;
        }
        let at = lane.classes.iter().position(|class| class.level == level);
        let at = at.unwrap_or_else(|| {
            lane.classes.push(Class {
                level,
                waiting: BTreeMap::new(),
                used: 0,
                turn: None,
            });
            lane.classes.len() - 1
        });
        let class = &mut lane.classes[at];
        class.waiting.insert(key, entry);
        // What is being served has its next turn when it was.
        if !is_parked && self.served != Some((connection, level)) {
            self.rounds[usize::from(level)].place(connection, class);
        }
    }

    /// Notes that something has left its lane.
    fn left(&mut self, connection: ConnectionId, ticket: Ticket) {
        let Some(lane) = self.lanes.get_mut(&connection) else {
            return;
        };
        lane.messages -= usize::from(ticket.is_message);
        lane.bytes -= ticket.bytes;
        lane.len -= 1;
        if let Some(call) = ticket.call {
            lane.calls.remove(&call);
        }
        if !lane.is_parked {
            self.len -= 1;
            self.bytes -= ticket.bytes;
            self.work[usize::from(ticket.level.min(7))] -= ticket.cost;
        }
    }

    /// Takes what is to be served now. [`Self::done`] or [`Self::park`] has to follow.
    pub(crate) fn take(&mut self, now: Time) -> Option<Next<O, T>> {
        while let Some(connection) = self.called_off.pop() {
            if let Some(lane) = self.lanes.get(&connection) {
                let owner = lane.owner.clone();
                return Some(Next {
                    connection,
                    owner,
                    taken: None,
                });
            }
        }
        let waiting = (0..8u8).filter(|level| !self.is_level_empty(*level));
        let waiting = waiting.fold(0u8, |mask, level| mask | 1 << level);
        let level = self.levels.pick(waiting, now)?;
        let (key, connection) = self.rounds[usize::from(level)].pop()?;
        let lane = self.lanes.get_mut(&connection)?;
        let owner = lane.owner.clone();
        let class = lane.class(level)?;
        class.turn = None;
        let entry = class.waiting.remove(&key)?;
        self.served = Some((connection, level));
        self.left(connection, entry.ticket);
        let Entry { item, ticket } = entry;
        let taken = Some(Taken { item, ticket, key });
        Some(Next {
            connection,
            owner,
            taken,
        })
    }

    /// What was taken has worked so long, nanoseconds, and was served. Whether the connection's
    /// driver is to be woken.
    pub(crate) fn done(&mut self, connection: ConnectionId, cost: u64) -> bool {
        let served = self.served.take();
        let Some(lane) = self.lanes.get_mut(&connection) else {
            return false;
        };
        if let Some((_, level)) = served {
            self.levels.charge(level, cost);
            let round = &mut self.rounds[usize::from(level)];
            round.served = round.served.saturating_add(cost);
            if let Some(class) = lane.class(level) {
                class.used = class.used.saturating_add(cost);
                round.place(connection, class);
            }
        }
        lane.classes.retain(|class| !class.waiting.is_empty());
        let must_wake = lane.is_low() && mem::take(&mut lane.is_awaited);
        if lane.classes.is_empty() {
            self.lanes.remove(&connection);
        }
        must_wake
    }

    /// What was taken cannot be served now: it has its place again, and its connection no turns
    /// until [`Self::resume`].
    pub(crate) fn park(&mut self, connection: ConnectionId, taken: Taken<T>) {
        if let Some((_, level)) = self.served.take() {
            self.levels.charge(level, 0);
        }
        if let Some(lane) = self.lanes.get_mut(&connection) {
            lane.is_parked = true;
            self.len -= lane.len;
            self.bytes -= lane.bytes;
            for class in &mut lane.classes {
                let level = usize::from(class.level);
                self.work[level] -= class.work();
                self.rounds[level].displace(connection, class);
            }
        }
        let Taken { item, ticket, key } = taken;
        self.insert(connection, key, Entry { item, ticket });
    }

    /// A parked connection has its turns again.
    pub(crate) fn resume(&mut self, connection: ConnectionId) {
        if let Some(lane) = self.lanes.get_mut(&connection)
            && mem::take(&mut lane.is_parked)
        {
            self.len += lane.len;
            self.bytes += lane.bytes;
            for class in &mut lane.classes {
                let level = usize::from(class.level);
                self.work[level] += class.work();
                self.rounds[level].place(connection, class);
            }
        }
    }

    /// Removes what is not to be kept, and returns it: it is dropped without the lock.
    pub(crate) fn retain(&mut self, connection: ConnectionId, keep: impl Fn(&T) -> bool) -> Vec<T> {
        let Some(lane) = self.lanes.get_mut(&connection) else {
            return Vec::new();
        };
        let (is_parked, served) = (lane.is_parked, self.served);
        let mut removed = Vec::new();
        for class in &mut lane.classes {
            let all = mem::take(&mut class.waiting);
            for (key, entry) in all {
                match keep(&entry.item) {
                    true => drop(class.waiting.insert(key, entry)),
                    false => removed.push(entry),
                }
            }
            if !is_parked && served != Some((connection, class.level)) {
                self.rounds[usize::from(class.level)].place(connection, class);
            }
        }
        for entry in &removed {
            self.left(connection, entry.ticket);
        }
        self.look_after(connection);
        removed.into_iter().map(|entry| entry.item).collect()
    }

    /// Something was called off of this lane. What is being served is done with later, and the lane
    /// looked at then. Nobody would look at any other that is empty, and its driver may wait to be
    /// woken.
    fn look_after(&mut self, connection: ConnectionId) {
        let is_served = self.served.is_some_and(|(served, _)| served == connection);
        let Some(lane) = self.lanes.get(&connection).filter(|lane| lane.is_empty()) else {
            return;
        };
        match (is_served, lane.is_awaited && !lane.is_parked) {
            (true, _) => {}
            (false, true) => self.called_off.push(connection),
            (false, false) => drop(self.lanes.remove(&connection)),
        }
    }

    /// Takes out a call that was called off, if it still waits.
    pub(crate) fn remove_call(&mut self, connection: ConnectionId, call: (u16, u16)) -> Option<T> {
        let (level, key) = *self.lanes.get(&connection)?.calls.get(&call)?;
        self.remove(Place {
            connection,
            level,
            key,
        })
    }

    /// Takes one out that gives up, if it was not taken yet.
    pub(crate) fn remove(&mut self, place: Place) -> Option<T> {
        let Place {
            connection,
            level,
            key,
        } = place;
        let is_served = self.served == Some((connection, level));
        let lane = self.lanes.get_mut(&connection)?;
        let is_parked = lane.is_parked;
        let class = lane.class(level)?;
        let Entry { item, ticket } = class.waiting.remove(&key)?;
        if !is_parked && !is_served {
            self.rounds[usize::from(level)].place(connection, class);
        }
        self.left(connection, ticket);
        self.look_after(connection);
        Some(item)
    }

    /// Everything that waits.
    pub(crate) fn into_items(self) -> impl Iterator<Item = T> {
        let classes = self.lanes.into_values().flat_map(|lane| lane.classes);
        classes.flat_map(|class| class.waiting.into_values().map(|entry| entry.item))
    }

    /// Whether there is something less important than this level.
    pub(crate) fn can_evict(&self, level: u8) -> bool {
        (0..level.min(7)).any(|level| !self.is_level_empty(level))
    }

    /// Takes the one that would be served last, if it is less important than this level.
    pub(crate) fn evict(&mut self, level: u8) -> Option<(O, T)> {
        let lowest = (0..level.min(7)).find(|level| !self.is_level_empty(*level))?;
        let round = &mut self.rounds[usize::from(lowest)];
        let connection = round.last()?;
        let lane = self.lanes.get_mut(&connection)?;
        let owner = lane.owner.clone();
        let class = lane.class(lowest)?;
        let (_, Entry { item, ticket }) = class.waiting.pop_last()?;
        round.place(connection, class);
        self.left(connection, ticket);
        if let Some(lane) = self.lanes.get(&connection)
            && lane.is_empty()
        {
            self.called_off.push(connection);
        }
        Some((owner, item))
    }

    /// How a connection stands. One that is full is to be woken when there is room.
    pub(crate) fn look(&mut self, connection: ConnectionId) -> LaneState {
        match self.lanes.get_mut(&connection) {
            None => LaneState::Empty,
            Some(lane) if lane.is_full() => {
                lane.is_awaited = true;
                LaneState::Full
            }
            Some(lane) if lane.is_parked => LaneState::Parked,
            Some(_) => LaneState::Waiting,
        }
    }
}

#[cfg(test)]
mod tests;
