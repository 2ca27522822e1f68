//! Which handler a request goes to, as a service's author puts it together.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::extract::Request;
use crate::handler::Handler;
use crate::route::{Description, Route, RouteOptions};

/// Routes by name.
#[derive(Clone, Default)]
pub(crate) struct Table {
    routes: HashMap<Arc<str>, Arc<Route>>,
}

impl Table {
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.get(name)
    }

    /// Adds the routes of another table; those of the same name are replaced.
    pub(crate) fn extend(&mut self, other: Self) {
        self.routes.extend(other.routes);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.routes.remove(name);
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.routes.keys()
    }

    /// All routes, by name.
    pub(crate) fn describe(&self) -> Vec<Description> {
        let mut all: Vec<_> = self
            .routes
            .values()
            .map(|route| route.describes.clone())
            .collect();
        all.sort_by(|a, b| a.route.cmp(&b.route));
        all
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

    /// Adds a route by its name: a method (`Service.method`) or a topic (`user/login`). The last of
    /// a name wins.
    #[must_use]
    pub fn route<A: 'static, H: Handler<A, S>>(self, name: &str, handler: H) -> Self {
        self.route_with(name, RouteOptions::new(), handler)
    }

    /// Adds the route of a command of the `session` dialect, named `command/0x17`.
    #[must_use]
    pub fn command<A: 'static, H: Handler<A, S>>(self, command: u8, handler: H) -> Self {
        self.route(&format!("command/0x{command:02x}"), handler)
    }

    /// Adds the route of an opcode of the `opcode` dialect, named `opcode/0x01`.
    #[must_use]
    pub fn opcode<A: 'static, H: Handler<A, S>>(self, opcode: u8, handler: H) -> Self {
        self.route(&format!("opcode/0x{opcode:02x}"), handler)
    }

    /// Adds a route of which more is declared than its handler.
    #[must_use]
    pub fn route_with<A: 'static, H: Handler<A, S>>(
        mut self,
        name: &str,
        options: RouteOptions,
        handler: H,
    ) -> Self {
        let types = || (H::request_type(), H::response_type());
        let describes = options.into_description(name, types);
        let state = self.state.clone();
        let make = move |request: &mut Request| handler.handle(request, &state);
        let route = Arc::new(Route::new(make, describes));
        self.table.routes.insert(name.into(), route);
        self
    }

    /// Adds the routes of another router, which keep their own state.
    #[must_use]
    pub fn merge<S2>(mut self, other: Router<S2>) -> Self {
        self.table.extend(other.table);
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
