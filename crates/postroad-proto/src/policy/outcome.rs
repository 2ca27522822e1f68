//! What a policy of the client learns: what is about to be sent, and how it ended.
//!
//! A policy (balancing, a breaker, a retry budget, hedging, throttling) decides from nothing but
//! these two values and the time. It looks at a [`CallInfo`] to pick where a message goes, and it
//! hears an [`Outcome`] when that message has ended. Both are plain data, so a policy can be tested
//! without a connection.

use std::time::Duration;

use crate::Time;
use crate::code::{Code, Retry};

/// What a policy may look at to decide where a call or one-way message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallInfo<'a> {
    /// The route's name.
    pub route: &'a str,
    /// Whether somebody waits for an answer. Nobody answers a one-way message.
    pub is_answered: bool,
    /// Whether the caller has said that the call may be run twice.
    pub is_idempotent: bool,
    /// 0 to 7, 7 most urgent.
    pub priority: u8,
    /// 0 is the first attempt.
    pub attempt: u8,
    /// Whether the caller has said that nobody may send the call again.
    pub no_retry: bool,
    /// The time that the call has in all, the waiting for a connection included.
    pub timeout: Duration,
    /// Calls with equal keys should go to the same endpoint as long as there is one to take them.
    pub key: Option<&'a [u8]>,
}

/// How one call or one-way message ended that was given to a connection.
///
/// A message that finds no connection at all has no outcome, because there is no endpoint that it
/// could be charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What happened.
    pub ending: Ending,
    /// When, if that is known: nobody reads a clock for a call that was given up.
    pub timing: Option<Timing>,
}

/// When a call began and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// When the connection was picked.
    pub began: Time,
    /// From then until the answer came, or until it was known that none will come.
    pub took: Duration,
}

/// What happened to a call or one-way message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// The other end has answered with a value.
    Answered,
    /// A one-way message was handed to the connection; whether it arrives is never known.
    Handed,
    /// The other end has answered with an error.
    Refused {
        /// The error's code.
        code: Code,
        /// Whether the other end says that the call may be sent again.
        retry: Retry,
    },
    /// The deadline passed before an answer came.
    Deadline {
        /// Whether the other end may have got the call.
        sent: bool,
    },
    /// The connection ended before an answer came.
    Lost {
        /// Whether the other end may have got the call.
        sent: bool,
    },
    /// The connection did not take the message, so the other end knows nothing of it.
    NotSent {
        /// Whether another attempt can help.
        retry: Retry,
    },
    /// The caller no longer wanted the answer.
    GivenUp,
}

impl Ending {
    /// Whether this tells something bad about the endpoint, as a breaker or a balancer counts it.
    ///
    /// An error that a handler answers with is a sign of life: the endpoint works. Refusals that
    /// say *not started, try again* are what an overloaded endpoint answers with. What the caller
    /// did (gave up, or built a message that cannot be sent) says nothing about the endpoint.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Answered | Self::Handed | Self::GivenUp => false,
            Self::Refused { retry, .. } | Self::NotSent { retry } => retry.was_not_started(),
            Self::Deadline { .. } | Self::Lost { .. } => true,
        }
    }

    /// Whether the same call may be sent again without running twice.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Answered | Self::Handed | Self::GivenUp => Retry::Never,
            Self::Refused { retry, .. } | Self::NotSent { retry } => *retry,
            Self::Deadline { sent: false } | Self::Lost { sent: false } => Retry::Here,
            Self::Deadline { sent: true } | Self::Lost { sent: true } => Retry::IfIdempotent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDINGS: [(Ending, bool, Retry); 9] = [
        (Ending::Answered, false, Retry::Never),
        (Ending::Handed, false, Retry::Never),
        (Ending::GivenUp, false, Retry::Never),
        (Ending::Deadline { sent: false }, true, Retry::Here),
        (Ending::Deadline { sent: true }, true, Retry::IfIdempotent),
        (Ending::Lost { sent: false }, true, Retry::Here),
        (Ending::Lost { sent: true }, true, Retry::IfIdempotent),
        (Ending::NotSent { retry: Retry::Here }, true, Retry::Here),
        (
            Ending::NotSent {
                retry: Retry::Never,
            },
            false,
            Retry::Never,
        ),
    ];

    #[test]
    fn an_ending_says_whether_the_endpoint_failed_and_whether_a_retry_is_safe() {
        for (ending, is_failure, retry) in ENDINGS {
            assert_eq!(ending.is_failure(), is_failure, "{ending:?}");
            assert_eq!(ending.retry(), retry, "{ending:?}");
        }
    }

    #[test]
    fn an_overloaded_endpoint_has_failed_and_a_handler_that_answers_with_an_error_has_not() {
        let refused = |code, retry| Ending::Refused { code, retry };
        assert!(refused(Code::OVERLOADED, Retry::Here).is_failure());
        assert!(refused(Code::DRAINING, Retry::Elsewhere).is_failure());
        assert!(!refused(Code::NOT_FOUND, Retry::Never).is_failure());
        assert_eq!(
            refused(Code::DRAINING, Retry::Elsewhere).retry(),
            Retry::Elsewhere
        );
    }
}
