//! From a request to its handler's answer.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::code::{Code, Retry};
use postroad_proto::session::{Reply, Request as Asked, RouteRef};
use postroad_proto::trace::Trace;

use super::stats::{Counters, count};
use crate::clock::{self, Watch};
use crate::codec::Json;
use crate::context::{Scope, Scoped};
use crate::driver::{Answered, Answers, Connection, RequestBatch, Service};
use crate::error::Error;
use crate::extract::{Origin, Request};
use crate::router::{Router, Routes, Started, Starter, Table};
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

/// What the requests of all connections of a server share.
pub(crate) struct Dispatch {
    routes: Routes,
    /// Requests whose handlers were not done at once.
    running: AtomicUsize,
    max_running: usize,
    counters: Arc<Counters>,
}

impl Dispatch {
    pub(crate) fn new(routes: Routes, max_running: usize, counters: Arc<Counters>) -> Self {
        Self {
            routes,
            running: AtomicUsize::new(0),
            max_running,
            counters,
        }
    }

    /// Requests whose handlers are at work now.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }
}

/// A route as the requests of one connection find it.
struct Known {
    starter: Box<dyn Starter>,
    /// Filled with each request in turn.
    request: Request,
}

/// What a request finds.
enum Found {
    /// One of those that are known.
    Route(usize),
    /// A dialect's request on a listener that names no route.
    Echo,
    Nothing(String),
}

/// The routes that the requests of one connection were for.
struct Lookup {
    /// The table that they were found in.
    table: Arc<Table>,
    /// One for each route, by however many numbers it is asked for.
    known: Vec<Known>,
    by_number: Vec<Option<Found>>,
    /// The last that was not asked for by number.
    last: Option<(RouteRef, Found)>,
}

impl Lookup {
    fn new(table: Arc<Table>) -> Self {
        Self {
            table,
            known: Vec::new(),
            by_number: Vec::new(),
            last: None,
        }
    }

    /// Forgets what was found in a table that was changed since.
    fn refresh(&mut self, routes: &Routes) {
        let table = routes.load();
        if !Arc::ptr_eq(&table, &self.table) {
            self.table = Arc::clone(&table);
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.by_number.clear();
        self.last = None;
        // What handlers have left may panic when it is dropped.
        let _ = catch_unwind(AssertUnwindSafe(|| self.known.clear()));
    }

    #[inline]
    fn find(&mut self, connection: &Connection, asked: &RouteRef) -> Target<'_> {
        let found = match asked {
            RouteRef::Number(number) => {
                let at = usize::from(*number);
                // Nearly always.
                if let Some(Some(Found::Route(at))) = self.by_number.get(at) {
                    return Target::Route(&mut self.known[*at]);
                }
                if self.by_number.get(at).is_none_or(Option::is_none) {
                    self.add_number(connection, at);
                }
                self.by_number[at].as_ref()
            }
            _ => {
                if self.last.as_ref().is_none_or(|(last, _)| last != asked) {
                    let found = self.find_named(connection, asked);
                    self.last = Some((asked.clone(), found));
                }
                self.last.as_ref().map(|(_, found)| found)
            }
        };
        match found {
            Some(Found::Route(at)) => Target::Route(&mut self.known[*at]),
            Some(Found::Nothing(what)) => Target::Nothing(what),
            Some(Found::Echo) | None => Target::Echo,
        }
    }

    fn add_number(&mut self, connection: &Connection, at: usize) {
        let name = u16::try_from(at)
            .ok()
            .and_then(|number| connection.route_name(number))
            .unwrap_or_default();
        let found = self.look_up(connection, &name);
        let found = found.unwrap_or_else(|| Found::Nothing(format!("no route {name:?}")));
        if at >= self.by_number.len() {
            self.by_number.resize_with(at + 1, || None);
        }
        self.by_number[at] = Some(found);
    }

    fn find_named(&mut self, connection: &Connection, asked: &RouteRef) -> Found {
        let protocol = connection.protocol();
        match asked {
            RouteRef::Name(name) => self
                .look_up(connection, name)
                .unwrap_or_else(|| Found::Nothing(format!("no route {name:?}"))),
            RouteRef::Code(code) => {
                let kind = if protocol == "opcode" {
                    "opcode"
                } else {
                    "command"
                };
                let found = self.look_up(connection, &format!("{kind}/0x{code:02x}"));
                let found = found.or_else(|| self.look_up(connection, DEFAULT));
                found.unwrap_or_else(|| match self.table.has_codes(kind) {
                    true => Found::Nothing(format!("no route for {kind} 0x{code:02x}")),
                    false => Found::Echo,
                })
            }
            _ if protocol == "native" => Found::Nothing("the request names no route".to_owned()),
            _ => self.look_up(connection, DEFAULT).unwrap_or(Found::Echo),
        }
    }

