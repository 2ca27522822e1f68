//! Starts handlers: in place, from the run queue, and as tasks.
//!
//! A handler is polled once where its request was read. Most are done then, and cost no task and no
//! allocation. One that waits for something becomes a task. All of them are guarded against
//! panics: a handler that panics costs its own call and no other.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use postroad_proto::Time;
use postroad_proto::code::Code;
use postroad_proto::session::{CallId, Credentials, Request as Asked, RouteRef};

use super::identify;
use super::intake::{Arrival, Decision, Meter, Refusal, Turn};
use super::lookup::{CachedRoute, Lookup, Target};
use super::routes::Dispatch;
use super::run_queue::{LaneState, Queued, RunQueue};
use super::share::{Holding, Share, ShareMax};
use crate::clock::{self, Watch};
use crate::context::{Scope, Scoped};
use crate::driver::{Answered, Answers, Connection, RequestBatch, Service};
use crate::error::Error;
use crate::extract::{Origin, Request};
use crate::observe::calls::{CallRecord, Watched, begin, dropped, refuse};
use crate::observe::counters::count;
use crate::observe::trace;
use crate::route::{Route, Started, Starter};
use crate::transport::{BoxFuture, ConnectionId};

/// Finds the handlers of one connection's requests and starts them.
pub(super) struct Dispatcher {
    dispatch: Arc<Dispatch>,
    /// The run queue of the connection's reactor.
    queue: Arc<RunQueue>,
    /// `None` while no requests come: an idle connection keeps no routes.
    lookup: Option<Box<Lookup>>,
    turn: Turn,
    /// This connection, if requests of it were queued, which may still be.
    has_queued: Option<ConnectionId>,
    /// What requests of this connection hold, once one has had to wait.
    share: Option<Arc<Share>>,
}

impl Dispatcher {
    pub(super) fn new(dispatch: Arc<Dispatch>, queue: Arc<RunQueue>) -> Self {
        Self {
            dispatch,
            queue,
            lookup: None,
            turn: Turn::default(),
            has_queued: None,
            share: None,
        }
    }

    /// The routes that are known, and what the requests of all connections share.
    fn lookup(&mut self) -> (&mut Lookup, &Arc<Dispatch>) {
        let new = || Box::new(Lookup::new(self.dispatch.table()));
        (self.lookup.get_or_insert_with(new), &self.dispatch)
    }

    /// Starts or queues one request after the other, until the answers or the connection's part of
    /// the queue are full, or a handler panics.
    fn start_many(&mut self, starting: &mut Starting<'_>) {
        let scope = Scope::enter();
        let Self {
            dispatch,
            queue,
            lookup,
            has_queued,
            share,
            ..
        } = self;
        let Some(lookup) = lookup else { return };
        let share_max = dispatch.intake.share_max();
        while !starting.answers.is_full()
            && let Some(asked) = starting.arrived.next()
        {
            let (connection, answers) = (starting.connection, &mut *starting.answers);
            let refused = match lookup.find(connection, &asked.route) {
                Target::Route(cached) => {
                    let is_late = starting.watch.has_passed(asked.deadline);
                    // Behind others of its connection a request is queued as well: they are
                    // started in the order in which they came.
                    let must_wait =
                        has_queued.is_some() || starting.meter.is_over(starting.watch.ticks());
                    let is_share_full = is_full(share, asked, share_max);
                    let mut begun = Begun {
                        dispatch,
                        connection,
                        id: asked.id,
                        share,
                    };
                    if !is_share_full && dispatch.intake.starts_at_once(is_late, must_wait) {
                        starting.started += 1;
                        begun.fill_and_start(cached, asked, answers, &scope);
                        None
                    } else {
                        let arrival = Arrival::held(is_late, is_share_full, queue.is_full());
                        match begun.hold(queue, cached, asked, arrival, has_queued) {
                            Held::Queued => None,
                            Held::Stays => break,
                            Held::Refused(error) => {
                                let (counters, peer) = (&dispatch.counters, &connection.peer);
                                Some(refuse(counters, peer, cached.request.route(), error))
                            }
                        }
                    }
                }
                Target::Denied(denied) => Some(refuse(
                    &dispatch.counters,
                    &connection.peer,
                    &denied.route,
                    denied.why.clone(),
                )),
                Target::Nothing(what) => {
                    let error = Error::of(Code::NOT_FOUND, what);
                    Some(refuse_unrouted(dispatch, connection, &asked.route, error))
                }
            };
            if let Some(error) = refused {
                tell(asked.id, error, answers, dispatch, connection);
            }
            starting.arrived.pass();
        }
    }

