//! How many calls may be sent again: a part of those that are made, and a few a second besides.
//!
//! Retries are what turns a fault into an outage, so everything that sends a call once more (retry,
//! hedge, requeue) asks the same budget first. It follows Finagle: so many percent of the calls of
//! the last ten seconds, and a reserve for clients that call hardly ever. It counts in whole calls
//! and is exact: what several threads withdraw at once is never more than there is.

use std::time::Duration;

use super::window::Window;
use crate::Time;

/// For how long a call counts.
const WINDOW: Duration = Duration::from_secs(10);

/// How much may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetRule {
    /// Of a hundred calls. Default 20.
    pub percent: u32,
    /// Besides, a second. Default 10.
    pub reserve: u32,
}

impl Default for BudgetRule {
    fn default() -> Self {
        Self {
            percent: 20,
            reserve: 10,
        }
    }
}

/// A budget that retries, requeues and hedges share.
#[derive(Debug)]
pub struct Budget {
    rule: BudgetRule,
    /// What the rule's percentage is a part of: 100, or 1,000 for a finer one.
    whole: u64,
    calls: Window,
    spent: Window,
}

impl Budget {
    /// With nothing counted.
    #[must_use]
    pub fn new(rule: BudgetRule) -> Self {
        Self::scaled(rule, 100)
    }

    /// With a rule whose percentage counts parts of another whole.
    pub(super) fn scaled(rule: BudgetRule, whole: u64) -> Self {
        Self {
            rule,
            whole,
            calls: Window::new(WINDOW),
            spent: Window::new(WINDOW),
        }
    }

    /// A call is made for the first time.
    #[inline]
    pub fn deposit(&self, now: Time) {
        self.calls.add(1, now);
    }

    /// Takes one, if there is one left.
    #[must_use]
    pub fn withdraw(&self, now: Time) -> bool {
        self.spent.try_add(self.most(now), now)
    }

    /// How many are left.
    #[must_use]
    pub fn left(&self, now: Time) -> u64 {
        self.most(now).saturating_sub(self.spent.count(now))
    }

    fn most(&self, now: Time) -> u64 {
        let share = self.calls.count(now) * u64::from(self.rule.percent) / self.whole;
        share + u64::from(self.rule.reserve) * WINDOW.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time(1_000_000_000_000 + millis * 1_000_000)
    }

    #[test]
    fn it_is_a_fifth_of_the_calls_and_the_reserve_and_no_more() {
        let budget = Budget::new(BudgetRule::default());
        (0..1_000).for_each(|_| budget.deposit(at(0)));
        let taken = (0..1_000).filter(|_| budget.withdraw(at(1))).count();
        assert_eq!((taken, budget.left(at(1))), (300, 0));
        // All that is of long ago.
        let taken = (0..1_000).filter(|_| budget.withdraw(at(20_000))).count();
        assert_eq!(taken, 100);
    }

    #[test]
    fn when_everything_fails_the_load_grows_by_the_fifth_and_the_reserve() {
        let budget = Budget::new(BudgetRule::default());
        let (mut calls, mut again) = (0_u64, 0_u64);
        for millis in 0..60_000 {
            for _ in 0..10 {
                budget.deposit(at(millis));
                calls += 1;
                // Each fails, and each attempt after it too.
                again += (0..2)
                    .map(|_| u64::from(budget.withdraw(at(millis))))
                    .sum::<u64>();
            }
        }
        assert!(again <= calls / 5 + 10 * 70, "{again} of {calls}");
        assert!(again >= calls / 6, "{again} of {calls}");
    }
}
