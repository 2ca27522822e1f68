//! What a server counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::audit::Audit;
use super::log_rate::LogRates;

/// Counters of a server since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Connections that are open now.
    pub open: usize,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections turned away because there were too many.
    pub turned_away: u64,
    /// Requests whose handlers are at work now, beyond those that are done at once.
    pub running: usize,
    /// Requests that wait now for their turn to be started.
    pub queued: usize,
    /// Requests whose handlers were started.
    pub started: u64,
    /// Requests that ended with an error, refused ones included.
    pub failed: u64,
    /// One-way messages that reached the server and that no handler has taken: there is no such
    /// route, or too much is at work, or they came too late or never whole, or their connection
    /// ended before. They are counted as failed as well.
    pub dropped: u64,
    /// Handlers that panicked.
    pub panicked: u64,
    /// Ended connections by protocol and reason.
    pub closed: BTreeMap<(&'static str, &'static str), u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: AtomicU64,
    pub(crate) turned_away: AtomicU64,
    pub(crate) started: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) panicked: AtomicU64,
    /// What bounds the lines that are logged of what is counted here.
    pub(crate) logs: LogRates,
    /// The audit log, if there is one.
    pub(crate) audit: OnceLock<Audit>,
    closed: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

/// Adds so many.
pub(crate) fn count(counter: &AtomicU64, many: u64) {
    counter.fetch_add(many, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn closed(&self, protocol: &'static str, reason: &'static str) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        *closed.entry((protocol, reason)).or_default() += 1;
    }

    pub(crate) fn snapshot(&self, open: usize) -> ServerStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServerStats {
            open,
            accepted: get(&self.accepted),
            turned_away: get(&self.turned_away),
            running: 0,
            queued: 0,
            started: get(&self.started),
            failed: get(&self.failed),
            dropped: get(&self.dropped),
            panicked: get(&self.panicked),
            closed: self
                .closed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}
