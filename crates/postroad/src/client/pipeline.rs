//! Many calls in flight from one task.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::limits::HEAD_BYTES;
use postroad_proto::policy::{Ending, Outcome, Timing};
use postroad_proto::session::{Call, Failure};
use postroad_proto::trace::Trace;

use super::attempt::{Offered, Sent, offered, patiently};
use super::call_options::Hook;
use super::channel::{Channel, Lease, ending};
use super::options::{BATCH_CALLS, SendOptions};
use crate::clock;
use crate::context::Inherited;
use crate::driver::{Budget, PipeKey, PipedFailure, PipelineAnswers};
use crate::error::CallError;
use crate::observe::{calls, trace};

/// Calls that go to one server before another is picked, if there are several: those that leave
/// together cost less.
const SPREAD: usize = 16;

/// Makes many calls of one route from one task, and takes their answers as they come.
///
/// A call by [`Client::request`](crate::Client::request) is a future: to have many in flight takes
/// many tasks, which are woken one by one. A pipeline's calls have a number in place of a task:
/// those that were made since answers were waited for last leave together, and answers that came
/// together are taken together. That is a third fewer instructions at this end, and less still on
/// many threads, so gateways, batch jobs and load generators use it; deadlines, priorities and
/// limits are as for any other call.
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
    channel: Channel,
    options: SendOptions,
    /// When the handler that has made the pipeline must have answered, if one has.
    limit: Time,
    /// The trace of the handler that has made it.
    parent: Option<Trace>,
    /// The connections that calls are in flight on; the last takes new ones.
    lanes: Vec<Lane>,
    /// Answers that were taken off a connection, and nobody has asked for yet.
    answers: PipelineAnswers,
    /// Calls in flight on all lanes, and answers that were not taken.
    in_flight: usize,
    /// Calls that the last lane still gets before the next server is picked.
    spread: usize,
    /// Bytes of calls since the driver had its turn and there was room, by priority: an urgent call
    /// that finds room says nothing about bulk.
    since_turn: [usize; 8],
    /// Answers came since then, which shows that the connection moves.
    has_moved: bool,
    /// Who waits for answers on these connections: also another that joins them has to know.
    waiting: Option<Waker>,
}

/// A pipeline's part of one connection.
///
/// To one endpoint, there is more than one only while a connection is being drained: its calls are
/// still answered there, and new ones go to the connection that has taken its place.
#[derive(Debug)]
struct Lane {
    lease: Lease,
    pipe: PipeKey,
    in_flight: usize,
    /// Calls were made that the driver was not woken for. It is woken once for all of them, when
    /// the task has nothing more to call.
    has_fresh: bool,
    /// One of its calls, and when it was made, if somebody wants to know how long calls take: to
    /// time each would cost each.
    timed: Option<(u64, Time)>,
}

impl Lane {
    fn new(lease: Lease) -> Self {
        Self {
            pipe: lease.connection().open_pipe(),
            lease,
            in_flight: 0,
            has_fresh: false,
            timed: None,
        }
    }

    /// A call was taken.
    #[inline]
    fn took_on(&mut self, channel: &Channel, tag: u64) {
        channel.began(&self.lease);
        if self.timed.is_none() {
            self.timed = channel.begins().map(|began| (tag, began));
        }
    }

    /// How long a call took that has ended, if it is the one that is timed.
    fn time(&mut self, tag: u64) -> Option<Timing> {
        let (_, began) = self.timed.take_if(|(timed, _)| *timed == tag)?;
        let took = clock::now().since(began);
        Some(Timing { began, took })
    }

    #[inline]
    fn call(&mut self, call: &mut Call<'_>, budget: Budget, tag: u64) -> Result<(), Failure> {
        let connection = self.lease.connection();
        connection.pipe(call, budget, self.pipe, tag)?;
        self.in_flight += 1;
        self.has_fresh = true;
        Ok(())
    }

    fn call_all(&mut self, call: &Call<'_>, calls: &[(u64, &Bytes)], budget: Budget) -> usize {
        let connection = self.lease.connection();
        let made = connection.pipe_all(call, calls, budget, self.pipe);
        self.in_flight += made;
        self.has_fresh |= made > 0;
        made
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.lease.connection().close_pipe(self.pipe);
    }
}

