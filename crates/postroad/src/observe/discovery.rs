//! Sources of instances: what they find, what is left out, and when they cannot be asked. The
//! target of their log lines is `postroad::discovery`.

use std::fmt::Display;

use super::log_rate::{LogKind, LogRates};

/// A source by its URL, and what bounds the lines that it can cause.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) url: String,
    logs: LogRates,
}

impl Source {
    pub(crate) fn new(url: String) -> Self {
        let logs = LogRates::default();
        Self { url, logs }
    }
}

/// An entry of a source was left out.
pub(crate) fn skipped(source: &Source, entry: &str, why: &str) {
    if source.logs.allow(LogKind::Discovery) {
        let source = &source.url;
        tracing::warn!(target: "postroad::discovery", source, entry, why, "entry left out");
    }
}

/// There is another list.
pub(crate) fn found(source: &Source, instances: usize) {
    if source.logs.allow(LogKind::Discovery) {
        let source = &source.url;
        tracing::info!(target: "postroad::discovery", source, instances, "instances");
    }
}

/// The source cannot be asked, or says what is not believed; the last good list stays.
pub(crate) fn stale(source: &Source, why: &str, kept: usize) {
    if source.logs.allow(LogKind::Discovery) {
        let source = &source.url;
        tracing::warn!(
            target: "postroad::discovery", source, why, kept, "stale; the last list is kept"
        );
    }
}

/// The copy on disk serves until the source answers.
pub(crate) fn copy_serves(source: &Source, instances: usize) {
    let source = &source.url;
    tracing::warn!(
        target: "postroad::discovery", source, instances,
        "no answer yet; the copy on disk serves"
    );
}

/// The copy on disk cannot be read or written.
pub(crate) fn no_copy(source: &Source, error: &impl Display) {
    if source.logs.allow(LogKind::Discovery) {
        let source = &source.url;
        tracing::warn!(target: "postroad::discovery", source, %error, "no copy on disk");
    }
}

/// This node is registered.
pub(crate) fn registered(source: &Source, instance: &impl Display) {
    if source.logs.allow(LogKind::Discovery) {
        let source = &source.url;
        tracing::info!(target: "postroad::discovery", source, %instance, "registered");
    }
}

/// This node is not registered, and tries again.
pub(crate) fn not_registered(source: &Source, instance: &impl Display, error: &impl Display) {
    if source.logs.allow(LogKind::Discovery) {
        let source = &source.url;
        tracing::warn!(
            target: "postroad::discovery", source, %instance, %error, "not registered; trying again"
        );
    }
}
