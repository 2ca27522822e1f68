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
use postroad_proto::session::{Credentials, Request as Asked, RouteRef};

use super::begun::{Begun, tell};
use super::drain::{drain, refuse_evicted};
use super::identify;
use super::intake::{Arrival, Decision, Meter, Refusal, Turn};
use super::lanes::{LaneState, Ticket};
use super::lookup::{CachedRoute, Denied, Lookup, Target};
use super::routes::Dispatch;
use super::run_queue::{Admission, Queued, RunQueue};
use super::share::{Share, ShareMax};
use crate::clock::{self, Watch};
use crate::context::Scope;
use crate::driver::{Answers, Connection, RequestBatch, Serving};
use crate::error::Error;
use crate::extract::Request;
use crate::observe::calls::{self, CallRecord, refuse};
use crate::observe::trace;
use crate::transport::ConnectionId;

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
                            level: asked.priority,
                            is_late,
                            must_wait,
                            is_share_full,
                        };
                        let held = begun.hold(queue, cached, asked, answers, arrival, &scope);
                        if let Held::Queued | Held::Stays = held {
                            *has_queued = Some(connection.peer.connection());
                        }
                        match held {
                            Held::Stays => break,
                            Held::Refused(error) => Some(error),
                            Held::Started | Held::Queued => None,
                        }
                    }
                }
                Target::Denied(denied) => Some(deny(dispatch, connection, denied)),
                Target::Nothing(what) => {
                    Some(refuse_unrouted(dispatch, connection, &asked.route, &what))
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

/// Counts and logs a request for a route that its caller may not call.
#[cold]
fn deny(dispatch: &Dispatch, connection: &Connection, denied: &Denied) -> Error {
    let (counters, peer) = (&dispatch.counters, &connection.peer);
    refuse(counters, peer, &denied.route, denied.why.clone())
}

/// Counts and logs a request for a route that is not there, by the name that it has asked for.
#[cold]
fn refuse_unrouted(
    dispatch: &Dispatch,
    connection: &Connection,
    asked: &RouteRef,
    what: &str,
) -> Error {
    let error = Error::of(Code::NOT_FOUND, what);
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
    Refused(Error),
}

impl Begun<'_> {
    /// Asks what the fast way does not: rates and limits of its route, and the queue.
    #[cold]
    fn hold(
        &mut self,
        queue: &Arc<RunQueue>,
        cached: &mut CachedRoute,
        asked: &mut Asked,
        answers: &mut Answers,
        arrival: Arrival,
        scope: &Scope,
    ) -> Held {
        let held = self.try_hold(queue, cached, asked, answers, arrival, scope);
        held.unwrap_or_else(|why| {
            let (counters, peer) = (&self.dispatch.counters, &self.connection.peer);
            Held::Refused(refuse(counters, peer, cached.request.route(), why.error()))
        })
    }

    fn try_hold(
        &mut self,
        queue: &Arc<RunQueue>,
        cached: &mut CachedRoute,
        asked: &mut Asked,
        answers: &mut Answers,
        arrival: Arrival,
        scope: &Scope,
    ) -> Result<Held, Refusal> {
        let now = clock::now_coarse();
        let decision = self.dispatch.intake.decide(arrival);
        if let Decision::Refuse(why) = decision {
            return Err(why);
        }
        let ticket = Ticket {
            level: asked.priority,
            deadline: asked.deadline,
            bytes: asked.payload.len(),
            cost: cached.route.cost.nanos(),
            is_message: self.id.is_none(),
            call: self.id.map(|id| (id.index(), id.generation())),
        };
        let patience = self.dispatch.intake.patience(&ticket, now);
        if decision == Decision::Queue {
            // Before its rate is asked: a request that stays is asked about again.
            match queue.admits(self.connection.peer.connection(), &ticket, patience) {
                Admission::Room => {}
                Admission::LaneFull => return Ok(Held::Stays),
                Admission::Refused(why) => return Err(why),
            }
        }
        if let Err(wait) = cached.rule.take_rate(now) {
            return Err(Refusal::RateExceeded(wait));
        }
        if decision == Decision::Queue {
            self.queue(queue, cached, asked, ticket);
            return Ok(Held::Queued);
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
        started.map(|()| Held::Started)
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
}
