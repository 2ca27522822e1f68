//! A server as a whole: its listeners and its state. The target of their log lines is
//! `postroad::server`.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use postroad_proto::policy::{IllegalTransition, ServerState};
use postroad_proto::session::Shortage;

use super::counters::{Counters, count};
use super::log_rate::LogKind;
use crate::transport::PeerInfo;

/// A listener is bound.
pub(crate) fn listening(endpoint: &impl Display, address: &str) {
    tracing::info!(target: "postroad::server", %endpoint, address, "listening");
}

/// An endpoint can be used, and something about it should be known.
pub(crate) fn warning(endpoint: &impl Display, text: &str) {
    tracing::warn!(target: "postroad::server", %endpoint, "{text}");
}

/// A rule gives a share to a version that is not there: so many routes lack it, `route` among them.
pub(crate) fn missing_version(rule: &str, version: &str, route: &str, routes: usize) {
    tracing::warn!(
        target: "postroad::server", rule, version, route, routes,
        "there is no such version; its share goes where requests go without shares"
    );
}

/// The server has another state.
pub(crate) fn state(counters: &Counters, from: ServerState, to: ServerState) {
    // Whoever uses up the open files makes it go to and fro.
    if counters.logs.allow(LogKind::State) {
        tracing::info!(target: "postroad::server", %from, %to, "server state");
    }
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

/// A connection was accepted.
pub(crate) fn accepted(counters: &Counters) {
    count(&counters.accepted, 1);
}

/// A connection is turned away, because there is no room for it while so many are open. Logged for
/// the first of several, until there is room again.
pub(crate) fn turned_away(
    counters: &Counters,
    endpoint: &impl Display,
    peer: &PeerInfo,
    shortage: Shortage,
    open: usize,
) {
    count(&counters.turned_away, 1);
    if counters.logs.allow(LogKind::TurnedAway) {
        let why = shortage.text();
        tracing::warn!(
            target: "postroad::server", %endpoint, %peer, open, why,
            "a connection is turned away"
        );
    }
}

/// All connections together hold too much memory: `held` bytes, where `max` are allowed. So many
/// of them are closed for it.
pub(crate) fn memory_short(counters: &Counters, held: usize, max: usize, closed: usize) {
    if counters.logs.allow(LogKind::MemoryShort) {
        tracing::warn!(
            target: "postroad::server", held, max, closed,
            "the connections hold too much memory together"
        );
    }
}

/// A worker has been busy for so long while others wait for one.
pub(crate) fn worker_is_stuck(route: &str, busy: Duration, workers: usize) {
    tracing::warn!(
        target: "postroad::server", route, ?busy, workers,
        "a worker has not finished for long, and requests wait for one"
    );
}

/// The time for the drain is over, and so many connections are left, and handlers that nobody waits
/// for.
pub(crate) fn cut(left: usize, running: usize) {
    tracing::warn!(target: "postroad::server", left, running, "cut at the end of the drain");
}

/// So many handlers, of these routes, were not done at the end of the drain. Their callers see the
/// end of the connection, and cannot know how far the work had come.
pub(crate) fn handlers_cut(handlers: usize, routes: &impl Display) {
    tracing::error!(
        target: "postroad::server", handlers, %routes,
        "handlers were cut off at the end of the drain"
    );
}

/// The server is about to end, and still serves these connections.
pub(crate) fn lameduck(time: Duration, connections: usize) {
    tracing::info!(
        target: "postroad::server", ?time, connections, "clients are asked to leave"
    );
}
