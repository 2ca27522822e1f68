//! Many calls in flight from one task.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::limits::HEAD_BYTES;
use postroad_proto::session::{Call, Failure};
use postroad_proto::trace::Trace;

use super::Client;
use super::prompt::{BATCH, Common, Prompt, Sending, TOGETHER, Unsent, WINDOW};
use crate::clock;
use crate::context::CallContext;
use crate::driver::{Budget, Connection, PipeKey, PipelineAnswers};
use crate::error::CallError;
use crate::trace;

/// Makes many calls of one route from one task, and takes their answers as they come.
///
/// A call by [`Client::request`] is a future: to have many in flight takes many tasks, which are
/// woken one by one. A pipeline's calls have a number in place of a task: those that were made
/// since answers were waited for last leave together, and answers that came together are taken
/// together. That is a third fewer instructions at this end, and less still on many threads, so
/// gateways, batch jobs and load generators use it; deadlines, priorities and limits are as for any
/// other call.
///
/// ```
/// # async fn run(client: postroad::Client) -> Result<(), postroad::CallError> {
/// let mut squares = client.pipeline("math/square").priority(5);
/// for n in 0..100_u64 {
///     squares.call(n, n.to_le_bytes().to_vec()).await?;
/// }
/// while let Some((n, answer)) = squares.next().await {
///     println!("the square of {n}: {:?}", answer?);
/// }
/// # Ok(())
/// # }
/// ```
///
/// Dropping it cancels the calls that are in flight; the server is told. If it is made by a
/// handler, its calls end no later than the handler's own, and have its priority and trace.
#[derive(Debug)]
pub struct Pipeline {
    client: Client,
    common: Common,
    limit: Time,
    /// The trace of the handler that has made it.
    parent: Option<Trace>,
    /// The connections that calls are in flight on; the last takes new ones.
    links: Vec<Link>,
    /// Answers that were taken off a connection, and nobody has asked for yet.
    arrivals: PipelineAnswers,
    in_flight: usize,
    /// Bytes of calls since the driver had its turn and there was room, by priority.
    since_turn: [usize; 8],
    /// Answers came since then.
    has_moved: bool,
    /// Who waits for answers on these connections: also another that joins them has to know.
    waiting: Option<Waker>,
}

/// A pipeline's part of a connection.
#[derive(Debug)]
struct Link {
    connection: Arc<Connection>,
    pipe: PipeKey,
    in_flight: usize,
    /// There are calls that the driver does not know of.
    has_fresh: bool,
}

impl Link {
    fn new(connection: Arc<Connection>) -> Self {
        Self {
            pipe: connection.open_pipe(),
            connection,
            in_flight: 0,
            has_fresh: false,
        }
    }

    #[inline]
    fn call(&mut self, call: &mut Call<'_>, budget: Budget, tag: u64) -> Result<(), Failure> {
        self.connection.pipe(call, budget, self.pipe, tag)?;
        self.in_flight += 1;
        self.has_fresh = true;
        Ok(())
    }

    fn call_all(&mut self, call: &Call<'_>, calls: &[(u64, &Bytes)], budget: Budget) -> usize {
        let made = self.connection.pipe_all(call, calls, budget, self.pipe);
        self.in_flight += made;
        self.has_fresh |= made > 0;
        made
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connection.close_pipe(self.pipe);
    }
}

impl Pipeline {
    pub(super) fn new(client: Client, route: &str) -> Self {
        let context = CallContext::current();
        let mut common = Common::new(&client, route);
        if let Some(context) = &context {
            common.priority = context.priority;
        }
        Self {
            common,
            limit: context.map_or(Time::NEVER, |context| context.deadline),
            parent: context.and_then(|context| context.trace),
            links: Vec::new(),
            arrivals: PipelineAnswers::default(),
            in_flight: 0,
            since_turn: [0; 8],
            has_moved: false,
            waiting: None,
            client,
        }
    }

