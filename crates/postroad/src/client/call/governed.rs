//! A call that does not simply go out and come back: it waits for a connection, is sent again, is
//! asked of a second server too, or is to be explained.
//!
//! ```text
//!         +------------ again, elsewhere, after a wait <-------------+
//!         v                                                          |
//!   wait for a server -> sent -> answer                              |
//!                          |       failure -> judge (rule, budget) --+-> the caller is told
//!                          +-> no answer for long: another is asked too (a hedge, or half of the
//!                              time has passed), and whichever answers first is taken
//! ```
//!
//! It is one boxed future, made only for such calls. Everything that it waits for is charged to the
//! deadline of the call.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::code::Retry;
use postroad_proto::policy::{Again, CallInfo, Ending, Failed, NoRetry, RetryConfig};
use postroad_proto::session::Reply;

use super::super::attempt::{InFlight, Sent};
use super::super::channel::ending;
use super::super::fleet::{Fleet, Late, Member};
use super::super::why::{Explanation, Recorder};
use super::CallBuilder;
use crate::clock;
use crate::context::Inherited;
use crate::driver::Budget;
use crate::error::CallError;
use crate::transport::BoxFuture;

/// How far a call has come before it is governed.
#[derive(Debug)]
pub(super) struct Tries {
    /// Attempts that were made.
    made: u8,
    /// When the call was made.
    since: Time,
    /// The server that the last attempt has failed at.
    avoid: Option<Arc<Member>>,
    /// The wait before the next attempt.
    after: Duration,
    /// Whether the policies have let the call through.
    is_admitted: bool,
}

impl Tries {
    /// A call that was not sent yet.
    pub(super) fn none() -> Self {
        Self {
            made: 0,
            since: clock::now(),
            avoid: None,
            after: Duration::ZERO,
            is_admitted: false,
        }
    }

    /// A call that the policies have let through, and no server has taken yet.
    pub(super) fn admitted() -> Self {
        Self {
            is_admitted: true,
            ..Self::none()
        }
    }

    fn judge(
        &self,
        fleet: &Fleet,
        info: &CallInfo<'_>,
        error: &CallError,
        deadline: Time,
    ) -> Result<Again, NoRetry> {
        let has_other = fleet.has_other(self.avoid.as_deref());
        let ending = ending(error);
        let is_unsent = matches!(
            ending,
            Ending::Lost { sent: false } | Ending::Deadline { sent: false }
        );
        let again = fleet.judge(&Failed {
            retry: ending.retry(),
            is_unsent,
            // It is the hint of the server that has failed, and says nothing about another.
            hint: error.retry_after().filter(|_| !has_other),
            is_idempotent: info.is_idempotent || fleet.is_idempotent(info.route),
            no_retry: info.no_retry,
            sent: self.made,
            unsent: if is_unsent { self.made } else { 0 },
            deadline,
        })?;
        // Another server has done nothing wrong, so the first retry there need not wait.
        let is_first = self.made <= 1 && has_other;
        Ok(Again {
            after: if is_first {
                Duration::ZERO
            } else {
                again.after
            },
            ..again
        })
    }

    fn follow(&mut self, again: Result<Again, NoRetry>) -> bool {
        let Ok(again) = again else {
            return false;
        };
        self.after = again.after;
        true
    }
}

impl<'a> CallBuilder<'a> {
    /// Whether the call is to be governed from the beginning.
    #[inline]
    pub(super) fn is_governed(&self) -> bool {
        match self.channel.fleet() {
            None => false,
            Some(fleet) => fleet.is_thorough() || self.is_explained(),
        }
    }

    /// Draws whether the client is told why the call goes where it goes.
    pub(super) fn draw_sample(&mut self) {
        if let Some(fleet) = self.channel.fleet()
            && !self.is_explained()
            && fleet.is_sampled()
        {
            let extras = self.extras.get_or_insert_default();
            extras.explanation = Some(Explanation::default());
            extras.is_sampled = true;
        }
    }

    fn tell_sample(&self) {
        if let Some(extras) = &self.extras
            && extras.is_sampled
            && let (Some(fleet), Some(why)) = (self.channel.fleet(), &extras.explanation)
        {
            fleet.tell_why(self.route, &why.take());
        }
    }

    /// What comes after the first attempt has failed; `None` if that is the end.
    #[cold]
    pub(super) fn tries_after(&self, in_flight: &InFlight<'_>, error: &CallError) -> Option<Tries> {
        let fleet = self.channel.fleet()?;
        let context = Inherited::current();
        let mut tries = Tries {
            made: 1,
            since: in_flight.began().unwrap_or_else(clock::now),
            avoid: in_flight.lease().member().cloned(),
            ..Tries::admitted()
        };
        let payload = Bytes::new();
        let call = self.spec(0, &payload, context.as_ref(), None);
        let (budget, deadline) = self.budget(context.as_ref()).since(tries.since);
        let info = self.info(&call, true, budget);
        let verdict = tries.judge(fleet, &info, error, deadline);
        tries.follow(verdict).then_some(tries)
    }

