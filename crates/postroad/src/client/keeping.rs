//! The task that keeps a client connected: dials, hands the connection to callers, and dials again
//! when it ends.
//!
//! ```text
//!             +---------------------- closed in order after it was healthy: at once
//!             v                                         |
//!   Idle -> attempt -- opened --> Connected --- ended --+
//!             ^  |                                      | otherwise
//!             |  +- failed --------------> pause <------+
//!             |                              |
//!             +------------------------------+  time, a caller, or `try_now`
//! ```
//!
//! It goes on until the client is closed or its last handle is dropped; only
//! [`ClientConfig::give_up_after`] ends it sooner. When several attempts have failed, the state is
//! `Offline` until one succeeds. [`Reconnect`] decides how long a pause is.
//!
//! The task holds the [`Keeper`] weakly while it waits, so that the connection ends when the last
//! client is dropped, and not when the task does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::code::Retry;
use postroad_proto::policy::{ConnectionState, Ended, Next, Pause, Reconnect};
use postroad_proto::session::{CloseReason, Session};
use tokio::sync::{Notify, watch};

use super::config::ClientConfig;
use super::keeper::{CLOSE_GRACE, Keeper};
use super::token;
use crate::clock;
use crate::driver::{Connection, ConnectionDriver, LinkState};
use crate::endpoint::Endpoint;
use crate::observe::connections;
use crate::transport::Transport;

/// A connection that was opened, and its state.
type Opened = (Arc<Connection>, watch::Receiver<LinkState>);

/// Starts to dial, on the runtime that is there. `news` is told of every change of the state.
pub(super) fn start(
    endpoint: Endpoint,
    config: ClientConfig,
    transport: Arc<dyn Transport>,
    news: Option<Arc<Notify>>,
) -> Arc<Keeper> {
    let (backoff, give_up_after) = (config.backoff.clone(), config.give_up_after);
    let reconnect = Reconnect::new(backoff, give_up_after, rand::random());
    let keeper = Arc::new(Keeper::new(endpoint, config, transport, news));
    let keeping = Keeping {
        keeper: Arc::downgrade(&keeper),
        closing: keeper.closing.subscribe(),
        reconnect,
    };
    tokio::spawn(keeping.run());
    keeper
}

/// What the task needs; it ends when the last client is dropped.
struct Keeping {
    keeper: std::sync::Weak<Keeper>,
    closing: watch::Receiver<bool>,
    reconnect: Reconnect,
}

