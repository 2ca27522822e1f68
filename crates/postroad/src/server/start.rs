//! Starts handlers: in place, from the run queue, and as tasks.
//!
//! A handler is polled once where its request was read. Most are done then, and cost no task and no
//! allocation. One that waits for something becomes a task. All of them are guarded against
//! panics: a handler that panics costs its own call and no other.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use postroad_proto::Time;
use postroad_proto::code::Code;
use postroad_proto::session::{CallId, Credentials, Request as Asked, RouteRef};

use super::admission::{Entry, Gated, Guard, Permit};
use super::drain::{drain, refuse_evicted};
use super::identify;
use super::intake::{Arrival, Decision, Meter, Refusal, Turn};
use super::lookup::{CachedRoute, Lookup, Target};
use super::routes::Dispatch;
use super::run_queue::{Admission, LaneState, Queued, RunQueue, Ticket};
use super::running::{Place, Running};
use super::share::{Holding, Share, ShareMax};
use crate::clock::{self, Watch};
use crate::context::{Scope, Scoped};
use crate::driver::{Answered, Answers, Connection, RequestBatch, Serving};
use crate::error::Error;
use crate::extract::Request;
use crate::observe::calls::{self, CallRecord, begin, dropped, refuse};
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
pub(super) fn tell(
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

impl Serving for Dispatcher {
    fn begin_turn(&mut self) {
        self.turn.begin();
    }

    fn takes_requests(&mut self, has_room: bool) -> bool {
        let Some(connection) = self.has_queued else {
            return true;
        };
        if has_room && self.queue.resume(connection) {
            tokio::spawn(drain(Arc::clone(&self.queue)));
        }
        self.look(connection) != LaneState::Full
    }

    fn end(&mut self) {
        if let Some(connection) = self.has_queued
            && self.queue.resume(connection)
        {
            tokio::spawn(drain(Arc::clone(&self.queue)));
        }
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
        lookup.refresh(dispatch, &connection.peer, now);
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
        calls::started(&self.dispatch.counters, starting.started);
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

/// What became of a request that was not started without further questions.
enum Held {
    Started,
    Queued,
    /// Its connection has no more room in the queue: it is asked about again later.
    Stays,
    Refused(Refusal),
}

/// A request whose route was found.
pub(super) struct Begun<'a> {
    pub(super) dispatch: &'a Arc<Dispatch>,
    pub(super) connection: &'a Arc<Connection>,
    pub(super) id: Option<CallId>,
    pub(super) share: &'a mut Option<Arc<Share>>,
    /// Its place among those of its route, if that has a limit.
    pub(super) permit: Option<Permit>,
    /// When its handler is stopped, because its rule has given it a deadline that the session does
    /// not know.
    pub(super) cut_off: Time,
}

impl Begun<'_> {
    /// What the connection's waiting requests hold.
    fn share(&mut self) -> &Arc<Share> {
        let (connection, counters) = (self.connection, &self.dispatch.counters);
        self.share
            .get_or_insert_with(|| Share::of(connection, counters))
    }

    /// Notes that it has to wait, with so many bytes.
    fn wait_with(&mut self, bytes: usize) -> Option<Holding> {
        let is_message = self.id.is_none();
        let holding = self.share().hold(bytes, is_message);
        self.connection.tell_waiting();
        Some(holding)
    }

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
        let (dispatch, id) = (self.dispatch, self.id);
        let mut queued = Queued::new(dispatch, &cached.route, request, id, self.share());
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
    pub(super) fn start_gated(
        &mut self,
        guard: &Option<Arc<Guard>>,
        route: &Arc<Route>,
        starter: &mut dyn Starter,
        request: &mut Request,
        answers: &mut Answers,
        scope: &Scope,
    ) -> Result<(), Refusal> {
        let Some(guard) = guard.as_ref().filter(|guard| guard.is_gated()) else {
            calls::started(&self.dispatch.counters, 1);
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
                calls::started(&self.dispatch.counters, 1);
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
        let holding = self.wait_with(bytes);
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
                let holding = self.wait_with(bytes);
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
