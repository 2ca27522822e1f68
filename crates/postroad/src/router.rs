//! Which handler a request goes to. The table can be changed while the server runs.

use std::any::type_name;
use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use arc_swap::ArcSwap;
use postroad_proto::session::CallId;
use serde::Serialize;

use crate::driver::{Answered, Answers};
use crate::error::Error;
use crate::extract::Request;
use crate::handler::Handler;
use crate::transport::BoxFuture;

/// What came of starting a handler.
pub(crate) enum Started {
    /// It was done at once, and its answer is among the others.
    Done,
    /// It has failed at once.
    Failed(Error),
    /// It waits for something; it has to be polled again, since nobody would be woken.
    Waits(BoxFuture<'static, Answered>),
}

/// Starts the handler of one route for one connection.
pub(crate) trait Starter: Send {
    /// Polls the handler once. Its answer goes where it is sent from, if somebody waits for it.
    fn start(
        &mut self,
        request: &mut Request,
        id: Option<CallId>,
        answers: &mut Answers,
    ) -> Started;
}

/// A handler's future in memory that the next one uses again.
type Slot<F> = Pin<Box<Option<F>>>;

/// Makes futures of one type, and keeps the memory of the last that was done at once.
struct Typed<M, F> {
    make: Arc<M>,
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

/// Always inline, as the futures that it polls: an answer that is ready goes on without a detour
/// through memory.
#[inline(always)]
fn poll_slot<F: Future>(slot: &mut Slot<F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    match slot.as_mut().as_pin_mut() {
        Some(future) => future.poll(cx),
        None => Poll::Pending,
    }
}

/// A handler whose type is forgotten.
pub(crate) struct Route {
    starter: Box<dyn Fn() -> Box<dyn Starter> + Send + Sync>,
    pub(crate) describes: Description,
}

impl Route {
    pub(crate) fn starter(&self) -> Box<dyn Starter> {
        (self.starter)()
    }
}

fn typed<M, F>(make: &Arc<M>) -> Box<dyn Starter>
where
    M: Fn(&mut Request) -> F + Send + Sync + 'static,
    F: Future<Output = Answered> + Send + 'static,
{
    let make = Arc::clone(make);
    Box::new(Typed { make, spare: None })
}

/// What `postroad ls` shows of a route.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// Its name.
    pub route: String,
    /// The type of its request, as the service's author wrote it, or the handler's extractors.
    pub request: String,
    /// The type of its answer.
    pub response: String,
}

#[derive(Clone, Default)]
pub(crate) struct Table {
    routes: HashMap<Arc<str>, Arc<Route>>,
}

impl Table {
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.get(name)
    }

    /// Whether any route is named after a code of this kind: then one that is not there is unknown,
    /// not echoed.
    pub(crate) fn has_codes(&self, kind: &str) -> bool {
        self.routes.keys().any(|name| name.starts_with(kind))
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
        let types = (H::request_type(), H::response_type());
        self.described(name, types, handler)
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

    /// Adds a route whose types are known by other names than Rust's; used by
    /// `#[postroad::service]`.
    #[must_use]
    pub fn described<A: 'static, H: Handler<A, S>>(
        mut self,
        name: &str,
        (request, response): (String, String),
        handler: H,
    ) -> Self {
        let state = self.state.clone();
        let make = Arc::new(move |request: &mut Request| handler.handle(request, &state));
        let starter = Box::new(move || typed(&make));
        let describes = Description {
            route: name.to_owned(),
            request,
            response,
        };
        self.table
            .routes
            .insert(name.into(), Arc::new(Route { starter, describes }));
        self
    }

    /// Adds the routes of another router, which keep their own state.
    #[must_use]
    pub fn merge<S2>(mut self, other: Router<S2>) -> Self {
        self.table.routes.extend(other.table.routes);
        self
    }

    pub(crate) fn into_table(self) -> Table {
        self.table
    }
}

impl<S> fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.table.routes.keys()).finish()
    }
}

/// The table of a running server. Clones are handles of the same table.
#[derive(Clone, Default)]
pub struct Routes {
    table: Arc<ArcSwap<Table>>,
}

impl Routes {
    pub(crate) fn new(table: Table) -> Self {
        let table = Arc::new(ArcSwap::from_pointee(table));
        Self { table }
    }

    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    fn change(&self, change: impl Fn(&mut Table)) {
        self.table.rcu(|table| {
            let mut table = Table::clone(table);
            change(&mut table);
            table
        });
    }

    /// Adds or replaces routes; requests that were started go on with the handler that they had.
    pub fn add<S: Clone + Send + Sync + 'static>(&self, router: Router<S>) {
        let added = router.into_table();
        self.change(|table| table.routes.extend(added.routes.clone()));
    }

    /// Removes a route; whether it was there.
    pub fn remove(&self, name: &str) -> bool {
        let was_there = self.load().get(name).is_some();
        self.change(|table| drop(table.routes.remove(name)));
        was_there
    }

    /// All routes, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Description> {
        self.load().describe()
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.load().routes.keys()).finish()
    }
}

/// The last part of a type's path, for people.
pub(crate) fn short_type_name<T>() -> String {
    let mut short = String::new();
    let mut word = String::new();
    for c in type_name::<T>().chars() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
        } else if c == ':' {
            word.clear();
        } else {
            short.push_str(&word);
            word.clear();
            short.push(c);
        }
    }
    short + &word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_lose_their_paths() {
        assert_eq!(
            short_type_name::<Option<Vec<std::time::Duration>>>(),
            "Option<Vec<Duration>>"
        );
    }
}
