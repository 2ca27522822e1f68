//! Requests that wait for their turn on one reactor.
//!
//! A request is started where it was read as long as its connection's turn lasts and nothing as
//! important waits. What comes after that is queued here, and a task of the reactor starts the most
//! important first; [`lanes`](super::lanes) says in which order.
//!
//! ```text
//!  driver --push--> lane of its connection --take--> task "drain" --> handler
//!     ^                      |          |                   |
//!     |                      |          +-- parked while the peer reads no answers
//!     +---- woken when the lane has room again <------------+
//! ```
//!
//! Everything that has arrived is read and put into its place, because what is not read may be the
//! most important of all. So calls do not stop a driver from reading: their number is bounded by
//! the protocol, and what cannot be in time is refused when it comes. One-way messages, which
//! nobody can be told about, and many bytes do stop it.
//!
//! One request is started at a time, and none of its level in place meanwhile: that keeps the
//! order of a connection also where several threads drive it.
//!
//! The task lives only while there is something to start. Locks: whoever holds the queue's takes no
//! connection's; the other way round is allowed, and done for requests that are called off.

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::{Levels, OrderConfig};
use postroad_proto::session::{CallId, DropReason};

use super::admission::Guard;
use super::intake::{QUEUED_BYTES_MAX, QUEUED_MAX, Refusal};
use super::lanes::{LaneState, Lanes, Taken, Ticket};
use super::routes::Dispatch;
use super::share::Share;
use crate::driver::{Connection, Forget, RequestQueue};
use crate::extract::Request;
use crate::observe::calls;
use crate::route::Route;
use crate::transport::ConnectionId;

/// A request that waits for its turn.
pub(super) struct Queued {
    pub(super) route: Arc<Route>,
    pub(super) request: Request,
    /// To answer by; `None` for a one-way message.
    pub(super) id: Option<CallId>,
    /// What its connection's requests hold.
    pub(super) share: Arc<Share>,
    /// What a rule says of its route.
    pub(super) guard: Option<Arc<Guard>>,
    /// Its place among all that are queued.
    place: Counted,
}

/// Counts a request as queued while it lives.
struct Counted(Arc<Dispatch>);

impl Drop for Counted {
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
            guard: None,
            place: Counted(Arc::clone(dispatch)),
        }
    }

    /// What its server's requests share.
    pub(super) fn dispatch(&self) -> &Arc<Dispatch> {
        &self.place.0
    }
}

/// The run queue of one reactor.
pub(crate) struct RunQueue {
    state: Mutex<State>,
    /// One more than the most important level that waits or is being started; 0 if nothing is. To
    /// be read without the lock.
    top: AtomicU8,
}

struct State {
    lanes: Lanes<Arc<Connection>, Queued>,
    /// A task starts what is queued.
    is_draining: bool,
}

/// A request to be started by the task.
pub(super) struct Turn {
    pub(super) connection: Arc<Connection>,
    pub(super) taken: Option<Taken<Queued>>,
}

/// Whether a request may be queued.
pub(super) enum Admission {
    Room,
    /// Its connection has no more room: its driver is woken when there is some.
    LaneFull,
    Refused(Refusal),
}

/// What came of queueing a request.
pub(super) struct Pushed {
    /// The caller has to spawn the task that starts what is queued.
    pub(super) must_spawn: bool,
    /// A less important request that had to make room, and whose it was.
    pub(super) evicted: Option<(Arc<Connection>, Queued)>,
}

fn new_lanes<O: Clone, T>() -> Lanes<O, T> {
    Lanes::new(Levels::new(OrderConfig::default()))
}

