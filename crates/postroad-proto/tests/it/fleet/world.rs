//! Servers, network and time of the simulated fleet: a queue of events in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::code::{Code, Retry};
use postroad_proto::policy::{Ending, Failed, Random};

use super::client::{Client, Place, Policies};

const CLIENTS: usize = 50;
const SERVERS: usize = 20;
/// Servers that are there from the beginning; the others come while calls are made.
const FIRST_SERVERS: usize = 18;
/// For how long calls are made.
const SECONDS: u64 = 20;
/// Mean time between two calls of one client.
const BETWEEN: Duration = Duration::from_millis(50);
/// Deadline of a call.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Calls that a server works on at a time; more are refused.
const ROOM: u32 = 32;
/// How often a caller that finds no server asks again.
const ASK_AGAIN: Duration = Duration::from_millis(5);
const MILLI: u64 = 1_000_000;

/// How a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Well,
    /// Its clients were told to go elsewhere; what it has it finishes.
    Drains,
    /// It is not there.
    Gone,
    /// It takes twenty times as long.
    Slow,
    /// It answers at once, and never with what was asked for.
    FailsFast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Call(usize),
    Ends(usize, How),
    Deadline(usize),
    Again(usize),
    Hedge(usize),
    Sweep(usize),
    /// A server and its state, by its place in the list of faults.
    Fault(usize),
    Connects(usize, usize),
    /// A client notices that it hears nothing from a server.
    Notices(usize, usize),
}

/// How an attempt ends when its server is through with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum How {
    Answered,
    Full,
    Failed,
}

/// What happens, and when.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Server(usize, Does),
    /// These clients do not reach these servers, by bits.
    Partition(u64, u64),
    Heals,
    RegistryGone(bool),
    /// The registry has a longer list.
    Longer(usize),
}

struct Call {
    client: usize,
    is_idempotent: bool,
    deadline: Time,
    sent: u8,
    avoid: Option<usize>,
    live: Vec<usize>,
    is_over: bool,
    /// How often a server has begun to work on it.
    runs: u32,
}

struct Attempt {
    call: usize,
    place: Place,
    began: Time,
    has_ended: bool,
    /// Whether it takes room at its server.
    is_at_work: bool,
}

/// What has happened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) calls: u64,
    pub(super) idempotent: u64,
    pub(super) idempotent_answered: u64,
    pub(super) answered: u64,
    /// Attempts after a call's first.
    pub(super) further: u64,
    pub(super) hedges: u64,
    /// Calls that may not run twice and did.
    pub(super) ran_twice: u64,
    /// Attempts at a server that failed fast or was slow, from a second after that began, and what
    /// its part of all attempts would have been then.
    pub(super) bad: u64,
    pub(super) bad_fair: f64,
    /// The most calls that a server that was well has worked on.
    pub(super) busiest: u32,
    /// Calls whose end never came.
    pub(super) open: u64,
}

pub(super) struct World {
    now: Time,
    random: Random,
    number: u64,
    queue: BinaryHeap<Reverse<(Time, u64, Event)>>,
    clients: Vec<Client>,
    does: [Does; SERVERS],
    since: [Time; SERVERS],
    at_work: [u32; SERVERS],
    faults: Vec<Fault>,
    partition: (u64, u64),
    is_registry_gone: bool,
    listed: usize,
    calls: Vec<Call>,
    attempts: Vec<Attempt>,
    sums: Sums,
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl World {
    pub(super) fn new(seed: u64, policies: Policies) -> Self {
        let mut random = Random::new(seed);
        let client = |_| Client::new(FIRST_SERVERS, policies, random.bits());
        let clients = (0..CLIENTS).map(client).collect();
        let mut world = Self {
            now: Time(1_000_000_000 + random.below(1 << 40)),
            random,
            number: 0,
            queue: BinaryHeap::new(),
            clients,
            does: [Does::Well; SERVERS],
            since: [Time(0); SERVERS],
            at_work: [0; SERVERS],
            faults: Vec::new(),
            partition: (0, 0),
            is_registry_gone: false,
            listed: FIRST_SERVERS,
            calls: Vec::new(),
            attempts: Vec::new(),
            sums: Sums::default(),
        };
        for client in 0..CLIENTS {
            let after = world.up_to(2 * BETWEEN);
            world.after(after, Event::Call(client));
            let after = world.up_to(Duration::from_secs(10));
            world.after(after, Event::Sweep(client));
        }
        world.draw_faults();
        world
    }

    /// Runs until every call has ended.
    pub(super) fn run(mut self) -> Sums {
        let end = self.now + Duration::from_secs(SECONDS);
        while let Some(Reverse((time, _, event))) = self.queue.pop() {
            self.now = time;
            match event {
                Event::Call(_) | Event::Sweep(_) if time > end => {}
                Event::Call(client) => self.call(client),
                Event::Ends(attempt, how) => self.ends(attempt, how),
                Event::Deadline(call) => self.deadline(call),
                Event::Again(call) => self.send(call, false),
                Event::Hedge(attempt) => self.hedge(attempt),
                Event::Sweep(client) => {
                    self.clients[client].sweep(time);
                    self.after(Duration::from_secs(10), event);
                }
                Event::Fault(fault) => self.fault(self.faults[fault]),
                Event::Connects(client, server) => self.connects(client, server),
                Event::Notices(client, server) => {
                    if self.is_cut(client, server) {
                        self.disconnect(client, server);
                    }
                }
            }
        }
        for call in &self.calls {
            self.sums.ran_twice += u64::from(!call.is_idempotent && call.runs > 1);
            self.sums.open += u64::from(!call.is_over || !call.live.is_empty());
        }
        self.sums
    }

    fn after(&mut self, after: Duration, event: Event) {
        self.number += 1;
        self.queue
            .push(Reverse((self.now + after, self.number, event)));
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.random.below(most.as_nanos() as u64))
    }

