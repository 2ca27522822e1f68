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
use postroad_proto::session::{CallId, Request as Asked, RouteRef};

use super::admission::{Entry, Gated, Guard, Permit};
use super::intake::{Arrival, Decision, Meter, Refusal, Turn, nanos};
use super::lookup::{CachedRoute, Lookup, Target};
use super::routes::Dispatch;
use super::run_queue::{Admission, LaneState, Queued, RunQueue, Ticket};
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
    /// They are parked: none of its requests may be started before them.
    is_parked: bool,
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
            is_parked: false,
            share: None,
        }
    }

    /// The routes that are known, and what the requests of all connections share.
    fn lookup(&mut self) -> (&mut Lookup, &Arc<Dispatch>) {
        let new = || Box::new(Lookup::new(self.dispatch.table()));
        (self.lookup.get_or_insert_with(new), &self.dispatch)
    }

    /// How the connection's requests stand in the queue.
    fn look(&mut self, connection: ConnectionId) -> LaneState {
        let state = self.queue.look(connection);
        if state == LaneState::Empty {
            self.has_queued = None;
        }
        self.is_parked = state == LaneState::Parked;
        state
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
            is_parked,
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
                    let rule = &cached.rule;
                    rule.apply(&mut asked.priority, &mut asked.deadline, starting.now);
                    let is_late = starting.watch.has_passed(asked.deadline);
                    // Behind what is as important a request is queued as well: its connection's
                    // are started in the order in which they came.
                    let must_wait = queue.is_ahead_of(asked.priority)
                        || *is_parked
                        || starting.meter.is_over(starting.watch.ticks());
                    let is_share_full = is_full(share, asked, share_max);
                    let mut begun = Begun {
                        dispatch,
                        connection,
                        id: asked.id,
                        share,
                        permit: None,
                        cut_off: Time::NEVER,
                    };
                    let may_start = !is_share_full && !cached.rule.is_gated;
                    if may_start && dispatch.intake.starts_at_once(is_late, must_wait) {
                        starting.started += 1;
                        begun.fill_and_start(cached, asked, answers, &scope);
                        None
                    } else {
                        let arrival = Arrival {
                            is_late,
                            must_wait,
                            is_share_full,
                        };
                        let now = starting.now;
                        let held = begun.hold(queue, cached, asked, answers, arrival, now, &scope);
                        match held {
                            Held::Started => None,
                            Held::Queued => {
                                *has_queued = Some(connection.peer.connection());
                                None
                            }
                            Held::Stays => {
                                *has_queued = Some(connection.peer.connection());
                                break;
                            }
                            Held::Refused(why) => {
                                let (counters, peer) = (&dispatch.counters, &connection.peer);
                                let route = cached.request.route();
                                Some(refuse(counters, peer, route, why.error()))
                            }
                        }
                    }
                }
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
    /// When the batch began.
    now: Time,
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
        self.look(connection) != LaneState::Full
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
        if let Some(connection) = self.has_queued {
            self.look(connection);
        }
        let (lookup, dispatch) = self.lookup();
        lookup.refresh(dispatch);
        let mut starting = Starting {
            connection,
            arrived,
            answers,
            now,
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

    fn release_memory(&mut self) {
        if let Some(mut lookup) = self.lookup.take() {
            lookup.forget();
        }
    }
}

/// What became of a request that was not started without further questions.
enum Held {
    Started,
    Queued,
    /// Its connection has no more room in the queue: it is asked about again later.
    Stays,
    Refused(Refusal),
}

/// A request whose route was found.
struct Begun<'a> {
    dispatch: &'a Arc<Dispatch>,
    connection: &'a Arc<Connection>,
    id: Option<CallId>,
    share: &'a mut Option<Arc<Share>>,
    /// Its place among those of its route, if that has a limit.
    permit: Option<Permit>,
    /// When its handler is stopped, because its rule has given it a deadline that the session does
    /// not know.
    cut_off: Time,
}

