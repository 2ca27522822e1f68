//! Giving a message to a connection: at once where one takes it, else after waiting for one.
//!
//! Calls, one-way messages, producers and pipelines all come through here. Each offers its message
//! to a connection, and [`offered`] translates what the connection says. A connection that takes no
//! messages now, because it is being drained or has just ended, is no error: nothing was sent, so
//! the message is offered to the next connection by [`patiently`].

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::code::Retry;
use postroad_proto::policy::{CallInfo, Ending, Outcome, Timing};
use postroad_proto::session::{Call, Failure, Reply};

use super::channel::{Channel, Lease, ending};
use crate::clock;
use crate::driver::{Budget, WaiterKey};
use crate::error::CallError;

/// What became of a message that was offered to a connection.
#[derive(Debug)]
pub(super) enum Sent<T> {
    /// The connection has taken it.
    Now(T),
    /// There is no connection that takes it now. Nothing was sent.
    Wait,
    /// The connection has as many calls in flight as it may, and there are other servers. Nothing
    /// was sent.
    Full,
}

/// What became of an offer, or why waiting would not help. The error has its memory elsewhere, so
/// that an offer that succeeds is handed on in registers.
pub(super) type Offered<T> = Result<Sent<T>, Box<CallError>>;

/// Translates what a connection says to an offer, and reports an offer that it did not take.
///
/// This is the one place between client and driver where [`Failure::NotOpen`] is understood: beyond
/// it there is only [`Sent::Wait`].
#[inline]
pub(super) fn offered<T>(
    channel: &Channel,
    lease: &Lease,
    timeout: Duration,
    result: Result<T, Failure>,
) -> Offered<T> {
    match result {
        Ok(sent) => Ok(Sent::Now(sent)),
        Err(failure) => not_taken(channel, lease, timeout, failure),
    }
}

#[cold]
fn not_taken<T>(
    channel: &Channel,
    lease: &Lease,
    timeout: Duration,
    failure: Failure,
) -> Offered<T> {
    let is_full = matches!(failure, Failure::TooManyCalls(_) | Failure::Full(_));
    let error = CallError::from_failure(failure, timeout);
    channel.finish(lease, || Outcome {
        // Whatever the reason, the server knows nothing of it.
        ending: Ending::NotSent {
            retry: error.as_ref().map_or(Retry::Here, CallError::retry),
        },
        timing: None,
    });
    match error {
        None => Ok(Sent::Wait),
        Some(_) if is_full && channel.fleet().is_some() => Ok(Sent::Full),
        Some(error) => Err(Box::new(error)),
    }
}

/// Offers a message to the connection that there is now.
#[inline]
pub(super) fn at_once<T>(
    channel: &Channel,
    info: &CallInfo<'_>,
    offer: impl FnOnce(Lease) -> Offered<T>,
) -> Offered<T> {
    channel.admit(info)?;
    match channel.pick(info) {
        Some(lease) => offer(lease),
        None => Ok(Sent::Wait),
    }
}

/// Offers a message to one connection after the other until one takes it, within its time: all that
/// is waited for is charged to the budget, which begins now and is handed to each offer.
///
/// Cancellation safe: a message whose future is dropped before it is ready was not sent.
///
/// # Errors
/// If no connection came in time, too many callers wait for one, or the message cannot be sent.
pub(super) async fn patiently<T>(
    channel: &Channel,
    info: &CallInfo<'_>,
    budget: Budget,
    mut offer: impl FnMut(Lease, Budget) -> Offered<T>,
) -> Result<T, CallError> {
    let (budget, deadline) = budget.starting_now();
    let mut picks = channel.picks(deadline, None);
    loop {
        let lease = picks.next(info).await?;
        match offer(lease, budget) {
            Ok(Sent::Now(sent)) => return Ok(sent),
            Ok(Sent::Wait) => {}
            Ok(Sent::Full) => picks.was_full(),
            Err(error) => return Err(*error),
        }
    }
}

/// A call that a connection has taken: its answer, or why there is none. Dropping it gives the call
/// up, and the server is told.
pub(super) struct InFlight<'a> {
    channel: &'a Channel,
    lease: Lease,
    /// The place in the connection's table, until the answer was taken from it.
    key: Option<WaiterKey>,
    timeout: Duration,
    /// When the call was made, if somebody wants to know how long it took. The reading of the clock
    /// that its deadline counts from is too coarse for that.
    began: Option<Time>,
}

impl<'a> InFlight<'a> {
    /// Offers a call to a connection. The waker is woken when the answer is there.
    #[inline]
    pub(super) fn begin(
        channel: &'a Channel,
        lease: Lease,
        call: &mut Call<'_>,
        budget: Budget,
        waker: &Waker,
    ) -> Offered<Self> {
        let timeout = budget.timeout;
        let began = channel.begins();
        match lease.connection().call(call, budget, waker) {
            Ok(key) => {
                channel.began(&lease);
                Ok(Sent::Now(Self {
                    channel,
                    lease,
                    key: Some(key),
                    timeout,
                    began,
                }))
            }
            Err(failure) => not_taken(channel, &lease, timeout, failure),
        }
    }

    /// When the call was made, if somebody listens.
    pub(super) fn began(&self) -> Option<Time> {
        self.began
    }

    /// The time that it had.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Where the call went.
    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    fn outcome(&self, ending: Ending) -> Outcome {
        let timing = self.began.map(|began| Timing {
            began,
            took: clock::now().since(began),
        });
        Outcome { ending, timing }
    }

    #[cold]
    fn failed(&self, failure: Failure) -> CallError {
        let error = self.channel.error_of(failure, self.timeout);
        self.channel
            .finish(&self.lease, || self.outcome(ending(&error)));
        error
    }
}

impl Future for InFlight<'_> {
    type Output = Result<Reply, CallError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(key) = this.key else {
            // Its answer was taken before: there is no second one.
            return Poll::Pending;
        };
        let answer = ready!(this.lease.connection().poll_answer(key, cx.waker()));
        this.key = None;
        Poll::Ready(match answer {
            Ok(reply) => {
                this.channel
                    .finish(&this.lease, || this.outcome(Ending::Answered));
                Ok(reply)
            }
            Err(failure) => Err(this.failed(*failure)),
        })
    }
}

impl Drop for InFlight<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.lease.connection().abandon(key);
            self.channel
                .finish(&self.lease, || self.outcome(Ending::GivenUp));
        }
    }
}