    /// A restart of all servers one after the other, slow servers, one that fails fast, a
    /// partition, the loss of the registry while its list grows. No two of them have a server at
    /// the same time, so at most a third of the servers is bad at any moment.
    fn draw_faults(&mut self) {
        let mut free: Vec<usize> = (0..FIRST_SERVERS).collect();
        let mut take = |random: &mut Random| {
            let at = random.below(free.len() as u64) as usize;
            free.swap_remove(at)
        };
        let mut random = self.random.clone();
        let mut at = 1000 + random.below(2000);
        for _ in 0..8 {
            let server = take(&mut random);
            let is_killed = random.below(4) == 0;
            if !is_killed {
                self.later(at, Fault::Server(server, Does::Drains));
            }
            self.later(at + 500, Fault::Server(server, Does::Gone));
            self.later(at + 1500, Fault::Server(server, Does::Well));
            at += 1500 + random.below(500);
        }
        for _ in 0..random.below(4) {
            self.span(take(&mut random), Does::Slow, &mut random);
        }
        self.span(take(&mut random), Does::FailsFast, &mut random);
        if random.below(2) == 0 {
            let (clients, begin) = (random.bits(), 1000 + random.below(10_000));
            let servers = 1 << take(&mut random) | 1 << take(&mut random) | 1 << take(&mut random);
            self.later(begin, Fault::Partition(clients, servers));
            // A shorter one would go unnoticed; TCP would send again what was sent meanwhile.
            self.later(begin + 1000 + random.below(5000), Fault::Heals);
        }
        let begin = random.below(10_000);
        self.later(begin, Fault::RegistryGone(true));
        self.later(begin + 5000, Fault::RegistryGone(false));
        for more in FIRST_SERVERS..SERVERS {
            self.later(random.below(15_000), Fault::Longer(more + 1));
        }
        self.random = random;
    }

    fn span(&mut self, server: usize, does: Does, random: &mut Random) {
        let begin = 1000 + random.below(8000);
        self.later(begin, Fault::Server(server, does));
        self.later(
            begin + 2000 + random.below(8000),
            Fault::Server(server, Does::Well),
        );
    }

