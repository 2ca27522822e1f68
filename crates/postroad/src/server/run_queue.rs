//! Requests that wait for their turn on one reactor.
//!
//! A request is started where it was read as long as its connection's turn lasts. What comes after
//! that is queued here, and a task of the reactor starts it: of each connection the oldest, one
//! connection after the other. So a connection that floods slow handlers delays its own requests,
//! and the others' by one handler each.
//!
//! ```text
//!  driver (turn over) --push--> lane of its connection --take--> task "drain" --> handler
//!        ^                         |          |                      |
//!        |                         |          +-- parked while the peer reads no answers
//!        +---- woken when the lane has room again <------------------+
//! ```
//!
//! A *lane* holds the queued requests of one connection. It is in `turns` exactly while it exists,
//! is not parked, and none of its requests is being started: that keeps the order of a connection
//! also where several threads drive it.
//!
//! The task lives only while there is something to start. Locks: whoever holds the queue's takes no
//! connection's; the other way round is allowed, and done for requests that are called off.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postroad_proto::session::{CallId, DropReason};

use super::intake::{QUEUED_BYTES_MAX, QUEUED_MAX};
use super::routes::Dispatch;
use super::share::Share;
use crate::driver::{Connection, Forget, RequestQueue};
use crate::extract::Request;
use crate::observe::calls;
use crate::route::Route;
use crate::transport::ConnectionId;

/// Queued requests of one connection from which on its driver reads no more. Twice what a driver
/// takes over at once, so that the task has work while the driver reads on.
const LANE_MAX: usize = 256;
/// Bytes of payloads, likewise.
pub(super) const LANE_BYTES_MAX: usize = 4 << 20;

/// A request that waits for its turn.
pub(super) struct Queued {
    pub(super) route: Arc<Route>,
    pub(super) request: Request,
    /// To answer by; `None` for a one-way message.
    pub(super) id: Option<CallId>,
    /// What its connection's requests hold.
    pub(super) share: Arc<Share>,
    /// Its place among all that are queued.
    place: Place,
}

/// Counts a request as queued while it lives.
struct Place(Arc<Dispatch>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.intake.leave_queue();
    }
}

impl Queued {
    pub(super) fn new(
        dispatch: &Arc<Dispatch>,
        route: &Arc<Route>,
        request: Request,
        id: Option<CallId>,
        share: &Arc<Share>,
    ) -> Self {
        dispatch.intake.enter_queue();
        Self {
            route: Arc::clone(route),
            request,
            id,
            share: Arc::clone(share),
            place: Place(Arc::clone(dispatch)),
        }
    }

    /// What its server's requests share.
    pub(super) fn dispatch(&self) -> &Arc<Dispatch> {
        &self.place.0
    }

    fn bytes(&self) -> usize {
        self.request.payload.len()
    }
}

/// The queued requests of one connection, oldest first. `O` is the connection.
struct Lane<O, T> {
    owner: O,
    waiting: VecDeque<(T, usize)>,
    bytes: usize,
    /// Answers find no room until the peer reads some.
    is_parked: bool,
    /// The driver has stopped reading and wants to be woken when there is room.
    is_awaited: bool,
}

impl<O, T> Lane<O, T> {
    fn is_full(&self) -> bool {
        self.waiting.len() >= LANE_MAX || self.bytes >= LANE_BYTES_MAX
    }

    /// Whether so little is left that the driver should read on. Half, so that it is not woken for
    /// each request.
    fn is_low(&self) -> bool {
        self.waiting.len() <= LANE_MAX / 2 && self.bytes <= LANE_BYTES_MAX / 2
    }
}

/// The lanes of a reactor, and whose turn it is. Decides only; it is tested without connections.
struct Lanes<O, T> {
    lanes: HashMap<ConnectionId, Lane<O, T>>,
    turns: VecDeque<ConnectionId>,
    len: usize,
    bytes: usize,
}

impl<O, T> Default for Lanes<O, T> {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            len: 0,
            bytes: 0,
        }
    }
}

