//! Keeps one connection to one endpoint: dials, hands it to callers, and dials again when it ends.
//!
//! A task per client does the dialling ([`Keeping::run`]). It holds the [`Keeper`] weakly while it
//! waits, so that the connection ends when the last client is dropped, and not when the task does.
//! Callers read the present connection without a lock; only those that find none wait, in bounded
//! number and time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use postroad_proto::Time;
use postroad_proto::code::Retry;
use postroad_proto::policy::{ConnectionState, Reconnect};
use postroad_proto::session::{CloseReason, Session};
use tokio::sync::{Notify, watch};

use super::config::ClientConfig;
use crate::clock;
use crate::driver::{Connection, ConnectionDriver, LinkState};
use crate::endpoint::Endpoint;
use crate::error::CallError;
use crate::observe::connections;
use crate::transport::Transport;

/// How long calls in flight may take when a client is closed.
const CLOSE_GRACE: Duration = Duration::from_secs(25);

/// One endpoint's connection, present or to come. It is the simplest thing that a channel can stand
/// on; a pool would hold several.
pub(super) struct Keeper {
    pub(super) endpoint: Endpoint,
    pub(super) config: ClientConfig,
    transport: Arc<dyn Transport>,
    /// The connection that takes calls now. It is read for every call and replaced hardly ever.
    current: ArcSwapOption<Connection>,
    state: watch::Sender<ConnectionState>,
    /// Why there is no connection, for the callers that are told so.
    last_failure: Mutex<String>,
    /// Callers that wait for a connection.
    pending: AtomicUsize,
    try_now: Arc<Notify>,
    closing: watch::Sender<bool>,
}

/// What a task that keeps the link needs; it ends when the last client is dropped.
struct Keeping {
    keeper: std::sync::Weak<Keeper>,
    closing: watch::Receiver<bool>,
    reconnect: Reconnect,
}

impl Keeper {
    /// Starts to dial, on the runtime that is there.
    pub(super) fn start(
        endpoint: Endpoint,
        config: ClientConfig,
        transport: Arc<dyn Transport>,
    ) -> Arc<Self> {
        let reconnect = Reconnect::new(config.backoff.clone(), rand::random());
        let (closing, watcher) = watch::channel(false);
        let keeper = Arc::new(Self {
            endpoint,
            config,
            transport,
            current: ArcSwapOption::empty(),
            state: watch::Sender::new(ConnectionState::Idle),
            last_failure: Mutex::default(),
            pending: AtomicUsize::new(0),
            try_now: Arc::default(),
            closing,
        });
        let keeping = Keeping {
            keeper: Arc::downgrade(&keeper),
            closing: watcher,
            reconnect,
        };
        tokio::spawn(keeping.run());
        keeper
    }

    pub(super) fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// Ends the pause before the next attempt, also if there would never be one.
    pub(super) fn try_now(&self) {
        self.try_now.notify_one();
    }

    fn transition(&self, to: ConnectionState) {
        self.state.send_if_modified(|state| {
            let from = *state;
            match from.transition(to) {
                Ok(next) => {
                    connections::state(&self.endpoint, from, to);
                    *state = next;
                    true
                }
                Err(error) => {
                    connections::illegal_state(&self.endpoint, &error);
                    false
                }
            }
        });
    }

