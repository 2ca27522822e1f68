//! Who asks a node how it does. The target of the log lines is `postroad::admin`.

use std::fmt::Display;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::counters::count;

/// What the listener for health and metrics has counted.
#[derive(Debug, Default)]
pub(crate) struct AdminCounters {
    accepted: AtomicU64,
    evicted: AtomicU64,
}

impl AdminCounters {
    /// Connections that were accepted, and those that had to go for newer ones.
    pub(crate) fn snapshot(&self) -> (u64, u64) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (get(&self.accepted), get(&self.evicted))
    }

    pub(crate) fn accepted(&self) {
        count(&self.accepted, 1);
    }

    /// A connection was closed because there were too many and it was the oldest.
    pub(crate) fn evicted(&self) {
        count(&self.evicted, 1);
    }
}

/// Health and metrics are told from now on.
pub(crate) fn listening(url: &dyn Display, address: &str) {
    tracing::info!(target: "postroad::admin", %url, address, "listening");
}

/// The operating system lets the listener accept nothing. Told once, until it can again.
pub(crate) fn cannot_accept(error: &io::Error) {
    tracing::warn!(target: "postroad::admin", %error, "cannot accept; pausing");
}
