//! What the driver needs of a queue that holds requests which were read and not started yet.

use std::fmt;

use postroad_proto::session::CallId;

use crate::transport::ConnectionId;

/// Which requests of a connection that were not started yet are called off.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Forget {
    /// This one.
    Call(CallId),
    /// All that somebody waits for.
    Calls,
    /// One-way messages as well.
    All,
}

/// Holds requests of connections that were read and not started yet.
pub(crate) trait RequestQueue: Send + Sync + fmt::Debug {
    /// Lets requests of a connection go. Called with the connection locked.
    fn forget(&self, connection: ConnectionId, what: Forget);
}
