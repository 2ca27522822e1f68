//! The way of a request through its route's limit and to a worker.

use std::sync::Arc;
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::Prospect;
use postroad_proto::session::Reply;

use super::admission::{Guard, Limit, Permit, Waiting, Workers};
use super::intake::Refusal;
use super::lanes::Ticket;
use super::routes::Dispatch;
use crate::clock;
use crate::context::Scoped;
use crate::error::Error;
use crate::extract::Request;
use crate::observe::calls::{refuse, started};
use crate::route::Route;
use crate::transport::{BoxFuture, ConnectionId};

/// How a request stands at its route's limit.
#[derive(Debug)]
pub(super) enum Entry {
    /// It may start, with a permit if the route has a limit.
    Permit(Option<Permit>),
    /// It waits for one.
    Waits(Waiting),
}

/// What decides about a request's place where it has to wait.
fn ticket(request: &Request, is_message: bool) -> Ticket {
    Ticket {
        level: request.priority,
        deadline: request.deadline,
        bytes: request.payload.len(),
        cost: 0,
        is_message,
        call: None,
    }
}

/// A permit, or a place among those that wait for one.
fn enter(
    limit: &Arc<Limit>,
    connection: ConnectionId,
    ticket: Ticket,
    patience: Option<Duration>,
) -> Result<Entry, Refusal> {
    let now = clock::now();
    if let Some(permit) = limit.try_enter(now) {
        // Without patience nothing is refused for what is expected of it.
        let prospect = match patience {
            Some(_) => limit.prospect(ticket.deadline, now),
            None => Prospect::Good,
        };
        return match prospect {
            Prospect::Good => Ok(Entry::Permit(Some(permit))),
            Prospect::Poor => Ok(Entry::Permit(Some(permit.doubted(ticket.deadline)))),
            Prospect::Refused => Err(Refusal::Hopeless(limit.usual())),
        };
    }
    let patience = patience.map(|patience| patience.saturating_sub(limit.usual()));
    let waiting = limit.wait(connection, ticket, patience);
    waiting.map(Entry::Waits).map_err(Refusal::Hopeless)
}

impl Guard {
    /// Lets a request in at the route's limit, if there is one.
    ///
    /// # Errors
    /// If it would have to wait longer than it can.
    pub(super) fn enter(
        &self,
        connection: ConnectionId,
        request: &Request,
        is_message: bool,
        patience: Option<Duration>,
    ) -> Result<Entry, Refusal> {
        match &self.limit {
            Some(limit) => enter(limit, connection, ticket(request, is_message), patience),
            None => Ok(Entry::Permit(None)),
        }
    }
}

/// A request that goes its way as a task.
pub(super) struct Gated {
    pub(super) dispatch: Arc<Dispatch>,
    pub(super) guard: Arc<Guard>,
    pub(super) connection: ConnectionId,
    pub(super) is_message: bool,
}

impl Gated {
    /// Waits for the permit, and for a worker if the route needs one, and handles the request,
    /// which must not hold a read buffer.
    pub(super) fn run(
        self,
        entry: Entry,
        route: Arc<Route>,
        request: Request,
    ) -> BoxFuture<'static, Result<Reply, Error>> {
        Box::pin(async move {
            let (origin, deadline) = (Arc::clone(&request.origin), request.deadline);
            let dispatch = Arc::clone(&self.dispatch);
            let refused = |why: Refusal| {
                let (counters, peer) = (&dispatch.counters, &origin.peer);
                refuse(counters, peer, &origin.route, why.error())
            };
            let handled = self.handle(entry, route, request);
            let answer = match deadline {
                Time::NEVER => handled.await,
                // A deadline that the rule has given is not known to the session.
                _ => match tokio::time::timeout_at(clock::instant(deadline), handled).await {
                    Ok(answer) => answer,
                    Err(_) => Err(Handled::Refused(Refusal::Late)),
                },
            };
            answer.map_err(|error| match error {
                Handled::Failed(error) => error,
                Handled::Refused(why) => refused(why),
            })
        })
    }

    async fn handle(
        self,
        entry: Entry,
        route: Arc<Route>,
        request: Request,
    ) -> Result<Reply, Handled> {
        let permit = match entry {
            Entry::Permit(permit) => permit,
            Entry::Waits(waiting) => {
                let permit = waiting.await;
                self.must_have_time(&request)?;
                Some(permit)
            }
        };
        let Some(workers) = &self.guard.workers else {
            self.begin(&request)?;
            let permit = permit.map(Permit::begun);
            let answer = route.run(request).await;
            if let Some(permit) = permit {
                permit.finish(answer.is_ok());
            }
            return answer.map_err(Handled::Failed);
        };

        let worker = match self.worker(workers, &request)? {
            Place::Free(permit) => permit,
            Place::Waits(waiting) => waiting.await,
        };
        self.begin(&request)?;
        let permits = [Some(worker), permit].map(|permit| permit.map(Permit::begun));
        let (name, context) = (Arc::clone(&request.origin.route), request.inherited());
        let handler = Box::pin(Scoped::new(context, route.run(request)));
        let ran = Arc::clone(workers).run(permits, name, handler).await;
        ran.map_err(Handled::Failed)
    }

    /// A worker, or a place among those that wait for one. What is usual there says nothing of this
    /// route, so only the wait is asked about.
    fn worker(&self, workers: &Arc<Workers>, request: &Request) -> Result<Place, Handled> {
        if let Some(permit) = workers.limit.try_enter(clock::now()) {
            return Ok(Place::Free(permit));
        }
        workers.look_for_stuck();
        let ticket = ticket(request, self.is_message);
        let patience = self.dispatch.intake.patience(&ticket, clock::now());
        let waiting = workers.limit.wait(self.connection, ticket, patience);
        let waiting = waiting.map_err(|wait| Handled::Refused(Refusal::Hopeless(wait)))?;
        Ok(Place::Waits(waiting))
    }

    /// Whose turn has come so late that its handler would be stopped before it was done is refused,
    /// and its permit is the next one's: at its limit a route would otherwise work in vain, since
    /// what is due first is first.
    fn must_have_time(&self, request: &Request) -> Result<(), Handled> {
        let Some(limit) = &self.guard.limit else {
            return Ok(());
        };
        let intake = &self.dispatch.intake;
        let is_shed = intake
            .patience_of(request.deadline, self.is_message)
            .is_some();
        let usual = limit.usual();
        match is_shed && request.deadline.since(clock::now()) < usual {
            true => Err(Handled::Refused(Refusal::Hopeless(usual))),
            false => Ok(()),
        }
    }

    /// No handler is started after its deadline.
    fn begin(&self, request: &Request) -> Result<(), Handled> {
        if request.is_expired() {
            return Err(Handled::Refused(Refusal::Late));
        }
        started(&self.dispatch.counters, 1);
        Ok(())
    }
}

/// A worker, or a place among those that wait for one.
enum Place {
    Free(Permit),
    Waits(Waiting),
}

/// Why a request was not answered well.
enum Handled {
    Refused(Refusal),
    /// By its handler, which whoever polls it counts.
    Failed(Error),
}
