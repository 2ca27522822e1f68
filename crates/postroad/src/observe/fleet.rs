//! Several servers behind one client: who comes and goes, who is put aside and why. The target of
//! the log lines is `postroad::fleet`.

use std::fmt::Display;

use postroad_proto::policy::BreakerState;

/// The list has changed.
pub(crate) fn list(target: &dyn Display, before: usize, now: usize) {
    tracing::debug!(target: "postroad::fleet", service = %target, before, now, "servers");
}

/// A server in the list cannot be used.
pub(crate) fn unusable(target: &dyn Display, instance: &dyn Display, error: &dyn Display) {
    tracing::warn!(
        target: "postroad::fleet", service = %target, server = %instance, %error, "left out"
    );
}

/// A breaker has changed its state.
pub(crate) fn breaker(target: &dyn Display, instance: &dyn Display, state: BreakerState) {
    tracing::info!(
        target: "postroad::fleet", service = %target, server = %instance, ?state, "breaker"
    );
}

/// A server has failed too often in a row.
pub(crate) fn ejected(target: &dyn Display, instance: &dyn Display) {
    tracing::info!(
        target: "postroad::fleet", service = %target, server = %instance, "put aside"
    );
}

/// Servers do far worse than their peers.
pub(crate) fn swept(target: &dyn Display, ejected: usize) {
    tracing::info!(target: "postroad::fleet", service = %target, ejected, "put aside");
}

/// Why a call went where it went, of one that was drawn to be looked at.
pub(crate) fn why(target: &dyn Display, route: &str, why: &dyn Display) {
    tracing::info!(target: "postroad::fleet", service = %target, route, %why, "sampled");
}

/// A server has failed its probes, or is well again.
pub(crate) fn health(target: &dyn Display, instance: &dyn Display, is_well: bool) {
    tracing::info!(
        target: "postroad::fleet", service = %target, server = %instance, is_well, "health"
    );
}
