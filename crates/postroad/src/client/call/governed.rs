//! A call that does not simply go out and come back: it waits for a connection, is sent again, is
//! asked of a second server too, or is to be explained.
//!
//! ```text
//!         +------------ again, elsewhere, after a wait <-------------+
//!         v                                                          |
//!   wait for a server -> sent -> answer                              |
//!                          |       failure -> judge (rule, budget) --+-> the caller is told
//!                          +-> no answer for long: hedge, whichever answers first
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
use postroad_proto::policy::{Again, CallInfo, Ending, Failed, NoRetry};
use postroad_proto::session::Reply;

use super::super::attempt::{InFlight, Sent};
use super::super::channel::ending;
use super::super::fleet::{Fleet, Member};
use super::super::why::Recorder;
use super::CallBuilder;
use crate::clock;
use crate::context::Inherited;
use crate::driver::Budget;
use crate::error::CallError;

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
            Some(fleet) => fleet.has_hedges() || self.is_explained(),
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

    /// Makes the call, or goes on with it after its first attempt.
    pub(super) async fn govern(
        self,
        codec: u8,
        payload: Bytes,
        tries: Tries,
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
        let result = governed.run().await;
        self.observe(trace.as_deref(), result.as_ref().err());
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
    async fn run(&mut self) -> Result<Reply, CallError> {
        loop {
            if !self.tries.after.is_zero() {
                tokio::time::sleep(self.tries.after).await;
            }
            let error = match self.attempt().await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            if !self.goes_on(&error) {
                return Err(error);
            }
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

    /// Sends the call once, and once more if it takes long and may be hedged.
    async fn attempt(&mut self) -> Result<Reply, CallError> {
        let avoid = self.tries.avoid.take();
        let first = self.send(avoid).await?;
        self.tries.avoid = first.lease().member().cloned();
        let attempt = self.tries.made;
        let delay = match self.call.channel.fleet() {
            Some(fleet) if self.may_hedge(fleet) => fleet.hedge_delay(),
            _ => None,
        };
        let result = match delay {
            None => first.await,
            Some(delay) => self.race(first, delay).await,
        };
        self.recorder.note("attempt", || match &result {
            Ok(reply) => format!("{attempt} was answered, {} bytes", reply.payload.len()),
            Err(error) => format!("{attempt} has failed: {error}"),
        });
        result
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

    /// The first answer of two servers, of which the second is asked after the delay. A failure is
    /// taken only if the other has failed too.
    async fn race(&mut self, first: InFlight<'a>, delay: Duration) -> Result<Reply, CallError> {
        let mut first = pin!(first);
        tokio::select! {
            biased;
            result = &mut first => return result,
            () = tokio::time::sleep(delay) => {}
        }
        let fleet = self.call.channel.fleet();
        let avoid = self.tries.avoid.clone();
        let refused = match fleet {
            Some(fleet) if !fleet.has_other(avoid.as_deref()) => {
                Some("there is no other server".to_owned())
            }
            Some(fleet) => fleet.may_hedge().err().map(|why| why.to_string()),
            None => None,
        };
        if let Some(why) = refused {
            self.recorder.note("hedge", || why);
            return first.await;
        }
        self.recorder
            .note("hedge", || format!("a second server after {delay:.1?}"));
        let second = async {
            let second = self.send(avoid).await?;
            second.await
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
