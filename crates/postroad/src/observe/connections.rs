//! Connections: opened, ended, failed. The target of their log lines is `postroad::connection`.

use std::fmt::Display;
use std::time::Duration;

use postroad_proto::policy::{ConnectionState, IllegalTransition};
use postroad_proto::session::{CloseReason, PeerHello};

use super::counters::Counters;
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

/// A connection that was accepted has failed before its session began.
pub(crate) fn handshake_failed(
    counters: &Counters,
    endpoint: &impl Display,
    peer: &PeerInfo,
    error: &impl Display,
) {
    counters.closed("handshake", "transport");
    tracing::warn!(
        target: "postroad::connection", %endpoint, %peer, %error, "handshake failed"
    );
}

/// A connection that was accepted has not said enough in time.
pub(crate) fn handshake_timed_out(counters: &Counters, endpoint: &impl Display, peer: &PeerInfo) {
    counters.closed("handshake", "timeout");
    tracing::warn!(target: "postroad::connection", %endpoint, %peer, "handshake timed out");
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
        CloseReason::Peer | CloseReason::Drained | CloseReason::Local | CloseReason::TurnedAway
    );
    if is_ordinary {
        tracing::debug!(
            target: "postroad::connection", %endpoint, %peer, connection, protocol, %reason,
            "closed"
        );
    } else {
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
