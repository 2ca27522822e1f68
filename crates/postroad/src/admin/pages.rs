//! What is answered at which path.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::http::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};

use super::health;
use super::metrics::{Format, Metrics};
use super::told::Shared;

const PLAIN: &str = "text/plain; charset=utf-8";

const LIST: &str = concat!(
    "postroad ",
    env!("CARGO_PKG_VERSION"),
    "\n\n",
    "/livez     whether the threads that drive connections turn\n",
    "/readyz    whether the server wants calls\n",
    "/startupz  whether the server has been started\n",
    "/metrics   numbers for Prometheus\n",
    "\n",
    "The first three answer 200 or 503; ?verbose names each check.\n"
);

/// Answers a request, whose body nobody looks at.
pub(super) fn answer<B>(shared: &Shared, request: &Request<B>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let text = "only GET and HEAD are answered\n".to_owned();
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, PLAIN, text);
        let methods = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, methods);
        return response;
    }
    let uri = request.uri();
    let mut parameters = uri.query().unwrap_or_default().split('&');
    let is_verbose = parameters.any(|it| it == "verbose" || it.starts_with("verbose="));
    let watched = shared.watched();
    let watched = watched.as_ref();
    let (name, checks) = match uri.path() {
        "/" => return page(StatusCode::OK, PLAIN, LIST.to_owned()),
        "/metrics" => return metrics(shared, request),
        "/livez" => ("livez", health::live(watched, shared.stuck_after)),
        "/readyz" => ("readyz", health::ready(watched)),
        "/startupz" => ("startupz", health::started(watched)),
        _ => {
            let text = "there is no such page; / lists them\n".to_owned();
            return page(StatusCode::NOT_FOUND, PLAIN, text);
        }
    };
    let (is_well, text) = health::written(name, &checks, is_verbose);
    let status = match is_well {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    page(status, PLAIN, text)
}

fn metrics<B>(shared: &Shared, request: &Request<B>) -> Response<Full<Bytes>> {
    let accepts = request.headers().get_all(ACCEPT).iter();
    let accepts: Vec<_> = accepts.filter_map(|value| value.to_str().ok()).collect();
    let format = Format::accepted(&accepts.join(","));
    let mut metrics = Metrics::new();
    shared.collect(&mut metrics);
    page(
        StatusCode::OK,
        format.content_type(),
        metrics.render(format),
    )
}

fn page(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
