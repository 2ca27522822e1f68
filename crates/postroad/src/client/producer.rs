//! Many one-way messages of one route, as fast as they can be handed over.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::limits::HEAD_BYTES;
use postroad_proto::policy::{Ending, Outcome};

use super::attempt::{Offered, Sent, offered, patiently};
use super::call_options::Hook;
use super::channel::{Channel, Lease};
use super::options::{BATCH_CALLS, SendOptions};
use crate::driver::Budget;
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
    channel: Channel,
    options: SendOptions,
    linger: Duration,
    /// The connection of the last message. The next goes there too as long as it is taken, so that
    /// messages stay in order.
    lease: Option<Lease>,
    /// Bytes queued since the driver had its turn to write. Without turns a fast sender would queue
    /// until the session refuses more, although the transport has room.
    since_turn: usize,
    /// The least urgent priority of messages before the present one that were not flushed. A flush
    /// has to wait for the least urgent of all, which leave last.
    lowest: u8,
    /// A task sleeps that will wake the driver for messages that linger; one serves all of them.
    is_timed: Arc<AtomicBool>,
}

impl Producer {
    pub(super) fn new(channel: Channel, hook: Option<Hook>, route: &str) -> Self {
        Self {
            options: SendOptions::new(route, channel.config().timeout, hook),
            linger: Duration::ZERO,
            lease: None,
            since_turn: 0,
            lowest: u8::MAX,
            is_timed: Arc::default(),
            channel,
        }
    }