    fn later(&mut self, at: u64, fault: Fault) {
        self.faults.push(fault);
        self.after(millis(at), Event::Fault(self.faults.len() - 1));
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Server(server, does) => self.becomes(server, does),
            Fault::Partition(clients, servers) => {
                self.partition = (clients, servers);
                for client in 0..CLIENTS {
                    for server in 0..SERVERS {
                        if self.is_cut(client, server) {
                            let after = millis(500) + self.up_to(millis(500));
                            self.after(after, Event::Notices(client, server));
                        }
                    }
                }
            }
            Fault::Heals => {
                let before = std::mem::take(&mut self.partition);
                for server in (0..SERVERS).filter(|server| before.1 >> server & 1 == 1) {
                    self.all_connect(server);
                }
            }
            Fault::RegistryGone(is_gone) => {
                self.is_registry_gone = is_gone;
                self.list();
            }
            Fault::Longer(listed) => {
                self.listed = self.listed.max(listed);
                self.list();
            }
        }
    }

    /// Tells the clients the list, if there is a registry to tell it. Otherwise they go on with the
    /// one that they have.
    fn list(&mut self) {
        if self.is_registry_gone {
            return;
        }
        for client in &mut self.clients {
            client.set_list(self.listed, self.now);
        }
    }

    fn becomes(&mut self, server: usize, does: Does) {
        let was = std::mem::replace(&mut self.does[server], does);
        self.since[server] = self.now;
        match does {
            Does::Drains => {
                for client in &mut self.clients {
                    client.set_connected(server, false, self.now);
                }
            }
            Does::Gone => (0..CLIENTS).for_each(|client| self.disconnect(client, server)),
            Does::Well if was == Does::Gone => self.all_connect(server),
            Does::Well | Does::Slow | Does::FailsFast => {}
        }
    }

    fn all_connect(&mut self, server: usize) {
        for client in 0..CLIENTS {
            let after = self.up_to(millis(500));
            self.after(after, Event::Connects(client, server));
        }
    }

    fn connects(&mut self, client: usize, server: usize) {
        let is_there = !matches!(self.does[server], Does::Gone | Does::Drains);
        if is_there && !self.is_cut(client, server) {
            self.clients[client].set_connected(server, true, self.now);
        }
    }

    fn is_cut(&self, client: usize, server: usize) -> bool {
        self.partition.0 >> client & 1 == 1 && self.partition.1 >> server & 1 == 1
    }

    /// A connection ends, and with it all that is under way on it.
    fn disconnect(&mut self, client: usize, server: usize) {
        self.clients[client].set_connected(server, false, self.now);
        let is_lost = |attempt: &Attempt| {
            let call = &self.calls[attempt.call];
            !attempt.has_ended && call.client == client && attempt.place.server == server
        };
        // Nothing under way began longer ago than a call may take.
        let oldest = self.now.before(TIMEOUT);
        let recent = self
            .attempts
            .iter()
            .rposition(|attempt| attempt.began < oldest)
            .unwrap_or(0);
        let lost: Vec<usize> = (recent..self.attempts.len())
            .filter(|&at| is_lost(&self.attempts[at]))
            .collect();
        for attempt in lost {
            self.failed(attempt, Ending::Lost { sent: true });
        }
    }

    fn call(&mut self, client: usize) {
        let after = self.up_to(2 * BETWEEN);
        self.after(after, Event::Call(client));
        let is_idempotent = self.random.below(5) > 0;
        self.sums.calls += 1;
        self.sums.idempotent += u64::from(is_idempotent);
        let mut call = Call {
            client,
            is_idempotent,
            deadline: self.now + TIMEOUT,
            sent: 0,
            avoid: None,
            live: Vec::new(),
            is_over: false,
            runs: 0,
        };
        call.is_over = !self.clients[client].admit(self.now);
        self.calls.push(call);
        let call = self.calls.len() - 1;
        if !self.calls[call].is_over {
            self.after(TIMEOUT, Event::Deadline(call));
            self.send(call, false);
        }
    }

    /// Sends a call to a server, or waits for one.
    fn send(&mut self, number: usize, is_hedge: bool) {
        let call = &mut self.calls[number];
        if call.is_over {
            return;
        }
        let client = &mut self.clients[call.client];
        let Some(place) = client.pick(call.avoid, self.now) else {
            if !is_hedge {
                self.after(ASK_AGAIN, Event::Again(number));
            }
            return;
        };
        let (client, is_idempotent) = (call.client, call.is_idempotent);
        call.sent += 1;
        call.avoid = Some(place.server);
        self.sums.further += u64::from(call.sent > 1);
        let attempt = self.attempts.len();
        call.live.push(attempt);
        self.attempts.push(Attempt {
            call: number,
            place,
            began: self.now,
            has_ended: false,
            is_at_work: false,
        });
        if is_idempotent
            && !is_hedge
            && let Some(hedge) = &self.clients[client].hedge
            && let Some(delay) = hedge.begin(self.now)
        {
            self.after(delay, Event::Hedge(attempt));
        }
        self.count_bad(place.server);
        self.arrives(attempt);
    }

    /// What one attempt adds to what bad servers got, and to what they would get by their number.
    fn count_bad(&mut self, server: usize) {
        let is_bad = |server: &usize| {
            matches!(self.does[*server], Does::Slow | Does::FailsFast)
                && self.now.since(self.since[*server]) > Duration::from_secs(1)
        };
        let bad = (0..SERVERS).filter(is_bad).count();
        self.sums.bad += u64::from(is_bad(&server));
        self.sums.bad_fair += bad as f64 / self.listed as f64;
    }

    fn arrives(&mut self, number: usize) {
        let Attempt { call, place, .. } = self.attempts[number];
        let (client, server) = (self.calls[call].client, place.server);
        if self.is_cut(client, server) {
            return;
        }
        let network = millis(1) / 5;
        let does = self.does[server];
        if does == Does::FailsFast {
            return self.after(network, Event::Ends(number, How::Failed));
        }
        if self.at_work[server] >= ROOM {
            return self.after(network, Event::Ends(number, How::Full));
        }
        self.at_work[server] += 1;
        self.attempts[number].is_at_work = true;
        self.calls[call].runs += 1;
        if does == Does::Well {
            self.sums.busiest = self.sums.busiest.max(self.at_work[server]);
        }
        let mut work = Duration::from_nanos(2 * MILLI + self.random.below(6 * MILLI));
        // Now and then one takes long, wherever it is.
        if self.random.below(500) == 0 {
            work *= 20;
        }
        if does == Does::Slow {
            work *= 20;
        }
        self.after(network + work, Event::Ends(number, How::Answered));
    }

    fn ends(&mut self, number: usize, how: How) {
        let Attempt { call, place, .. } = self.attempts[number];
        if self.attempts[number].has_ended || self.is_cut(self.calls[call].client, place.server) {
            return;
        }
        match how {
            How::Answered => {
                self.close(number, Ending::Answered);
                let is_idempotent = self.calls[call].is_idempotent;
                self.sums.answered += 1;
                self.sums.idempotent_answered += u64::from(is_idempotent);
                self.over(call, Ending::GivenUp);
            }
            How::Full => {
                let (code, retry) = (Code::OVERLOADED, Retry::Here);
                self.failed(number, Ending::Refused { code, retry });
            }
            How::Failed => {
                let (code, retry) = (Code::INTERNAL, Retry::Elsewhere);
                self.failed(number, Ending::Refused { code, retry });
            }
        }
    }

    /// Tells an attempt's client how it has ended.
    fn close(&mut self, number: usize, ending: Ending) {
        let attempt = &mut self.attempts[number];
        attempt.has_ended = true;
        if std::mem::take(&mut attempt.is_at_work) {
            self.at_work[attempt.place.server] -= 1;
        }
        let call = &mut self.calls[attempt.call];
        call.live.retain(|live| *live != number);
        self.clients[call.client].finish(attempt.place, ending, attempt.began, self.now);
    }

    /// A call is over: what is still under way for it ends so.
    fn over(&mut self, number: usize, ending: Ending) {
        self.calls[number].is_over = true;
        for attempt in self.calls[number].live.clone() {
            self.close(attempt, ending);
        }
    }

    fn deadline(&mut self, number: usize) {
        if !self.calls[number].is_over {
            self.over(number, Ending::Deadline { sent: true });
        }
    }

    fn failed(&mut self, number: usize, ending: Ending) {
        self.close(number, ending);
        let Attempt {
            call: at, place, ..
        } = self.attempts[number];
        let call = &self.calls[at];
        // The answer of another attempt is waited for first.
        if call.is_over || !call.live.is_empty() {
            return;
        }
        let failed = Failed {
            retry: ending.retry(),
            is_unsent: false,
            hint: None,
            is_idempotent: call.is_idempotent,
            no_retry: false,
            sent: call.sent,
            unsent: 0,
            deadline: call.deadline,
        };
        match self.clients[call.client].judge(&failed, place.server, self.now) {
            Ok(again) => self.after(again.after, Event::Again(at)),
            Err(_) => self.over(at, Ending::GivenUp),
        }
    }

    /// An attempt has taken long.
    fn hedge(&mut self, number: usize) {
        let Attempt {
            call: at,
            place,
            has_ended,
            ..
        } = self.attempts[number];
        let call = &self.calls[at];
        if !has_ended
            && !call.is_over
            && self.clients[call.client].may_hedge(place.server, self.now)
        {
            self.sums.hedges += 1;
            self.send(at, true);
        }
    }
}