    /// Answers for the handler that has panicked, and passes its request.
    #[cold]
    fn answer_for_panic(&mut self, starting: &mut Starting<'_>, payload: &(dyn Any + Send)) {
        let Some(asked) = starting.arrived.next() else {
            return;
        };
        let (lookup, dispatch) = self.lookup();
        let (id, counters) = (asked.id, &dispatch.counters);
        let told = catch_unwind(AssertUnwindSafe(|| {
            let Target::Route(cached) = lookup.find(starting.connection, &asked.route) else {
                return None;
            };
            let record = CallRecord::of(&cached.request, None);
            let mut error = record.panicked(counters, payload);
            record.observe(counters, Some(&mut error));
            cached.request.clear();
            Some(error)
        }));
        // If the panic did not come from a handler, it came from a subscriber of the logs, and may
        // come again when this one is logged.
        let error = told.ok().flatten().unwrap_or_else(|| {
            Error::internal("the server failed unexpectedly").with_trace(trace::new())
        });
        if let Some(id) = id {
            starting.answers.fail(id, error);
        }
        starting.arrived.pass();
        // The starter was interrupted in the middle of its work: it is made anew.
        lookup.forget();
    }
}

/// Whether the connection's share leaves no room for a request.
#[inline]
fn is_full(share: &Option<Arc<Share>>, asked: &Asked, max: ShareMax) -> bool {
    let share = share.as_ref();
    share.is_some_and(|share| share.is_full(asked.id.is_none(), max))
}

/// Tells the caller of a request that was refused why, or the log where there is no caller.
#[cold]
fn tell(
    id: Option<CallId>,
    error: Error,
    answers: &mut Answers,
    dispatch: &Dispatch,
    connection: &Connection,
) {
    match id {
        Some(id) => answers.fail(id, error),
        None => dropped(&dispatch.counters, &connection.peer, &error),
    }
}

/// Counts and logs a request for a route that is not there, by the name that it has asked for.
#[cold]
fn refuse_unrouted(
    dispatch: &Dispatch,
    connection: &Connection,
    asked: &RouteRef,
    error: Error,
) -> Error {
    let name = match asked {
        RouteRef::Name(name) => name.to_string(),
        RouteRef::Number(number) => match connection.route_name(*number) {
            Some(name) => name.to_string(),
            None => format!("number {number}"),
        },
        RouteRef::Code(code) => format!("code 0x{code:02x}"),
        RouteRef::Unsaid => String::new(),
    };
    refuse(&dispatch.counters, &connection.peer, &name, error)
}

/// Requests of one connection whose handlers are being started.
struct Starting<'a> {
    connection: &'a Arc<Connection>,
    arrived: &'a mut RequestBatch,
    answers: &'a mut Answers,
    watch: Watch,
    meter: Meter,
    started: u64,
}

impl Service for Dispatcher {
    fn begin_turn(&mut self) {
        self.turn.begin();
    }

    fn may_read(&mut self, has_room: bool) -> bool {
        let Some(connection) = self.has_queued else {
            return true;
        };
        if has_room && self.queue.resume(connection) {
            tokio::spawn(drain(Arc::clone(&self.queue)));
        }
        let state = self.queue.look(connection);
        if state == LaneState::Empty {
            self.has_queued = None;
        }
        state != LaneState::Full
    }

    fn start(
        &mut self,
        connection: &Arc<Connection>,
        now: Time,
        arrived: &mut RequestBatch,
        answers: &mut Answers,
    ) {
        let budget = self.dispatch.intake.work_budget();
        let meter = self.turn.measure(budget, now);
        self.has_queued
            .take_if(|connection| self.queue.look(*connection) == LaneState::Empty);
        let (lookup, dispatch) = self.lookup();
        lookup.refresh(dispatch, &connection.peer, now);
        let mut starting = Starting {
            connection,
            arrived,
            answers,
            watch: Watch::new(now),
            meter,
            started: 0,
        };
        // One guard serves the whole batch, because entering it for each request costs more than
        // many a handler. After a panic the next guard goes on with the request behind.
        while let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.start_many(&mut starting))) {
            self.answer_for_panic(&mut starting, payload.as_ref());
        }
        self.turn.add(&starting.meter);
        count(&self.dispatch.counters.started, starting.started);
    }

    fn judge(&mut self, connection: &Arc<Connection>, credentials: Credentials) {
        identify::judge(&self.dispatch, connection, credentials);
    }

    fn release_memory(&mut self) {
        if let Some(mut lookup) = self.lookup.take() {
            lookup.forget();
        }
    }
}

/// What became of a request that was not started at once.
enum Held {
    Queued,
    /// Its connection has no more room in the queue: it is asked about again later.
    Stays,
    Refused(Error),
}

/// A request whose route was found.
struct Begun<'a> {
    dispatch: &'a Arc<Dispatch>,
    connection: &'a Arc<Connection>,
    id: Option<CallId>,
    share: &'a mut Option<Arc<Share>>,
}

