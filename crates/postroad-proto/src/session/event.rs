//! What a session tells its driver.

use std::time::Duration;

use super::call::{CallId, Reply, Request};
use super::failure::{CancelReason, CloseReason, Failure};

/// What has happened.
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
    /// A request or one-way message to handle.
    Request(Request),
    /// The request is called off; it must not be answered any more.
    Cancelled(CallId, CancelReason),
    /// A call of this end is over.
    Finished(CallId, Result<Reply, Failure>),
    /// The server wants no new calls here. Dial another connection; this one ends when its calls
    /// have.
    Draining,
    /// A heartbeat came back: the smoothed round trip.
    RoundTrip(Duration),
    /// The connection is over; always the last event.
    Closed(CloseReason),
}