    /// What is known of a route, by however many numbers the peer calls it.
    fn look_up(&mut self, connection: &Connection, name: &str) -> Option<Found> {
        let is_it = |known: &Known| known.request.route() == name;
        if let Some(at) = self.known.iter().position(is_it) {
            return Some(Found::Route(at));
        }
        let starter = self.table.get(name)?.starter();
        let origin = Origin {
            route: name.into(),
            peer: Arc::clone(&connection.peer),
            protocol: connection.protocol(),
        };
        let request = Request::new(Arc::new(origin));
        self.known.push(Known { starter, request });
        Some(Found::Route(self.known.len() - 1))
    }
}

/// Where a request goes.
enum Target<'a> {
    Route(&'a mut Known),
    Echo,
    Nothing(&'a str),
}

/// Finds the handlers of one connection's requests and starts them.
pub(crate) struct Dispatcher {
    dispatch: Arc<Dispatch>,
    /// None while no requests come.
    lookup: Option<Box<Lookup>>,
}

impl Dispatcher {
    pub(crate) fn new(dispatch: Arc<Dispatch>) -> Self {
        let lookup = None;
        Self { dispatch, lookup }
    }

    /// The routes that are known, and what the requests of all connections share.
    fn lookup(&mut self) -> (&mut Lookup, &Arc<Dispatch>) {
        let new = || Box::new(Lookup::new(self.dispatch.routes.table()));
        (self.lookup.get_or_insert_with(new), &self.dispatch)
    }

    /// Starts one handler after the other, until the answers are full or one panics.
    fn start_many(&mut self, starting: &mut Starting<'_>) {
        let scope = Scope::enter();
        let (lookup, dispatch) = self.lookup();
        while !starting.answers.is_full()
            && let Some(asked) = starting.arrived.next()
        {
            let (connection, answers) = (starting.connection, &mut *starting.answers);
            let refused = match lookup.find(connection, &asked.route) {
                Target::Route(known) => {
                    let is_late = starting.watch.has_passed(asked.deadline);
                    match dispatch.refusal(is_late) {
                        Some(error) => Some((error, known.request.route())),
                        None => {
                            starting.started += 1;
                            dispatch.start_one(connection, known, asked, answers, &scope);
                            None
                        }
                    }
                }
                Target::Echo => {
                    starting.started += 1;
                    let (codec, payload) = (asked.codec, std::mem::take(&mut asked.payload));
                    if let Some(id) = asked.id {
                        answers.reply(id, Reply { codec, payload });
                    }
                    None
                }
                Target::Nothing(what) => Some((Error::of(Code::NOT_FOUND, what), "")),
            };
            if let Some((error, route)) = refused {
                let error = dispatch.refuse(connection, route, error);
                if let Some(id) = asked.id {
                    answers.fail(id, error);
                }
            }
            starting.arrived.pass();
        }
    }

    /// Answers for the handler that has panicked, and passes it.
    #[cold]
    fn bury(&mut self, starting: &mut Starting<'_>, payload: &(dyn Any + Send)) {
        let Some(asked) = starting.arrived.next() else {
            return;
        };
        let (lookup, dispatch) = self.lookup();
        let (id, counters) = (asked.id, &dispatch.counters);
        let told = catch_unwind(AssertUnwindSafe(|| {
            let Target::Route(known) = lookup.find(starting.connection, &asked.route) else {
                return None;
            };
            let seen = Seen::of(&known.request, begin());
            let mut error = seen.panicked(counters, payload);
            seen.observe(counters, Some(&mut error));
            known.request.clear();
            Some(error)
        }));
        // If it was no handler, it was whoever looks on.
        let error = told.ok().flatten().unwrap_or_else(|| {
            Error::internal("the server failed unexpectedly").with_trace(trace::new())
        });
        if let Some(id) = id {
            starting.answers.fail(id, error);
        }
        starting.arrived.pass();
        // What has panicked is made anew.
        lookup.forget();
    }
}

/// Requests of one connection whose handlers are being started.
struct Starting<'a> {
    connection: &'a Arc<Connection>,
    arrived: &'a mut RequestBatch,
    answers: &'a mut Answers,
    watch: Watch,
    started: u64,
}

impl Service for Dispatcher {
    fn start(
        &mut self,
        connection: &Arc<Connection>,
        now: Time,
        arrived: &mut RequestBatch,
        answers: &mut Answers,
    ) {
        let (lookup, dispatch) = self.lookup();
        lookup.refresh(&dispatch.routes);
        let mut starting = Starting {
            connection,
            arrived,
            answers,
            watch: Watch::new(now),
            started: 0,
        };
        // One guard serves all of them; after a panic the next begins with the request behind.
        while let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.start_many(&mut starting))) {
            self.bury(&mut starting, payload.as_ref());
        }
        count(&self.dispatch.counters.started, starting.started);
    }

    fn release_memory(&mut self) {
        if let Some(mut lookup) = self.lookup.take() {
            lookup.forget();
        }
    }
}