impl Begun<'_> {
    /// Queues it, and sees that the reactor's task runs, or says why not.
    #[cold]
    fn hold(
        &mut self,
        queue: &Arc<RunQueue>,
        cached: &CachedRoute,
        asked: &mut Asked,
        arrival: Arrival,
        has_queued: &mut Option<ConnectionId>,
    ) -> Held {
        if let Decision::Refuse(why) = self.dispatch.intake.decide(arrival) {
            return Held::Refused(why.error());
        }
        let id = self.connection.peer.connection();
        if queue.look(id) == LaneState::Full {
            return Held::Stays;
        }
        if has_queued.replace(id).is_none() {
            // Before the request is queued: it may be called off as soon as it is.
            self.connection.queue_requests_in(Arc::clone(queue) as _);
        }
        let mut request = Request::new(Arc::clone(&cached.request.origin));
        request.fill(asked);
        request.detach();
        let share = self.share.get_or_insert_default();
        let queued = Queued::new(self.dispatch, &cached.route, request, self.id, share);
        if queue.push(self.connection, queued) {
            tokio::spawn(drain(Arc::clone(queue)));
        }
        Held::Queued
    }

    /// Fills the route's request with what was asked, and starts its handler.
    #[inline(always)]
    fn fill_and_start(
        &mut self,
        cached: &mut CachedRoute,
        asked: &mut Asked,
        answers: &mut Answers,
        scope: &Scope,
    ) {
        let CachedRoute {
            starter,
            request,
            has_waited,
            ..
        } = cached;
        request.fill(asked);
        if *has_waited {
            request.detach();
        }
        *has_waited |= self.start(&mut **starter, request, answers, scope);
    }

    /// Starts its handler; whether it has to wait for something. The answer, if it was done at
    /// once, is among the others then.
    ///
    /// Always inline: with a second caller the compiler would call it for each request in place,
    /// which is 3 % of what a one-way message costs.
    #[inline(always)]
    fn start(
        &mut self,
        starter: &mut dyn Starter,
        request: &mut Request,
        answers: &mut Answers,
        scope: &Scope,
    ) -> bool {
        let counters = &self.dispatch.counters;
        let watched = begin(request);
        let no_retry = request.is_retry();
        scope.set(
            request.deadline,
            request.priority,
            no_retry,
            request.trace(),
        );
        let bytes = request.payload.len();
        let mut waits = false;
        let started = match &watched {
            None => starter.start(request, self.id, answers),
            Some(watched) => {
                let start = || starter.start(request, self.id, answers);
                watched.span.in_scope(start)
            }
        };
        match started {
            Started::Done if trace::is_watched() => {
                CallRecord::of(request, watched.as_deref()).observe(counters, None);
            }
            Started::Done => {}
            Started::Failed(mut error) => {
                CallRecord::of(request, watched.as_deref()).observe(counters, Some(&mut error));
                if let Some(id) = self.id {
                    answers.fail(id, error);
                }
            }
            Started::Waits(future) => {
                waits = true;
                // The task polls at once: the first poll had no waker, so a wake-up that it has
                // missed is made good.
                let future = Scoped::new(request.inherited(), future);
                let share = self.share.get_or_insert_default();
                let holding = Some(share.hold(bytes, self.id.is_none()));
                let origin = &request.origin;
                let running =
                    Running::new(Place::take(self.dispatch), future, origin, watched, holding);
                self.connection.spawn(self.id, running);
            }
        }
        request.clear();
        waits
    }
}

/// Starters that the task of a reactor keeps. A starter is made for one connection at a time, and
/// this task starts one request at a time, whosever it is.
#[derive(Default)]
struct Starters(Vec<(Arc<Route>, Box<dyn Starter>)>);

/// Starters that are kept; more routes than these are hardly busy at once.
const STARTERS_MAX: usize = 32;

impl Starters {
    fn of(&mut self, route: &Arc<Route>) -> &mut dyn Starter {
        let kept = self.0.iter().position(|(kept, _)| Arc::ptr_eq(kept, route));
        let at = kept.unwrap_or_else(|| {
            if self.0.len() >= STARTERS_MAX {
                self.forget();
            }
            self.0.push((Arc::clone(route), route.starter()));
            self.0.len() - 1
        });
        &mut *self.0[at].1
    }

    fn forget(&mut self) {
        // As in `Lookup::forget`: what a handler has left may panic.
        let _ = catch_unwind(AssertUnwindSafe(|| self.0.clear()));
    }
}

