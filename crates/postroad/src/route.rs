//! One route: its handler with the type forgotten, and what its author declares of it.

mod access;
mod rule;
#[cfg(feature = "tower")]
mod service;
pub(crate) mod version;
mod word;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use postroad_proto::session::CallId;
use serde::Serialize;

pub(crate) use access::Access;
pub(crate) use rule::fits;
pub use rule::{Concurrency, Each, RateRule, RouteRule, Shape, Work};
#[cfg(feature = "tower")]
pub use service::RouteService;

use crate::driver::{Answered, Answers};
use crate::error::Error;
use crate::extract::Request;
use crate::transport::BoxFuture;

/// What came of starting a handler.
pub(crate) enum Started {
    /// It was done at once, and its answer is among the others.
    Done,
    /// It has failed at once.
    Failed(Error),
    /// It waits for something. It has to be polled again at once: its first poll had no waker, so
    /// nobody would be told when it can go on.
    Waits(BoxFuture<'static, Answered>),
}

/// Starts the handler of one route, one request after the other.
pub(crate) trait Starter: Send {
    /// Polls the handler once. Its answer is added to `answers`, unless nobody waits for it.
    fn start(
        &mut self,
        request: &mut Request,
        id: Option<CallId>,
        answers: &mut Answers,
    ) -> Started;
}

/// The memory of a handler's future. It is used again by the next one, so that a handler which is
/// done at once costs no allocation.
type Slot<F> = Pin<Box<Option<F>>>;

/// Makes futures of one type, and keeps the memory of the last that was done at once.
struct Typed<M, F> {
    make: Arc<M>,
    /// `None` at first, and after a handler has taken the memory along into a task.
    spare: Option<Slot<F>>,
}

impl<M, F> Starter for Typed<M, F>
where
    M: Fn(&mut Request) -> F + Send + Sync,
    F: Future<Output = Answered> + Send + 'static,
{
    #[inline]
    fn start(
        &mut self,
        request: &mut Request,
        id: Option<CallId>,
        answers: &mut Answers,
    ) -> Started {
        let slot = self.spare.get_or_insert_with(|| Box::pin(None));
        slot.as_mut().set(Some((self.make)(request)));
        let mut cx = Context::from_waker(Waker::noop());
        let error = match poll_slot(slot, &mut cx) {
            Poll::Ready(Ok(reply)) => {
                if let Some(id) = id {
                    answers.reply(id, reply);
                }
                None
            }
            Poll::Ready(Err(error)) => Some(error),
            Poll::Pending => {
                let Some(mut slot) = self.spare.take() else {
                    return Started::Done;
                };
                return Started::Waits(Box::pin(poll_fn(move |cx| poll_slot(&mut slot, cx))));
            }
        };
        slot.as_mut().set(None);
        error.map_or(Started::Done, Started::Failed)
    }
}

/// Always inline, as the futures that it polls: the compiler then hands a ready answer on in
/// registers instead of through memory.
#[inline(always)]
fn poll_slot<F: Future>(slot: &mut Slot<F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    match slot.as_mut().as_pin_mut() {
        Some(future) => future.poll(cx),
        None => Poll::Pending,
    }
}

/// Makes starters of one handler; its type is forgotten here.
type MakeStarter = Arc<dyn Fn() -> Box<dyn Starter> + Send + Sync>;
/// Runs one handler without a connection.
type Run = Arc<dyn Fn(Request) -> BoxFuture<'static, Answered> + Send + Sync>;

/// A handler whose type is forgotten, and its description.
pub(crate) struct Route {
    starter: MakeStarter,
    run: Run,
    pub(crate) describes: Description,
    /// What starting its handler costs, as was measured where requests had to wait.
    pub(crate) cost: Cost,
}

/// How long starting a handler usually takes, which for one that never waits is all of its work.
#[derive(Debug, Default)]
pub(crate) struct Cost(AtomicU64);

impl Cost {
    /// Nanoseconds; 0 if none was measured.
    pub(crate) fn nanos(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Learns of one: an eighth of what is known is forgotten for each.
    pub(crate) fn learn(&self, nanos: u64) {
        let known = self.nanos();
        let next = match known {
            0 => nanos,
            _ => known - known / 8 + nanos / 8,
        };
        self.0.store(next, Ordering::Relaxed);
    }
}

impl Route {
    /// A route whose handler's futures `make` makes.
    pub(crate) fn new<M, F>(make: M, describes: Description) -> Self
    where
        M: Fn(&mut Request) -> F + Send + Sync + 'static,
        F: Future<Output = Answered> + Send + 'static,
    {
        let make = Arc::new(make);
        let starting = Arc::clone(&make);
        let starter: MakeStarter = Arc::new(move || {
            let make = Arc::clone(&starting);
            Box::new(Typed { make, spare: None })
        });
        let run: Run = Arc::new(move |mut request| {
            let make = Arc::clone(&make);
            // Within the future, because extractors may panic, and whoever polls it is guarded.
            Box::pin(async move { make(&mut request).await })
        });
        Self {
            starter,
            run,
            describes,
            cost: Cost::default(),
        }
    }