impl Begun<'_> {
    /// Asks what the fast way does not: rates and limits of its route, and the queue.
    #[cold]
    #[expect(
        clippy::too_many_arguments,
        reason = "parts of the dispatcher, borrowed one by one"
    )]
    fn hold(
        &mut self,
        queue: &Arc<RunQueue>,
        cached: &mut CachedRoute,
        asked: &mut Asked,
        answers: &mut Answers,
        arrival: Arrival,
        now: Time,
        scope: &Scope,
    ) -> Held {
        let decision = self.dispatch.intake.decide(arrival);
        if let Decision::Refuse(why) = decision {
            return Held::Refused(why);
        }
        let ticket = Ticket {
            level: asked.priority,
            deadline: asked.deadline,
            bytes: asked.payload.len(),
            cost: cached.route.cost.nanos(),
            is_message: self.id.is_none(),
        };
        let patience = self.dispatch.intake.patience(&ticket, now);
        if decision == Decision::Queue {
            // Before its rate is asked: a request that stays is asked about again.
            match queue.admits(self.connection.peer.connection(), &ticket, patience) {
                Admission::Room => {}
                Admission::LaneFull => return Held::Stays,
                Admission::Refused(why) => return Held::Refused(why),
            }
        }
        if let Err(wait) = cached.rule.take_rate(now) {
            return Held::Refused(Refusal::RateExceeded(wait));
        }
        if decision == Decision::Queue {
            self.queue(queue, cached, asked, ticket);
            return Held::Queued;
        }
        cached.request.fill(asked);
        let CachedRoute {
            route,
            starter,
            request,
            rule,
            ..
        } = cached;
        let started = self.start_gated(&rule.guard, route, &mut **starter, request, answers, scope);
        started.map_or_else(Held::Refused, |()| Held::Started)
    }

    /// Queues it, and sees that the reactor's task runs.
    fn queue(
        &mut self,
        queue: &Arc<RunQueue>,
        cached: &CachedRoute,
        asked: &mut Asked,
        ticket: Ticket,
    ) {
        // Before the request is queued: it may be called off as soon as it is.
        self.connection.queue_requests_in(Arc::clone(queue) as _);
        let mut request = Request::new(Arc::clone(&cached.request.origin));
        request.fill(asked);
        request.detach();
        let share = self.share.get_or_insert_default();
        let mut queued = Queued::new(self.dispatch, &cached.route, request, self.id, share);
        queued.guard.clone_from(&cached.rule.guard);
        let pushed = queue.push(self.connection, queued, ticket);
        if pushed.must_spawn {
            tokio::spawn(drain(Arc::clone(queue)));
        }
        if let Some((connection, queued)) = pushed.evicted {
            refuse_evicted(&connection, queued);
        }
    }

    /// Starts the handler of a route that may have a limit, or whose handlers run on workers.
    ///
    /// # Errors
    /// If it would have to wait too long.
    fn start_gated(
        &mut self,
        guard: &Option<Arc<Guard>>,
        route: &Arc<Route>,
        starter: &mut dyn Starter,
        request: &mut Request,
        answers: &mut Answers,
        scope: &Scope,
    ) -> Result<(), Refusal> {
        let Some(guard) = guard.as_ref().filter(|guard| guard.is_gated()) else {
            count(&self.dispatch.counters.started, 1);
            self.start(starter, request, answers, scope);
            return Ok(());
        };
        let connection = self.connection.peer.connection();
        let is_message = self.id.is_none();
        let patience = self
            .dispatch
            .intake
            .patience_of(request.deadline, is_message);
        let entry = guard.enter(connection, request, is_message, patience);
        match entry {
            Err(why) => {
                request.clear();
                return Err(why);
            }
            Ok(Entry::Permit(permit)) if guard.workers.is_none() => {
                count(&self.dispatch.counters.started, 1);
                self.permit = permit;
                self.cut_off = guard.deadline().map_or(Time::NEVER, |_| request.deadline);
                self.start(starter, request, answers, scope);
            }
            Ok(entry) => self.start_as_task(guard, route, entry, request),
        }
        Ok(())
    }

    /// Starts a handler that has to wait for its permit, or runs on a worker.
    fn start_as_task(
        &mut self,
        guard: &Arc<Guard>,
        route: &Arc<Route>,
        entry: Entry,
        request: &mut Request,
    ) {
        let watched = begin(request);
        request.detach();
        let bytes = request.payload.len();
        let (origin, context) = (Arc::clone(&request.origin), request.inherited());
        let gated = Gated {
            dispatch: Arc::clone(self.dispatch),
            guard: Arc::clone(guard),
            connection: self.connection.peer.connection(),
            is_message: self.id.is_none(),
        };
        let future = gated.run(entry, Arc::clone(route), request.take());
        request.clear();
        let share = self.share.get_or_insert_default();
        let holding = Some(share.hold(bytes, self.id.is_none()));
        let place = Place::take(self.dispatch);
        let running = Running::new(
            place,
            Scoped::new(context, future),
            &origin,
            watched,
            holding,
        );
        self.connection.spawn(self.id, running);
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
                let future = match self.cut_off {
                    Time::NEVER => future,
                    end => cut_off(future, end),
                };
                // The task polls at once: the first poll had no waker, so a wake-up that it has
                // missed is made good.
                let future = Scoped::new(request.inherited(), future);
                let share = self.share.get_or_insert_default();
                let holding = Some(share.hold(bytes, self.id.is_none()));
                let origin = &request.origin;
                let place = Place::take(self.dispatch);
                let mut running = Running::new(place, future, origin, watched, holding);
                running.permit = self.permit.take();
                self.connection.spawn(self.id, running);
            }
        }
        request.clear();
        waits
    }
}

