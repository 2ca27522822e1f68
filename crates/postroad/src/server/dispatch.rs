//! From a request to its handler's answer.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::error::{Code, ErrorBody, Retry, Trace};
use postroad_proto::session::{Reply, Request as Asked, RouteRef};

use super::stats::{Counters, count};
use crate::clock;
use crate::codec::Json;
use crate::context::{Context, Scoped};
use crate::driver::{Arrived, Connection, Service};
use crate::error::Error;
use crate::extract::Request;
use crate::router::{Route, Router, Routes};
use crate::trace;
use crate::transport::BoxFuture;

/// The route that answers with what it was sent.
pub(crate) const ECHO: &str = "postroad/echo";
/// The route that lists the routes.
pub(crate) const ROUTES: &str = "postroad/routes";
/// Where a dialect's requests go that name no route, if there is one of this name.
const DEFAULT: &str = "default";
/// What a client that is refused for too much at once is told to wait.
const RETRY_AFTER: Duration = Duration::from_millis(100);

pub(crate) fn add_built_in(routes: &Routes) {
    let table = routes.clone();
    let list = move || {
        let table = table.clone();
        async move { Json(table.list()) }
    };
    let types = |request: &str, response: &str| (request.to_owned(), response.to_owned());
    let echo = async |request: Request| Reply {
        codec: request.codec,
        payload: request.payload,
    };
    let router = Router::new()
        .described(ECHO, types("any", "the same"), echo)
        .described(ROUTES, types("", "[Description]"), list);
    routes.add(router);
}

/// Finds handlers and starts them.
pub(crate) struct Dispatch {
    routes: Routes,
    running: Arc<AtomicUsize>,
    max_running: usize,
    counters: Arc<Counters>,
}

/// What a request has to find.
enum Found {
    Route(Arc<str>, Arc<Route>),
    /// A dialect's request on a listener that names no route.
    Echo,
    Nothing(String),
}

impl Dispatch {
    /// Requests whose handlers are at work now.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    pub(crate) fn new(routes: Routes, max_running: usize, counters: Arc<Counters>) -> Self {
        Self {
            routes,
            running: Arc::default(),
            max_running,
            counters,
        }
    }

    fn find(&self, asked: &Asked, name: Option<Arc<str>>, protocol: &str) -> Found {
        let table = self.routes.load();
        if let Some(name) = name {
            return match table.get(&name) {
                Some(route) => Found::Route(name, Arc::clone(route)),
                None => Found::Nothing(format!("no route {name:?}")),
            };
        }
        let by_name = |name: &str| {
            table
                .get(name)
                .map(|route| Found::Route(name.into(), Arc::clone(route)))
        };
        match asked.route {
            RouteRef::Code(code) => {
                let kind = if protocol == "opcode" {
                    "opcode"
                } else {
                    "command"
                };
                let found = by_name(&format!("{kind}/0x{code:02x}")).or_else(|| by_name(DEFAULT));
                found.unwrap_or_else(|| match table.has_codes(kind) {
                    true => Found::Nothing(format!("no route for {kind} 0x{code:02x}")),
                    false => Found::Echo,
                })
            }
            _ if protocol == "native" => Found::Nothing("the request names no route".to_owned()),
            _ => by_name(DEFAULT).unwrap_or(Found::Echo),
        }
    }

    /// Takes one of the places for running requests.
    fn enter(&self) -> Option<Running> {
        let running = Running(Arc::clone(&self.running));
        // The guard is counted before it is known whether there is room, and gives its place back
        // if not.
        let before = self.running.fetch_add(1, Ordering::Relaxed);
        (before < self.max_running).then_some(running)
    }

    fn refuse(
        &self,
        connection: &Connection,
        route: &str,
        error: Error,
    ) -> Result<Reply, ErrorBody> {
        let error = error.with_trace(trace::new());
        count(&self.counters.failed);
        tracing::debug!(
            target: "postroad::call", peer = %connection.peer, route,
            trace = error.trace().map(tracing::field::display), %error, "refused"
        );
        Err(error.into())
    }
}

