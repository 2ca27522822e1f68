//! Several servers behind one client: who comes and goes, who is put aside and why. The target of
//! the log lines is `postroad::fleet`.

use std::fmt::Display;

use postroad_proto::policy::BreakerState;

use crate::discovery::{Instance, Target};

/// The list has changed.
pub(crate) fn list(target: &Target, before: usize, now: usize) {
    tracing::debug!(target: "postroad::fleet", service = %target, before, now, "servers");
}

/// A server in the list cannot be used.
pub(crate) fn unusable(target: &Target, instance: &Instance, error: &impl Display) {
    tracing::warn!(
        target: "postroad::fleet", service = %target, server = %instance, %error, "left out"
    );
}

/// A breaker has changed its state.
pub(crate) fn breaker(target: &Target, instance: &Instance, state: BreakerState) {
    tracing::info!(
        target: "postroad::fleet", service = %target, server = %instance, ?state, "breaker"
    );
}

/// A server has failed too often in a row.
pub(crate) fn ejected(target: &Target, instance: &Instance) {
    tracing::info!(
        target: "postroad::fleet", service = %target, server = %instance, "put aside"
    );
}

/// Servers do far worse than their peers.
pub(crate) fn swept(target: &Target, ejected: usize) {
    tracing::info!(target: "postroad::fleet", service = %target, ejected, "put aside");
}

/// A server has failed its probes, or is well again.
pub(crate) fn health(target: &Target, instance: &Instance, is_well: bool) {
    tracing::info!(
        target: "postroad::fleet", service = %target, server = %instance, is_well, "health"
    );
}
