//! What a server counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use postroad_proto::session::RefusalReason;

use super::audit::Audit;
use super::held::Held;
use super::log_rate::LogRates;

/// Counters of a server since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Connections that are open now.
    pub open: usize,
    /// Bytes that all connections hold now, to within a page a connection: incomplete messages,
    /// answers that wait to be written, payloads of requests whose handlers wait.
    pub held: usize,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections turned away: there were too many, or they held too much memory together.
    pub turned_away: u64,
    /// Times that the operating system let a listener accept nothing, as without open files.
    pub accept_errors: u64,
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
    /// Calls that a connection has answered with an error by itself, by the reason: too late when
    /// they came, more than are accepted, no room. Their routes were not looked up, so no handler
    /// has seen them, except where there was no room for its answer. They are counted as failed as
    /// well.
    pub refused: BTreeMap<&'static str, u64>,
    /// Ended connections by protocol and reason.
    pub closed: BTreeMap<(&'static str, &'static str), u64>,
}

/// What a server counts. The functions of the modules beside this one count; nobody else does.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) turned_away: AtomicU64,
    pub(super) accept_errors: AtomicU64,
    pub(super) started: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) panicked: AtomicU64,
    /// One for each reason, at its number.
    pub(super) refused: [AtomicU64; RefusalReason::ALL.len()],
    /// What all connections hold.
    pub(crate) held: Held,
    /// What bounds the lines that are logged of what is counted here.
    pub(super) logs: LogRates,
    /// The audit log, if there is one.
    pub(crate) audit: OnceLock<Audit>,
    closed: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

/// Adds so many.
pub(super) fn count(counter: &AtomicU64, many: u64) {
    counter.fetch_add(many, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn closed(&self, protocol: &'static str, reason: &'static str) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        *closed.entry((protocol, reason)).or_default() += 1;
    }

    pub(crate) fn snapshot(&self, open: usize) -> ServerStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServerStats {
            open,
            held: self.held.bytes(),
            accepted: get(&self.accepted),
            turned_away: get(&self.turned_away),
            accept_errors: get(&self.accept_errors),
            running: 0,
            queued: 0,
            started: get(&self.started),
            failed: get(&self.failed),
            dropped: get(&self.dropped),
            panicked: get(&self.panicked),
            refused: RefusalReason::ALL
                .iter()
                .zip(&self.refused)
                .map(|(reason, counter)| (reason.word(), get(counter)))
                .filter(|(_, many)| *many > 0)
                .collect(),
            closed: self
                .closed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}
