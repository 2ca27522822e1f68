//! The routes that every server has.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use postroad_proto::session::Reply;
use serde::Serialize;

use super::routes::Routes;
use crate::codec::Json;
use crate::extract::Request;
use crate::identity::IDENTIFY;
use crate::route::{Route, RouteOptions};
use crate::router::{Router, Unrouted};

/// The route that answers with what it was sent.
const ECHO: &str = "postroad/echo";
/// The route that lists the routes.
const ROUTES: &str = "postroad/routes";

/// The route that says whether the server wants calls.
const HEALTH: &str = "postroad/health";

/// What [`HEALTH`] answers. Whoever answers is alive, so only readiness is said.
#[derive(Serialize)]
struct Health {
    ready: bool,
}

/// Adds the built-in routes to a table, and the echo of requests without a route.
pub(super) fn add_to(routes: &Routes) {
    // The table holds this handler, so the handler must not hold the table: neither would ever be
    // given back.
    let table = Arc::downgrade(&routes.dispatch);
    let list = move || {
        let described = table.upgrade().map(|table| table.list());
        async move { Json(described.unwrap_or_default()) }
    };
    let dispatch = Arc::downgrade(&routes.dispatch);
    let health = move || {
        let dispatch = dispatch.upgrade();
        let ready = dispatch.is_some_and(|dispatch| dispatch.is_ready.load(Ordering::Relaxed));
        async move { Json(Health { ready }) }
    };
    let echo_options = RouteOptions::new()
        .describe("Answers with what it was sent")
        .types("any", "the same")
        .idempotent();
    let list_options = RouteOptions::new()
        .describe("Lists the routes")
        .types("", "[Description]")
        .idempotent();
    let dispatch = Arc::downgrade(&routes.dispatch);
    let identify = move |request: Request| super::identify::identify(dispatch.upgrade(), request);
    let identify_options = RouteOptions::new()
        .describe("Takes a new token, and says who the caller is")
        .types(
            "String",
            "{caller: String, roles: [String], spiffe: [String], expires_in: u64?}",
        )
        .idempotent();
    let health_options = RouteOptions::new()
        .describe("Says whether the server wants calls")
        .types("", "{ready: bool}")
        .idempotent();
    let router = Router::new()
        .route_with(ECHO, echo_options, echo)
        .route_with(HEALTH, health_options, health)
        .route_with(IDENTIFY, identify_options, identify)
        .route_with(ROUTES, list_options, list);
    routes.add(router);
    let unrouted = echo_route();
    routes.change(|table| table.unrouted = Unrouted::Route(Arc::clone(&unrouted)));
}

async fn echo(request: Request) -> Reply {
    Reply {
        codec: request.codec,
        payload: request.payload,
    }
}

/// A route of its own that echoes: where a dialect's requests go that name none.
fn echo_route() -> Arc<Route> {
    let make = |request: &mut Request| {
        let request = request.take();
        async move { Ok(echo(request).await) }
    };
    let describes = RouteOptions::new().into_description(ECHO, Default::default);
    Arc::new(Route::new(make, describes))
}

/// Takes the built-in routes out of a table, and the echo of requests without a route.
pub(super) fn remove_from(routes: &Routes) {
    routes.change(|table| {
        table.remove(ECHO);
        table.remove(HEALTH);
        table.remove(IDENTIFY);
        table.remove(ROUTES);
        table.unrouted = Unrouted::Refuse;
    });
}
