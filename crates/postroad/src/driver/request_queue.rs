//! Requests whose handlers were not done in the driver's turn: those that wait in a queue to be
//! started, and those whose handlers are tasks.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use postroad_proto::session::{CallId, CloseReason};
use tokio::task::AbortHandle;

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

impl Forget {
    /// What is of no use any more when a connection has ended so.
    pub(super) fn after(reason: &CloseReason) -> Self {
        match reason {
            // A server that ends at once starts nothing more.
            CloseReason::Local => Self::All,
            _ => Self::Calls,
        }
    }
}

/// Holds requests of connections that were read and not started yet.
pub(crate) trait RequestQueue: Send + Sync + fmt::Debug {
    /// Lets requests of a connection go. Called with the connection locked.
    fn forget(&self, connection: ConnectionId, what: Forget);
}

/// Requests whose handlers were not done in the driver's turn.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    /// Handlers that wait for something.
    pub(super) tasks: HashMap<CallId, AbortHandle>,
    /// Where requests wait to be started, once one has had to.
    pub(super) queue: Option<Arc<dyn RequestQueue>>,
}

impl Unfinished {
    /// Tells the queue, if there is one, that requests are called off.
    pub(super) fn forget_queued(&self, connection: ConnectionId, what: Forget) {
        if let Some(queue) = &self.queue {
            queue.forget(connection, what);
        }
    }
}
