//! The table of routes while it serves, and what all requests for it share.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::admission::Rules;
use super::cut::CutOff;
use super::intake::Intake;
use super::served::Served;
use super::versions;
use crate::identity::Verifier;
use crate::observe::counters::Counters;
use crate::route::{Access, Concurrency, Description, RouteRule};
use crate::router::{Router, Table};

/// What the requests of all connections of a server share.
pub(crate) struct Dispatch {
    table: ArcSwap<Served>,
    /// What `postroad/health` says.
    pub(super) is_ready: AtomicBool,
    pub(super) intake: Intake,
    pub(super) cut_off: CutOff,
    pub(super) counters: Arc<Counters>,
    /// What believes tokens, if the configuration says which.
    pub(super) verifier: OnceLock<Verifier>,
}

impl Default for Dispatch {
    fn default() -> Self {
        Self {
            table: ArcSwap::default(),
            is_ready: AtomicBool::new(true),
            intake: Intake::default(),
            cut_off: CutOff::default(),
            counters: Arc::default(),
            verifier: OnceLock::new(),
        }
    }
}

impl Dispatch {
    /// The table as it is now, without a lock: looked at once for each batch of requests.
    pub(super) fn load(&self) -> arc_swap::Guard<Arc<Served>> {
        self.table.load()
    }

    /// The table as it is now, to be kept.
    pub(super) fn table(&self) -> Arc<Served> {
        self.table.load_full()
    }

    /// All routes, by name.
    pub(super) fn list(&self) -> Vec<Description> {
        self.load().describe()
    }
}

/// The table of routes of a running server. Clones are handles of the same table.
///
/// It can be changed while the server runs, and a handler can be started from it without a
/// connection: [`Self::call`].
#[derive(Clone, Default)]
pub struct Routes {
    pub(super) dispatch: Arc<Dispatch>,
}

impl Routes {
    pub(super) fn new(table: Table) -> Self {
        let dispatch = Dispatch {
            table: ArcSwap::from_pointee(Served {
                table,
                rules: Arc::default(),
            }),
            ..Dispatch::default()
        };
        Self {
            dispatch: Arc::new(dispatch),
        }
    }

    pub(super) fn change(&self, change: impl Fn(&mut Served)) {
        self.dispatch.table.rcu(|table| {
            let mut table = Served::clone(table);
            change(&mut table);
            table
        });
    }

    /// Takes over what an operator says of routes, and how many threads work for those that
    /// compute. Of a rule that stays the same, counts and rates stay as well.
    pub(super) fn obey(
        &self,
        list: Vec<RouteRule>,
        concurrency: Option<Concurrency>,
        workers: usize,
    ) {
        let access = Arc::new(Access::of(&list));
        self.change(|table| {
            table.access = Arc::clone(&access);
            let old = &table.rules;
            old.workers.limit.resize(workers);
            let rules = Rules::new(list.clone(), concurrency, Arc::clone(&old.workers));
            rules.inherit(old);
            table.rules = Arc::new(rules);
        });
        versions::warn_of_missing(&self.dispatch.load());
    }

    /// Adds routes, within the server's hooks, and replaces those of the same name.
    /// Requests that were started go on with the handler that they had.
    pub fn add<S: Clone + Send + Sync + 'static>(&self, router: Router<S>) {
        let added = router.into_table();
        self.change(|table| table.extend(added.clone()));
    }

    /// Removes a route; whether it was there.
    pub fn remove(&self, name: &str) -> bool {
        let was_there = self.dispatch.load().get(name).is_some();
        self.change(|table| table.remove(name));
        was_there
    }

    /// Says by `postroad/health` whether the server wants calls; it does from the start. Clients of
    /// several servers ask every few seconds, and give none to a server that is not ready while
    /// another one is. A server that is not ready answers all calls that come all the same. One
    /// that is being shut down is not ready.
    pub fn set_ready(&self, is_ready: bool) {
        self.dispatch.is_ready.store(is_ready, Ordering::Relaxed);
    }

    /// All routes, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Description> {
        self.dispatch.list()
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.dispatch.load().names()).finish()
    }
}