    /// The same handler as a route of another name.
    pub(crate) fn renamed(&self, name: String) -> Self {
        Self {
            starter: Arc::clone(&self.starter),
            run: Arc::clone(&self.run),
            describes: Description {
                route: name,
                ..self.describes.clone()
            },
            cost: Cost::default(),
        }
    }

    /// A starter for one connection: it keeps memory between requests, so it is not shared.
    pub(crate) fn starter(&self) -> Box<dyn Starter> {
        (self.starter)()
    }

    /// The handler's whole work on one request. Nothing happens before it is polled.
    pub(crate) fn run(&self, request: Request) -> BoxFuture<'static, Answered> {
        (self.run)(request)
    }
}

/// What the author of a route declares of it, besides its handler.
///
/// The server handles a request in the same way whatever is declared. `postroad ls` and
/// [`Routes::list`](crate::Routes::list) show it, and a client of several servers asks for it and
/// obeys: unless the client's settings or the call say otherwise, a call takes the route's timeout,
/// has no higher priority than the route's highest, and is sent again where the route is
/// idempotent.
///
/// ```
/// use std::time::Duration;
///
/// use postroad::{Json, Router};
/// use postroad::route::RouteOptions;
///
/// let options = RouteOptions::new()
///     .describe("Counts what is in store")
///     .idempotent()
///     .timeout(Duration::from_millis(200));
/// let router = Router::new().route_with("stock/count", options, async || Json(7));
/// # let _ = router;
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
#[must_use]
pub struct RouteOptions {
    /// What the route does, for people.
    pub description: Option<String>,
    /// Whether a request that is handled twice does no more than one that is handled once, so that
    /// it may be sent again. Default false.
    pub is_idempotent: bool,
    /// The highest priority, 0 to 7, of its requests: one that asks for more has this. A rule of
    /// the server ([`RouteRule`]) goes before it. Default: any.
    pub priority_max: Option<u8>,
    /// Where its handler runs, unless a rule says [`Work::Cpu`]. Default: where requests are read.
    pub work: Work,
    /// How long a caller should wait if it does not know better. Default: its own default.
    pub timeout: Option<Duration>,
    /// The types of request and answer by other names than those of the handler's extractors.
    pub types: Option<(String, String)>,
    /// The schema of request and answer, in whatever form a gateway understands (OpenAPI).
    pub schema: Option<serde_json::Value>,
}

impl RouteOptions {
    /// Nothing is declared.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what the route does.
    pub fn describe(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Declares that its requests may be sent again.
    pub fn idempotent(mut self) -> Self {
        self.is_idempotent = true;
        self
    }

    /// Declares the highest priority of its requests; above 7 is 7.
    pub fn priority_max(mut self, priority: u8) -> Self {
        self.priority_max = Some(priority.min(7));
        self
    }

    /// Declares that its handler computes or blocks, so it runs on one of the worker threads
    /// ([`ServerConfig::cpu_workers`](crate::ServerConfig::cpu_workers)).
    pub fn cpu(mut self) -> Self {
        self.work = Work::Cpu;
        self
    }

    /// Declares how long a caller should wait.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Names the types of request and answer.
    pub fn types(mut self, request: impl Into<String>, response: impl Into<String>) -> Self {
        self.types = Some((request.into(), response.into()));
        self
    }

    /// Adds a schema of request and answer.
    pub fn schema(mut self, schema: serde_json::Value) -> Self {
        self.schema = Some(schema);
        self
    }

    /// What is shown of a route with these options, whose handler's own types are given.
    pub(crate) fn into_description(
        self,
        route: &str,
        handler_types: impl FnOnce() -> (String, String),
    ) -> Description {
        let (request, response) = self.types.unwrap_or_else(handler_types);
        Description {
            route: route.to_owned(),
            request,
            response,
            description: self.description,
            is_idempotent: self.is_idempotent,
            priority_max: self.priority_max,
            work: self.work,
            timeout: self.timeout,
            schema: self.schema,
        }
    }
}

/// What `postroad ls` shows of a route.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Description {
    /// Its name.
    pub route: String,
    /// The type of its request, as the service's author wrote it, or the handler's extractors.
    pub request: String,
    /// The type of its answer.
    pub response: String,
    /// What it does, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether its requests may be sent again; see [`RouteOptions::is_idempotent`].
    #[serde(rename = "idempotent", skip_serializing_if = "is_false")]
    pub is_idempotent: bool,
    /// The highest priority of its requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_max: Option<u8>,
    /// Where its handler runs.
    #[serde(skip_serializing_if = "is_in_place")]
    pub work: Work,
    /// How long a caller should wait; milliseconds as `timeout_ms` where it is serialised.
    #[serde(
        rename = "timeout_ms",
        serialize_with = "as_millis",
        skip_serializing_if = "Option::is_none"
    )]
    pub timeout: Option<Duration>,
    /// The schema of request and answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Value>,
}

fn is_in_place(work: &Work) -> bool {
    *work == Work::InPlace
}

fn is_false(is_it: &bool) -> bool {
    !is_it
}

fn as_millis<S: serde::Serializer>(
    timeout: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let millis = timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    millis.serialize(serializer)
}
