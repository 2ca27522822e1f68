//! What a load is made on. The engine knows a server only by the traits of this module, so another
//! protocol is a file beside [`postroad`] and a line in [`Generator`](crate::engine::Generator).
//!
//! ```text
//! Target --connect--> Connection --pipeline--> Pipeline   calls that do not wait for each other
//!                         |
//!                         +------- call, send     one call, one message without an answer
//!                         +------- status         whether it is there, and when that changes
//! ```
//!
//! The engine is generic over them, and the compiler makes one engine for each target: a call goes
//! through no table of functions, and what a call fails with is not turned into another type before
//! somebody wants to know.

pub(crate) mod postroad;
#[cfg(test)]
pub(crate) mod prompt;

use std::future::Future;
use std::task::{Context, Poll};
use std::time::Duration;

use ::postroad::Bytes;
use tokio::sync::watch;

use crate::error::Error;
use crate::failure::Failure;
use crate::plan::Plan;

/// Refuses a plan whose calls can never be made on its target; makes no connection.
///
/// # Errors
///
/// What cannot be, and why.
pub(crate) fn check(plan: &Plan) -> Result<(), Error> {
    postroad::Postroad::new(plan)?.check(plan)
}

/// A server, and how it is called. Each thread that makes calls has a copy.
pub(crate) trait Target: Clone + Send + 'static {
    type Connection: Connection;

    /// Makes one connection, and does not wait for a server that is not there. What is returned
    /// comes back by itself when it is lost.
    ///
    /// # Errors
    ///
    /// Why no load can be made: the run ends with this.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Error>> + 'static;
}

/// What one call carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) body: &'a Bytes,
    /// 0 to 7, 7 most urgent.
    pub(crate) priority: u8,
    /// How long its answer is waited for.
    pub(crate) timeout: Duration,
}

/// One connection. It stays with the thread that has made it.
pub(crate) trait Connection: 'static {
    type Failure: Failure;
    type Pipeline: Pipeline<Failure = Self::Failure>;
    /// How the connection stands, in the target's own words.
    type Status: Send + Sync + 'static;

    /// Makes a call and waits for its answer. Without a connection it waits for one as long as the
    /// call has time, or fails at once and says so by its
    /// [outcome](crate::failure::Outcome::NoConnection). Need not be `async`: a call should not be
    /// moved once more before it is made.
    fn call(&self, call: &Call<'_>) -> impl Future<Output = Result<Bytes, Self::Failure>>;

    /// Hands over a message that has no answer; done when it has left or is about to.
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "loads are calls so far; a target of messages alone has nothing else"
        )
    )]
    fn send(&self, call: &Call<'_>) -> impl Future<Output = Result<(), Self::Failure>>;

    /// Calls in flight together on this connection, if its protocol can. One that cannot refuses
    /// the second as [full](crate::failure::Outcome::Full).
    fn pipeline(&self) -> Self::Pipeline;

    /// Follows how the connection stands.
    fn status(&self) -> watch::Receiver<Self::Status>;

    /// Whether the connection is there, by its status.
    fn is_connected(status: &Self::Status) -> bool;
}

/// Calls of one connection that do not wait for each other. Each has a tag, which its answer brings
/// back.
pub(crate) trait Pipeline: 'static {
    type Failure: Failure;

    /// The priority and the deadline of the calls from here on.
    fn set(&mut self, priority: u8, timeout: Duration);

    /// Makes a call without waiting. It leaves by [`Self::flush`], or when answers are waited for.
    fn try_call(&mut self, tag: u64, body: &Bytes) -> Result<(), Self::Failure>;

    /// Makes calls of the same body in their order; how many were made before one was not. A target
    /// that gains nothing by having several at once keeps this.
    fn try_calls(&mut self, tag: u64, body: &Bytes, calls: u64) -> u64 {
        let one = |_: &u64| self.try_call(tag, body).is_ok();
        (0..calls).take_while(one).count() as u64
    }

    /// Sees that the calls that were made leave soon.
    fn flush(&mut self);

    /// The next call that has ended; none while no call is in flight, and then nobody is woken.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Ended<Self::Failure>>>;

    /// Answers that [`Self::poll_next`] will not wait for.
    fn ready(&self) -> usize;

    /// Calls that [`Self::poll_next`] has not given back.
    fn in_flight(&self) -> usize;
}

/// A call's tag, and its answer or why there is none.
pub(crate) type Ended<F> = (u64, Result<Bytes, F>);