impl Pipeline {
    pub(super) fn new(channel: Channel, hook: Option<Hook>, route: &str) -> Self {
        let context = Inherited::current();
        let mut options = SendOptions::new(route, channel.config().timeout, hook);
        if let Some(context) = &context {
            options.priority = context.priority;
            options.no_retry = context.no_retry;
        }
        Self {
            options,
            limit: context.map_or(Time::NEVER, |context| context.deadline),
            parent: context.and_then(|context| context.trace),
            lanes: Vec::new(),
            answers: PipelineAnswers::default(),
            in_flight: 0,
            spread: 0,
            since_turn: [0; 8],
            has_moved: false,
            waiting: None,
            channel,
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
        self.options.codec = number;
        self
    }

    /// Bytes of calls after which [`Self::call`] lets the driver write before it makes more.
    /// Default 64 KiB.
    #[must_use]
    pub fn batch(mut self, bytes: usize) -> Self {
        self.options.batch = bytes.max(1);
        self
    }

    /// Unsent bytes that go before a call, over which [`Self::call`] waits. Default 256 KiB.
    #[must_use]
    pub fn window(mut self, bytes: usize) -> Self {
        self.options.window = bytes.max(1);
        self
    }

    /// Priority of the calls from here on; see [`Self::priority`].
    pub fn set_priority(&mut self, priority: u8) {
        self.options.priority = priority.min(7);
    }

    /// Deadline of the calls from here on; see [`Self::timeout`].
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.options.timeout = timeout;
    }

