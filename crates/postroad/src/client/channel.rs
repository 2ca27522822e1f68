//! Where messages go: one place picks the connection of each and hears how each has ended.
//!
//! ```text
//!   CallBuilder       Producer       Pipeline
//!         \              |              /
//!          v             v             v
//!      attempt: offer it to a connection; if that takes none, wait and offer it to the next
//!                        |
//!                        v
//!      Channel:  admit, pick(&CallInfo) -> Lease          finish(&Lease, Outcome)
//!                   |            |                                ^
//!            one    v            v    several                     |
//!      Keeper: keeps a       Fleet: a keeper for each     answers, refusals, givings-up
//!      connection            server, and the policies
//! ```
//!
//! To one endpoint without policies, picking is loading a pointer, and nobody listens to outcomes
//! unless [`Client::after`](super::Client::after) was used.
//!
//! ```text
//! step    how often                    to one endpoint            to several
//! ------  ---------------------------  -------------------------  -----------------------------
//! admit   once a message, first        always                     unless the throttle says no
//! pick    each attempt: what is there  the keeper's connection    the balancer's server, if its
//!                                                                 breaker lets it
//! picks   where pick has none, or it   waits for the keeper       waits for a server with room
//!         took nothing
//! began   a connection took a call     nothing                    the server has one more
//! finish  once for each offer          the listener hears         load, breaker, outliers, hedges
//!                                                                 and throttle, then the listener
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::{CallInfo, ConnectionState, Ending, Outcome};
use postroad_proto::session::Failure;
use tokio::sync::watch;

use super::config::ClientConfig;
use super::fleet::{Fleet, Member, Pick, Waiting};
use super::keeper::{Connections, Keeper};
use super::options::PRIORITY;
use crate::clock;
use crate::driver::Connection;
use crate::error::CallError;
use crate::transport::PeerInfo;

/// Who wants to know how every message has ended.
pub(super) type Listener = Arc<dyn Fn(&PeerInfo, Outcome) + Send + Sync>;

/// Picks the connection of each message and hears how it ended.
///
/// Clones are handles of the same connections; the last one that is dropped ends them.
#[derive(Clone)]
pub(super) struct Channel {
    way: Way,
    /// `None` as long as nobody listens.
    listener: Option<Listener>,
}

#[derive(Clone)]
enum Way {
    /// One endpoint, and no policies.
    One(Arc<Keeper>),
    /// Several, or one with policies.
    Several(Arc<Fleet>),
}

/// A connection that was picked for a message.
///
/// A lone call or message has a lease of its own, and so has each call of a pipeline to several
/// servers. A producer keeps one as long as its connection takes what it sends, because its
/// messages stay in order on it. Either way, each message that was offered to the lease's
/// connection is reported to [`Channel::finish`] once.
#[derive(Clone)]
pub(super) struct Lease {
    connection: Arc<Connection>,
    /// Whose connection it is, if there are several servers.
    pick: Option<Pick>,
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
    #[inline]
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.connection, &other.connection)
    }

    /// Whether no other message may go there with this one, because it only tries whether the
    /// server answers again.
    pub(super) fn is_probe(&self) -> bool {
        self.pick.as_ref().is_some_and(Pick::is_probe)
    }

    /// The server that it is of, if there are several.
    pub(super) fn member(&self) -> Option<&Arc<Member>> {
        self.pick.as_ref().map(Pick::member)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(self.endpoint()).finish()
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target().to_string();
        f.debug_tuple("Channel").field(&target).finish()
    }
}

impl Channel {
    /// A channel to one endpoint.
    pub(super) fn new(keeper: Arc<Keeper>) -> Self {
        Self {
            way: Way::One(keeper),
            listener: None,
        }
    }

    /// A channel to several.
    pub(super) fn to_fleet(fleet: Arc<Fleet>) -> Self {
        Self {
            way: Way::Several(fleet),
            listener: None,
        }
    }

    /// The same connections, with somebody who hears every outcome.
    pub(super) fn with_listener(mut self, listener: Listener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// The policies' side, if there is one.
    #[inline]
    pub(super) fn fleet(&self) -> Option<&Arc<Fleet>> {
        match &self.way {
            Way::One(_) => None,
            Way::Several(fleet) => Some(fleet),
        }
    }

    /// Whether a message may be sent at all. It comes before the first attempt of each message.
    #[inline]
    pub(super) fn admit(&self, info: &CallInfo<'_>) -> Result<(), Box<CallError>> {
        match &self.way {
            Way::One(_) => Ok(()),
            Way::Several(fleet) => fleet.admit(info),
        }
    }

    /// A connection for a message, if there is one now. There nearly always is, so senders ask here
    /// first and only then wait by [`Self::picks`].
    #[inline]
    pub(super) fn pick(&self, info: &CallInfo<'_>) -> Option<Lease> {
        match &self.way {
            Way::One(keeper) => {
                let connection = keeper.current()?;
                let pick = None;
                Some(Lease { connection, pick })
            }
            Way::Several(fleet) => fleet.pick(info, None).map(Lease::of),
        }
    }

    /// Connections for one message, one after the other, until the deadline. The server to avoid
    /// is taken only if there is no other.
    pub(super) fn picks(&self, deadline: Time, avoid: Option<Arc<Member>>) -> Picks<'_> {
        match &self.way {
            Way::One(keeper) => Picks::One(keeper.connections(deadline)),
            Way::Several(fleet) => Picks::Several(Waiting::new(fleet, deadline, avoid)),
        }
    }