    /// The same for an attempt that has not been answered; `None` if that is waited for.
    #[cold]
    pub(super) fn tries_when_late(&self, in_flight: &InFlight<'_>) -> Option<Tries> {
        let fleet = self.channel.fleet()?;
        let since = in_flight.began()?;
        let (waited, time) = (clock::now_coarse().since(since), in_flight.timeout());
        if waited < RetryConfig::late_after(time) {
            return None;
        }
        let member = in_flight.lease().member();
        let context = Inherited::current();
        let payload = Bytes::new();
        let call = self.spec(0, &payload, context.as_ref(), None);
        let info = self.info(&call, true, self.budget(context.as_ref()));
        let late = Late {
            sent: 1,
            than: member.map(|member| &**member),
            waited,
            time,
        };
        fleet.asks_another(&info, &late).then(|| Tries {
            made: 1,
            since,
            avoid: member.cloned(),
            ..Tries::admitted()
        })
    }

    /// Makes the call, or goes on with it after its first attempt, which may still be in flight.
    pub(super) async fn govern(
        self,
        codec: u8,
        payload: Bytes,
        tries: Tries,
        late: Option<InFlight<'a>>,
    ) -> Result<Reply, CallError> {
        let context = Inherited::current();
        let trace = self.trace_of(context.as_ref());
        let mut governed = Governed {
            recorder: self.recorder(),
            // What was waited for counts from when the call was made.
            budget: self.budget(context.as_ref()).since(tries.since),
            call: &self,
            context,
            codec,
            payload,
            tries,
        };
        let result = governed.run(late).await;
        self.observe(trace.as_deref(), result.as_ref().err());
        self.tell_sample();
        result
    }
}

struct Governed<'c, 'a> {
    call: &'c CallBuilder<'a>,
    context: Option<Inherited>,
    codec: u8,
    payload: Bytes,
    budget: (Budget, Time),
    tries: Tries,
    recorder: Recorder,
}

impl<'c, 'a> Governed<'c, 'a> {
    async fn run(&mut self, late: Option<InFlight<'a>>) -> Result<Reply, CallError> {
        let mut result = match late {
            Some(first) => self.ask_another(first).await,
            None => self.attempt().await,
        };
        loop {
            match result {
                Err(error) if self.goes_on(&error) => {}
                result => return result,
            }
            if !self.tries.after.is_zero() {
                tokio::time::sleep(self.tries.after).await;
            }
            result = self.attempt().await;
        }
    }

    /// Whether the call is sent again after this failure of an attempt that was sent.
    fn goes_on(&mut self, error: &CallError) -> bool {
        let channel = self.call.channel;
        let Some(fleet) = channel.fleet() else {
            return false;
        };
        // What could not be sent at all has waited for a server already.
        let was_sent = matches!(
            error,
            CallError::Remote(_) | CallError::Lost { .. } | CallError::Deadline { .. }
        );
        if !was_sent {
            return false;
        }
        let info = self.info();
        let verdict = self.tries.judge(fleet, &info, error, self.budget.1);
        match verdict {
            Ok(again) => self
                .recorder
                .note("retry", || format!("again after {:.0?}", again.after)),
            Err(why) => self.recorder.note("retry", || why.to_string()),
        }
        self.tries.follow(verdict)
    }

