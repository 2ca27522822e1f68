//! A running server as others look at it: where it stands, what it has counted, and whether its
//! threads still turn.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use postroad_proto::policy::ServerState;

use super::Shared;
use crate::observe::counters::ServerStats;

/// Looks at a server without keeping it alive.
#[derive(Clone, Debug)]
pub(crate) struct Watched(Weak<Shared>);

/// What can be said of a server at one moment.
#[derive(Debug)]
pub(crate) struct Sight {
    pub(crate) state: ServerState,
    /// Whether the program wants calls: see [`super::Routes::set_ready`].
    pub(crate) wants_calls: bool,
    pub(crate) stats: ServerStats,
    pub(crate) connections_max: usize,
    pub(crate) requests_max: usize,
    pub(crate) routes: usize,
    /// Of each route that has a limit: its name, how many may be at work, are, and wait.
    pub(crate) limits: Vec<(Arc<str>, [usize; 3])>,
    /// The same of the worker threads.
    pub(crate) workers: [usize; 3],
    /// For how long each reactor has not answered; zero if it has.
    pub(crate) waits: Vec<Duration>,
}

impl Watched {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(shared))
    }

    /// How it stands; `None` if it is gone.
    pub(crate) fn sight(&self) -> Option<Sight> {
        let shared = self.0.upgrade()?;
        let dispatch = &shared.routes.dispatch;
        Some(Sight {
            state: *shared.state.borrow(),
            wants_calls: dispatch.is_ready.load(Ordering::Relaxed),
            stats: shared.stats(),
            connections_max: shared.config.now().max_connections,
            requests_max: shared.config.now().max_requests,
            routes: dispatch.load().names().count(),
            limits: dispatch.load().rules.limits(),
            workers: dispatch.load().rules.workers.limit.counts(),
            waits: shared.turns.waits(),
        })
    }

    /// Asks each reactor that has answered the last time whether it turns.
    pub(crate) fn ask_reactors(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.turns.ask(&shared.reactors);
        }
    }
}

impl Sight {
    /// Whether it should be given calls.
    pub(crate) fn is_ready(&self) -> bool {
        self.state == ServerState::Running && self.wants_calls
    }
}
