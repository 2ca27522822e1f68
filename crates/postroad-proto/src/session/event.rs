//! What a session tells its driver.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::call::CallId;
use super::failure::{CancelReason, CloseReason, DropReason, Failure, RefusalReason};
use crate::code::Retry;

/// What has happened, besides the requests and answers that went into the
/// [`Sink`](super::Sink).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A client has brought credentials, and waits until they are judged; see
    /// [`Config::judges_credentials`](super::Config::judges_credentials).
    Presented(Credentials),
    /// The opening is done: calls can be made or will come.
    Opened(Box<PeerHello>),
    /// The request is called off; it must not be answered any more. It may still be in the sink,
    /// not started.
    Cancelled(CallId, CancelReason),
    /// A call of this end is over without an answer: its deadline has passed, or the connection
    /// has ended.
    Failed(CallId, Failure),
    /// A one-way message has come and is dropped before it reached the sink. Nobody answers a
    /// message, so its sender does not hear of it: whoever drives the session counts it.
    Dropped(DropReason),
    /// A call was answered with an error by the session itself. Its caller was told why; whoever
    /// drives the session counts it.
    Refused(RefusalReason),
    /// The server wants no new calls here. Dial another connection; this one ends when its calls
    /// have.
    Draining,
    /// A heartbeat came back: the smoothed round trip.
    RoundTrip(Duration),
    /// The connection is over; always the last event.
    Closed(CloseReason),
}

/// What the other end said of itself when the connection was opened, and what was agreed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerHello {
    /// The name of the protocol: `native` or a dialect's.
    pub protocol: &'static str,
    /// Its version.
    pub version: u16,
    /// Who the other end says it is; empty if it does not say.
    pub agent: String,
    /// What the client brought to prove who it is. Nobody has judged it yet. Only a server has
    /// some, and only with [`Config::accepts_credentials`](super::Config::accepts_credentials).
    /// Those that were judged before are not kept.
    pub credentials: Option<Credentials>,
}

/// Why credentials do not suffice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// For a person, with an error code. It is sent to whoever has brought them.
    pub text: String,
    /// Whether the same credentials may be brought again.
    pub retry: Retry,
    /// Not sooner than this.
    pub after: Duration,
}

/// Credentials as they came: at most one opening's bytes. Secret, so they are not shown in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(pub Bytes);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} bytes)", self.0.len())
    }
}