impl Service for Dispatch {
    fn start(
        &self,
        connection: &Arc<Connection>,
        arrived: Arrived,
    ) -> Option<Result<Reply, ErrorBody>> {
        let Arrived {
            request: asked,
            route,
            protocol,
        } = arrived;
        let (name, route) = match self.find(&asked, route, protocol) {
            Found::Route(name, route) => (name, route),
            Found::Echo => {
                count(&self.counters.started);
                return Some(Ok(Reply {
                    codec: asked.codec,
                    payload: asked.payload,
                }));
            }
            Found::Nothing(what) => {
                let error = Error::of(Code::NOT_FOUND, what);
                return Some(self.refuse(connection, "", error));
            }
        };
        // Those before it in the same batch may have taken long: a request past its deadline is
        // never started.
        if asked.deadline != Time::NEVER && asked.deadline <= clock::now() {
            let error = Error::of(
                Code::DEADLINE,
                "the deadline passed before the request was started",
            );
            return Some(self.refuse(connection, &name, error));
        }
        let Some(running) = self.enter() else {
            let text = format!("{} requests are running already", self.max_running);
            let error = Error::of(Code::OVERLOADED, text).with_retry(Retry::Here, RETRY_AFTER);
            return Some(self.refuse(connection, &name, error));
        };
        count(&self.counters.started);
        let id = asked.id;
        let mut handling = Handling::new(self, connection, asked, protocol, name, &route, running);
        match Pin::new(&mut handling).poll(&mut TaskContext::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => {
                // The task polls at once, so that a wake-up that this poll has missed is not
                // needed.
                connection.spawn(id, handling);
                None
            }
        }
    }
}

/// Counts a request as running while it lives.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A handler at work: in its context, guarded against panics, observed once when it is done.
struct Handling {
    future: Scoped<BoxFuture<'static, Result<Reply, ErrorBody>>>,
    name: Arc<str>,
    peer: Arc<str>,
    trace: Option<Trace>,
    since: Time,
    counters: Arc<Counters>,
    _running: Running,
}

impl Handling {
    fn new(
        dispatch: &Dispatch,
        connection: &Connection,
        asked: Asked,
        protocol: &'static str,
        name: Arc<str>,
        route: &Route,
        running: Running,
    ) -> Self {
        let Asked {
            deadline,
            priority,
            trace,
            payload,
            codec,
            attempt,
            parts,
            ..
        } = asked;
        let context = Context {
            deadline,
            priority,
            trace,
        };
        let peer = Arc::clone(&connection.peer);
        let request = Request {
            route: Arc::clone(&name),
            peer: Arc::clone(&peer),
            protocol,
            payload,
            codec,
            attempt,
            context,
            parts,
        };
        let is_observed = tracing::enabled!(target: "postroad::call", tracing::Level::DEBUG);
        Self {
            future: Scoped::new(context, start(route, request)),
            name,
            peer,
            trace,
            since: if is_observed { clock::now() } else { Time(0) },
            counters: Arc::clone(&dispatch.counters),
            _running: running,
        }
    }

    fn panicked(&self, payload: &(dyn Any + Send)) -> ErrorBody {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("of an unprintable kind");
        let trace = self.trace.unwrap_or_else(trace::new);
        count(&self.counters.panicked);
        tracing::error!(
            target: "postroad::call", peer = %self.peer, route = %self.name, %trace, panic = text,
            "handler panicked"
        );
        // What exactly happened is the operator's business; the trace id finds it.
        let error = ErrorBody::new(Code::INTERNAL, "the handler failed unexpectedly");
        ErrorBody {
            trace: Some(trace),
            retry: Retry::IfIdempotent,
            ..error
        }
    }

    fn observe(&self, answer: &mut Result<Reply, ErrorBody>) {
        if let Err(error) = answer {
            count(&self.counters.failed);
            // Every failure can be found again, also when nobody asked for a trace.
            error.trace = error.trace.or(self.trace).or_else(|| Some(trace::new()));
        }
        if tracing::enabled!(target: "postroad::call", tracing::Level::DEBUG) {
            let micros = clock::now().since(self.since).as_micros() as u64;
            let trace = answer
                .as_ref()
                .err()
                .and_then(|error| error.trace)
                .or(self.trace);
            let trace = trace.map(tracing::field::display);
            let error = answer.as_ref().err().map(tracing::field::display);
            tracing::debug!(
                target: "postroad::call", peer = %self.peer, route = %self.name, trace, micros,
                error, "handled"
            );
        }
    }
}

/// The handler's future. What panics before it exists panics when it is polled, where that is
/// caught.
fn start(route: &Route, request: Request) -> BoxFuture<'static, Result<Reply, ErrorBody>> {
    catch_unwind(AssertUnwindSafe(|| route.start(request)))
        .unwrap_or_else(|payload| Box::pin(async move { resume_unwind(payload) }))
}

impl Future for Handling {
    type Output = Result<Reply, ErrorBody>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut this.future).poll(cx)));
        let mut answer = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(answer)) => answer,
            Err(payload) => Err(this.panicked(payload.as_ref())),
        };
        this.observe(&mut answer);
        Poll::Ready(answer)
    }
}