    /// 0 to 7, 7 most urgent; more is taken for 7. Default 3.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.set_priority(priority);
        self
    }

    /// Time after which a message is of no use any more: a server that gets it later drops it.
    /// Default [`ClientConfig::timeout`](super::ClientConfig::timeout).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.set_timeout(timeout);
        self
    }

    /// Codec of the payloads by number; see [`crate::codec::numbers`]. Default raw bytes.
    #[must_use]
    pub fn codec(mut self, number: u8) -> Self {
        self.options.codec = number;
        self
    }

    /// Priority of the messages from here on; see [`Self::priority`].
    pub fn set_priority(&mut self, priority: u8) {
        if self.lease.is_some() {
            // Messages of the old priority may be unsent, and a flush has to wait for them too.
            self.lowest = self.lowest.min(self.options.priority);
        }
        self.options.priority = priority.min(7);
    }

    /// Deadline of the messages from here on; see [`Self::timeout`].
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.options.timeout = timeout;
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
        self.options.batch = bytes.max(1);
        self
    }

    /// Unsent bytes that go before a message, over which [`Self::send`] waits. Default 256 KiB.
    #[must_use]
    pub fn window(mut self, bytes: usize) -> Self {
        self.options.window = bytes.max(1);
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
        self.send_bytes(payload.into())
    }

    #[inline]
    async fn send_bytes(&mut self, payload: Bytes) -> Result<(), CallError> {
        self.options.run_hook();
        match self.send_now(&payload) {
            Ok(Sent::Now(())) => Ok(()),
            // Waiting is rare and needs much room. It has its memory elsewhere, because this future
            // is moved for every message.
            Ok(Sent::Wait | Sent::Full) => Box::pin(self.send_patiently(payload)).await,
            Err(error) => Err(*error),
        }
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
        let mut batch = Vec::with_capacity(BATCH_CALLS);
        let mut sent = 0;
        loop {
            // The batch is filled before the lock is taken: the iterator is the caller's code, and
            // it may use this connection.
            let mut bytes = 0;
            while batch.len() < BATCH_CALLS && bytes < self.turn_after() {
                let Some(message) = messages.next() else {
                    break;
                };
                bytes += message.len() + HEAD_BYTES;
                batch.push(message);
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.options.run_hook();
            let queued = self.queue_all(&batch);
            sent += queued;
            // A message that was not queued with the others is sent by itself: it has to wait, the
            // driver is to have its turn, or the message is wrong and the caller must know which.
            for message in batch.drain(..).skip(queued) {
                let result = self.send_bytes(message).await;
                result.map_err(|error| (sent, error))?;
                sent += 1;
            }
        }
    }

    /// Bytes after which the driver has its turn.
    #[inline]
    fn turn_after(&self) -> usize {
        self.options.batch.min(self.options.window)
    }

    /// Queues messages on the connection of the last one, without waiting; how many.
    fn queue_all(&mut self, messages: &[Bytes]) -> usize {
        let Some(lease) = &self.lease else {
            return 0;
        };
        if self.since_turn >= self.turn_after() {
            return 0;
        }
        let call = self.options.call(&messages[0], None);
        let is_hasty = self.linger.is_zero();
        let connection = lease.connection();
        let queued = connection.queue_all(&call, messages, self.budget(), is_hasty);
        if queued > 0 {
            if self.channel.has_listener() {
                (0..queued).for_each(|_| self.report_handed(lease));
            }
            let bytes = messages[..queued].iter().map(Bytes::len);
            self.since_turn += bytes.sum::<usize>() + queued * HEAD_BYTES;
            self.set_timer();
        }
        queued
    }

    /// Offers a message to a connection.
    #[inline]
    fn offer(&self, lease: &Lease, payload: &Bytes, budget: Budget) -> Offered<()> {
        let mut call = self.options.call(payload, None);
        let is_hasty = self.linger.is_zero();
        let result = lease.connection().queue(&mut call, budget, is_hasty);
        if result.is_ok() {
            self.report_handed(lease);
        }
        offered(&self.channel, lease, budget.timeout, result)
    }

    #[inline]
    fn report_handed(&self, lease: &Lease) {
        self.channel.finish(lease, || Outcome {
            ending: Ending::Handed,
            timing: None,
        });
    }

    /// Queues a message on the connection of the last one, if the driver need not have its turn.
    #[inline]
    fn send_now(&mut self, payload: &Bytes) -> Offered<()> {
        if self.since_turn >= self.turn_after() {
            return Ok(Sent::Wait);
        }
        let Some(lease) = &self.lease else {
            return Ok(Sent::Wait);
        };
        let sent = self.offer(lease, payload, self.budget())?;
        if let Sent::Now(()) = sent {
            self.since_turn += payload.len() + HEAD_BYTES;
            self.set_timer();
        }
        Ok(sent)
    }

    /// Lets the driver have its turn if it is time, and waits for a connection if there is none.
    async fn send_patiently(&mut self, payload: Bytes) -> Result<(), CallError> {
        if self.since_turn >= self.turn_after() {
            self.take_turns().await;
            match self.send_now(&payload) {
                Ok(Sent::Now(())) => return Ok(()),
                Ok(Sent::Wait | Sent::Full) => {}
                Err(error) => return Err(*error),
            }
        }
        let info = self.options.info(&self.options.route, false);
        let offer = |lease: Lease, budget| {
            Ok(match self.offer(&lease, &payload, budget)? {
                Sent::Now(()) => Sent::Now(lease),
                Sent::Wait => Sent::Wait,
                Sent::Full => Sent::Full,
            })
        };
        let lease = patiently(&self.channel, &info, self.budget(), offer).await?;
        self.lease = Some(lease);
        self.since_turn = payload.len() + HEAD_BYTES;
        // A timer that was set for another connection does not serve this one.
        self.is_timed = Arc::default();
        self.set_timer();
        Ok(())
    }

    #[inline]
    fn budget(&self) -> Budget {
        Budget::within(self.options.timeout, Time::NEVER)
    }

    /// Sees that messages which linger leave in time, whether more are sent or not.
    #[inline]
    fn set_timer(&self) {
        if self.linger.is_zero() || self.is_timed.swap(true, Ordering::AcqRel) {
            return;
        }
        let linger = self.linger;
        let lease = self.lease.clone();
        let is_timed = Arc::clone(&self.is_timed);
        tokio::spawn(async move {
            tokio::time::sleep(linger).await;
            // What is queued from here on needs a timer of its own.
            is_timed.store(false, Ordering::Release);
            if let Some(lease) = lease {
                lease.connection().wake_now();
            }
        });
    }

    /// Lets the driver write, and waits while too much is unsent.
    async fn take_turns(&mut self) {
        if let Some(lease) = &self.lease {
            let connection = lease.connection();
            connection.wake_now();
            tokio::task::yield_now().await;
            connection
                .room(self.options.window, self.options.priority)
                .await;
        }
        // Set back only now: a sender whose future is dropped while it waits has to wait again.
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
        let Some(lease) = &self.lease else {
            return Ok(());
        };
        lease.connection().wake_now();
        self.since_turn = 0;
        let lowest = self.lowest.min(self.options.priority);
        if lease.connection().room(0, lowest).await {
            self.lowest = u8::MAX;
            Ok(())
        } else {
            self.lease = None;
            Err(self.channel.not_connected())
        }
    }
}
