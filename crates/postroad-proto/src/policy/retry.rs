//! Whether a call that failed is sent again, when, and where.

use std::time::Duration;

use super::Budget;
use super::window::{below, nanos};
use crate::Time;
use crate::code::Retry;

/// How failed calls are sent again.
///
/// # Defaults
/// 2 further attempts, after about 1 s and about 3 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// Attempts after the first.
    pub attempts: u8,
    /// The mean wait before the second attempt. The wait is drawn uniformly between nothing and
    /// twice this (full jitter).
    pub first: Duration,
    /// How many times longer each further wait is.
    pub factor: u32,
    /// The longest mean wait.
    pub max: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts: 2,
            first: Duration::from_secs(1),
            factor: 3,
            max: Duration::from_secs(30),
        }
    }
}

/// An attempt that failed, and what there is to know for sending the call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What the failure says about sending again; [`super::Ending::retry`].
    pub retry: Retry,
    /// Whether nothing of the attempt has left this end. Such an attempt has cost the other end
    /// nothing.
    pub is_unsent: bool,
    /// Not sooner than this, as the other end said.
    pub hint: Option<Duration>,
    /// Whether the call may run twice.
    pub is_idempotent: bool,
    /// Whether the caller, or a hop before this one that sends it again already, forbids to.
    pub no_retry: bool,
    /// Attempts so far that were sent, this one included.
    pub sent: u8,
    /// Attempts so far that were not sent.
    pub unsent: u8,
    /// When the call's time is up.
    pub deadline: Time,
}

/// Send it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// After this wait.
    pub after: Duration,
    /// To another endpoint, if there is one.
    pub elsewhere: bool,
}

/// Why a call is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NoRetry {
    /// It ran, or it can never succeed.
    #[error("not sent again: it ran, or can never succeed")]
    Final,
    /// Nobody knows whether it ran, and it may not run twice.
    #[error("not sent again: it may have run, and it is not declared idempotent")]
    NotIdempotent,
    /// The caller forbids it, or a hop before this one sends it again already.
    #[error("not sent again: the caller does that itself, or does not want it")]
    Forbidden,
    /// There were as many attempts as there may be.
    #[error("not sent again: all attempts are used up")]
    AttemptsUsed,
    /// Its time is up, or would be before it may be sent again.
    #[error("not sent again: its deadline comes first")]
    NoTime,
    /// Too much is sent again already.
    #[error("not sent again: the retry budget is spent")]
    BudgetSpent,
}

/// Attempts of one call that may find themselves unable to leave this end; the bound is there so
/// that a call does not spin until its deadline.
const UNSENT_MAX: u8 = 16;
/// The mean wait after the second attempt that did not leave this end; it doubles.
const UNSENT_WAIT: Duration = Duration::from_millis(2);

/// No call is late sooner than this: what is shorter is the machine's noise.
const LATE_MIN: Duration = Duration::from_millis(10);
/// A call is late if it takes so many times as long as calls to others usually do.
const UNUSUAL: u32 = 3;

impl RetryConfig {
    /// Decides about an attempt that failed, with 64 random bits. A decision to send what was sent
    /// before has paid for it from the budget, now and not when the wait is over.
    ///
    /// # Errors
    /// Why the call is not sent again; it then fails as the attempt did.
    pub fn decide(
        &self,
        now: Time,
        failed: &Failed,
        budget: &Budget,
        random: u64,
    ) -> Result<Again, NoRetry> {
        match failed.retry {
            Retry::Never => return Err(NoRetry::Final),
            Retry::IfIdempotent if !failed.is_idempotent => return Err(NoRetry::NotIdempotent),
            Retry::IfIdempotent | Retry::Here | Retry::Elsewhere => {}
        }
        if failed.is_unsent {
            self.unsent(now, failed, random)
        } else {
            self.sent(now, failed, budget, random)
        }
    }

    /// Before so much of its time has passed, no call [is late](Self::is_late).
    #[must_use]
    pub fn late_after(time: Duration) -> Duration {
        (time / 2).max(LATE_MIN)
    }

    /// Whether a call that may run twice is sent to another endpoint too, since the one that has it
    /// is silent: half of its time has passed, and other endpoints usually answer much sooner.
    /// `sent` attempts were made; the last has waited for so long, and had so much time. The budget
    /// has to pay for the next.
    #[must_use]
    pub fn is_late(
        &self,
        sent: u8,
        waited: Duration,
        time: Duration,
        usual: Option<Duration>,
    ) -> bool {
        let unusual = usual.map_or(Duration::ZERO, |usual| usual.saturating_mul(UNUSUAL));
        sent <= self.attempts && waited >= Self::late_after(time).max(unusual)
    }

    /// Nothing has left this end, so nobody is burdened by another try and no budget is spent. It
    /// is no second attempt either, so the caller's mark does not forbid it.
    fn unsent(&self, now: Time, failed: &Failed, random: u64) -> Result<Again, NoRetry> {
        if failed.unsent > UNSENT_MAX {
            return Err(NoRetry::AttemptsUsed);
        }
        let mean = match failed.unsent {
            0 | 1 => Duration::ZERO,
            more => UNSENT_WAIT.saturating_mul(1 << (more - 2).min(16)),
        };
        Ok(Again {
            after: wait(now, failed, mean, random)?,
            elsewhere: true,
        })
    }

    fn sent(
        &self,
        now: Time,
        failed: &Failed,
        budget: &Budget,
        random: u64,
    ) -> Result<Again, NoRetry> {
        if failed.no_retry {
            return Err(NoRetry::Forbidden);
        }
        if failed.sent > self.attempts {
            return Err(NoRetry::AttemptsUsed);
        }
        // An endpoint that says *elsewhere* is drained or full; the others need no rest.
        let mean = match failed.retry {
            Retry::Elsewhere if failed.sent <= 1 => Duration::ZERO,
            _ => self.mean(failed.sent),
        };
        let after = wait(now, failed, mean, random)?;
        if budget.try_spend(now) {
            Ok(Again {
                after,
                elsewhere: true,
            })
        } else {
            Err(NoRetry::BudgetSpent)
        }
    }

    /// The mean wait after so many attempts.
    fn mean(&self, sent: u8) -> Duration {
        let times = self
            .factor
            .saturating_pow(u32::from(sent.saturating_sub(1)));
        self.first.saturating_mul(times).min(self.max)
    }
}

/// A wait with full jitter that leaves the attempt at least half of the time that is left; behind
/// the other end's hint, if there is one.
fn wait(now: Time, failed: &Failed, mean: Duration, random: u64) -> Result<Duration, NoRetry> {
    let left = failed.deadline.since(now);
    let hint = failed.hint.unwrap_or(Duration::ZERO);
    let Some(spare) = left.checked_sub(hint).filter(|spare| !spare.is_zero()) else {
        return Err(NoRetry::NoTime);
    };
    let bound = nanos(mean.saturating_mul(2).min(spare / 2));
    // A hint is jittered as well, or all who got it would come back in step.
    let bound = bound.max(nanos((hint / 4).min(spare / 2)));
    Ok(hint + Duration::from_nanos(below(random, bound)))
}