impl RunQueue {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                lanes: new_lanes(),
                is_draining: false,
            }),
            top: AtomicU8::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here leaves the lanes half-changed when it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the lock back after a change.
    fn unlock(&self, state: MutexGuard<'_, State>) {
        let top = state.lanes.top().map_or(0, |level| level + 1);
        self.top.store(top, Ordering::Relaxed);
    }

    /// Whether something as important as this level, or more so, waits.
    #[inline]
    pub(super) fn is_ahead_of(&self, level: u8) -> bool {
        self.top.load(Ordering::Relaxed) > level
    }

    /// Whether a request may be queued that can wait so long.
    pub(super) fn admits(
        &self,
        connection: ConnectionId,
        ticket: &Ticket,
        patience: Option<Duration>,
    ) -> Admission {
        let mut state = self.lock();
        let lanes = &mut state.lanes;
        if lanes.look(connection) == LaneState::Full {
            return Admission::LaneFull;
        }
        let wait = Duration::from_nanos(lanes.wait(ticket.level));
        if patience.is_some_and(|patience| wait > patience) {
            return Admission::Refused(Refusal::Hopeless(wait));
        }
        match Self::is_full(lanes) && !lanes.can_evict(ticket.level) {
            true => Admission::Refused(Refusal::QueueFull),
            false => Admission::Room,
        }
    }

    fn is_full(lanes: &Lanes<Arc<Connection>, Queued>) -> bool {
        lanes.len() >= QUEUED_MAX || lanes.bytes() >= QUEUED_BYTES_MAX
    }

    /// Queues a request that was admitted.
    #[must_use]
    pub(super) fn push(
        &self,
        connection: &Arc<Connection>,
        queued: Queued,
        ticket: Ticket,
    ) -> Pushed {
        let mut state = self.lock();
        let lanes = &mut state.lanes;
        let evicted = match Self::is_full(lanes) {
            true => lanes.evict(ticket.level),
            false => None,
        };
        let owner = || Arc::clone(connection);
        lanes.push(connection.peer.connection(), owner, queued, ticket);
        let must_spawn = !mem::replace(&mut state.is_draining, true);
        self.unlock(state);
        Pushed {
            must_spawn,
            evicted,
        }
    }

    /// How a connection stands. A driver that is told *full* is woken when there is room.
    pub(super) fn look(&self, connection: ConnectionId) -> LaneState {
        self.lock().lanes.look(connection)
    }

    /// A connection's answers find room again; whether the caller has to spawn the task.
    #[must_use]
    pub(super) fn resume(&self, connection: ConnectionId) -> bool {
        let mut state = self.lock();
        state.lanes.resume(connection);
        let has_turns = state.lanes.top().is_some();
        let must_spawn = has_turns && !mem::replace(&mut state.is_draining, true);
        self.unlock(state);
        must_spawn
    }

    /// As the task: what is to be started next. After `None` the task has to end.
    pub(super) fn take(&self, now: Time) -> Option<Turn> {
        let mut state = self.lock();
        let Some(next) = state.lanes.take(now) else {
            state.is_draining = false;
            self.unlock(state);
            return None;
        };
        self.unlock(state);
        Some(Turn {
            connection: next.owner,
            taken: next.taken,
        })
    }

    /// As the task, which ends before it was done: nobody starts what is left.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.is_draining = false;
        let lanes = mem::replace(&mut state.lanes, new_lanes());
        self.unlock(state);
        lose(lanes.into_items());
    }

    /// As the task: what was taken was started, and has worked so long, nanoseconds.
    pub(super) fn done(&self, connection: &Connection, worked: u64) {
        let mut state = self.lock();
        let must_wake = state.lanes.done(connection.peer.connection(), worked);
        self.unlock(state);
        if must_wake {
            connection.wake_now();
        }
    }

    /// As the task: the answers of this connection find no room.
    pub(super) fn park(&self, connection: &Connection, taken: Taken<Queued>) {
        let id = connection.peer.connection();
        let mut state = self.lock();
        state.lanes.park(id, taken);
        self.unlock(state);
        // The driver may have made room after the task looked and before the lane was parked; then
        // it has found nothing to resume.
        if connection.has_room_for_answers() {
            let mut state = self.lock();
            state.lanes.resume(id);
            self.unlock(state);
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
        let mut state = self.lock();
        let removed = match what {
            Forget::Call(id) => {
                let call = (id.index(), id.generation());
                Vec::from_iter(state.lanes.remove_call(connection, call))
            }
            // A one-way message was taken over when it was read, and nobody waits for it: that its
            // sender has hung up is no reason to lose it.
            Forget::Calls => state.lanes.retain(connection, |queued| queued.id.is_none()),
            Forget::All => state.lanes.retain(connection, |_| false),
        };
        self.unlock(state);
        // Without the lock: what is told may be logged.
        lose(removed);
    }
}

impl fmt::Debug for RunQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunQueue")
            .field("top", &self.top)
            .finish_non_exhaustive()
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
            let ticket = Ticket {
                bytes: request.payload.len(),
                is_message: true,
                ..Ticket::default()
            };
            let queued = Queued::new(dispatch, &route, request, None, &Arc::default());
            let _ = self.queue.push(self.driver.connection(), queued, ticket);
        }

        fn is_full(&self) -> bool {
            RunQueue::is_full(&self.queue.lock().lanes)
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
            assert!(!queue.is_full());
            queue.push(payload.clone());
        }
        assert!(queue.is_full());
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
}
