//! Which handler a request goes to, as a service's author puts it together.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::ops::Bound;
use std::sync::Arc;

use crate::error::Error;
use crate::extract::{Reply, Request};
use crate::handler::Handler;
use crate::hook::{Around, Next};
#[cfg(feature = "tower")]
use crate::route::RouteService;
use crate::route::{Access, Description, Route, RouteOptions, version};

/// Routes by name.
#[derive(Clone, Default)]
pub(crate) struct Table {
    /// In order, so that the versions of a route stand together.
    routes: BTreeMap<Arc<str>, Arc<Route>>,
    /// The hooks around all of them, the innermost first. Routes that come later get them too.
    around: Vec<Around>,
    pub(crate) unrouted: Unrouted,
    /// Who may call them. Here, so that a change of it is noticed as one of the routes is, by those
    /// who look whether the table has changed.
    pub(crate) access: Arc<Access>,
}

/// What becomes of a dialect's request that names no route, if the table has none for it either.
#[derive(Clone, Default)]
pub(crate) enum Unrouted {
    /// It is refused.
    #[default]
    Refuse,
    /// It goes to this route, which stands in no list: a server's echo, within the hooks.
    Route(Arc<Route>),
}

impl Table {
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.get(name)
    }

    /// Panics if there is a route of this name.
    #[track_caller]
    fn refuse_duplicate(&self, name: &str) {
        assert!(
            !self.routes.contains_key(name),
            "the router has a route {name:?} already, and a second of this name is added here"
        );
    }

    /// Adds the routes of another table, within the hooks of this one. Those of the same
    /// name are replaced.
    pub(crate) fn extend(&mut self, other: Self) {
        let around = &self.around;
        let wrap = |route: Arc<Route>| {
            around
                .iter()
                .fold(route, |route, hook| hook.surround(&route))
        };
        let added = other
            .routes
            .into_iter()
            .map(|(name, route)| (name, wrap(route)));
        self.routes.extend(added);
    }

    /// Puts a hook around the routes that there are.
    fn surround(&mut self, hook: &Around) {
        for route in self.routes.values_mut() {
            *route = hook.surround(route);
        }
    }

    /// Puts a hook around everything: the routes that there are, those that come later, and where
    /// requests without a route go.
    pub(crate) fn surround_all(&mut self, hook: &Around) {
        self.surround(hook);
        self.around.push(hook.clone());
        if let Unrouted::Route(route) = &mut self.unrouted {
            *route = hook.surround(route);
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.routes.remove(name);
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.routes.keys()
    }

    /// The versions of a route, the newest first; empty for one that is there without versions.
    pub(crate) fn versions(&self, name: &str) -> Vec<(&str, &Arc<Route>)> {
        let beginning = version::name_of(name, "");
        let from = (Bound::Included(&*beginning), Bound::Unbounded);
        let behind = self.routes.range::<str, _>(from);
        let versions = behind.map_while(|(name, route)| {
            let version = name.strip_prefix(&beginning)?;
            Some((version, route))
        });
        let mut versions: Vec<_> = versions
            .filter(|(version, _)| version::is_name(version))
            .collect();
        versions.sort_by_key(|(version, _)| Reverse(version::age(version)));
        versions
    }

    /// Whether a request of this name goes somewhere.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some() || !self.versions(name).is_empty()
    }

    /// The routes, of those with a certain name, that are not there in this version.
    pub(crate) fn lacking(&self, version: &str, is_meant: impl Fn(&str) -> bool) -> Vec<&str> {
        let plain = self.routes.keys().map(|name| version::split(name).0);
        let mut lacking: Vec<_> = plain
            .filter(|name| is_meant(name) && self.get(&version::name_of(name, version)).is_none())
            .collect();
        lacking.dedup();
        lacking
    }

    /// All names that can be called, in order. A name whose requests may go to several versions is
    /// declared as the route that they go to by default, and idempotent only if all of them are.
    pub(crate) fn describe(&self) -> Vec<Description> {
        let mut all: BTreeMap<&str, Description> = BTreeMap::new();
        for (name, route) in &self.routes {
            all.insert(name, route.describes.clone());
        }
        for name in self.routes.keys() {
            let (plain, Some(_)) = version::split(name) else {
                continue;
            };
            let versions = self.versions(plain);
            let Some((_, newest)) = versions.first() else {
                continue;
            };
            let described = all.entry(plain).or_insert_with(|| Description {
                route: plain.to_owned(),
                ..newest.describes.clone()
            });
            let mut all_of_them = versions.iter();
            described.is_idempotent &= all_of_them.all(|(_, route)| route.describes.is_idempotent);
        }
        all.into_values().collect()
    }
}

