//! Where messages go: one place picks the connection of each and hears how each has ended.
//!
//! ```text
//!   CallBuilder       Producer       Pipeline
//!         \              |              /
//!          v             v             v
//!      attempt: offer it to a connection; if that takes none, wait and offer it to the next
//!                        |
//!                        v
//!      Channel:  pick(&CallInfo) -> Lease                 finish(&Lease, Outcome)
//!                        |                                        ^
//!                        v                                        |
//!      Keeper: dials, keeps one connection         answers, refusals, givings-up
//! ```
//!
//! Today a channel has one endpoint, so picking is loading a pointer, and nobody listens to
//! outcomes. A pool, a balancer, a breaker, retries and hedging belong here: they see every message
//! on its way out and every outcome on its way back, and nothing else in the client has to know.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::{CallInfo, ConnectionState, Ending, Outcome};
use postroad_proto::session::Failure;
use tokio::sync::watch;

use super::config::ClientConfig;
use super::keeper::{Connections, Keeper};
use crate::driver::Connection;
use crate::endpoint::Endpoint;
use crate::error::CallError;
use crate::transport::PeerInfo;

/// Who wants to know how every message has ended.
type Listener = Arc<dyn Fn(&Lease, Outcome) + Send + Sync>;

/// Picks the connection of each message and hears how it ended.
///
/// Clones are handles of the same endpoint; the last one that is dropped ends its connection.
#[derive(Clone)]
pub(super) struct Channel {
    keeper: Arc<Keeper>,
    /// `None` as long as there is no policy, and then nobody reads a clock or builds an outcome.
    listener: Option<Listener>,
}

/// A connection that was picked for a message.
///
/// A lone call or message has a lease of its own. Producers and pipelines keep one as long as its
/// connection takes what they send, because their messages stay in order on it. Either way, each
/// message that was offered to the lease's connection is reported to [`Channel::finish`] once.
#[derive(Clone)]
pub(super) struct Lease {
    connection: Arc<Connection>,
}

impl Lease {
    #[inline]
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The endpoint that an outcome is charged to.
    pub(super) fn endpoint(&self) -> &PeerInfo {
        &self.connection.peer
    }

    /// Whether both are of one connection.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.connection, &other.connection)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(self.endpoint()).finish()
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.endpoint().to_string();
        f.debug_tuple("Channel").field(&endpoint).finish()
    }
}

impl Channel {
    /// A channel to one endpoint.
    pub(super) fn new(keeper: Arc<Keeper>) -> Self {
        Self {
            keeper,
            listener: None,
        }
    }

    /// The same endpoint, with somebody who hears every outcome.
    #[cfg(test)]
    pub(super) fn with_listener(mut self, listener: Listener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// A connection for a message, if there is one now. There nearly always is, so senders ask here
    /// first and only then wait by [`Self::picks`].
    #[inline]
    pub(super) fn pick(&self, _: &CallInfo<'_>) -> Option<Lease> {
        let connection = self.keeper.current()?;
        Some(Lease { connection })
    }

    /// Connections for one message, one after the other, until the deadline.
    pub(super) fn picks<'a>(&'a self, _: &CallInfo<'_>, deadline: Time) -> Picks<'a> {
        Picks(self.keeper.connections(deadline))
    }

    /// Hears how a message has ended that was offered to the lease's connection. The outcome is
    /// made only if somebody listens.
    #[inline]
    pub(super) fn finish(&self, lease: &Lease, outcome: impl FnOnce() -> Outcome) {
        if let Some(listener) = &self.listener {
            listener(lease, outcome());
        }
    }

    /// Whether somebody listens. Senders ask before work that only an outcome needs.
    #[inline]
    pub(super) fn has_listener(&self) -> bool {
        self.listener.is_some()
    }

    /// What a caller is told of the end of a call that a connection had taken.
    #[cold]
    pub(super) fn error_of(&self, failure: Failure, timeout: Duration) -> CallError {
        // A call that was taken does not end as one that was not. If it ever did, it could be sent
        // again, and this is the error that says so.
        CallError::from_failure(failure, timeout).unwrap_or_else(|| self.not_connected())
    }

    /// That there is no connection, and why.
    #[cold]
    pub(super) fn not_connected(&self) -> CallError {
        self.keeper.not_connected()
    }

    pub(super) fn config(&self) -> &ClientConfig {
        &self.keeper.config
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.keeper.endpoint
    }

    pub(super) fn state(&self) -> watch::Receiver<ConnectionState> {
        self.keeper.state()
    }

    /// Dials at once; see [`Keeper::try_now`].
    pub(super) fn try_now(&self) {
        self.keeper.try_now();
    }

    /// Ready when the first attempt to connect has succeeded or failed.
    pub(super) async fn first_attempt(&self) -> Result<(), CallError> {
        self.keeper.first_attempt().await
    }

    /// Whether the connection's driver was woken for something and has not run since.
    pub(super) fn has_left(&self) -> bool {
        self.keeper.has_left()
    }

    /// Ends the connection after the calls in flight.
    pub(super) async fn close(&self) {
        self.keeper.close().await;
    }
}

/// See [`Channel::picks`].
pub(super) struct Picks<'a>(Connections<'a>);

impl Picks<'_> {
    /// The next connection, as soon as there is one. It is another than before, which has ended
    /// between being picked and being used.
    ///
    /// # Errors
    /// If there is none until the deadline, or too many callers wait already.
    pub(super) async fn next(&mut self) -> Result<Lease, CallError> {
        let connection = self.0.next().await?;
        Ok(Lease { connection })
    }
}

/// How a call or message has ended, told from what its caller is told.
pub(super) fn ending(error: &CallError) -> Ending {
    match error {
        CallError::Remote(error) => Ending::Refused {
            code: error.code(),
            retry: error.retry(),
        },
        CallError::Deadline { sent, .. } => Ending::Deadline { sent: *sent },
        CallError::Lost { sent, .. } => Ending::Lost { sent: *sent },
        // Every other error is found before anything leaves this end.
        other => Ending::NotSent {
            retry: other.retry(),
        },
    }
}
