//! Many one-way messages of one route, as fast as they can be handed over.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::limits::HEAD_BYTES;
use postroad_proto::session::Failure;

use super::Client;
use super::prompt::{BATCH, Common, Prompt, Sending, TOGETHER, Unsent, WINDOW};
use crate::driver::{Budget, Connection};
use crate::error::CallError;

/// Sends one-way messages of one route, in order.
///
/// Messages leave together: those that were sent before the connection's driver runs are written
/// at once, so a lone message leaves without delay and a stream of them in large writes. With
/// [`Self::linger`] they wait for company first. A sender that is faster than the connection waits
/// in [`Self::send`], so nothing is dropped and nothing grows without bound.
///
/// ```
/// # async fn run(client: postroad::Client) -> Result<(), postroad::CallError> {
/// let mut ticks = client.producer("market/ticks").priority(5);
/// for price in [100_u32, 101, 99] {
///     ticks.send(price.to_le_bytes().to_vec()).await?;
/// }
/// ticks.flush().await
/// # }
/// ```
#[derive(Debug)]
pub struct Producer {
    client: Client,
    common: Common,
    linger: Duration,
    batch: usize,
    window: usize,
    /// The connection of the last message.
    connection: Option<Arc<Connection>>,
    /// Bytes sent since the driver had its turn.
    since_turn: usize,
    /// The least urgent priority before the present one of what was not flushed.
    lowest: u8,
    /// Somebody will wake the driver for those that linger.
    is_timed: Arc<AtomicBool>,
}

impl Producer {
    pub(super) fn new(client: Client, route: &str) -> Self {
        Self {
            common: Common::new(&client, route),
            linger: Duration::ZERO,
            batch: BATCH,
            window: WINDOW,
            connection: None,
            since_turn: 0,
            lowest: u8::MAX,
            is_timed: Arc::default(),
            client,
        }
    }

