//! The way of a request through its route's limit and to a worker.

use std::sync::Arc;
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::session::Reply;

use super::super::intake::Refusal;
use super::super::routes::Dispatch;
use super::super::run_queue::Ticket;
use super::limit::{Limit, Permit, Waiting};
use super::{Guard, Workers};
use crate::clock;
use crate::context::Scoped;
use crate::error::Error;
use crate::extract::Request;
use crate::observe::calls::{refuse, started};
use crate::route::Route;
use crate::transport::{BoxFuture, ConnectionId};

/// How a request stands at its route's limit.
#[derive(Debug)]
pub(in crate::server) enum Entry {
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
    }
}

/// A permit, or a place among those that wait for one.
fn enter(
    limit: &Arc<Limit>,
    connection: ConnectionId,
    ticket: Ticket,
    patience: Option<Duration>,
) -> Result<Entry, Refusal> {
    if let Some(permit) = limit.try_enter(clock::now()) {
        return Ok(Entry::Permit(Some(permit)));
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
    pub(in crate::server) fn enter(
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
pub(in crate::server) struct Gated {
    pub(in crate::server) dispatch: Arc<Dispatch>,
    pub(in crate::server) guard: Arc<Guard>,
    pub(in crate::server) connection: ConnectionId,
    pub(in crate::server) is_message: bool,
}

impl Gated {
    /// Waits for the permit, and for a worker if the route needs one, and handles the request,
    /// which must not hold a read buffer.
    pub(in crate::server) fn run(
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
        let answer = match &self.guard.workers {
            None => {
                self.begin(&request)?;
                route.run(request).await
            }
            Some(workers) => {
                let worker = self.worker(workers, &request)?;
                let worker = match worker {
                    Entry::Permit(Some(permit)) => permit,
                    Entry::Waits(waiting) => waiting.await,
                    Entry::Permit(None) => return Err(Handled::Refused(Refusal::Draining)),
                };
                self.begin(&request)?;
                let name = Arc::clone(&request.origin.route);
                let context = request.inherited();
                let handler = Box::pin(Scoped::new(context, route.run(request)));
                Arc::clone(workers).run(worker, name, handler).await
            }
        };
        if let Some(permit) = permit {
            permit.finish(answer.is_ok());
        }
        answer.map_err(Handled::Failed)
    }

    fn worker(&self, workers: &Arc<Workers>, request: &Request) -> Result<Entry, Handled> {
        let ticket = ticket(request, self.is_message);
        let patience = self.dispatch.intake.patience(&ticket, clock::now());
        let entry = enter(&workers.limit, self.connection, ticket, patience);
        if matches!(entry, Ok(Entry::Waits(_)) | Err(_)) {
            workers.look_for_stuck();
        }
        entry.map_err(Handled::Refused)
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

/// Why a request was not answered well.
enum Handled {
    Refused(Refusal),
    /// By its handler, which whoever polls it counts.
    Failed(Error),
}