/// Routes and their handlers, which share a state.
///
/// ```
/// use postroad::{Json, Router};
///
/// let router = Router::new()
///     .route("math/double", async |Json(n): Json<i64>| Json(n * 2))
///     .route("text/shout", async |text: String| text.to_uppercase());
/// # let _ = router;
/// ```
#[derive(Clone)]
pub struct Router<S = ()> {
    state: S,
    table: Table,
}

impl Router {
    /// Without routes and state.
    #[must_use]
    pub fn new() -> Self {
        Self::with_state(())
    }
}

impl Default for Router {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Clone + Send + Sync + 'static> Router<S> {
    /// Without routes; handlers get clones of `state` by the extractor
    /// [`State`](crate::extract::State).
    #[must_use]
    pub fn with_state(state: S) -> Self {
        Self {
            state,
            table: Table::default(),
        }
    }

    /// Adds a route by its name: a method (`Service.method`) or a topic (`user/login`).
    ///
    /// # Panics
    /// If there is a route of this name already; so do [`Self::merge`] and all that add routes. The
    /// panic is at the place that adds the second. Two handlers of one name are a mistake that
    /// would otherwise show as calls which reach the wrong one. To replace a route on purpose, use
    /// [`Routes::add`](crate::Routes::add).
    #[must_use]
    #[track_caller]
    pub fn route<A: 'static, H: Handler<A, S>>(self, name: &str, handler: H) -> Self {
        self.route_with(name, RouteOptions::new(), handler)
    }

    /// Adds the route of a command of the `session` dialect, named `command/0x17`.
    #[must_use]
    #[track_caller]
    pub fn command<A: 'static, H: Handler<A, S>>(self, command: u8, handler: H) -> Self {
        self.route(&format!("command/0x{command:02x}"), handler)
    }

    /// Adds the route of an opcode of the `opcode` dialect, named `opcode/0x01`.
    #[must_use]
    #[track_caller]
    pub fn opcode<A: 'static, H: Handler<A, S>>(self, opcode: u8, handler: H) -> Self {
        self.route(&format!("opcode/0x{opcode:02x}"), handler)
    }

    /// Adds a route of which more is declared than its handler.
    #[must_use]
    #[track_caller]
    pub fn route_with<A: 'static, H: Handler<A, S>>(
        mut self,
        name: &str,
        options: RouteOptions,
        handler: H,
    ) -> Self {
        self.table.refuse_duplicate(name);
        let types = || (H::request_type(), H::response_type());
        let describes = options.into_description(name, types);
        let state = self.state.clone();
        let make = move |request: &mut Request| handler.handle(request, &state);
        let route = Arc::new(Route::new(make, describes));
        self.table.routes.insert(name.into(), route);
        self
    }

    /// Adds the routes of another router, which keep their own state.
    ///
    /// # Panics
    /// If both have a route of the same name.
    #[must_use]
    #[track_caller]
    pub fn merge<S2>(mut self, other: Router<S2>) -> Self {
        for name in other.table.names() {
            self.table.refuse_duplicate(name);
        }
        self.table.extend(other.table);
        self
    }

    /// Adds the routes of another router as one version of them: `Orders.place` becomes
    /// `Orders.place@2`, which can be called by that name too.
    ///
    /// A request for `Orders.place` goes to the version that the rule of the route says
    /// ([`RouteRule::versions`](crate::route::RouteRule::versions)), and a client stays with its
    /// version. Without a rule it goes to the route `Orders.place`, or to the newest version if
    /// there is none. What a rule says of `Orders.place` is said of its versions too, unless an
    /// earlier rule names the version; limits and rates count for each by itself.
    ///
    /// ```
    /// use postroad::Router;
    ///
    /// let old = Router::new().route("greet", async |name: String| format!("Hello {name}"));
    /// let new = Router::new().route("greet", async |name: String| format!("Good day, {name}"));
    /// let router = Router::new().version("1", old).version("2", new);
    /// # let _ = router;
    /// ```
    ///
    /// # Panics
    /// If there is this version of one of the routes already, or if the version is not 1 to 32 of
    /// the characters A-Z, a-z, 0-9, `.`, `-` and `_`.
    #[must_use]
    #[track_caller]
    pub fn version<S2>(mut self, version: &str, router: Router<S2>) -> Self {
        assert!(
            version::is_name(version),
            "{version:?} is no version: write {}",
            version::NAMES
        );
        for (plain, route) in router.table.routes {
            let name = version::name_of(&plain, version);
            self.table.refuse_duplicate(&name);
            let route = route.renamed(name.clone());
            self.table.routes.insert(name.into(), Arc::new(route));
        }
        self
    }

    /// Puts a hook around the routes that were added so far, which lets requests pass or refuses
    /// them; see [`Server::before`](crate::Server::before), which no route escapes.
    ///
    /// ```
    /// use postroad::extract::Request;
    /// use postroad::{Error, Router, code};
    ///
    /// async fn only_admins(request: Request) -> Result<Request, Error> {
    ///     match request.metadata("role") {
    ///         Some(role) if role == "admin" => Ok(request),
    ///         _ => Err(Error::new(code!("ADM-E-403"), "this is for administrators")),
    ///     }
    /// }
    ///
    /// let admin = Router::new().route("admin/stop", async || "stopping").before(only_admins);
    /// let router = Router::new().route("open", async || "hello").merge(admin);
    /// # let _ = router;
    /// ```
    #[must_use]
    pub fn before<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Request, Error>> + Send + 'static,
    {
        self.table.surround(&Around::before(hook));
        self
    }

    /// Puts a hook around the routes that were added so far; see
    /// [`Server::around`](crate::Server::around).
    #[must_use]
    pub fn around<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Request, Next) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        self.table.surround(&Around::new(hook));
        self
    }

    /// Puts a layer of tower around each of the routes that were added so far, with feature
    /// `tower`. A layer that is added later is around those that were added earlier.
    ///
    /// Each route has a service of its own: `ConcurrencyLimitLayer` limits each of them, and
    /// `GlobalConcurrencyLimitLayer` all together. A layer whose service cannot be cloned, such as
    /// `RateLimitLayer`, goes within a `BufferLayer`, which needs a runtime when it is put around.
    ///
    /// An [`Error`] of a layer is what the caller is answered. `Elapsed` becomes `SRV-E-504`,
    /// `Overloaded` `SRV-E-429`, safe to send elsewhere, and every other error `SRV-E-500`.
    ///
    /// A route without layers costs what it did; a request within layers costs two allocations
    /// and what the layers cost.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use postroad::Router;
    /// use tower::ServiceBuilder;
    /// use tower::limit::ConcurrencyLimitLayer;
    /// use tower::load_shed::LoadShedLayer;
    /// use tower::timeout::TimeoutLayer;
    ///
    /// // What comes first is outermost.
    /// let layers = ServiceBuilder::new()
    ///     .layer(TimeoutLayer::new(Duration::from_secs(2)))
    ///     .layer(LoadShedLayer::new())
    ///     .layer(ConcurrencyLimitLayer::new(8));
    /// let router = Router::new().route("report", async || "done").layer(layers);
    /// # let _ = router;
    /// ```
    #[cfg(feature = "tower")]
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: tower::Layer<RouteService>,
        L::Service: tower::Service<Request, Response = Reply, Error: Into<tower::BoxError>>
            + Clone
            + Send
            + Sync
            + 'static,
        <L::Service as tower::Service<Request>>::Future: Send + 'static,
    {
        for route in self.table.routes.values_mut() {
            *route = route.layered(&layer);
        }
        self
    }

    pub(crate) fn into_table(self) -> Table {
        self.table
    }
}

impl<S> fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.table.names()).finish()
    }
}
