//! What a session tells its driver.

use std::time::Duration;

use super::call::CallId;
use super::failure::{CancelReason, CloseReason, Failure};

/// What has happened, besides the requests and answers that went into the
/// [`Sink`](super::Sink).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The opening is done: calls can be made or will come.
    Opened {
        /// The name of the protocol: `native` or a dialect's.
        protocol: &'static str,
        /// Its version.
        version: u16,
        /// Who the other end says it is.
        agent: String,
    },
    /// The request is called off; it must not be answered any more. It may still be in the sink,
    /// not started.
    Cancelled(CallId, CancelReason),
    /// A call of this end is over without an answer: its deadline has passed, or the connection
    /// has ended.
    Failed(CallId, Failure),
    /// The server wants no new calls here. Dial another connection; this one ends when its calls
    /// have.
    Draining,
    /// A heartbeat came back: the smoothed round trip.
    RoundTrip(Duration),
    /// The connection is over; always the last event.
    Closed(CloseReason),
}