    /// 0 to 7, 7 most urgent; more is taken for 7. Default 3.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        let priority = priority.min(7);
        if self.connection.is_some() {
            // What was sent before is still to be flushed.
            self.lowest = self.lowest.min(self.common.priority);
        }
        self.common.priority = priority;
        self
    }

    /// Codec of the payloads by number; see [`crate::codec::numbers`]. Default raw bytes.
    #[must_use]
    pub fn codec(mut self, number: u8) -> Self {
        self.common.codec = number;
        self
    }

    /// Time after which a message is of no use any more: a server that gets it later drops it.
    /// Default [`ClientConfig::timeout`](super::ClientConfig::timeout).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.common.timeout = timeout;
        self
    }

    /// How long a message may wait for others. Default zero: it leaves as soon as the connection's
    /// driver runs.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Bytes after which the sender lets the driver write before it sends more, however long
    /// [`Self::linger`] is. Default 64 KiB.
    #[must_use]
    pub fn batch(mut self, bytes: usize) -> Self {
        self.batch = bytes.max(1);
        self
    }

    /// Unsent bytes that go before a message, over which [`Self::send`] waits. Default 256 KiB.
    #[must_use]
    pub fn window(mut self, bytes: usize) -> Self {
        self.window = bytes.max(1);
        self
    }

    /// Sends a message; waits while too much that goes before it is unsent, or there is no
    /// connection.
    ///
    /// When the future is ready, the message is queued behind those before it; nobody says whether
    /// it arrived. Cancellation safe: a message whose future was dropped before it was ready was
    /// not sent.
    ///
    /// # Errors
    /// If it cannot be sent. Messages that were queued on a connection that broke may be lost.
    #[inline]
    pub fn send(
        &mut self,
        payload: impl Into<Bytes>,
    ) -> impl Future<Output = Result<(), CallError>> + Send {
        Sending::new(self, payload.into())
    }

    /// Sends messages in their order as [`Self::send`] does, and takes the connection's lock once
    /// for each 32 of them, which is a good part of what a message costs.
    ///
    /// If the future is dropped before it is ready, some of the first were sent.
    ///
    /// # Errors
    /// How many were sent, and why the next was not; those behind it were not tried.
    pub async fn send_all(
        &mut self,
        messages: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), (usize, CallError)> {
        let mut messages = messages.into_iter();
        let (mut together, mut sent) = (Vec::with_capacity(TOGETHER), 0);
        loop {
            // Put together before there is a lock: whoever gives them may use the connection.
            let (mut bytes, most) = (0, self.batch.min(self.window));
            while together.len() < TOGETHER && bytes < most {
                let Some(message) = messages.next() else {
                    break;
                };
                bytes += message.len() + HEAD_BYTES;
                together.push(message);
            }
            if together.is_empty() {
                return Ok(());
            }
            let queued = self.queue_all(&together);
            sent += queued;
            // One by one where there is trouble, or the driver is to have its turn.
            for message in together.drain(..).skip(queued) {
                let one = match self.send_at_once(&message) {
                    Err(Unsent::MustWait) => self.send_patiently(message).await,
                    Err(Unsent::Failed(error)) => Err(*error),
                    Ok(()) => Ok(()),
                };
                one.map_err(|error| (sent, error))?;
                sent += 1;
            }
        }
    }

    /// Queues messages on the connection of the last, without waiting; how many.
    fn queue_all(&mut self, messages: &[Bytes]) -> usize {
        let Some(connection) = &self.connection else {
            return 0;
        };
        if self.since_turn >= self.batch.min(self.window) {
            return 0;
        }
        let (call, budget) = (self.common.call(&messages[0], None), self.budget());
        let queued = connection.queue_all(&call, messages, budget, self.linger.is_zero());
        if queued > 0 {
            let bytes = messages[..queued].iter().map(Bytes::len);
            self.since_turn += bytes.sum::<usize>() + queued * HEAD_BYTES;
            self.set_timer();
        }
        queued
    }

    /// Queues a message on a connection.
    #[inline]
    fn queue(
        &self,
        connection: &Connection,
        payload: &Bytes,
        budget: Budget,
    ) -> Result<(), Failure> {
        let mut call = self.common.call(payload, None);
        connection.queue(&mut call, budget, self.linger.is_zero())
    }

    #[inline]
    fn budget(&self) -> Budget {
        Budget::within(self.common.timeout, Time::NEVER)
    }

    /// Sees that messages which linger leave in time, whether more are sent or not.
    #[inline]
    fn set_timer(&self) {
        if self.linger.is_zero() || self.is_timed.swap(true, Ordering::AcqRel) {
            return;
        }
        let (linger, connection) = (self.linger, self.connection.clone());
        let is_timed = Arc::clone(&self.is_timed);
        tokio::spawn(async move {
            tokio::time::sleep(linger).await;
            // What is queued from here on needs a timer of its own.
            is_timed.store(false, Ordering::Release);
            connection
                .iter()
                .for_each(|connection| connection.wake_now());
        });
    }

    /// Lets the driver write, and waits while too much is unsent.
    async fn take_turns(&mut self) {
        if let Some(connection) = &self.connection {
            connection.wake_now();
            tokio::task::yield_now().await;
            let priority = self.common.priority;
            connection.room(self.window, priority).await;
        }
        // Only now: who gave up waiting has to wait again.
        self.since_turn = 0;
    }

    /// Waits until everything that was sent is handed to the transport.
    ///
    /// Cancellation safe.
    ///
    /// # Errors
    /// If the connection of the last message ended before: those that were not handed over are
    /// lost.
    pub async fn flush(&mut self) -> Result<(), CallError> {
        let Some(connection) = &self.connection else {
            return Ok(());
        };
        connection.wake_now();
        self.since_turn = 0;
        let lowest = self.lowest.min(self.common.priority);
        if connection.room(0, lowest).await {
            self.lowest = u8::MAX;
            Ok(())
        } else {
            self.connection = None;
            Err(self.client.keeper.not_connected())
        }
    }
}

impl Prompt for Producer {
    type Item = Bytes;

    #[inline]
    fn send_at_once(&mut self, payload: &Bytes) -> Result<(), Unsent> {
        if self.since_turn >= self.batch.min(self.window) {
            return Err(Unsent::MustWait);
        }
        let connection = self.connection.as_ref().ok_or(Unsent::MustWait)?;
        self.queue(connection, payload, self.budget())
            .map_err(|failure| Unsent::of(failure, self.common.timeout))?;
        self.since_turn += payload.len() + HEAD_BYTES;
        self.set_timer();
        Ok(())
    }

    async fn send_patiently(&mut self, payload: Bytes) -> Result<(), CallError> {
        if self.since_turn >= self.batch.min(self.window) {
            self.take_turns().await;
            match self.send_at_once(&payload) {
                Ok(()) => return Ok(()),
                Err(Unsent::Failed(error)) => return Err(*error),
                Err(Unsent::MustWait) => {}
            }
        }
        let (budget, deadline) = self.budget().starting_now();
        let mut connections = self.client.keeper.connections(deadline);
        let connection = loop {
            let connection = connections.next().await?;
            match self.queue(&connection, &payload, budget) {
                Err(Failure::NotOpen) => {}
                Err(failure) => return Err(CallError::from_failure(failure, budget.timeout)),
                Ok(()) => break connection,
            }
        };
        self.connection = Some(connection);
        self.since_turn = payload.len() + HEAD_BYTES;
        // A timer that was set for another connection does not serve this one.
        self.is_timed = Arc::default();
        self.set_timer();
        Ok(())
    }
}
