//! Where a connection stands, for whoever watches it.

use postroad_proto::session::CloseReason;

/// The states of a client's connection, in the order in which they are passed.
#[derive(Clone, Debug)]
pub(crate) enum LinkState {
    /// The two ends have not agreed yet.
    Opening,
    /// Calls can be made.
    Open,
    /// The server accepts no new calls on this connection.
    Draining,
    /// The connection has ended, for this reason.
    Closed(CloseReason),
}