    /// 0 to 7, 7 most urgent; more is taken for 7. Default 3.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.set_priority(priority);
        self
    }

    /// The deadline of each call, from when it is made. Default
    /// [`ClientConfig::timeout`](super::ClientConfig::timeout).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.set_timeout(timeout);
        self
    }

    /// Codec of the payloads by number; see [`crate::codec::numbers`]. Default raw bytes.
    #[must_use]
    pub fn codec(mut self, number: u8) -> Self {
        self.common.codec = number;
        self
    }

    /// Priority of the calls from here on.
    pub fn set_priority(&mut self, priority: u8) {
        self.common.priority = priority.min(7);
    }

    /// Deadline of the calls from here on.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.common.timeout = timeout;
    }

    /// Calls in flight, those included whose answers are there and were not taken.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Answers that are there: [`Self::next`] will not wait for so many.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.arrivals.len()
    }

    /// Makes a call, whose answer [`Self::next`] gives back with `tag`; tags need not differ. It
    /// leaves when [`Self::next`] has to wait, by [`Self::flush`], or with what others send. Waits
    /// if there is no connection, or more than 256 KiB are unsent that go before it; that is
    /// charged to its deadline.
    ///
    /// Cancellation safe: a call whose future was dropped before it was ready was not made.
    ///
    /// # Errors
    /// If the call cannot be made: then it was not, and no answer follows. So it is if as many are
    /// in flight as the client's [`Limits::max_calls`](crate::Limits) or the server's say, to the
    /// client's those included whose answers were not taken.
    #[inline]
    pub fn call(
        &mut self,
        tag: u64,
        payload: impl Into<Bytes>,
    ) -> impl Future<Output = Result<(), CallError>> + Send {
        Sending::new(self, (tag, payload.into()))
    }

    /// The same without waiting, for those who must not: without a connection, or if more is unsent
    /// than [`Limits::outbox_max`](crate::Limits) says, the call is not made. The payload stays the
    /// caller's, and is shared only if it is larger than a fragment.
    ///
    /// # Errors
    /// As [`Self::call`].
    #[inline]
    pub fn try_call(&mut self, tag: u64, payload: &Bytes) -> Result<(), CallError> {
        // Not `map_err`: that all is well should not have to travel through memory.
        match self.make(tag, payload, self.budget()) {
            Ok(()) => Ok(()),
            Err(Unsent::MustWait) => Err(self.client.keeper.not_connected()),
            Err(Unsent::Failed(error)) => Err(*error),
        }
    }

    /// Makes calls as [`Self::try_call`] does, in their order, and takes the connection's lock once
    /// for each 32 of them, which is a good part of what a call costs.
    ///
    /// # Errors
    /// How many were made, and why the next was not; those behind it were not tried.
    pub fn try_calls<'p>(
        &mut self,
        calls: impl IntoIterator<Item = (u64, &'p Bytes)>,
    ) -> Result<(), (usize, CallError)> {
        static NOTHING: Bytes = Bytes::new();
        let (mut calls, mut made) = (calls.into_iter(), 0);
        loop {
            // Put together before there is a lock: whoever gives them may use the connection.
            let (mut together, mut count) = ([(0, &NOTHING); TOGETHER], 0);
            for (place, call) in together.iter_mut().zip(&mut calls) {
                *place = call;
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            let (more, failed) = self.make_all(&together[..count]);
            made += more;
            if let Some(error) = failed {
                return Err((made, error));
            }
        }
    }

    fn make_all(&mut self, calls: &[(u64, &Bytes)]) -> (usize, Option<CallError>) {
        let max = self.client.keeper.config.connection.limits.max_calls;
        let budget = self.budget();
        let room = calls.len().min(max.saturating_sub(self.in_flight));
        let mut made = 0;
        // Where each has a trace of its own, or there is trouble, they are made one by one.
        if room > 0
            && trace::of_call(self.parent.as_ref()).is_none()
            && let Some(link) = self.links.last_mut()
        {
            let call = self.common.call(calls[0].1, None);
            made = link.call_all(&call, &calls[..room], budget);
            let bytes = calls[..made].iter().map(|(_, payload)| payload.len());
            let bytes = bytes.sum::<usize>() + made * HEAD_BYTES;
            self.in_flight += made;
            self.since_turn[self.lane()] += bytes;
        }
        while let Some((tag, payload)) = calls.get(made) {
            match self.try_call(*tag, payload) {
                Ok(()) => made += 1,
                Err(error) => return (made, Some(error)),
            }
        }
        (made, None)
    }

    /// Makes the call on the connection that the last was made on, or on the one that has taken its
    /// place.
    #[inline]
    fn make(&mut self, tag: u64, payload: &Bytes, budget: Budget) -> Result<(), Unsent> {
        // An answer that nobody takes holds its part of a read buffer.
        if self.in_flight >= self.client.keeper.config.connection.limits.max_calls {
            return Err(Unsent::Failed(Box::new(self.full())));
        }
        // Whether all is well is decided at once: a failure is large, and to hand it on costs more.
        match self.make_on_last(tag, payload, budget) {
            Ok(()) => Ok(()),
            Err(failure) => self.make_on_next(failure, tag, payload, budget),
        }
    }

    /// Makes the call on the connection that has taken the last one's place, if it has ended.
    #[cold]
    fn make_on_next(
        &mut self,
        failure: Failure,
        tag: u64,
        payload: &Bytes,
        budget: Budget,
    ) -> Result<(), Unsent> {
        let made = match failure {
            Failure::NotOpen if self.follow() => self.make_on_last(tag, payload, budget),
            failure => Err(failure),
        };
        made.map_err(|failure| Unsent::of(failure, budget.timeout))
    }

    #[cold]
    fn full(&self) -> CallError {
        let Self { in_flight, .. } = self;
        CallError::Busy(format!(
            "{in_flight} calls are in flight or have answers that were not taken, as many as this \
             client keeps"
        ))
    }

    /// The time that a call has; every wait is charged to it.
    #[inline]
    fn budget(&self) -> Budget {
        Budget::within(self.common.timeout, self.limit)
    }

    #[inline]
    fn make_on_last(&mut self, tag: u64, payload: &Bytes, budget: Budget) -> Result<(), Failure> {
        let link = self.links.last_mut().ok_or(Failure::NotOpen)?;
        let trace = trace::of_call(self.parent.as_ref());
        let mut call = self.common.call(payload, trace.as_deref());
        link.call(&mut call, budget, tag)?;
        self.in_flight += 1;
        self.since_turn[self.lane()] += payload.len() + HEAD_BYTES;
        Ok(())
    }

    /// Turns to the client's connection, if that is another than before.
    #[cold]
    fn follow(&mut self) -> bool {
        let Some(connection) = self.client.keeper.current() else {
            return false;
        };
        let last = self.links.last();
        if last.is_some_and(|last| Arc::ptr_eq(&last.connection, &connection)) {
            return false;
        }
        self.links.retain(|link| link.in_flight > 0);
        self.links.push(Link::new(connection));
        self.waiting.take().into_iter().for_each(Waker::wake);
        true
    }

    /// Lets the driver write, and waits while too much is unsent.
    async fn take_turns(&mut self) {
        self.flush();
        tokio::task::yield_now().await;
        if let Some(link) = self.links.last() {
            link.connection.room(WINDOW, self.common.priority).await;
        }
        // Only now: who gave up waiting has to wait again.
        let lane = self.lane();
        self.since_turn[lane] = 0;
    }

    /// Where the bytes of calls with the present priority are counted: an urgent call that finds
    /// room says nothing about bulk.
    #[inline]
    fn lane(&self) -> usize {
        usize::from(self.common.priority & 7)
    }

    /// Sees that what was called leaves soon, whether answers are waited for or not.
    pub fn flush(&mut self) {
        for link in &mut self.links {
            if std::mem::take(&mut link.has_fresh) {
                link.connection.wake_now();
            }
        }
    }

    /// Waits for the next answer, in the order in which they come: a call's tag, and its answer or
    /// why there is none. `None` if no call is in flight.
    ///
    /// Cancellation safe.
    #[inline]
    pub async fn next(&mut self) -> Option<(u64, Result<Bytes, CallError>)> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Self::next`] for those who write futures by hand.
    #[inline]
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(u64, Result<Bytes, CallError>)>> {
        loop {
            if self.arrivals.len() > 0 {
                self.in_flight -= 1;
                if trace::is_watched() {
                    self.observe();
                }
                // Not looked at any more: what is moved right after it was stored has to wait.
                return Poll::Ready(self.arrivals.take());
            }
            if self.in_flight == 0 {
                return Poll::Ready(None);
            }
            ready!(self.poll_links(cx));
        }
    }

    /// Takes what has come from any connection.
    fn poll_links(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Whoever always finds an answer must not keep the driver from writing.
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        for link in &mut self.links {
            let (pipe, into) = (link.pipe, &mut self.arrivals);
            let polled = link
                .connection
                .poll_pipe(pipe, into, &mut link.has_fresh, cx.waker());
            if polled.is_ready() {
                link.in_flight -= self.arrivals.len();
                coop.made_progress();
                self.has_moved = true;
                return Poll::Ready(());
            }
        }
        // The driver has its turn now. Where nothing is answered there is no room, and where only
        // urgent calls are there need not be room for bulk.
        if std::mem::take(&mut self.has_moved)
            && let Some(link) = self.links.last()
            && link.connection.has_room(WINDOW)
        {
            self.since_turn = [0; 8];
        }
        match &mut self.waiting {
            Some(waiting) => waiting.clone_from(cx.waker()),
            None => self.waiting = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    #[cold]
    fn observe(&self) {
        let Some((tag, error)) = self.arrivals.peek() else {
            return;
        };
        let error = error.map(tracing::field::display);
        let endpoint = self.client.endpoint();
        tracing::debug!(
            target: "postroad::call", %endpoint, route = self.common.route, tag, error, "called"
        );
    }
}

impl Prompt for Pipeline {
    type Item = (u64, Bytes);

    #[inline]
    fn send_at_once(&mut self, (tag, payload): &(u64, Bytes)) -> Result<(), Unsent> {
        if self.since_turn[self.lane()] >= BATCH {
            return Err(Unsent::MustWait);
        }
        self.make(*tag, payload, self.budget())
    }

    async fn send_patiently(&mut self, (tag, payload): (u64, Bytes)) -> Result<(), CallError> {
        let (budget, deadline) = self.budget().starting_now();
        let timeout = budget.timeout;
        if self.since_turn[self.lane()] >= BATCH {
            let turns = tokio::time::timeout_at(clock::instant(deadline), self.take_turns());
            if turns.await.is_err() {
                let sent = false;
                return Err(CallError::Deadline { timeout, sent });
            }
        }
        let client = self.client.clone();
        let mut connections = client.keeper.connections(deadline);
        loop {
            match self.make(tag, &payload, budget) {
                Ok(()) => return Ok(()),
                Err(Unsent::Failed(error)) => return Err(*error),
                Err(Unsent::MustWait) => {}
            }
            connections.next().await?;
        }
    }
}