    /// A call was taken by the lease's connection. [`Self::finish`] follows.
    #[inline]
    pub(super) fn began(&self, lease: &Lease) {
        if let (Way::Several(fleet), Some(pick)) = (&self.way, &lease.pick) {
            fleet.began(pick);
        }
    }

    /// Hears how a message has ended that was offered to the lease's connection. The outcome is
    /// made only if somebody listens.
    #[inline]
    pub(super) fn finish(&self, lease: &Lease, outcome: impl FnOnce() -> Outcome) {
        if self.has_listener() {
            self.tell(lease, &outcome());
        }
    }

    /// Hears that so many calls were answered that were offered to the lease's connection.
    pub(super) fn answered(&self, lease: &Lease, calls: u32) {
        if let (Way::Several(fleet), Some(pick)) = (&self.way, &lease.pick) {
            fleet.answered(pick, calls);
        }
        if let Some(listener) = &self.listener {
            let (ending, timing) = (Ending::Answered, None);
            (0..calls).for_each(|_| listener(lease.endpoint(), Outcome { ending, timing }));
        }
    }

    fn tell(&self, lease: &Lease, outcome: &Outcome) {
        if let (Way::Several(fleet), Some(pick)) = (&self.way, &lease.pick) {
            fleet.finish(pick, outcome);
        }
        if let Some(listener) = &self.listener {
            listener(lease.endpoint(), *outcome);
        }
    }

    /// Whether somebody listens. Senders ask before work that only an outcome needs.
    #[inline]
    pub(super) fn has_listener(&self) -> bool {
        matches!(self.way, Way::Several(_)) || self.listener.is_some()
    }

    /// When a call begins whose time somebody wants to know.
    #[inline]
    pub(super) fn begins(&self) -> Option<Time> {
        self.has_listener().then(clock::now)
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
        match &self.way {
            Way::One(keeper) => keeper.not_connected(),
            Way::Several(fleet) => fleet.not_connected(),
        }
    }

    #[inline]
    pub(super) fn config(&self) -> &ClientConfig {
        match &self.way {
            Way::One(keeper) => &keeper.config,
            Way::Several(fleet) => &fleet.config,
        }
    }

    /// The deadline of a call that names none.
    #[inline]
    pub(super) fn timeout_of(&self, route: &str) -> Duration {
        match &self.way {
            Way::One(keeper) => keeper.config.timeout,
            Way::Several(fleet) => fleet.timeout_of(route),
        }
    }

    /// The priority of a call that names none.
    #[inline]
    pub(super) fn priority_of(&self, route: &str) -> u8 {
        match &self.way {
            Way::One(_) => PRIORITY,
            Way::Several(fleet) => fleet.priority_of(route),
        }
    }

    /// The way to balance, by its name.
    pub(super) fn balance(&self) -> &'static str {
        match &self.way {
            Way::One(_) => "one endpoint",
            Way::Several(fleet) => fleet.policies().balance.name(),
        }
    }

    /// Where messages go, as it was written.
    pub(super) fn target(&self) -> &dyn fmt::Display {
        match &self.way {
            Way::One(keeper) => &keeper.endpoint,
            Way::Several(fleet) => &fleet.target,
        }
    }

    pub(super) fn state(&self) -> watch::Receiver<ConnectionState> {
        match &self.way {
            Way::One(keeper) => keeper.state(),
            Way::Several(fleet) => fleet.state(),
        }
    }

    /// Dials at once; see [`Keeper::try_now`].
    pub(super) fn try_now(&self) {
        match &self.way {
            Way::One(keeper) => keeper.try_now(),
            Way::Several(fleet) => fleet.try_now(),
        }
    }

    /// Ready when the first attempt to connect has succeeded or failed.
    pub(super) async fn first_attempt(&self) -> Result<(), CallError> {
        match &self.way {
            Way::One(keeper) => keeper.first_attempt().await,
            Way::Several(fleet) => fleet.first_attempt().await,
        }
    }

    /// Whether the connection's driver was woken for something and has not run since.
    pub(super) fn has_left(&self) -> bool {
        match &self.way {
            Way::One(keeper) => keeper.has_left(),
            Way::Several(fleet) => fleet.has_left(),
        }
    }

    /// Ends the connection after the calls in flight.
    pub(super) async fn close(&self) {
        match &self.way {
            Way::One(keeper) => keeper.close().await,
            Way::Several(fleet) => fleet.close().await,
        }
    }
}

impl Lease {
    fn of((connection, pick): (Arc<Connection>, Pick)) -> Self {
        Self {
            connection,
            pick: Some(pick),
        }
    }
}

/// See [`Channel::picks`].
pub(super) enum Picks<'a> {
    One(Connections<'a>),
    Several(Waiting<'a>),
}

impl Picks<'_> {
    /// The next connection, as soon as there is one. It is another than before, which has ended
    /// between being picked and being used, or is full.
    ///
    /// # Errors
    /// If there is none until the deadline, or too many callers wait already.
    pub(super) async fn next(&mut self, info: &CallInfo<'_>) -> Result<Lease, CallError> {
        match self {
            Self::One(connections) => {
                let connection = connections.next().await?;
                let pick = None;
                Ok(Lease { connection, pick })
            }
            Self::Several(waiting) => waiting.next(info).await.map(Lease::of),
        }
    }

    /// The last one has as many calls in flight as it may.
    pub(super) fn was_full(&mut self) {
        match self {
            // Its caller is told so at once.
            Self::One(_) => {}
            Self::Several(waiting) => waiting.was_full(),
        }
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
