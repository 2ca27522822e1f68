//! A handler that is started without a connection.

use std::sync::Arc;
use std::time::SystemTime;

use postroad_proto::Time;
use postroad_proto::code::Code;
use postroad_proto::session::Reply;

use super::admission::{Applied, ClientKey};
use super::gated::{Entry, Gated};
use super::intake::Refusal;
use super::routes::Routes;
use super::running::{Place, Running};
use super::versions;
use crate::clock;
use crate::context::Scoped;
use crate::error::Error;
use crate::extract::Request;
use crate::observe::calls::{begin, refuse, started};
use crate::route::Route;
use crate::router::Table;

impl Routes {
    /// Handles a request that did not come by a connection: what a gateway has translated, or what
    /// a program asks of itself.
    ///
    /// It is handled as one that did: its route is found in the same table, it has a place among
    /// [`ServerConfig::max_requests`](crate::ServerConfig::max_requests), it is counted and logged,
    /// its handler's own calls inherit deadline, priority and trace, and a panic costs this call
    /// alone. The handler runs in the task that awaits this.
    ///
    /// Cancellation safe: a handler whose call is dropped is dropped.
    ///
    /// # Errors
    /// What the handler answers with; `AUT-E-401` or `AUT-E-403` if the request says for whom it is
    /// ([`Request::with_peer`], [`Request::with_caller`]) and the rules do not let that caller call
    /// the route; `SRV-E-404` if there is no such route, `SRV-E-429` if too
    /// many requests are at work, `SRV-E-503` if the server is being shut down, `SRV-E-504` if the
    /// deadline passes, `SRV-E-500` if the handler panics.
    ///
    /// ```
    /// use postroad::{Json, Router, Routes};
    /// use postroad::extract::Request;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let routes = Routes::default();
    /// routes.add(Router::new().route("math/double", async |Json(n): Json<i64>| Json(n * 2)));
    /// let reply = routes.call(Request::to("math/double", "21")).await?;
    /// assert_eq!(reply.payload, "42");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn call(&self, mut request: Request) -> Result<Reply, Error> {
        let dispatch = &self.dispatch;
        let refused = |request: &Request, error| {
            let (peer, route) = (request.peer(), request.route());
            Err(refuse(&dispatch.counters, peer, route, error))
        };
        let table = dispatch.table();
        if let Err(why) = admit(&table, &request) {
            return refused(&request, why);
        }
        let origin = Arc::clone(&request.origin);
        let client = ClientKey::of(&origin.peer, origin.caller.subject());
        let Some(route) = versions::choose(&table, &origin.route, &client).cloned() else {
            let text = format!("no route {:?}", request.route());
            return refused(&request, Error::of(Code::NOT_FOUND, text));
        };
        if route.describes.route != *origin.route {
            request.go_to(&route.describes.route);
            // A rule may say of one version who may call it.
            if let Err(why) = admit(&table, &request) {
                return refused(&request, why);
            }
        }
        let rule = self.rule(&route, &mut request);
        let placed = Place::try_take(dispatch, request.is_expired(), request.priority);
        let entered = placed.and_then(|place| Ok((place, self.enter(&rule, &request)?)));
        let (place, entry) = match entered {
            Ok(entered) => entered,
            Err(why) => return refused(&request, why.error()),
        };
        let watched = begin(&mut request);
        let (deadline, context) = (request.deadline, request.inherited());
        let origin = Arc::clone(&request.origin);
        let handler = match rule.guard {
            None => {
                started(&dispatch.counters, 1);
                route.run(request)
            }
            Some(guard) => {
                let gated = Gated {
                    dispatch: Arc::clone(dispatch),
                    guard,
                    connection: origin.peer.connection(),
                    is_message: false,
                };
                gated.run(entry, route, request)
            }
        };
        let future = Scoped::new(context, handler);
        let running = Running::new(place, future, &origin, watched, None);
        if deadline == Time::NEVER {
            return running.await;
        }
        let answered = tokio::time::timeout_at(clock::instant(deadline), running).await;
        answered.unwrap_or_else(|_| {
            let text = "the deadline passed before the handler was done";
            let error = Error::of(Code::DEADLINE, text);
            Err(refuse(
                &dispatch.counters,
                &origin.peer,
                &origin.route,
                error,
            ))
        })
    }

    /// What a rule says of a request, which gets its priority and deadline.
    fn rule(&self, route: &Route, request: &mut Request) -> Applied {
        let rules = Arc::clone(&self.dispatch.load().rules);
        let guard = rules.guard(&request.origin.route, &route.describes);
        let now = clock::now();
        let rule = Applied::of(guard, &request.origin.peer, request.caller(), now);
        rule.apply(&mut request.priority, &mut request.deadline, now);
        rule
    }

    /// Lets a request in by its route's rate and limit.
    fn enter(&self, rule: &Applied, request: &Request) -> Result<Entry, Refusal> {
        rule.take_rate(clock::now())
            .map_err(Refusal::RateExceeded)?;
        let Some(guard) = &rule.guard else {
            return Ok(Entry::Permit(None));
        };
        let patience = self.dispatch.intake.patience_of(request.deadline, false);
        guard.enter(request.peer().connection(), request, false, patience)
    }
}

/// Whether the rules let a request pass: those that the program makes itself always do.
fn admit(table: &Table, request: &Request) -> Result<(), Error> {
    if request.is_of_server {
        return Ok(());
    }
    let (route, caller) = (request.route(), request.caller());
    table.access.decide(route, caller, SystemTime::now())
}
