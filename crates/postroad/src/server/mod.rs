//! The server: listeners, connections, and a shutdown that loses nothing.

mod accept;
mod addresses;
mod admission;
mod begun;
mod builtin;
mod call;
mod certificates;
mod changes;
mod config;
mod cut;
mod drain;
mod gate;
mod gated;
mod identify;
mod intake;
mod lanes;
mod lookup;
mod memory;
mod memory_guard;
mod reactors;
mod reload;
mod routes;
mod run_queue;
mod running;
mod served;
mod share;
mod start;
mod turns;
mod versions;
mod watched;

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use postroad_proto::code::{Fault, Retry};
use postroad_proto::policy::{IllegalTransition, ServerState};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use config::ServerConfig;
pub use routes::Routes;
pub(crate) use watched::{Sight, Watched};

use crate::clock;
use crate::config::ConfigError;
use crate::driver::Connection;
use crate::endpoint::Endpoint;
use crate::error::{Error, TransportError};
use crate::extract::{Reply, Request};
use crate::hook::{Around, Next};
use crate::identity::Verifier;
use crate::observe::audit::Audit;
use crate::observe::counters::{Counters, ServerStats};
use crate::observe::node;
use crate::router::Router;
use crate::transport::{ConnectionId, Reload, Transports, Use};
use addresses::Addresses;
use memory_guard::MemoryGuard;
use reactors::Reactors;
use reload::Live;
use turns::Turns;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is out of its bounds.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An endpoint is wrong or cannot be bound.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The keys that tokens are signed with cannot be read.
    #[error("the keys for tokens cannot be read: {0}")]
    Keys(String),
    /// The audit log cannot be opened.
    #[error("the audit log cannot be opened: {0}")]
    Audit(std::io::Error),
    /// No listener was named.
    #[error("a server needs at least one endpoint to listen on")]
    NoEndpoint,
    /// A thread or its runtime could not be started.
    #[error("a worker cannot be started: {0}")]
    Worker(std::io::Error),
}

impl StartError {
    /// Who has to change something.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Config(_) | Self::NoEndpoint | Self::Keys(_) => Fault::Caller,
            Self::Transport(error) => error.fault(),
            Self::Worker(_) | Self::Audit(_) => Fault::Environment,
        }
    }

    /// Whether trying again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Config(_) | Self::NoEndpoint | Self::Keys(_) => Retry::Never,
            Self::Transport(error) => error.retry(),
            Self::Worker(_) | Self::Audit(_) => Retry::Here,
        }
    }
}

/// A server before it runs.
///
/// ```
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use postroad::{Router, Server};
///
/// let router = Router::new().route("text/shout", async |text: String| text.to_uppercase());
/// let server = Server::new(router).listen("tcp+auto://127.0.0.1:7400".parse()?).start().await?;
/// server.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a server does nothing until it is started"]
pub struct Server {
    routes: Routes,
    config: ServerConfig,
    endpoints: Vec<Endpoint>,
    transports: Transports,
}

impl Server {
    /// A server of these routes, and of `postroad/echo`, `postroad/health`, `postroad/identify` and
    /// `postroad/routes`.
    pub fn new<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Self {
        let routes = Routes::new(router.into_table());
        builtin::add_to(&routes);
        let (config, transports) = (ServerConfig::default(), Transports::default());
        Self {
            routes,
            config,
            endpoints: Vec::new(),
            transports,
        }
    }