/// The next to be started.
struct Next<O, T> {
    owner: O,
    /// `None` if all of the connection's were called off.
    queued: Option<T>,
}

impl<O: Clone, T> Lanes<O, T> {
    fn push(&mut self, connection: ConnectionId, owner: impl FnOnce() -> O, item: T, bytes: usize) {
        let lane = self.lanes.entry(connection).or_insert_with(|| {
            self.turns.push_back(connection);
            Lane {
                owner: owner(),
                waiting: VecDeque::new(),
                bytes: 0,
                is_parked: false,
                is_awaited: false,
            }
        });
        lane.waiting.push_back((item, bytes));
        lane.bytes += bytes;
        self.len += 1;
        self.bytes += bytes;
    }

    /// Takes the oldest request of the connection whose turn it is. [`Self::done`] or
    /// [`Self::park`] has to follow.
    fn take(&mut self) -> Option<Next<O, T>> {
        let connection = self.turns.pop_front()?;
        let lane = self.lanes.get_mut(&connection)?;
        let owner = lane.owner.clone();
        let queued = lane.waiting.pop_front().map(|(item, bytes)| {
            lane.bytes -= bytes;
            self.len -= 1;
            self.bytes -= bytes;
            item
        });
        Some(Next { owner, queued })
    }

    /// What was taken was started: the connection's next turn is behind all others'. Whether its
    /// driver is to be woken.
    fn done(&mut self, connection: ConnectionId) -> bool {
        let Some(lane) = self.lanes.get_mut(&connection) else {
            return false;
        };
        let must_wake = lane.is_low() && mem::take(&mut lane.is_awaited);
        if lane.waiting.is_empty() {
            self.lanes.remove(&connection);
        } else {
            self.turns.push_back(connection);
        }
        must_wake
    }

    /// What was taken cannot be started now: it is the connection's oldest again, and has no turn
    /// until [`Self::resume`].
    fn park(&mut self, connection: ConnectionId, item: T, bytes: usize) {
        let Some(lane) = self.lanes.get_mut(&connection) else {
            return;
        };
        lane.is_parked = true;
        lane.waiting.push_front((item, bytes));
        lane.bytes += bytes;
        self.len += 1;
        self.bytes += bytes;
    }

    /// A parked connection has its turns again.
    fn resume(&mut self, connection: ConnectionId) {
        if let Some(lane) = self.lanes.get_mut(&connection)
            && mem::take(&mut lane.is_parked)
        {
            self.turns.push_back(connection);
        }
    }

    /// Removes what is not to be kept, and returns it: it is dropped without the lock.
    fn retain(&mut self, connection: ConnectionId, keep: impl Fn(&T) -> bool) -> Vec<T> {
        let Some(lane) = self.lanes.get_mut(&connection) else {
            return Vec::new();
        };
        let all = mem::take(&mut lane.waiting);
        let mut removed = Vec::new();
        for (item, bytes) in all {
            if keep(&item) {
                lane.waiting.push_back((item, bytes));
            } else {
                removed.push((item, bytes));
            }
        }
        let bytes: usize = removed.iter().map(|(_, bytes)| bytes).sum();
        lane.bytes -= bytes;
        self.bytes -= bytes;
        self.len -= removed.len();
        // A lane that has a turn, or whose request is being started, is looked at again and goes
        // then. Nobody would look at a parked one.
        if lane.waiting.is_empty() && lane.is_parked {
            self.lanes.remove(&connection);
        }
        removed.into_iter().map(|(item, _)| item).collect()
    }

    fn is_full(&self) -> bool {
        self.len >= QUEUED_MAX || self.bytes >= QUEUED_BYTES_MAX
    }
}

/// How the requests of a connection stand in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneState {
    /// None is queued or being started: the next may be started in place.
    Empty,
    /// Some are.
    Waiting,
    /// So many are that the driver must read no more.
    Full,
}