/// Stops a handler at a deadline.
#[cold]
fn cut_off(handler: BoxFuture<'static, Answered>, end: Time) -> BoxFuture<'static, Answered> {
    Box::pin(async move {
        let answered = tokio::time::timeout_at(clock::instant(end), handler).await;
        answered.unwrap_or_else(|_| Err(Refusal::Late.error()))
    })
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

/// Work of the task that starts what is queued, nanoseconds, before the drivers of the reactor have
/// their turn: what they read meanwhile may be more important. Going round costs about 2
/// microseconds.
const DRAINED_AT_ONCE: u64 = 200_000;

/// Starts what is queued on a reactor, until nothing is left.
async fn drain(queue: Arc<RunQueue>) {
    let (mut starters, mut answers) = (Starters::default(), Answers::default());
    let mut now = clock::real();
    let mut turn_began = now;
    while let Some(turn) = queue.take(now) {
        let connection = turn.connection;
        let mut worked = 0;
        if let Some(taken) = turn.taken {
            if taken.item.id.is_some() && !connection.has_room_for_answers() {
                queue.park(&connection, taken);
                continue;
            }
            let route = Arc::clone(&taken.item.route);
            let began = clock::real();
            start_queued(&connection, taken.item, &mut starters, &mut answers);
            now = clock::real();
            worked = nanos(now.since(began));
            route.cost.learn(worked);
            connection.respond_all(&mut answers);
        }
        queue.done(&connection, worked.max(1));
        now = clock::real();
        if nanos(now.since(turn_began)) > DRAINED_AT_ONCE {
            tokio::task::yield_now().await;
            now = clock::real();
            turn_began = now;
        }
    }
}

/// Tells the caller of a request that had to make room for a more important one.
#[cold]
fn refuse_evicted(connection: &Arc<Connection>, queued: Queued) {
    let dispatch = Arc::clone(queued.dispatch());
    let route = queued.request.route();
    let error = Refusal::QueueFull.error();
    let error = refuse(&dispatch.counters, &connection.peer, route, error);
    let mut answers = Answers::default();
    tell(queued.id, error, &mut answers, &dispatch, connection);
    connection.respond_all(&mut answers);
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
        guard,
        ..
    } = queued;
    let arrival = Arrival {
        is_late: request.is_expired(),
        is_share_full: share.is_full(id.is_none(), dispatch.intake.share_max()),
        must_wait: false,
    };
    let started = catch_unwind(AssertUnwindSafe(|| {
        let begun = match dispatch.intake.decide(arrival) {
            Decision::Refuse(why) => Err(why),
            _ => {
                let mut begun = Begun {
                    dispatch: &dispatch,
                    connection,
                    id,
                    share: &mut Some(share),
                    permit: None,
                    cut_off: Time::NEVER,
                };
                let scope = Scope::enter();
                let starter = starters.of(&route);
                begun.start_gated(&guard, &route, starter, &mut request, answers, &scope)
            }
        };
        let refused =
            |why: Refusal| refuse(counters, &connection.peer, request.route(), why.error());
        begun.err().map(refused)
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
    /// Its place among those of its route.
    permit: Option<Permit>,
    /// Its part of its connection's share.
    _holding: Option<Holding>,
    is_done: bool,
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
            permit: None,
            _holding: holding,
            is_done: false,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_done {
            let dispatch = &self.place.0;
            dispatch.cut_off.note(&self.origin.route, clock::now());
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
        if let Some(permit) = this.permit.take() {
            permit.finish(answer.is_ok());
        }
        this.is_done = true;
        Poll::Ready(answer)
    }
}
