//! Whether a call that has failed is sent again, when, and where.

use std::fmt;
use std::time::Duration;

use super::budget::Budget;
use super::outcome::Ending;
use crate::Time;
use crate::code::Retry;

/// When calls are sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryRule {
    /// Attempts after the first; 0 is never. Default 2, at most 6.
    pub attempts: u8,
    /// The wait before the first of them if it goes to the same endpoint or the server sheds: it is
    /// drawn from half of it to all of it, and the next one is three times as long. Default 1 s.
    pub wait: Duration,
    /// The longest wait that a server may ask for. Default 5 min; it never exceeds the deadline.
    pub wait_max: Duration,
}

impl Default for RetryRule {
    fn default() -> Self {
        Self {
            attempts: 2,
            wait: Duration::from_secs(1),
            wait_max: Duration::from_secs(300),
        }
    }
}

/// What is known of a call that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// How.
    pub ending: Ending,
    /// Not sooner than that, if the server has said so; zero otherwise.
    pub retry_after: Duration,
    /// Attempts so far, 1 after the first.
    pub attempts: u8,
    /// Whether it may be run twice.
    pub is_idempotent: bool,
    /// Whether nobody may send it again: its author says so, or it was made for a request that was
    /// sent again itself.
    pub no_retry: bool,
    /// Whether there is another endpoint to send it to.
    pub has_other: bool,
    /// When the answer is of no use any more.
    pub deadline: Time,
}

/// What to do with a call that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it again.
    Again {
        /// After this time.
        after: Duration,
        /// To another endpoint, if there is one.
        elsewhere: bool,
    },
    /// Tell the caller.
    No(NoRetry),
}

/// Why a call is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRetry {
    /// The failure says that it would fail again.
    Lasting,
    /// It may have run, and is not idempotent.
    MayHaveRun,
    /// Nobody may send it again.
    Forbidden,
    /// As many attempts were made as are allowed.
    Attempts,
    /// The deadline comes sooner than the next attempt.
    Deadline,
    /// Too many calls were sent again lately.
    Budget,
}

impl fmt::Display for NoRetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lasting => "it would fail again",
            Self::MayHaveRun => "it may have run, and is not idempotent",
            Self::Forbidden => "it must not be sent again",
            Self::Attempts => "as many attempts were made as are allowed",
            Self::Deadline => "the deadline comes sooner",
            Self::Budget => "too many calls were sent again lately",
        })
    }
}

impl RetryRule {
    /// Decides, and takes from the budget only if it is sent again. `random` draws the jitter.
    pub fn decide(
        &self,
        failed: &Failed,
        budget: &Budget,
        random: impl FnOnce() -> u64,
        now: Time,
    ) -> Verdict {
        match self.refuse(failed) {
            Some(no) => Verdict::No(no),
            None => self.allow(failed, budget, random, now),
        }
    }

    fn refuse(&self, failed: &Failed) -> Option<NoRetry> {
        let retry = failed.ending.retry();
        if failed.no_retry {
            Some(NoRetry::Forbidden)
        } else if retry == Retry::Never {
            Some(NoRetry::Lasting)
        } else if !retry.was_not_started() && !failed.is_idempotent {
            Some(NoRetry::MayHaveRun)
        } else if failed.attempts > self.attempts {
            Some(NoRetry::Attempts)
        } else {
            None
        }
    }

    fn allow(
        &self,
        failed: &Failed,
        budget: &Budget,
        random: impl FnOnce() -> u64,
        now: Time,
    ) -> Verdict {
        let wait = self.pause(failed, random);
        if now + wait >= failed.deadline {
            return Verdict::No(NoRetry::Deadline);
        }
        if !budget.withdraw(now) {
            return Verdict::No(NoRetry::Budget);
        }
        Verdict::Again {
            after: wait,
            elsewhere: failed.has_other,
        }
    }

    /// No wait at all before the first retry at another endpoint: that one has done nothing wrong.
    fn pause(&self, failed: &Failed, random: impl FnOnce() -> u64) -> Duration {
        let asked = failed.retry_after.min(self.wait_max);
        if failed.has_other && failed.attempts <= 1 {
            return Duration::ZERO;
        }
        let times = 3_u32.saturating_pow(u32::from(failed.attempts).saturating_sub(1));
        let wait = self.wait.saturating_mul(times).min(self.wait_max);
        // From half of it to all of it: two clients that failed together do not come back together.
        let permille = 500 + (random() % 501) as u32;
        let drawn = wait / 1000 * permille;
        if failed.has_other {
            drawn
        } else {
            drawn.max(asked)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::BudgetRule;

    const NOW: Time = Time(1_000_000_000_000);

    fn lost() -> Failed {
        Failed {
            ending: Ending::Lost { sent: true },
            retry_after: Duration::ZERO,
            attempts: 1,
            is_idempotent: true,
            no_retry: false,
            has_other: true,
            deadline: NOW + Duration::from_secs(10),
        }
    }

    fn decide(failed: Failed) -> Verdict {
        let budget = Budget::new(BudgetRule::default());
        RetryRule::default().decide(&failed, &budget, || 500, NOW)
    }

    #[test]
    fn each_reason_not_to_send_again_is_named() {
        let refused = |change: fn(&mut Failed)| {
            let mut failed = lost();
            change(&mut failed);
            decide(failed)
        };
        assert_eq!(
            refused(|f| f.no_retry = true),
            Verdict::No(NoRetry::Forbidden)
        );
        let lasting = refused(|f| {
            f.ending = Ending::NotSent {
                retry: Retry::Never,
            }
        });
        assert_eq!(lasting, Verdict::No(NoRetry::Lasting));
        let may_have_run = refused(|f| f.is_idempotent = false);
        assert_eq!(may_have_run, Verdict::No(NoRetry::MayHaveRun));
        assert_eq!(refused(|f| f.attempts = 3), Verdict::No(NoRetry::Attempts));
        assert_eq!(
            refused(|f| f.deadline = NOW),
            Verdict::No(NoRetry::Deadline)
        );
        let rule = BudgetRule {
            percent: 0,
            reserve: 0,
        };
        let verdict = RetryRule::default().decide(&lost(), &Budget::new(rule), || 0, NOW);
        assert_eq!(verdict, Verdict::No(NoRetry::Budget));
    }

    #[test]
    fn what_was_certainly_not_started_is_sent_again_also_if_it_is_not_idempotent() {
        let mut failed = lost();
        (failed.is_idempotent, failed.ending) = (false, Ending::Lost { sent: false });
        let at_once = Verdict::Again {
            after: Duration::ZERO,
            elsewhere: true,
        };
        assert_eq!(decide(failed), at_once);
    }

    #[test]
    fn the_wait_is_as_long_as_the_server_asks_and_never_beyond_the_deadline() {
        let mut failed = lost();
        failed.has_other = false;
        let after = |failed| match decide(failed) {
            Verdict::Again { after, .. } => Some(after),
            Verdict::No(_) => None,
        };
        assert_eq!(after(failed), Some(Duration::from_secs(1)));
        failed.attempts = 2;
        assert_eq!(after(failed), Some(Duration::from_secs(3)));
        failed.retry_after = Duration::from_secs(7);
        assert_eq!(after(failed), Some(Duration::from_secs(7)));
        failed.retry_after = Duration::from_secs(11);
        assert_eq!(decide(failed), Verdict::No(NoRetry::Deadline));
    }
}