impl Keeping {
    /// Dials until somebody closes the client or drops its last handle.
    async fn run(mut self) {
        loop {
            let Some(keeper) = self.keeper.upgrade() else {
                return;
            };
            if *self.closing.borrow() {
                return close_now(&keeper);
            }
            keeper.trouble().dials();
            // Calls fail at once while the state is `Offline`, also during an attempt: a path that
            // swallows everything would have each of them wait. `try_now` begins anew.
            let is_offline = *keeper.state.borrow() == ConnectionState::Offline;
            if !is_offline || self.reconnect.failures() == 0 {
                keeper.transition(ConnectionState::Connecting);
            }
            let attempt = tokio::select! {
                attempt = attempt(&keeper) => attempt,
                _ = self.closing.wait_for(|closing| *closing) => return close_now(&keeper),
            };
            let goes_on = match attempt {
                Ok((connection, link)) => self.keep(keeper, connection, link).await,
                Err(failed) => self.after(keeper, failed).await,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// While the connection lives; false if the client is to be closed.
    async fn keep(
        &mut self,
        keeper: Arc<Keeper>,
        connection: Arc<Connection>,
        mut link: watch::Receiver<LinkState>,
    ) -> bool {
        let opened_at = clock::now();
        // A request to dial at once is fulfilled by now. Kept, it would skip the next pause.
        let _ = tokio::time::timeout(Duration::ZERO, keeper.try_now.notified()).await;
        keeper.trouble().clear();
        keeper.set_current(Some(Arc::clone(&connection)));
        if *keeper.state.borrow() == ConnectionState::Offline {
            keeper.transition(ConnectionState::Connecting);
        }
        keeper.transition(ConnectionState::Connected);
        let source = keeper.config.token.as_ref();
        let _fresh = source.and_then(|source| token::keep_fresh(&keeper, source, &connection));
        // From here on only clients hold the keeper, so that dropping the last one ends it.
        drop(keeper);
        let ended = tokio::select! {
            ended = link.wait_for(|link| !matches!(link, LinkState::Open)) => {
                Some(ended.map(|link| link.clone()))
            }
            // The channel's other end is the keeper's. An error here says that the last client was
            // dropped, which has drained the connection.
            closing = self.closing.wait_for(|closing| *closing) => closing.ok().map(drop).and(None),
        };
        let Some(ended) = ended else {
            return self.finish(&connection, link).await;
        };
        let Some(keeper) = self.keeper.upgrade() else {
            return false;
        };
        keeper.set_current(None);
        let lived = clock::now().since(opened_at);
        let was_healthy = connection.has_heard() || lived >= Reconnect::HEALTHY_AFTER;
        let (reason, how) = match ended {
            // The old connection finishes its calls while a new one is dialled.
            Ok(LinkState::Draining | LinkState::Closed(CloseReason::Drained)) => {
                let reason = "the server is shutting down".to_owned();
                (reason, Ended::Closed { was_healthy })
            }
            Ok(LinkState::Closed(reason @ CloseReason::Peer)) => {
                (reason.to_string(), Ended::Closed { was_healthy })
            }
            Ok(LinkState::Closed(reason)) => (reason.to_string(), Ended::Broken { was_healthy }),
            _ => {
                let reason = CloseReason::Local.to_string();
                (reason, Ended::Broken { was_healthy })
            }
        };
        self.after(keeper, Failed { reason, how }).await
    }

    /// Closes on purpose: no new calls, those in flight are finished.
    async fn finish(&self, connection: &Connection, mut link: watch::Receiver<LinkState>) -> bool {
        if let Some(keeper) = self.keeper.upgrade() {
            keeper.set_current(None);
            keeper.transition(ConnectionState::Closing);
        }
        connection.drain(CLOSE_GRACE);
        let _ = link
            .wait_for(|link| matches!(link, LinkState::Closed(_)))
            .await;
        if let Some(keeper) = self.keeper.upgrade() {
            keeper.transition(ConnectionState::Closed);
        }
        false
    }

    /// After an attempt has failed or a connection has ended: waits as long as it has to. False if
    /// the client is to be closed.
    async fn after(&mut self, keeper: Arc<Keeper>, failed: Failed) -> bool {
        let Failed { reason, how } = failed;
        connections::no_connection(&keeper.endpoint, &reason);
        let now = clock::now();
        let next = self.reconnect.ended(now, how);
        let (failures, since) = (self.reconnect.failures(), self.reconnect.failing_since());
        match next {
            Next::Now => {
                keeper.trouble().ended(reason);
                keeper.transition(ConnectionState::Closing);
                keeper.transition(ConnectionState::Closed);
                true
            }
            Next::Wait(pause) => {
                keeper.trouble().failed(reason, failures, since);
                self.pause(keeper, pause, now).await
            }
            Next::GiveUp => {
                let mut trouble = keeper.trouble();
                trouble.failed(reason, failures, since);
                trouble.end("the client has given up, as give_up_after says");
                drop(trouble);
                keeper.closing.send_replace(true);
                close_now(&keeper);
                false
            }
        }
    }

    /// Waits for the next attempt. False if the client is to be closed.
    async fn pause(&mut self, keeper: Arc<Keeper>, pause: Pause, now: Time) -> bool {
        keeper.trouble().waits_until(now + pause.wait);
        // What callers of earlier states have asked for is done. This comes before the new state is
        // shown: whoever comes on account of that counts.
        let _ = tokio::time::timeout(Duration::ZERO, keeper.wanted.notified()).await;
        let was_offline = *keeper.state.borrow() == ConnectionState::Offline;
        if !(was_offline && pause.is_offline) {
            if was_offline {
                keeper.transition(ConnectionState::Connecting);
            }
            keeper.transition(ConnectionState::Error);
        }
        if pause.is_offline && !was_offline {
            keeper.transition(ConnectionState::Offline);
        }
        let try_now = Arc::clone(&keeper.try_now);
        let wanted = Arc::clone(&keeper.wanted);
        let is_wanted = !pause.is_offline && keeper.pending.load(Ordering::Relaxed) > 0;
        // As above: while this task waits, only clients hold the keeper.
        drop(keeper);
        let called = async {
            let Some(on_call) = pause.on_call else {
                return std::future::pending().await;
            };
            if !is_wanted {
                wanted.notified().await;
            }
            tokio::time::sleep_until(clock::instant(now + on_call)).await;
        };
        let is_closing = tokio::select! {
            () = tokio::time::sleep(pause.wait) => false,
            () = called => false,
            () = try_now.notified() => {
                self.reconnect.reset();
                false
            }
            _ = self.closing.wait_for(|closing| *closing) => true,
        };
        if is_closing && let Some(keeper) = self.keeper.upgrade() {
            close_now(&keeper);
        }
        !is_closing
    }
}

impl Drop for Keeping {
    /// The task ends early if its runtime is gone or a transport has panicked. Nobody dials any
    /// more then, so callers are told instead of waiting in vain.
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.upgrade() {
            keeper
                .trouble()
                .end("the runtime that the client was made on has ended");
            keeper.closing.send_replace(true);
            close_now(&keeper);
        }
    }
}

/// Closed without a connection to finish.
fn close_now(keeper: &Keeper) {
    keeper.set_current(None);
    let state = *keeper.state.borrow();
    if state != ConnectionState::Closed {
        if state != ConnectionState::Closing {
            keeper.transition(ConnectionState::Closing);
        }
        keeper.transition(ConnectionState::Closed);
    }
}

/// Dials and opens a connection, all within [`ClientConfig::connect_timeout`].
async fn attempt(keeper: &Keeper) -> Result<Opened, Failed> {
    let is_dialled = AtomicBool::new(false);
    let opening = async {
        let (driver, mut link) = dial(keeper).await?;
        is_dialled.store(true, Ordering::Relaxed);
        let connection = Arc::clone(driver.connection());
        tokio::spawn(driver);
        // An attempt that is given up takes its connection with it.
        let guard = Unopened(Some(Arc::clone(&connection)));
        let opened = link
            .wait_for(|link| !matches!(link, LinkState::Opening))
            .await;
        match opened.map(|link| link.clone()) {
            Ok(LinkState::Closed(reason)) => Err(Failed::from(reason)),
            Ok(_) => {
                guard.opened();
                Ok((connection, link))
            }
            Err(_) => Err(Failed::from(CloseReason::Local)),
        }
    };
    let timeout = keeper.config.connect_timeout;
    let opened = tokio::time::timeout(timeout, opening).await;
    opened.unwrap_or_else(|_| {
        let endpoint = &keeper.endpoint;
        // Whether nobody is there or somebody is who speaks something else are two searches.
        let reason = if is_dialled.load(Ordering::Relaxed) {
            format!("{endpoint} took the connection, but has not opened it within {timeout:?}")
        } else {
            format!("no connection to {endpoint} within {timeout:?}")
        };
        let how = Ended::Failed;
        Err(Failed { reason, how })
    })
}

async fn dial(keeper: &Keeper) -> Result<(ConnectionDriver, watch::Receiver<LinkState>), Failed> {
    let stream = keeper.transport.dial(&keeper.endpoint).await;
    let stream = stream.map_err(|error| Failed {
        reason: error.to_string(),
        how: refused_if(error.retry() == Retry::Never),
    })?;
    let has_integrity = keeper.transport.has_integrity();
    let mut config = keeper.config.connection.session(has_integrity);
    config.has_heartbeat = keeper.endpoint.has_heartbeat();
    let now = clock::now();
    let dialect = keeper.endpoint.dialect(config.limits.max_dialect_payload);
    // A dialect has no place for it.
    if let (Some(source), None) = (&keeper.config.token, &dialect) {
        let credentials = token::credentials(source).await;
        let how = Ended::Failed;
        config.credentials = Some(credentials.map_err(|reason| Failed { reason, how })?);
    }
    let session = match dialect {
        None => Session::client(config, now),
        Some(dialect) => Session::dialect_client(config, dialect, now),
    };
    let (peer, preset) = (keeper.endpoint.to_string(), keeper.config.connection.preset);
    Ok(ConnectionDriver::client(stream, session, peer, preset))
}

/// Why there is no connection, and what kind of end that is.
struct Failed {
    reason: String,
    how: Ended,
}

/// An attempt that has failed, or one that is likely to fail again in the same way.
fn refused_if(is_lasting: bool) -> Ended {
    if is_lasting {
        Ended::Refused
    } else {
        Ended::Failed
    }
}

impl From<CloseReason> for Failed {
    fn from(reason: CloseReason) -> Self {
        Self {
            reason: reason.to_string(),
            how: refused_if(reason.retry() == Retry::Never),
        }
    }
}

/// A connection that is being opened. It is closed if the attempt is given up before it is open,
/// because nobody would ever use it.
struct Unopened(Option<Arc<Connection>>);

impl Unopened {
    fn opened(mut self) {
        self.0 = None;
    }
}

impl Drop for Unopened {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            connection.close(CloseReason::Local);
        }
    }
}