/// Starts what is queued on a reactor, until nothing is left. After each budget of work the drivers
/// of the reactor have their turn.
async fn drain(queue: Arc<RunQueue>) {
    let (mut starters, mut answers) = (Starters::default(), Answers::default());
    let mut turn_began = clock::now();
    while let Some(turn) = queue.take() {
        let connection = turn.connection;
        let mut budget = u64::MAX;
        if let Some(queued) = turn.queued {
            if queued.id.is_some() && !connection.has_room_for_answers() {
                queue.park(&connection, queued);
                continue;
            }
            budget = queued.dispatch().intake.work_budget();
            start_queued(&connection, queued, &mut starters, &mut answers);
            connection.respond_all(&mut answers);
        }
        queue.done(&connection);
        let now = clock::now();
        if now.since(turn_began).as_nanos() > u128::from(budget) {
            tokio::task::yield_now().await;
            turn_began = clock::now();
        }
    }
}

/// Starts one queued request, whose time may have come too late.
fn start_queued(
    connection: &Arc<Connection>,
    queued: Queued,
    starters: &mut Starters,
    answers: &mut Answers,
) {
    let dispatch = Arc::clone(queued.dispatch());
    let counters = &dispatch.counters;
    let Queued {
        route,
        mut request,
        id,
        share,
        ..
    } = queued;
    let arrival = Arrival {
        is_late: request.is_expired(),
        is_share_full: share.is_full(id.is_none(), dispatch.intake.share_max()),
        ..Arrival::default()
    };
    let started = catch_unwind(AssertUnwindSafe(|| {
        if let Decision::Refuse(why) = dispatch.intake.decide(arrival) {
            return Some(refuse(
                counters,
                &connection.peer,
                request.route(),
                why.error(),
            ));
        }
        count(&counters.started, 1);
        let mut begun = Begun {
            dispatch: &dispatch,
            connection,
            id,
            share: &mut Some(share),
        };
        let scope = Scope::enter();
        begun.start(starters.of(&route), &mut request, answers, &scope);
        None
    }));
    let error = started.unwrap_or_else(|payload| {
        starters.forget();
        let told = catch_unwind(AssertUnwindSafe(|| {
            let record = CallRecord::of(&request, None);
            let mut error = record.panicked(counters, payload.as_ref());
            record.observe(counters, Some(&mut error));
            error
        }));
        // As in `answer_for_panic`: a subscriber of the logs may panic as well.
        Some(told.unwrap_or_else(|_| Error::internal("the server failed unexpectedly")))
    });
    if let Some(error) = error {
        tell(id, error, answers, &dispatch, connection);
    }
}

/// A place at work, which is given back when it is dropped.
pub(super) struct Place(Arc<Dispatch>);

impl Place {
    /// One more, whatever the bound: whoever starts a handler has looked at it before, and cannot
    /// know whether the handler is done at once.
    fn take(dispatch: &Arc<Dispatch>) -> Self {
        dispatch.intake.enter_work();
        Self(Arc::clone(dispatch))
    }

    /// One of those that are left.
    ///
    /// # Errors
    /// Why there is none for a request that is late or not.
    pub(super) fn try_take(dispatch: &Arc<Dispatch>, is_late: bool) -> Result<Self, Refusal> {
        dispatch.intake.try_enter_work(is_late)?;
        Ok(Self(Arc::clone(dispatch)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.intake.leave_work();
    }
}

/// A handler that was not done at once: it has a place at work while it lives.
pub(super) struct Running {
    place: Place,
    future: Scoped<BoxFuture<'static, Answered>>,
    origin: Arc<Origin>,
    watched: Option<Box<Watched>>,
    /// Its part of its connection's share.
    _holding: Option<Holding>,
}

impl Running {
    pub(super) fn new(
        place: Place,
        future: Scoped<BoxFuture<'static, Answered>>,
        origin: &Arc<Origin>,
        watched: Option<Box<Watched>>,
        holding: Option<Holding>,
    ) -> Self {
        Self {
            place,
            future,
            origin: Arc::clone(origin),
            watched,
            _holding: holding,
        }
    }
}

impl Future for Running {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        let this = &mut *self;
        let record = CallRecord {
            origin: &this.origin,
            trace: this.future.trace(),
            since: this.watched.as_deref().map(Watched::since),
        };
        let (future, counters) = (&mut this.future, &this.place.0.counters);
        let polled = catch_unwind(AssertUnwindSafe(|| match &this.watched {
            None => Pin::new(future).poll(cx),
            Some(watched) => watched.span.in_scope(|| Pin::new(future).poll(cx)),
        }));
        let mut answer = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(answer)) => answer,
            Err(payload) => Err(record.panicked(counters, payload.as_ref())),
        };
        if answer.is_err() || trace::is_watched() {
            record.observe(counters, answer.as_mut().err());
        }
        Poll::Ready(answer)
    }
}