    /// Replaces the configuration.
    pub fn config(mut self, config: ServerConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets how long handlers of one connection run in place in one turn, before its further
    /// requests wait for theirs behind those of other connections. Default 2 ms.
    ///
    /// Shorter keeps other connections quick beside one that floods slow handlers; a request that
    /// has to wait costs about a microsecond more.
    pub fn work_budget(self, budget: Duration) -> Self {
        self.routes.dispatch.intake.set_work_budget(budget);
        self
    }

    /// Puts a hook before everything that the server answers: the routes, the built-in ones
    /// (`postroad/echo`, `postroad/health`, `postroad/identify`, `postroad/routes`), those that
    /// [`Routes::add`] adds later, requests by [`Routes::call`], and what dialects send without
    /// naming a route. No route can be forgotten.
    ///
    /// The hook gets the request and gives it back, perhaps with an identity
    /// ([`Request::set_identity`]), or answers with an error. A hook that is added later runs
    /// before those that were added earlier. It runs before the extractors; a route that does not
    /// exist is answered `SRV-E-404` without it. Without hooks, requests cost what they did; a hook
    /// costs them two allocations each.
    ///
    /// ```
    /// use postroad::extract::Request;
    /// use postroad::{CallContext, Error, Router, Server, code};
    ///
    /// struct User(String);
    ///
    /// async fn authenticate(mut request: Request) -> Result<Request, Error> {
    ///     match request.metadata("token") {
    ///         Some(token) if token == "let me in" => request.set_identity(User("ada".to_owned())),
    ///         _ => return Err(Error::new(code!("AUT-E-401"), "the token is missing or wrong")),
    ///     }
    ///     Ok(request)
    /// }
    ///
    /// let router = Router::new().route("who", async |cx: CallContext| {
    ///     cx.identity().map_or("nobody".to_owned(), |User(name)| name.clone())
    /// });
    /// let server = Server::new(router).before(authenticate);
    /// # let _ = server;
    /// ```
    pub fn before<F, Fut>(self, hook: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Request, Error>> + Send + 'static,
    {
        self.surround(&Around::before(hook))
    }

    /// Puts a hook around everything that the server answers: it sees the request, runs what is
    /// within, and sees the answer. Otherwise as [`Self::before`].
    ///
    /// ```
    /// use postroad::extract::{Reply, Request};
    /// use postroad::{Error, Next, Router, Server};
    ///
    /// async fn log_failures(request: Request, next: Next) -> Result<Reply, Error> {
    ///     let (route, peer) = (request.route().to_owned(), request.peer().to_string());
    ///     let answer = next.run(request).await;
    ///     if let Err(error) = &answer {
    ///         eprintln!("{route} has failed for {peer}: {error}");
    ///     }
    ///     answer
    /// }
    ///
    /// let server = Server::new(Router::new()).around(log_failures);
    /// # let _ = server;
    /// ```
    pub fn around<F, Fut>(self, hook: F) -> Self
    where
        F: Fn(Request, Next) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        self.surround(&Around::new(hook))
    }

    fn surround(self, hook: &Around) -> Self {
        self.routes.change(|table| table.surround_all(hook));
        self
    }

    /// Serves nothing but the routes that were given: no `postroad/echo`, no `postroad/health`, no
    /// `postroad/identify`, no `postroad/routes` (which `postroad ls` asks), and no echo of what a
    /// dialect sends without naming a route, which is refused with `SRV-E-404` then.
    pub fn without_built_in_routes(self) -> Self {
        builtin::remove_from(&self.routes);
        self
    }

    /// Adds an endpoint to listen on.
    pub fn listen(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Replaces the transports, to use ones of your own.
    pub fn transports(mut self, transports: Transports) -> Self {
        self.transports = transports;
        self
    }

    /// Checks everything that can be checked without binding anything.
    ///
    /// # Errors
    /// The first setting or endpoint that is wrong.
    pub fn check(&self) -> Result<(), StartError> {
        self.config.check()?;
        if self.endpoints.is_empty() {
            return Err(StartError::NoEndpoint);
        }
        for endpoint in &self.endpoints {
            self.transports
                .get(endpoint)?
                .check(endpoint, Use::Listen)?;
        }
        Ok(())
    }

    /// Binds every endpoint, then serves until [`RunningServer::shutdown`].
    ///
    /// # Errors
    /// If the configuration or an endpoint is wrong, or one cannot be bound: then none is served.
    pub async fn start(mut self) -> Result<RunningServer, StartError> {
        self.check()?;
        Endpoint::share_ports(&mut self.endpoints);
        let mut bound = Vec::new();
        for endpoint in &self.endpoints {
            let transport = self.transports.get(endpoint)?;
            let listener = transport.listen(endpoint).await?;
            if let Some(warning) = transport.warning(endpoint) {
                node::warning(endpoint, &warning);
            }
            bound.push((endpoint.clone(), listener, transport.has_integrity()));
        }
        if let Some(jwt) = &self.config.identity.jwt {
            let verifier = Verifier::start(jwt).await.map_err(StartError::Keys)?;
            // A server starts once.
            let _ = self.routes.dispatch.verifier.set(verifier);
        }
        if let Some(audit) = &self.config.identity.audit {
            let audit = Audit::open(audit.place()).map_err(StartError::Audit)?;
            let _ = self.routes.dispatch.counters.audit.set(audit);
        }
        let reactors = Reactors::start(self.config.workers).map_err(StartError::Worker)?;
        let shared = Arc::new(Shared::new(self.config, self.routes, reactors));
        let memory = MemoryGuard::start(&shared);
        let mut addresses = Vec::new();
        let mut accepting = Vec::new();
        let mut reloads = Vec::new();
        for (endpoint, listener, has_integrity) in bound {
            let address = listener.local_address();
            node::listening(&endpoint, &address);
            addresses.push(address);
            if let Some(reload) = listener.reload() {
                accepting.push(certificates::follow(endpoint.clone(), Arc::clone(&reload)));
                reloads.push(reload);
            }
            let shared = Arc::clone(&shared);
            accepting.push(tokio::spawn(accept::accept(
                shared,
                endpoint,
                listener,
                has_integrity,
            )));
        }
        shared.transition(ServerState::Running);
        Ok(RunningServer {
            shared,
            addresses,
            accepting,
            reloads,
            _memory: memory,
        })
    }
}

/// What listeners, connections and handles of one server share.
pub(crate) struct Shared {
    pub(crate) config: Live,
    pub(crate) counters: Arc<Counters>,
    pub(crate) reactors: Reactors,
    turns: Turns,
    pub(crate) routes: Routes,
    state: watch::Sender<ServerState>,
    connections: Mutex<HashMap<ConnectionId, Weak<Connection>>>,
    addresses: Addresses,
    /// Connections that come from now on are asked to leave at once.
    is_draining: AtomicBool,
    /// Connections that are open; a change wakes a shutdown that waits for none.
    pub(crate) open: watch::Sender<usize>,
}

impl Shared {
    fn new(config: ServerConfig, routes: Routes, reactors: Reactors) -> Self {
        let shared = Self {
            counters: Arc::clone(&routes.dispatch.counters),
            config: Live::new(config),
            reactors,
            turns: Turns::default(),
            routes,
            state: watch::Sender::new(ServerState::Initializing),
            connections: Mutex::default(),
            addresses: Addresses::default(),
            is_draining: AtomicBool::new(false),
            open: watch::Sender::new(0),
        };
        shared.bound_intake();
        shared
    }

    /// Goes to `to`; every transition is logged and seen by subscribers.
    fn transition(&self, to: ServerState) -> bool {
        let mut result: Result<ServerState, IllegalTransition<ServerState>> = Ok(to);
        self.state.send_if_modified(|state| {
            let from = *state;
            result = from.transition(to);
            match &result {
                Ok(next) => {
                    *state = *next;
                    node::state(&self.counters, from, to);
                    true
                }
                Err(_) => false,
            }
        });
        if let Err(error) = &result {
            node::no_transition(error);
        }
        result.is_ok()
    }

    /// A listener cannot accept; connections that are there go on.
    pub(crate) fn fail(&self) {
        if *self.state.borrow() == ServerState::Running {
            self.transition(ServerState::Error);
        }
    }

    /// It can again.
    pub(crate) fn recover(&self) {
        if *self.state.borrow() == ServerState::Error {
            self.transition(ServerState::Initializing);
            self.transition(ServerState::Running);
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// Asks all clients that can be told so to leave, and still serves everything for a while.
    async fn lameduck(&self) {
        let time = self.config.now().lameduck;
        if time.is_zero() {
            return;
        }
        let connections = self.live();
        node::lameduck(time, connections.len());
        let grace = time + self.config.now().drain;
        for connection in connections {
            connection.ask_to_leave(grace);
        }
        tokio::time::sleep(time).await;
    }

    /// Takes nothing new, and lets what was accepted be finished.
    fn drain(&self) {
        // Before the connections are listed: one that comes later sees this.
        self.is_draining.store(true, Ordering::SeqCst);
        self.routes.dispatch.intake.drain();
        for connection in self.live() {
            connection.drain(self.config.now().drain);
        }
    }

    /// Whether nobody holds the server any more, or its shutdown is over.
    pub(crate) fn is_dropped(&self) -> bool {
        *self.state.borrow() == ServerState::Stopped
    }

    fn stats(&self) -> ServerStats {
        let intake = &self.routes.dispatch.intake;
        ServerStats {
            running: intake.running(),
            queued: intake.queued(),
            ..self.counters.snapshot(*self.open.borrow())
        }
    }

    fn live(&self) -> Vec<Arc<Connection>> {
        let connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        connections.values().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn enter(&self, connection: &Arc<Connection>) {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        connections.insert(connection.peer.connection(), Arc::downgrade(connection));
    }

    pub(crate) fn leave(&self, connection: &Arc<Connection>) {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        connections.remove(&connection.peer.connection());
    }
}

/// A server that runs. Dropping it stops it at once; [`Self::shutdown`] loses nothing.
pub struct RunningServer {
    shared: Arc<Shared>,
    addresses: Vec<String>,
    /// The listeners, and what follows their files.
    accepting: Vec<JoinHandle<()>>,
    reloads: Vec<Arc<dyn Reload>>,
    _memory: MemoryGuard,
}

impl RunningServer {
    /// The addresses as they were bound, in the order of the endpoints.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The table of routes, to be changed while the server runs.
    #[must_use]
    pub fn routes(&self) -> &Routes {
        &self.shared.routes
    }

    /// Begins the file of the audit log anew, because somebody has moved it away.
    pub fn reopen_audit(&self) {
        self.shared
            .counters
            .audit
            .get()
            .iter()
            .for_each(|audit| audit.reopen());
    }

    /// Reads certificates, keys and client roots of all listeners again, at once; by themselves
    /// they are looked at every second. Connections that are open go on.
    ///
    /// # Errors
    /// What is wrong with the files of the first listener where something is. That listener keeps
    /// what it had; others may have theirs anew.
    pub fn reload_certificates(&self) -> std::io::Result<()> {
        self.reloads.iter().try_for_each(|one| one.reload())
    }

    /// The state, and every change of it.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ServerState> {
        self.shared.state.subscribe()
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        self.shared.stats()
    }

    /// The same server, to be looked at by whoever must not keep it alive.
    pub(crate) fn watched(&self) -> Watched {
        Watched::new(&self.shared)
    }

    /// Ends the server in two phases, in which no call is lost.
    ///
    /// First it says that it is not ready and asks its clients to leave, but accepts and answers
    /// everything for [`ServerConfig::lameduck`]. Then it stops accepting, answers new requests
    /// that they are safe to send elsewhere, and finishes what was accepted, for
    /// [`ServerConfig::drain`] at most.
    ///
    /// Not cancellation safe: dropping the future stops the server at once.
    pub async fn shutdown(mut self) {
        self.routes().set_ready(false);
        if !self.shared.transition(ServerState::ShuttingDown) {
            return;
        }
        self.shared.lameduck().await;
        for task in std::mem::take(&mut self.accepting) {
            task.abort();
            // Only when it is gone, the endpoint is free.
            let _ = task.await;
        }
        self.shared.drain();
        let grace = self.shared.config.now().drain;
        let cut_off = &self.shared.routes.dispatch.cut_off;
        cut_off.begin_at(clock::now() + grace);
        let mut open = self.shared.open.subscribe();
        let drained = async {
            let _ = open.wait_for(|open| *open == 0).await;
            // A connection waits for its calls. Handlers of one-way messages have none to wait for
            // them.
            self.shared.routes.dispatch.intake.wait_until_idle().await;
        };
        // A little longer than the drain itself, for the last bytes.
        if tokio::time::timeout(grace + Duration::from_secs(2), drained)
            .await
            .is_err()
        {
            let left = *self.shared.open.borrow();
            node::cut(left, self.shared.routes.dispatch.intake.running());
        }
        let handlers = cut_off.take();
        if handlers.count() > 0 {
            node::handlers_cut(handlers.count(), &handlers);
        }
        if let Some(audit) = self.shared.counters.audit.get() {
            // A disk that hangs must not hang a shutdown.
            let _ = tokio::time::timeout(Duration::from_secs(2), audit.flush()).await;
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
        if *self.shared.state.borrow() != ServerState::ShuttingDown {
            self.shared.transition(ServerState::ShuttingDown);
        }
        self.shared.transition(ServerState::Stopped);
        self.shared.routes.dispatch.intake.drain();
        let reason = postroad_proto::session::CloseReason::Local;
        self.shared
            .live()
            .iter()
            .for_each(|connection| connection.close(reason.clone()));
    }
}

impl std::fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningServer")
            .field("addresses", &self.addresses)
            .field("state", &*self.shared.state.borrow())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}