/// The run queue of one reactor.
pub(crate) struct RunQueue {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lanes: Lanes<Arc<Connection>, Queued>,
    /// A task starts what is queued.
    is_draining: bool,
}

/// A request to be started by the task.
pub(super) struct Turn {
    pub(super) connection: Arc<Connection>,
    pub(super) queued: Option<Queued>,
}

impl RunQueue {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here leaves the lanes half-changed when it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the reactor takes no more. Asked only for requests that have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.lock().lanes.is_full()
    }

    /// Queues a request; whether the caller has to spawn the task that starts it.
    #[must_use]
    pub(super) fn push(&self, connection: &Arc<Connection>, queued: Queued) -> bool {
        let mut state = self.lock();
        let (id, bytes) = (connection.peer.connection(), queued.bytes());
        let owner = || Arc::clone(connection);
        state.lanes.push(id, owner, queued, bytes);
        !mem::replace(&mut state.is_draining, true)
    }

    /// How a connection stands. A driver that is told *full* is woken when there is room.
    pub(super) fn look(&self, connection: ConnectionId) -> LaneState {
        match self.lock().lanes.lanes.get_mut(&connection) {
            None => LaneState::Empty,
            Some(lane) if lane.is_full() => {
                lane.is_awaited = true;
                LaneState::Full
            }
            Some(_) => LaneState::Waiting,
        }
    }

    /// A connection's answers find room again; whether the caller has to spawn the task.
    #[must_use]
    pub(super) fn resume(&self, connection: ConnectionId) -> bool {
        let mut state = self.lock();
        state.lanes.resume(connection);
        let has_turns = !state.lanes.turns.is_empty();
        has_turns && !mem::replace(&mut state.is_draining, true)
    }

    /// As the task: what is to be started next. After `None` the task has to end.
    pub(super) fn take(&self) -> Option<Turn> {
        let mut state = self.lock();
        let Some(next) = state.lanes.take() else {
            state.is_draining = false;
            return None;
        };
        drop(state);
        Some(Turn {
            connection: next.owner,
            queued: next.queued,
        })
    }

    /// As the task, which ends before it was done: nobody starts what is left.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.is_draining = false;
        let Lanes { lanes, .. } = mem::take(&mut state.lanes);
        drop(state);
        for lane in lanes.into_values() {
            lose(lane.waiting.into_iter().map(|(queued, _)| queued));
        }
    }

    /// As the task: what was taken was started.
    pub(super) fn done(&self, connection: &Connection) {
        let must_wake = self.lock().lanes.done(connection.peer.connection());
        if must_wake {
            connection.wake_now();
        }
    }

    /// As the task: the answers of this connection find no room.
    pub(super) fn park(&self, connection: &Connection, queued: Queued) {
        let id = connection.peer.connection();
        let mut state = self.lock();
        let bytes = queued.bytes();
        state.lanes.park(id, queued, bytes);
        drop(state);
        // The driver may have made room after the task looked and before the lane was parked; then
        // it has found nothing to resume.
        if connection.has_room_for_answers() {
            self.lock().lanes.resume(id);
        }
    }
}

/// Counts and logs what was called off before it was started, unless a caller hears of it.
fn lose(queued: impl IntoIterator<Item = Queued>) {
    for queued in queued {
        if queued.id.is_none() {
            let (counters, peer) = (&queued.dispatch().counters, queued.request.peer());
            calls::dropped_on_arrival(counters, peer, 1, DropReason::Unstarted);
        }
    }
}

impl RequestQueue for RunQueue {
    fn forget(&self, connection: ConnectionId, what: Forget) {
        let removed = self.lock().lanes.retain(connection, |queued| match what {
            Forget::Call(id) => queued.id != Some(id),
            // A one-way message was taken over when it was read, and nobody waits for it: that its
            // sender has hung up is no reason to lose it.
            Forget::Calls => queued.id.is_none(),
            Forget::All => false,
        });
        // Without the lock: what is told may be logged.
        lose(removed);
    }
}