    fn failed(&self, reason: &str) {
        connections::no_connection(&self.endpoint, reason);
        reason.clone_into(
            &mut self
                .last_failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// The connection, if there is one now.
    #[inline]
    pub(super) fn current(&self) -> Option<Arc<Connection>> {
        self.current.load_full()
    }

    /// Whether the connection's driver has something to do that it was woken for.
    pub(super) fn has_left(&self) -> bool {
        let current = self.current.load();
        current
            .as_ref()
            .is_some_and(|connection| connection.has_left())
    }

    pub(super) fn not_connected(&self) -> CallError {
        CallError::NotConnected {
            endpoint: self.endpoint.to_string(),
            state: *self.state.borrow(),
            reason: self
                .last_failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }

    /// Waits for a connection, bounded in time and in the number of those who wait.
    async fn connected(&self, deadline: Time) -> Result<Arc<Connection>, CallError> {
        let before = self.pending.fetch_add(1, Ordering::Relaxed);
        let _pending = Pending(&self.pending);
        if before >= self.config.max_pending {
            let max = self.config.max_pending;
            let text = format!(
                "{max} callers wait for a connection to {} already",
                self.endpoint
            );
            return Err(CallError::Busy(text));
        }
        let until = deadline.min(clock::now() + self.config.max_wait);
        let mut state = self.state.subscribe();
        let wait = async {
            loop {
                let now = *state.borrow_and_update();
                match (now, self.current()) {
                    (_, Some(connection)) => return Ok(connection),
                    (ConnectionState::Offline, _) => break,
                    // If the client was closed on purpose, no connection follows. Otherwise the
                    // server has drained the last one, and another is being dialled.
                    (ConnectionState::Closing | ConnectionState::Closed, _)
                        if *self.closing.borrow() =>
                    {
                        break;
                    }
                    _ => {}
                }
                if state.changed().await.is_err() {
                    break;
                }
            }
            Err(self.not_connected())
        };
        match tokio::time::timeout_at(clock::instant(until), wait).await {
            Ok(result) => result,
            Err(_) => Err(self.not_connected()),
        }
    }

    /// Connections, one after the other, for a sender that has to send something until then.
    pub(super) fn connections(&self, deadline: Time) -> Connections<'_> {
        Connections {
            keeper: self,
            deadline,
            last: None,
        }
    }

    /// Ready when the keeper has noticed that this connection takes no calls any more, or at the
    /// deadline. The connections are compared, because another may have taken its place by then,
    /// and then the state is `Connected` as before.
    async fn has_ended(&self, connection: &Arc<Connection>, deadline: Time) {
        let mut state = self.state.subscribe();
        let is_it = |current: Arc<Connection>| Arc::ptr_eq(&current, connection);
        let ended = async {
            loop {
                state.borrow_and_update();
                if !self.current().is_some_and(is_it) || state.changed().await.is_err() {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout_at(clock::instant(deadline), ended).await;
    }

    /// Ready when the first attempt has succeeded or failed.
    pub(super) async fn first_attempt(&self) -> Result<(), CallError> {
        use ConnectionState::{Connected, Connecting, Idle};
        let mut state = self.state.subscribe();
        match state
            .wait_for(|state| !matches!(state, Idle | Connecting))
            .await
            .map(|state| *state)
        {
            Ok(Connected) => Ok(()),
            _ => Err(self.not_connected()),
        }
    }

    pub(super) async fn close(&self) {
        self.closing.send_replace(true);
        let mut state = self.state.subscribe();
        let _ = state
            .wait_for(|state| *state == ConnectionState::Closed)
            .await;
    }

    async fn dial(&self) -> Result<(ConnectionDriver, watch::Receiver<LinkState>), Failed> {
        let dial = self.transport.dial(&self.endpoint);
        let timeout = self.config.connect_timeout;
        let stream = match tokio::time::timeout(timeout, dial).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                return Err(Failed {
                    reason: error.to_string(),
                    retry: error.retry(),
                });
            }
            Err(_) => {
                let reason = format!("no connection to {} within {timeout:?}", self.endpoint);
                return Err(Failed {
                    reason,
                    retry: Retry::Here,
                });
            }
        };
        let mut config = self
            .config
            .connection
            .session(self.transport.has_integrity());
        config.has_heartbeat = self.endpoint.has_heartbeat();
        let now = clock::now();
        let session = match self.endpoint.dialect(config.limits.max_dialect_payload) {
            None => Session::client(config, now),
            Some(dialect) => Session::dialect_client(config, dialect, now),
        };
        let (peer, preset) = (self.endpoint.to_string(), self.config.connection.preset);
        Ok(ConnectionDriver::client(stream, session, peer, preset))
    }
}

/// See [`Keeper::connections`].
pub(super) struct Connections<'a> {
    keeper: &'a Keeper,
    deadline: Time,
    last: Option<Arc<Connection>>,
}

impl Connections<'_> {
    /// The connection, as soon as there is one; another than before, which has ended between being
    /// found and being used, so that nothing was sent on it.
    pub(super) async fn next(&mut self) -> Result<Arc<Connection>, CallError> {
        if let Some(ended) = self.last.take() {
            // The keeper may not know yet that it has ended, and would hand it out again at once.
            if clock::now() >= self.deadline {
                return Err(self.keeper.not_connected());
            }
            self.keeper.has_ended(&ended, self.deadline).await;
        }
        let connection = match self.keeper.current() {
            Some(connection) => connection,
            None => self.keeper.connected(self.deadline).await?,
        };
        self.last = Some(Arc::clone(&connection));
        Ok(connection)
    }
}

/// Why there is no connection, and whether another attempt can help.
struct Failed {
    reason: String,
    retry: Retry,
}

impl From<CloseReason> for Failed {
    fn from(reason: CloseReason) -> Self {
        Self {
            reason: reason.to_string(),
            retry: reason.retry(),
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

/// Counts a caller that waits for a connection, also if its future is dropped.
struct Pending<'a>(&'a AtomicUsize);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Keeper {
    /// The last client is gone, so nobody can make calls any more. Messages that were sent without
    /// waiting for an answer may still be on their way: the connection is drained, not closed.
    fn drop(&mut self) {
        if let Some(connection) = self.current.swap(None) {
            connection.drain(CLOSE_GRACE);
        }
    }
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
            keeper.transition(ConnectionState::Connecting);
            let attempt = async {
                let (driver, mut link) = keeper.dial().await?;
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
            let attempt = tokio::select! {
                attempt = attempt => attempt,
                _ = self.closing.wait_for(|closing| *closing) => return close_now(&keeper),
            };
            let goes_on = match attempt {
                Ok((connection, link)) => self.keep(keeper, connection, link).await,
                Err(failed) => self.pause(keeper, &failed).await,
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
        self.reconnect.succeeded();
        // A request to dial at once is fulfilled by now. Kept, it would skip the next pause.
        let _ = tokio::time::timeout(Duration::ZERO, keeper.try_now.notified()).await;
        keeper.current.store(Some(Arc::clone(&connection)));
        keeper.transition(ConnectionState::Connected);
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
        keeper.current.store(None);
        match ended {
            // The old connection finishes its calls while a new one is dialled.
            Ok(LinkState::Draining) | Ok(LinkState::Closed(CloseReason::Drained)) => {
                keeper.failed("the server is shutting down");
                keeper.transition(ConnectionState::Closing);
                keeper.transition(ConnectionState::Closed);
                true
            }
            Ok(LinkState::Closed(reason)) => self.pause(keeper, &Failed::from(reason)).await,
            _ => self.pause(keeper, &Failed::from(CloseReason::Local)).await,
        }
    }

    /// Closes on purpose: no new calls, those in flight are finished.
    async fn finish(&self, connection: &Connection, mut link: watch::Receiver<LinkState>) -> bool {
        if let Some(keeper) = self.keeper.upgrade() {
            keeper.current.store(None);
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

    /// After a failure: waits, or stays offline until somebody says otherwise. False if the client
    /// is to be closed.
    async fn pause(&mut self, keeper: Arc<Keeper>, failed: &Failed) -> bool {
        keeper.failed(&failed.reason);
        keeper.transition(ConnectionState::Error);
        // Versions that do not meet, for instance, do not meet the next time either.
        let wait = if failed.retry == Retry::Never {
            None
        } else {
            self.reconnect.failed()
        };
        if wait.is_none() {
            keeper.transition(ConnectionState::Offline);
        }
        let try_now = Arc::clone(&keeper.try_now);
        // As above: while this task waits, only clients hold the keeper.
        drop(keeper);
        let sleep = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        let is_closing = tokio::select! {
            () = sleep => false,
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
            keeper.closing.send_replace(true);
            close_now(&keeper);
        }
    }
}

/// Closed without a connection to finish.
fn close_now(keeper: &Keeper) {
    keeper.current.store(None);
    let state = *keeper.state.borrow();
    if state != ConnectionState::Closed {
        if state != ConnectionState::Closing {
            keeper.transition(ConnectionState::Closing);
        }
        keeper.transition(ConnectionState::Closed);
    }
}
