//! A server as a whole: its listeners and its state. The target of their log lines is
//! `postroad::server`.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use postroad_proto::policy::{IllegalTransition, ServerState};

use super::counters::{Counters, count};
use super::log_rate::LogKind;

/// A listener is bound.
pub(crate) fn listening(endpoint: &impl Display, address: &str) {
    tracing::info!(target: "postroad::server", %endpoint, address, "listening");
}

/// An endpoint can be used, and something about it should be known.
pub(crate) fn warning(endpoint: &impl Display, text: &str) {
    tracing::warn!(target: "postroad::server", %endpoint, "{text}");
}

/// The server has another state.
pub(crate) fn state(from: ServerState, to: ServerState) {
    tracing::info!(target: "postroad::server", %from, %to, "server state");
}

/// The server was to take a state that does not follow from its present one, as when two ask for
/// its end.
pub(crate) fn no_transition(error: &IllegalTransition<ServerState>) {
    tracing::debug!(target: "postroad::server", %error, "no transition");
}

/// The operating system lets a listener accept nothing.
pub(crate) fn cannot_accept(
    counters: &Counters,
    endpoint: &impl Display,
    error: &io::Error,
    pause: Duration,
) {
    count(&counters.accept_errors, 1);
    if counters.logs.allow(LogKind::NotAccepted) {
        tracing::warn!(
            target: "postroad::server", %endpoint, %error, ?pause, "cannot accept; pausing"
        );
    }
}

/// There are as many connections as are allowed. Told once, until there is room again.
pub(crate) fn too_many_connections(counters: &Counters, endpoint: &impl Display, open: usize) {
    if counters.logs.allow(LogKind::TurnedAway) {
        tracing::warn!(
            target: "postroad::server", %endpoint, open,
            "too many connections; turning new ones away"
        );
    }
}

/// The server is about to end, and still serves these connections.
pub(crate) fn lameduck(time: Duration, connections: usize) {
    tracing::info!(
        target: "postroad::server", ?time, connections, "clients are asked to leave"
    );
}

/// The time for the drain is over, and connections are left.
pub(crate) fn cut(left: usize) {
    tracing::warn!(target: "postroad::server", left, "cut at the end of the drain");
}
