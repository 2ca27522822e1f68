//! A request whose route was found, and the start of its handler.

use std::sync::Arc;

use postroad_proto::Time;
use postroad_proto::session::{CallId, Request as Asked};

use super::admission::{Guard, Permit};
use super::gated::{Entry, Gated};
use super::intake::Refusal;
use super::lookup::CachedRoute;
use super::routes::Dispatch;
use super::running::{Place, Running};
use super::share::{Holding, Share};
use crate::clock;
use crate::context::{Scope, Scoped};
use crate::driver::{Answered, Answers, Connection};
use crate::error::Error;
use crate::extract::Request;
use crate::observe::calls::{self, CallRecord, begin, dropped};
use crate::observe::trace;
use crate::route::{Route, Started, Starter};
use crate::transport::BoxFuture;

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
    pub(super) fn share(&mut self) -> &Arc<Share> {
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
                self.permit = permit.map(Permit::begun);
                self.cut_off = guard.deadline().map_or(Time::NEVER, |_| request.deadline);
                self.start(starter, request, answers, scope);
                // One that waits has taken it along.
                if let Some(permit) = self.permit.take() {
                    permit.finish(true);
                }
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
    pub(super) fn fill_and_start(
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