impl fmt::Debug for RunQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunQueue").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use bytes::Bytes;
    use postroad_proto::session::{CloseReason, Config, Session};

    use super::*;
    use crate::driver::ConnectionDriver;
    use crate::preset::Preset;
    use crate::router::Router;
    use crate::server::Routes;
    use crate::server::start::Dispatcher;
    use crate::transport::{PeerInfo, Stream};

    /// The queue of a server with one connection, whose driver has not run yet.
    struct Queue {
        routes: Routes,
        queue: Arc<RunQueue>,
        driver: ConnectionDriver,
    }

    impl Queue {
        fn new() -> Self {
            let routes = Routes::default();
            routes.add(Router::new().route("act", std::future::pending::<()>));
            let queue = Arc::new(RunQueue::new());
            let dispatch = Arc::clone(&routes.dispatch);
            let driver = ConnectionDriver::server(
                Stream::new(tokio::io::duplex(64).0),
                Session::server(Config::default(), [0; 16], crate::clock::now()),
                PeerInfo::named("tester"),
                Box::new(Dispatcher::new(dispatch, Arc::clone(&queue))),
                Arc::clone(&routes.dispatch.counters),
                Preset::default(),
            );
            let connection = driver.connection();
            connection.queue_requests_in(Arc::clone(&queue) as _);
            Self {
                routes,
                queue,
                driver,
            }
        }

        fn push(&self, payload: Bytes) {
            let dispatch = &self.routes.dispatch;
            let route = Arc::clone(dispatch.table().get("act").expect("it was added"));
            let request = Request::to("act", payload);
            let queued = Queued::new(dispatch, &route, request, None, &Arc::default());
            let _ = self.queue.push(self.driver.connection(), queued);
        }

        /// What was counted as dropped, and what waits.
        fn state(&self) -> (u64, usize) {
            let counters = self.routes.dispatch.counters.snapshot(0);
            (counters.dropped, self.routes.dispatch.intake.queued())
        }
    }

    #[tokio::test]
    async fn a_queue_is_full_by_bytes_also_while_requests_are_few() {
        let queue = Queue::new();
        let payload = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..QUEUED_BYTES_MAX >> 20 {
            assert!(!queue.queue.is_full());
            queue.push(payload.clone());
        }
        assert!(queue.queue.is_full());
    }

    #[tokio::test]
    async fn messages_that_leave_the_queue_with_their_server_are_counted() {
        let queue = Queue::new();
        (0..3).for_each(|_| queue.push(Bytes::new()));
        queue.driver.connection().close(CloseReason::Local);
        assert_eq!(queue.state(), (3, 0));
    }

    #[tokio::test]
    async fn messages_that_leave_the_queue_with_their_driver_are_counted() {
        let queue = Queue::new();
        (0..3).for_each(|_| queue.push(Bytes::new()));
        let Queue { routes, driver, .. } = queue;
        drop(driver);
        let counters = routes.dispatch.counters.snapshot(0);
        assert_eq!(counters.dropped, 3);
        assert_eq!(routes.dispatch.intake.queued(), 0);
    }

    #[tokio::test]
    async fn messages_that_leave_the_queue_with_its_task_are_counted_and_nothing_leaks() {
        let queue = Queue::new();
        (0..3).for_each(|_| queue.push(Bytes::new()));
        queue.driver.connection().close(CloseReason::Peer);
        assert_eq!(queue.state(), (0, 3), "they are still to be handled");
        queue.queue.abandon();
        assert_eq!(queue.state(), (3, 0));
        let connection: Weak<Connection> = Arc::downgrade(queue.driver.connection());
        drop(queue.driver);
        assert!(connection.upgrade().is_none());
    }

    fn connection() -> ConnectionId {
        PeerInfo::named("tester").connection()
    }

    /// Starts one after the other, and says whose they were.
    fn run<T: Copy>(lanes: &mut Lanes<(char, ConnectionId), T>, times: usize) -> Vec<(char, T)> {
        let mut started = Vec::new();
        for _ in 0..times {
            let Some(next) = lanes.take() else { break };
            started.extend(next.queued.map(|item| (next.owner.0, item)));
            lanes.done(next.owner.1);
        }
        started
    }

    #[test]
    fn connections_take_turns_and_each_keeps_its_order() {
        let mut lanes = Lanes::default();
        let (flood, small) = (connection(), connection());
        (0..100).for_each(|n| lanes.push(flood, || ('f', flood), n, 0));
        assert_eq!(run(&mut lanes, 2), [('f', 0), ('f', 1)]);
        lanes.push(small, || ('s', small), 7, 0);
        assert_eq!(run(&mut lanes, 3), [('f', 2), ('s', 7), ('f', 3)]);
        assert!(!lanes.lanes.contains_key(&small));
        assert_eq!(run(&mut lanes, 1000).len(), 96);
        assert!(lanes.lanes.is_empty() && lanes.len == 0);
    }

    #[test]
    fn a_connection_has_no_second_turn_while_its_request_is_being_started() {
        let mut lanes = Lanes::default();
        let only = connection();
        lanes.push(only, || ('a', only), 0, 0);
        let first = lanes.take().expect("it was pushed");
        lanes.push(only, || ('a', only), 1, 0);
        // Another thread finds nothing, and the driver sees that it must not start in place.
        assert!(lanes.take().is_none() && lanes.lanes.contains_key(&only));
        lanes.done(first.owner.1);
        assert_eq!(run(&mut lanes, 2), [('a', 1)]);
    }

    #[test]
    fn a_parked_connection_keeps_its_order_and_its_turns_come_back() {
        let mut lanes = Lanes::default();
        let (deaf, other) = (connection(), connection());
        (0..2).for_each(|n| lanes.push(deaf, || ('d', deaf), n, 10));
        let next = lanes.take().expect("it was pushed");
        lanes.park(deaf, next.queued.expect("it waits"), 10);
        lanes.push(other, || ('o', other), 9, 0);
        assert_eq!(run(&mut lanes, 10), [('o', 9)]);
        assert_eq!((lanes.len, lanes.bytes), (2, 20));
        lanes.resume(deaf);
        lanes.resume(deaf);
        assert_eq!(run(&mut lanes, 10), [('d', 0), ('d', 1)]);
    }

    #[test]
    fn requests_that_were_called_off_leave_and_the_driver_is_woken_though_none_is_left() {
        let mut lanes = Lanes::default();
        let only = connection();
        (0..LANE_MAX).for_each(|n| lanes.push(only, || ('a', only), n, 1));
        let lane = lanes.lanes.get_mut(&only).expect("it was pushed");
        assert!(lane.is_full());
        lane.is_awaited = true;
        assert_eq!(lanes.retain(only, |n| *n != 5), [5]);
        assert_eq!(lanes.retain(only, |_| false).len(), LANE_MAX - 1);
        assert_eq!((lanes.len, lanes.bytes), (0, 0));
        let next = lanes.take().expect("its turn was not taken away");
        assert!(next.queued.is_none() && lanes.done(only), "woken");
        assert!(lanes.lanes.is_empty() && lanes.turns.is_empty());
    }

    #[test]
    fn a_lane_is_full_by_requests_or_by_bytes_and_the_driver_is_woken_once_at_half() {
        let mut lanes = Lanes::default();
        let only = connection();
        lanes.push(only, || ('a', only), 0, LANE_BYTES_MAX);
        assert!(lanes.lanes[&only].is_full());
        run(&mut lanes, 1);
        (0..LANE_MAX).for_each(|n| lanes.push(only, || ('a', only), n, 1));
        lanes.lanes.get_mut(&only).expect("it is there").is_awaited = true;
        let mut woken_at = Vec::new();
        while lanes.take().is_some() {
            if lanes.done(only) {
                woken_at.push(lanes.len);
            }
        }
        assert_eq!(woken_at, [LANE_MAX / 2]);
    }
}