    /// Calls in flight, those included whose answers are there and were not taken.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Answers that are there: [`Self::next`] will not wait for so many.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.answers.len()
    }

    /// Makes a call, whose answer [`Self::next`] gives back with `tag`; tags need not differ. It
    /// leaves when [`Self::next`] has to wait, by [`Self::flush`], or with what others send. Waits
    /// if there is no connection, or more is unsent before it than [`Self::window`] says; that is
    /// charged to its deadline.
    ///
    /// Cancellation safe: a call whose future was dropped before it was ready was not made.
    ///
    /// # Errors
    /// If the call cannot be made: then it was not, and no answer follows. So it is if as many are
    /// in flight as the client's [`max_calls`](crate::config::Limits) or the server's say, to the
    /// client's those included whose answers were not taken.
    #[inline]
    pub fn call(
        &mut self,
        tag: u64,
        payload: impl Into<Bytes>,
    ) -> impl Future<Output = Result<(), CallError>> + Send {
        self.call_bytes(tag, payload.into())
    }

    /// The same without waiting, for those who must not: without a connection, or if more is unsent
    /// than [`outbox_max`](crate::config::Limits) says, the call is not made. The payload stays the
    /// caller's, and is shared only if it is larger than a fragment.
    ///
    /// # Errors
    /// As [`Self::call`].
    #[inline]
    pub fn try_call(&mut self, tag: u64, payload: &Bytes) -> Result<(), CallError> {
        self.options.run_hook();
        // Not `map_err`, which hands the large `Result` on through memory also where all is well.
        match self.call_now(tag, payload, self.budget()) {
            Ok(Sent::Now(())) => Ok(()),
            Ok(Sent::Wait) => Err(self.channel.not_connected()),
            Ok(Sent::Full) => Err(*self.full()),
            Err(error) => Err(*error),
        }
    }

    #[inline]
    async fn call_bytes(&mut self, tag: u64, payload: Bytes) -> Result<(), CallError> {
        self.options.run_hook();
        let must_turn = self.since_turn[self.at_priority()] >= self.options.batch;
        let sent = match must_turn {
            true => Ok(Sent::Wait),
            false => self.call_now(tag, &payload, self.budget()),
        };
        match sent {
            Ok(Sent::Now(())) => Ok(()),
            // Waiting is rare and needs much room. It has its memory elsewhere, because this future
            // is moved for every call.
            Ok(Sent::Wait | Sent::Full) => Box::pin(self.call_patiently(tag, payload)).await,
            Err(error) => Err(*error),
        }
    }

    /// Lets the driver have its turn if it is time, and waits for a connection if there is none.
    async fn call_patiently(&mut self, tag: u64, payload: Bytes) -> Result<(), CallError> {
        let (budget, deadline) = self.budget().starting_now();
        if self.since_turn[self.at_priority()] >= self.options.batch {
            let turns = tokio::time::timeout_at(clock::instant(deadline), self.take_turns());
            if turns.await.is_err() {
                return Err(CallError::Deadline {
                    timeout: budget.timeout,
                    sent: false,
                });
            }
        }
        // Its own handle, because offering a call changes the pipeline.
        let channel = self.channel.clone();
        let route = Arc::clone(&self.options.route);
        let info = self.options.info(&route, true);
        let offer = |lease, budget| {
            self.follow(lease);
            self.call_now(tag, &payload, budget)
        };
        patiently(&channel, &info, budget, offer).await
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
        let mut calls = calls.into_iter();
        let mut made = 0;
        loop {
            // The batch is filled before the lock is taken: the iterator is the caller's code, and
            // it may use this connection.
            let mut batch = [(0, &NOTHING); BATCH_CALLS];
            let mut count = 0;
            for (place, call) in batch.iter_mut().zip(&mut calls) {
                *place = call;
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            let (more, failed) = self.make_all(&batch[..count]);
            made += more;
            if let Some(error) = failed {
                return Err((made, error));
            }
        }
    }

    fn make_all(&mut self, calls: &[(u64, &Bytes)]) -> (usize, Option<CallError>) {
        let max = self.channel.config().connection.limits.max_calls;
        let budget = self.budget();
        if self.spread == 0
            && let Err(error) = self.spread()
        {
            return (0, Some(*error));
        }
        let room = calls.len().min(max.saturating_sub(self.in_flight));
        let room = room.min(self.spread);
        let mut made = 0;
        // Calls with a trace of their own are made one by one, because those that share a lock
        // share everything but their payload.
        if room > 0
            && trace::of_call(self.parent.as_ref()).is_none()
            && let Some(lane) = self.lanes.last_mut()
        {
            self.options.run_hook();
            let call = self.options.call(calls[0].1, None);
            made = lane.call_all(&call, &calls[..room], budget);
            if self.channel.fleet().is_some() {
                calls[..made]
                    .iter()
                    .for_each(|(tag, _)| lane.took_on(&self.channel, *tag));
                self.spread = self.spread.saturating_sub(made);
            }
            let bytes = calls[..made].iter().map(|(_, payload)| payload.len());
            let bytes = bytes.sum::<usize>() + made * HEAD_BYTES;
            self.in_flight += made;
            self.since_turn[self.at_priority()] += bytes;
        }
        // So is a call that was not made with the others, to learn why.
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
    fn call_now(&mut self, tag: u64, payload: &Bytes, budget: Budget) -> Offered<()> {
        // Answers that were not taken count too: each holds its part of a read buffer.
        if self.in_flight >= self.channel.config().connection.limits.max_calls {
            return Err(self.full());
        }
        if self.spread == 0 {
            self.spread()?;
        }
        match self.call_on_last(tag, payload, budget) {
            Ok(Sent::Wait | Sent::Full) => self.call_on_next(tag, payload, budget),
            sent => sent,
        }
    }

    /// Turns to the server that gets the next calls, if there are several.
    #[cold]
    fn spread(&mut self) -> Result<(), Box<CallError>> {
        if self.channel.fleet().is_none() {
            // One endpoint gets all.
            self.spread = usize::MAX;
            return Ok(());
        }
        let info = self.options.info(&self.options.route, true);
        self.channel.admit(&info)?;
        if let Some(lease) = self.channel.pick(&info) {
            self.spread = if lease.is_probe() { 1 } else { SPREAD };
            self.follow(lease);
        }
        Ok(())
    }

    /// Makes the call on the connection that has taken the last one's place, if one has.
    #[cold]
    fn call_on_next(&mut self, tag: u64, payload: &Bytes, budget: Budget) -> Offered<()> {
        let info = self.options.info(&self.options.route, true);
        let Some(lease) = self.channel.pick(&info) else {
            return Ok(Sent::Wait);
        };
        if self.follow(lease) {
            self.call_on_last(tag, payload, budget)
        } else {
            Ok(Sent::Wait)
        }
    }

    #[cold]
    fn full(&self) -> Box<CallError> {
        let Self { in_flight, .. } = self;
        Box::new(CallError::Busy(format!(
            "{in_flight} calls are in flight or have answers that were not taken, as many as this \
             client keeps"
        )))
    }

    /// The time that a call has; every wait is charged to it.
    #[inline]
    fn budget(&self) -> Budget {
        Budget::within(self.options.timeout, self.limit)
    }

    #[inline]
    fn call_on_last(&mut self, tag: u64, payload: &Bytes, budget: Budget) -> Offered<()> {
        let at = self.at_priority();
        let Some(lane) = self.lanes.last_mut() else {
            return Ok(Sent::Wait);
        };
        let trace = trace::of_call(self.parent.as_ref());
        let mut call = self.options.call(payload, trace.as_deref());
        let result = lane.call(&mut call, budget, tag);
        if result.is_ok() {
            lane.took_on(&self.channel, tag);
            self.spread = self.spread.saturating_sub(1);
            self.in_flight += 1;
            self.since_turn[at] += payload.len() + HEAD_BYTES;
        }
        offered(&self.channel, &lane.lease, budget.timeout, result)
    }

    /// Turns to a connection, if that is another than before.
    #[cold]
    fn follow(&mut self, lease: Lease) -> bool {
        let mut lanes = self.lanes.iter();
        if let Some(at) = lanes.position(|lane| lane.lease.is_same(&lease)) {
            let last = self.lanes.len() - 1;
            self.lanes.swap(at, last);
            // With its own permission to send there.
            self.lanes[last].lease = lease;
            return at != last;
        }
        if self.channel.fleet().is_none() {
            self.lanes.retain(|lane| lane.in_flight > 0);
        } else {
            self.lanes
                .retain(|lane| lane.in_flight > 0 || !lane.lease.connection().is_over());
        }
        self.lanes.push(Lane::new(lease));
        // Whoever waits for answers has to wait on the new connection too.
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
        true
    }

    /// Lets the driver write, and waits while too much is unsent.
    async fn take_turns(&mut self) {
        self.flush();
        tokio::task::yield_now().await;
        if let Some(lane) = self.lanes.last() {
            let connection = lane.lease.connection();
            connection
                .room(self.options.window, self.options.priority)
                .await;
        }
        // Set back only now: a caller whose future is dropped while it waits has to wait again.
        let at = self.at_priority();
        self.since_turn[at] = 0;
    }

    /// Where in `since_turn` calls of the present priority are counted.
    #[inline]
    fn at_priority(&self) -> usize {
        usize::from(self.options.priority & 7)
    }

    /// Sees that what was called leaves soon, whether answers are waited for or not.
    pub fn flush(&mut self) {
        for lane in &mut self.lanes {
            if std::mem::take(&mut lane.has_fresh) {
                lane.lease.connection().wake_now();
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
            if self.answers.len() > 0 {
                self.in_flight -= 1;
                if trace::is_watched() {
                    self.write_event();
                }
                let channel = &self.channel;
                // Made in place, because a result that is moved right after it was stored has to
                // wait until it is.
                return Poll::Ready(
                    self.answers
                        .take(|failure, timeout| channel.error_of(failure, timeout)),
                );
            }
            if self.in_flight == 0 {
                return Poll::Ready(None);
            }
            ready!(self.poll_lanes(cx));
        }
    }

    /// Takes what has come from any connection.
    fn poll_lanes(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A task that always finds an answer must let the driver run, or nothing is ever written.
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        for at in 0..self.lanes.len() {
            let lane = &mut self.lanes[at];
            let connection = lane.lease.connection();
            let into = &mut self.answers;
            let polled = connection.poll_pipe(lane.pipe, into, &mut lane.has_fresh, cx.waker());
            if polled.is_ready() {
                lane.in_flight -= self.answers.len();
                if self.channel.has_listener() {
                    self.report(at);
                }
                coop.made_progress();
                self.has_moved = true;
                return Poll::Ready(());
            }
        }
        // The driver has its turn now, so counting begins again, but only if answers have come and
        // there is room: where nothing is answered, room is not made either, and where only urgent
        // calls are answered, there need not be room for bulk.
        if std::mem::take(&mut self.has_moved)
            && let Some(lane) = self.lanes.last()
            && lane.lease.connection().has_room(self.options.window)
        {
            self.since_turn = [0; 8];
        }
        match &mut self.waiting {
            Some(waiting) => waiting.clone_from(cx.waker()),
            None => self.waiting = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Tells whoever watches calls of the answer that is taken next.
    #[cold]
    fn write_event(&mut self) {
        let Some((tag, failed)) = self.answers.peek() else {
            return;
        };
        let error = failed.map(|failed| error_of(&self.channel, failed));
        let route = &*self.options.route;
        calls::piped(self.channel.target(), route, tag, error.as_ref());
    }

    /// Tells whoever listens to outcomes of the answers that have come from a lane just now. Nearly
    /// all are usual, and counted together.
    fn report(&mut self, lane: usize) {
        let lane = &mut self.lanes[lane];
        let mut answered = 0;
        for (tag, failed) in self.answers.iter() {
            let timing = lane.time(tag);
            if failed.is_none() && timing.is_none() {
                answered += 1;
                continue;
            }
            let error = failed.map(|failed| error_of(&self.channel, failed));
            let ending = error.as_ref().map_or(Ending::Answered, ending);
            self.channel
                .finish(&lane.lease, || Outcome { ending, timing });
        }
        if answered > 0 {
            self.channel.answered(&lane.lease, answered);
        }
    }

    /// Tells whoever listens to outcomes of the calls whose answers nobody takes any more.
    #[cold]
    fn report_dropped(&mut self) {
        for lane in &self.lanes {
            for _ in 0..lane.in_flight {
                self.channel.finish(&lane.lease, || Outcome {
                    ending: Ending::GivenUp,
                    timing: None,
                });
            }
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if self.channel.has_listener() {
            self.report_dropped();
        }
    }
}

/// What a caller is told of a call that has no answer.
#[cold]
fn error_of(channel: &Channel, failed: &PipedFailure) -> CallError {
    channel.error_of(failed.failure.clone(), failed.timeout)
}