impl Dispatch {
    /// Starts a handler; its answer, if it was done at once, is among the others then.
    #[inline]
    fn start_one(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        known: &mut Known,
        asked: &mut Asked,
        answers: &mut Answers,
        scope: &Scope,
    ) {
        let Known { starter, request } = known;
        request.fill(asked);
        scope.set(asked.deadline, asked.priority, request.trace());
        let since = begin();
        match starter.start(request, asked.id, answers) {
            Started::Done if trace::is_watched() => {
                Seen::of(request, since).observe(&self.counters, None);
            }
            Started::Done => {}
            Started::Failed(mut error) => {
                Seen::of(request, since).observe(&self.counters, Some(&mut error));
                if let Some(id) = asked.id {
                    answers.fail(id, error);
                }
            }
            Started::Waits(future) => {
                // The task polls at once, so that a wake-up that this poll has missed is not
                // needed.
                let future = Scoped::new(request.context(), future);
                let running = Running::new(self, future, request, since);
                connection.spawn(asked.id, running);
            }
        }
        request.clear();
    }

    /// Why a request is not started, if so.
    #[inline]
    fn refusal(&self, is_late: bool) -> Option<Error> {
        // Those before it in the same batch may have taken long: a request past its deadline is
        // never started.
        if is_late {
            let text = "the deadline passed before the request was started";
            return Some(Error::of(Code::DEADLINE, text));
        }
        if self.running() >= self.max_running {
            let text = format!("{} requests are running already", self.max_running);
            let error = Error::of(Code::OVERLOADED, text).with_retry(Retry::Here, RETRY_AFTER);
            return Some(error);
        }
        None
    }

    #[cold]
    fn refuse(&self, connection: &Connection, route: &str, error: Error) -> Error {
        let error = error.with_trace(trace::new());
        count(&self.counters.failed, 1);
        tracing::debug!(
            target: "postroad::call", peer = %connection.peer, route,
            trace = error.trace().map(tracing::field::display), %error, "refused"
        );
        error
    }
}

/// What is told of a request when it is over.
struct Seen<'a> {
    origin: &'a Origin,
    trace: Option<Trace>,
    since: Time,
}

/// When a request begins, if somebody looks.
#[inline]
fn begin() -> Time {
    match trace::is_watched() {
        true => clock::now(),
        false => Time(0),
    }
}

impl<'a> Seen<'a> {
    fn of(request: &'a Request, since: Time) -> Self {
        Self {
            origin: &request.origin,
            trace: request.trace().copied(),
            since,
        }
    }

    #[cold]
    fn panicked(&self, counters: &Counters, payload: &(dyn Any + Send)) -> Error {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("of an unprintable kind");
        let trace = self.trace.unwrap_or_else(trace::new);
        count(&counters.panicked, 1);
        tracing::error!(
            target: "postroad::call", peer = %self.origin.peer, route = %self.origin.route, %trace,
            panic = text, "handler panicked"
        );
        // What exactly happened is the operator's business; the trace id finds it.
        Error::internal("the handler failed unexpectedly")
            .with_retry(Retry::IfIdempotent, Duration::ZERO)
            .with_trace(trace)
    }

    #[cold]
    fn observe(&self, counters: &Counters, mut error: Option<&mut Error>) {
        if let Some(error) = &mut error {
            count(&counters.failed, 1);
            // Every failure can be found again, also when nobody asked for a trace.
            error.set_trace(|| self.trace.unwrap_or_else(trace::new));
        }
        if trace::is_watched() {
            let micros = clock::now().since(self.since).as_micros() as u64;
            let error = error.as_deref();
            let trace = error.and_then(Error::trace).or(self.trace);
            let trace = trace.map(tracing::field::display);
            let error = error.map(tracing::field::display);
            tracing::debug!(
                target: "postroad::call", peer = %self.origin.peer, route = %self.origin.route,
                trace, micros, error, "handled"
            );
        }
    }
}

/// A handler that was not done at once: it counts as running while it lives.
struct Running {
    dispatch: Arc<Dispatch>,
    future: Scoped<BoxFuture<'static, Answered>>,
    origin: Arc<Origin>,
    since: Time,
}

impl Running {
    fn new(
        dispatch: &Arc<Dispatch>,
        future: Scoped<BoxFuture<'static, Answered>>,
        request: &Request,
        since: Time,
    ) -> Self {
        dispatch.running.fetch_add(1, Ordering::Relaxed);
        Self {
            dispatch: Arc::clone(dispatch),
            future,
            origin: Arc::clone(&request.origin),
            since,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.dispatch.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Future for Running {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        let this = &mut *self;
        let seen = Seen {
            origin: &this.origin,
            trace: this.future.trace(),
            since: this.since,
        };
        let (future, counters) = (&mut this.future, &this.dispatch.counters);
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(future).poll(cx)));
        let mut answer = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(answer)) => answer,
            Err(payload) => Err(seen.panicked(counters, payload.as_ref())),
        };
        if answer.is_err() || trace::is_watched() {
            seen.observe(counters, answer.as_mut().err());
        }
        Poll::Ready(answer)
    }
}
