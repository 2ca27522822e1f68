//! What is told: of which server, and by which sources.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::metrics::{MetricSource, Metrics};
use crate::observe::admin::AdminCounters;
use crate::server::Watched;

/// What the listener's thread and its handles share.
pub(super) struct Shared {
    watched: Mutex<Option<Watched>>,
    sources: Vec<Arc<dyn MetricSource>>,
    pub(super) stuck_after: Duration,
    pub(super) counters: AdminCounters,
}

impl Shared {
    pub(super) fn new(sources: Vec<Arc<dyn MetricSource>>, stuck_after: Duration) -> Self {
        Self {
            watched: Mutex::default(),
            sources,
            stuck_after,
            counters: AdminCounters::default(),
        }
    }

    /// Tells of this server from now on.
    pub(super) fn watch(&self, watched: Watched) {
        *self.lock() = Some(watched);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server, once there is one.
    pub(super) fn watched(&self) -> Option<Watched> {
        self.lock().clone()
    }

    /// Adds what all sources have to show.
    pub(super) fn collect(&self, metrics: &mut Metrics) {
        if let Some(watched) = self.watched() {
            watched.collect(metrics);
        }
        for source in &self.sources {
            source.collect(metrics);
        }
        let (accepted, evicted) = self.counters.snapshot();
        for (name, help, many) in [
            (
                "postroad_admin_connections_accepted_total",
                "Connections for health and metrics that were accepted.",
                accepted,
            ),
            (
                "postroad_admin_connections_evicted_total",
                "Connections for health and metrics that had to go for newer ones.",
                evicted,
            ),
        ] {
            metrics.counter(name, help).add(&[], many);
        }
    }
}
