//! Connections: opened, ended, failed. The target of their log lines is `postroad::connection`.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use postroad_proto::policy::{ConnectionState, IllegalTransition};
use postroad_proto::session::{CloseReason, PeerHello};

use super::counters::Counters;
use super::log_rate::LogKind;
use crate::transport::PeerInfo;

/// The opening of a connection is done.
pub(crate) fn opened(peer: &PeerInfo, hello: &PeerHello) {
    tracing::debug!(
        target: "postroad::connection", %peer, connection = peer.connection().number(),
        protocol = hello.protocol, version = hello.version, agent = hello.agent, "open"
    );
}

/// A heartbeat came back.
pub(crate) fn round_trip(peer: &PeerInfo, round_trip: Duration) {
    tracing::trace!(target: "postroad::connection", %peer, ?round_trip, "heartbeat");
}

/// A connection that was accepted has failed before its session began. It is logged loudly unless
/// the peer has only hung up, as health checks do.
pub(crate) fn handshake_failed(
    counters: &Counters,
    endpoint: &impl Display,
    peer: &PeerInfo,
    error: &io::Error,
) {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    let why = match error.kind() {
        TimedOut => "timeout",
        _ => "transport",
    };
    counters.closed("handshake", why);
    let has_hung_up = matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    );
    if has_hung_up {
        tracing::debug!(
            target: "postroad::connection", %endpoint, %peer, %error, "handshake failed"
        );
    } else if counters.logs.allow(LogKind::Handshake) {
        tracing::warn!(
            target: "postroad::connection", %endpoint, %peer, %error, "handshake failed"
        );
    }
}

/// A server's connection has ended. It is logged loudly only where the peer or the network is to
/// blame.
pub(crate) fn closed(
    counters: &Counters,
    endpoint: &impl Display,
    peer: &PeerInfo,
    protocol: &'static str,
    reason: &CloseReason,
) {
    counters.closed(protocol, reason.word());
    let connection = peer.connection().number();
    let is_ordinary = matches!(
        reason,
        CloseReason::Peer
            | CloseReason::Drained
            | CloseReason::Local
            | CloseReason::TurnedAway(_)
            | CloseReason::Idle(_)
            // A reset, nearly always: peers end, and networks break.
            | CloseReason::Transport(_)
    );
    if is_ordinary {
        tracing::debug!(
            target: "postroad::connection", %endpoint, %peer, connection, protocol, %reason,
            "closed"
        );
    } else if counters.logs.allow(LogKind::Ended) {
        tracing::warn!(
            target: "postroad::connection", %endpoint, %peer, connection, protocol, %reason,
            "closed"
        );
    }
}

/// A client's connection has another state.
pub(crate) fn state(endpoint: &impl Display, from: ConnectionState, to: ConnectionState) {
    tracing::debug!(target: "postroad::connection", %endpoint, %from, %to, "state");
}

/// A client's connection was to take a state that does not follow from its present one: a fault of
/// this crate.
pub(crate) fn illegal_state(endpoint: &impl Display, error: &IllegalTransition<ConnectionState>) {
    tracing::error!(target: "postroad::connection", %endpoint, %error, "state");
}

/// A client has no connection, for this reason.
pub(crate) fn no_connection(endpoint: &impl Display, reason: &str) {
    tracing::debug!(target: "postroad::connection", %endpoint, reason, "no connection");
}
