//! One connection to one endpoint, as its callers see it.
//!
//! Callers read the present connection without a lock; only those that find none wait, in bounded
//! number and time. The task in [`super::keeping`] dials and dials again.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use postroad_proto::Time;
use postroad_proto::policy::ConnectionState;
use tokio::sync::{Notify, watch};

use super::config::ClientConfig;
use super::trouble::Trouble;
use crate::clock;
use crate::driver::Connection;
use crate::endpoint::Endpoint;
use crate::error::CallError;
use crate::observe::connections;
use crate::transport::Transport;

/// How long calls in flight may take when a client is closed.
pub(super) const CLOSE_GRACE: Duration = Duration::from_secs(25);

/// One endpoint's connection, present or to come. It is the simplest thing that a channel can stand
/// on; a pool would hold several.
pub(super) struct Keeper {
    pub(super) endpoint: Endpoint,
    pub(super) config: ClientConfig,
    pub(super) transport: Arc<dyn Transport>,
    /// The connection that takes calls now. It is read for every call and replaced hardly ever.
    current: ArcSwapOption<Connection>,
    /// Whether there is one: of several servers each is asked, and only one of them is called.
    is_connected: AtomicBool,
    pub(super) state: watch::Sender<ConnectionState>,
    /// Why there is no connection, for the callers that are told so.
    pub(super) trouble: Mutex<Trouble>,
    /// Callers that wait for a connection.
    pub(super) pending: AtomicUsize,
    /// Somebody asks for an attempt at once.
    pub(super) try_now: Arc<Notify>,
    /// A caller has found no connection. It makes an attempt where waiting would not help: see
    /// [`postroad_proto::policy::Pause::on_call`].
    pub(super) wanted: Arc<Notify>,
    pub(super) closing: watch::Sender<bool>,
    /// Who wants to know of every change of the state: the fleet that this is a member of.
    news: Option<Arc<Notify>>,
}

impl Keeper {
    /// Without a connection, and with nobody who dials: see [`super::keeping::start`].
    pub(super) fn new(
        endpoint: Endpoint,
        config: ClientConfig,
        transport: Arc<dyn Transport>,
        news: Option<Arc<Notify>>,
    ) -> Self {
        let (closing, _) = watch::channel(false);
        Self {
            endpoint,
            config,
            transport,
            current: ArcSwapOption::empty(),
            is_connected: AtomicBool::new(false),
            state: watch::Sender::new(ConnectionState::Idle),
            trouble: Mutex::default(),
            pending: AtomicUsize::new(0),
            try_now: Arc::default(),
            wanted: Arc::default(),
            closing,
            news,
        }
    }

    pub(super) fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// Ends the pause before the next attempt, also if there would never be one.
    pub(super) fn try_now(&self) {
        self.try_now.notify_one();
    }

    pub(super) fn transition(&self, to: ConnectionState) {
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
        self.news.iter().for_each(|news| news.notify_waiters());
    }

    pub(super) fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, if there is one now.
    #[inline]
    pub(super) fn current(&self) -> Option<Arc<Connection>> {
        self.current.load_full()
    }

    /// Whether there is a connection now.
    #[inline]
    pub(super) fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed)
    }

    /// Replaces the connection, or takes it away.
    pub(super) fn set_current(&self, connection: Option<Arc<Connection>>) {
        let is_connected = connection.is_some();
        self.current.store(connection);
        self.is_connected.store(is_connected, Ordering::Release);
    }

    /// Whether attempts have failed since there was a connection last.
    pub(super) fn has_failed(&self) -> bool {
        self.trouble().has_failed()
    }

    /// Why there is no connection.
    pub(super) fn explain(&self) -> String {
        self.trouble().explain(clock::now())
    }

    /// Whether the connection's driver has something to do that it was woken for.
    pub(super) fn has_left(&self) -> bool {
        let current = self.current.load();
        current
            .as_ref()
            .is_some_and(|connection| connection.has_left())
    }

    /// Whether no connection will ever follow: the client was closed, its runtime has ended, or it
    /// has given up as it was told to.
    pub(super) fn has_ended(&self) -> bool {
        *self.closing.borrow()
    }

    pub(super) fn not_connected(&self) -> CallError {
        let mut state = *self.state.borrow();
        // A server that was drained closes the connection on its side; another is being dialled.
        // To a caller, `Closed` means that no connection will follow.
        let is_closed = matches!(state, ConnectionState::Closing | ConnectionState::Closed);
        if is_closed && !self.has_ended() {
            state = ConnectionState::Connecting;
        }
        CallError::NotConnected {
            endpoint: self.endpoint.to_string(),
            state,
            reason: self.trouble().explain(clock::now()),
        }
    }

    /// Waits for a connection, bounded in time and in the number of those who wait.
    async fn connected(&self, deadline: Time) -> Result<Arc<Connection>, CallError> {
        let before = self.pending.fetch_add(1, Ordering::Relaxed);
        let _pending = Pending(&self.pending);
        let max = self.config.connection.limits.max_calls;
        if before >= max {
            let text = format!(
                "{max} callers wait for a connection to {} already, as many as max_calls allows",
                self.endpoint
            );
            return Err(CallError::Busy(text));
        }
        self.wanted.notify_one();
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
                    (ConnectionState::Closing | ConnectionState::Closed, _) if self.has_ended() => {
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
    async fn wait_for_end(&self, connection: &Arc<Connection>, deadline: Time) {
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

    /// Ready when the first attempt has succeeded or failed, which is within
    /// [`ClientConfig::connect_timeout`].
    pub(super) async fn first_attempt(&self) -> Result<(), CallError> {
        let mut state = self.state.subscribe();
        loop {
            // The second attempt may have begun before anybody looks, so the state alone does not
            // tell that the first has failed.
            let now = *state.borrow_and_update();
            if now == ConnectionState::Connected {
                return Ok(());
            }
            let has_failed = self.trouble().has_failed();
            if has_failed || self.has_ended() || state.changed().await.is_err() {
                return Err(self.not_connected());
            }
        }
    }

    /// Begins to end the connection after the calls in flight.
    pub(super) fn begin_close(&self) {
        self.trouble().end("the client was closed");
        self.closing.send_replace(true);
    }

    pub(super) async fn close(&self) {
        self.begin_close();
        let mut state = self.state.subscribe();
        let _ = state
            .wait_for(|state| *state == ConnectionState::Closed)
            .await;
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
            self.keeper.wait_for_end(&ended, self.deadline).await;
        }
        let connection = match self.keeper.current() {
            Some(connection) => connection,
            None => self.keeper.connected(self.deadline).await?,
        };
        self.last = Some(Arc::clone(&connection));
        Ok(connection)
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
