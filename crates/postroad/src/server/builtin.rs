//! The routes that every server has.

use std::sync::Arc;

use postroad_proto::session::Reply;

use super::routes::Routes;
use crate::codec::Json;
use crate::extract::Request;
use crate::route::RouteOptions;
use crate::router::Router;

/// The route that answers with what it was sent.
const ECHO: &str = "postroad/echo";
/// The route that lists the routes.
const ROUTES: &str = "postroad/routes";

/// Adds the built-in routes to a table.
pub(super) fn add_to(routes: &Routes) {
    // The table holds this handler, so the handler must not hold the table: neither would ever be
    // given back.
    let table = Arc::downgrade(&routes.dispatch);
    let list = move || {
        let described = table.upgrade().map(|table| table.list());
        async move { Json(described.unwrap_or_default()) }
    };
    let echo = async |request: Request| Reply {
        codec: request.codec,
        payload: request.payload,
    };
    let echo_options = RouteOptions::new()
        .describe("Answers with what it was sent")
        .types("any", "the same")
        .idempotent();
    let list_options = RouteOptions::new()
        .describe("Lists the routes")
        .types("", "[Description]")
        .idempotent();
    let router = Router::new()
        .route_with(ECHO, echo_options, echo)
        .route_with(ROUTES, list_options, list);
    routes.add(router);
}