    fn info(&self) -> CallInfo<'c> {
        static NOTHING: Bytes = Bytes::new();
        let spec = self
            .call
            .spec(self.codec, &NOTHING, self.context.as_ref(), None);
        self.call.info(&spec, true, self.budget.0)
    }

    /// Sends the call, and to another server too if it takes long and may run twice.
    async fn attempt(&mut self) -> Result<Reply, CallError> {
        let avoid = self.tries.avoid.take();
        let first = self.send(avoid).await?;
        self.answer(first).await
    }

    /// The answer to what was sent, or that of another server that is asked meanwhile.
    fn answer(&mut self, first: InFlight<'a>) -> BoxFuture<'_, Result<Reply, CallError>> {
        Box::pin(async move {
            self.tries.avoid = first.lease().member().cloned();
            let attempt = self.tries.made;
            let result = self.race(first).await;
            self.recorder.note("attempt", || match &result {
                Ok(reply) => format!("{attempt} was answered, {} bytes", reply.payload.len()),
                Err(error) => format!("{attempt} has failed: {error}"),
            });
            result
        })
    }

    fn may_hedge(&self, fleet: &Fleet) -> bool {
        let info = self.info();
        let is_idempotent = info.is_idempotent || fleet.is_idempotent(info.route);
        fleet.has_hedges() && is_idempotent && !info.no_retry
    }

    /// Waits for a server that takes the call.
    async fn send(&mut self, avoid: Option<Arc<Member>>) -> Result<InFlight<'a>, CallError> {
        let call = self.call;
        let trace = call.trace_of(self.context.as_ref());
        let payload = self.payload.clone();
        let mut spec = call.spec(
            self.codec,
            &payload,
            self.context.as_ref(),
            trace.as_deref(),
        );
        spec.attempt = spec.attempt.max(self.tries.made).min(7);
        let info = self.info();
        let (budget, deadline) = self.budget;
        if !self.tries.is_admitted {
            self.tries.is_admitted = true;
            call.channel.admit(&info).map_err(|error| {
                self.recorder.note("throttle", || error.to_string());
                *error
            })?;
        }
        self.tries.made += 1;
        let mut picks = call.channel.picks(deadline, avoid);
        loop {
            let considered = self.recorder.considers(call.channel);
            let picked = picks.next(&info).await;
            self.recorder
                .picked(call.channel, considered, picked.as_ref().ok());
            let lease = picked.inspect_err(|error| {
                self.recorder.note("pick", || error.to_string());
            })?;
            // The caller's waker is registered when the answer is polled for, right after this.
            match InFlight::begin(call.channel, lease, &mut spec, budget, Waker::noop()) {
                Ok(Sent::Now(in_flight)) => return Ok(in_flight),
                Ok(Sent::Wait) => {
                    self.recorder
                        .note("connection", || "takes no calls now".to_owned());
                }
                Ok(Sent::Full) => {
                    picks.was_full();
                    self.recorder
                        .note("connection", || "has as many calls as it may".to_owned());
                }
                Err(error) => return Err(*error),
            }
        }
    }

    /// Waits for the answer, and asks another server when the call may be hedged, and when it is
    /// late.
    async fn race(&mut self, mut first: InFlight<'a>) -> Result<Reply, CallError> {
        let Some(fleet) = self.call.channel.fleet() else {
            return first.await;
        };
        if self.may_hedge(fleet)
            && let Some(delay) = fleet.hedge_delay()
        {
            tokio::select! {
                biased;
                result = &mut first => return result,
                () = tokio::time::sleep(delay) => {}
            }
            let refused = match fleet.has_other(self.tries.avoid.as_deref()) {
                false => Some("there is no other server".to_owned()),
                true => fleet.may_hedge().err().map(|why| why.to_string()),
            };
            let Some(why) = refused else {
                self.recorder
                    .note("hedge", || format!("a second server after {delay:.1?}"));
                return self.ask_another(first).await;
            };
            self.recorder.note("hedge", || why);
        }
        let began = first.began().unwrap_or_else(clock::now);
        let time = self.budget.1.since(began);
        let until = began + RetryConfig::late_after(time);
        tokio::select! {
            biased;
            result = &mut first => return result,
            () = tokio::time::sleep_until(clock::instant(until)) => {}
        }
        let late = Late {
            sent: self.tries.made,
            than: self.tries.avoid.as_deref(),
            waited: clock::now().since(began),
            time,
        };
        if !fleet.asks_another(&self.info(), &late) {
            return first.await;
        }
        self.recorder.note("late", || {
            format!("no answer for {:.1?}, another server is asked", late.waited)
        });
        self.ask_another(first).await
    }

    /// The first answer of two servers, of which the second is asked now. A failure is taken only
    /// if the other has failed too.
    async fn ask_another(&mut self, first: InFlight<'a>) -> Result<Reply, CallError> {
        let avoid = self.tries.avoid.clone();
        let second = async {
            let second = self.send(avoid).await?;
            self.answer(second).await
        };
        either(first, pin!(second)).await
    }
}

/// The first of two that is final, an answer or an error of a handler, or the last failure.
async fn either(
    mut first: impl Future<Output = Result<Reply, CallError>> + Unpin,
    mut second: impl Future<Output = Result<Reply, CallError>> + Unpin,
) -> Result<Reply, CallError> {
    let is_final = |error: &CallError| error.retry() == Retry::Never;
    tokio::select! {
        result = &mut first => match result {
            Err(error) if !is_final(&error) => second.await,
            result => result,
        },
        result = &mut second => match result {
            Err(error) if !is_final(&error) => first.await,
            result => result,
        },
    }
}
