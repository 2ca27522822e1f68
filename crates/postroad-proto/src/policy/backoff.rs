//! When to dial again: exponential backoff with full jitter.
//!
//! Full jitter draws the wait uniformly between nothing and the exponential bound, so that many
//! clients of one restarted server do not come back in step (AWS Architecture Blog, "Exponential
//! Backoff and Jitter", 2015).

use std::time::Duration;

use serde::Deserialize;

use crate::Time;

/// A small generator (SplitMix64) whose seed the caller gives, so that a simulation can repeat it.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // Multiply and shift: the bias is far below anything that jitter could notice.
        ((u128::from(self.bits()) * u128::from(end)) >> 64) as u64
    }
}

/// How long to wait between attempts.
///
/// # Defaults
/// 1 s, doubled, at most 30 s, with full jitter; `Offline` after 5 attempts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// Bound of the first wait; more than 0.
    #[serde(deserialize_with = "crate::units::time::deserialize")]
    pub first: Duration,
    /// Bound of every wait; at least `first`.
    #[serde(deserialize_with = "crate::units::time::deserialize")]
    pub max: Duration,
    /// Failed attempts after which the state becomes `Offline`: calls then fail at once instead of
    /// waiting, and dialling goes on. `None` lets calls wait however many attempts have failed.
    pub attempts: Option<u32>,
}

/// When a client stops dialling for good. By default it never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// After this many failed attempts in a row; at least 1.
    Attempts(u32),
    /// After this time without a healthy connection; more than 0.
    Time(Duration),
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            max: Duration::from_secs(30),
            attempts: Some(5),
        }
    }
}

/// A backoff that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackoffError {
    /// A first wait of nothing would dial in a loop.
    #[error("the first wait must be more than 0")]
    NoWait,
    /// The greatest wait is less than the first.
    #[error("the greatest wait must be at least the first")]
    MaxBelowFirst,
    /// No attempt at all.
    #[error("attempts must be at least 1, or absent to go on for ever")]
    NoAttempts,
}

impl Backoff {
    /// Checks the bounds.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check(&self) -> Result<(), BackoffError> {
        if self.first.is_zero() {
            return Err(BackoffError::NoWait);
        }
        if self.max < self.first {
            return Err(BackoffError::MaxBelowFirst);
        }
        if self.attempts == Some(0) {
            Err(BackoffError::NoAttempts)
        } else {
            Ok(())
        }
    }
}

/// How an attempt, or the connection that it made, has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// There was no connection. Another attempt may succeed.
    Failed,
    /// The other end has refused in a way that is likely to last, such as versions that do not
    /// meet. It may be replaced by one that does not refuse, so attempts go on, at the longest
    /// wait.
    Refused,
    /// A connection was made, and broke.
    Broken {
        /// See [`Reconnect`].
        was_healthy: bool,
    },
    /// A connection was made, and the other end has closed it in order.
    Closed {
        /// See [`Reconnect`].
        was_healthy: bool,
    },
}

/// What comes after an attempt or a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Dial at once.
    Now,
    /// Dial after a while.
    Wait(Pause),
    /// Never dial again: that is what was asked for.
    GiveUp,
}

/// A wait before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// How long.
    pub wait: Duration,
    /// So many attempts have failed that calls fail at once instead of waiting.
    pub is_offline: bool,
    /// A call that comes later than this ends the wait; one that comes sooner ends it then. `None`
    /// if calls do not shorten it.
    pub on_call: Option<Duration>,
}

/// Counts failed attempts and says what comes next.
///
/// A connection is *healthy* when the other end has said something on it, or when it has lived for
/// [`Reconnect::HEALTHY_AFTER`]. Only a healthy connection lets the waits begin anew. A server that
/// takes connections and drops each at once is therefore dialled less and less often.
#[derive(Clone, Debug)]
pub struct Reconnect {
    backoff: Backoff,
    give_up_after: Option<GiveUp>,
    failures: u32,
    /// When the first of the failures was counted.
    failing_since: Option<Time>,
    random: Random,
}

impl Reconnect {
    /// A connection that has lived this long is healthy, even if the other end never said a word.
    pub const HEALTHY_AFTER: Duration = Duration::from_secs(5);

    /// Before the first attempt.
    #[must_use]
    pub fn new(backoff: Backoff, give_up_after: Option<GiveUp>, seed: u64) -> Self {
        Self {
            backoff,
            give_up_after,
            failures: 0,
            failing_since: None,
            random: Random::new(seed),
        }
    }

    /// Somebody knows better: the next failure begins anew.
    pub fn reset(&mut self) {
        self.failures = 0;
        self.failing_since = None;
    }

    /// An attempt or a connection has ended: what comes next.
    pub fn ended(&mut self, now: Time, how: Ended) -> Next {
        if let Ended::Broken { was_healthy: true } | Ended::Closed { was_healthy: true } = how {
            self.reset();
        }
        if how == (Ended::Closed { was_healthy: true }) {
            return Next::Now;
        }
        let since = *self.failing_since.get_or_insert(now);
        let bound = self.bound(how);
        self.failures = self.failures.saturating_add(1);
        let gives_up = match self.give_up_after {
            None => false,
            Some(GiveUp::Attempts(attempts)) => self.failures >= attempts,
            Some(GiveUp::Time(time)) => now.since(since) >= time,
        };
        if gives_up {
            return Next::GiveUp;
        }
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        let wait = Duration::from_nanos(self.random.below(nanos));
        // The other end is there if it has made a connection, so nobody is told that it is offline.
        let is_there = matches!(how, Ended::Closed { .. } | Ended::Broken { .. });
        let used_up = |attempts| self.failures >= attempts;
        let is_offline =
            !is_there && (how == Ended::Refused || self.backoff.attempts.is_some_and(used_up));
        // Whoever calls in a loop must not dial in a loop: a tenth of the first wait lies between
        // two attempts, and more if the other end takes connections only to drop them.
        let on_call = match how {
            Ended::Closed { .. } | Ended::Broken { .. } => Some(bound / 10),
            _ if is_offline => Some(self.backoff.first / 10),
            _ => None,
        };
        Next::Wait(Pause {
            wait,
            is_offline,
            on_call,
        })
    }

    /// The longest that the next wait may be.
    fn bound(&self, how: Ended) -> Duration {
        if how == Ended::Refused {
            return self.backoff.max;
        }
        let doubled = self
            .backoff
            .first
            .saturating_mul(1 << self.failures.min(20));
        doubled.min(self.backoff.max)
    }

    /// Failed attempts since the last healthy connection.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When the first of them was counted.
    #[must_use]
    pub fn failing_since(&self) -> Option<Time> {
        self.failing_since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000);

    fn reconnect(seed: u64) -> Reconnect {
        Reconnect::new(Backoff::default(), None, seed)
    }

    fn pause(next: Next) -> Pause {
        match next {
            Next::Wait(pause) => pause,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn waits_stay_below_a_bound_that_doubles_and_go_on_for_ever_when_offline() {
        for seed in 0..200 {
            let mut reconnect = reconnect(seed);
            for bound in [1, 2, 4, 8] {
                let pause = pause(reconnect.ended(NOW, Ended::Failed));
                assert!(pause.wait < Duration::from_secs(bound), "seed {seed}");
                assert!(!pause.is_offline && pause.on_call.is_none());
            }
            for _ in 0..1000 {
                let pause = pause(reconnect.ended(NOW, Ended::Failed));
                assert!(pause.wait < Duration::from_secs(30), "seed {seed}");
                assert!(pause.is_offline, "the fifth failure and each after it");
                assert_eq!(pause.on_call, Some(Duration::from_millis(100)));
            }
            reconnect.reset();
            let pause = pause(reconnect.ended(NOW, Ended::Failed));
            assert!(pause.wait < Duration::from_secs(1) && !pause.is_offline);
        }
    }

    #[test]
    fn a_client_dials_at_once_after_a_healthy_connection_that_ended_in_order_and_only_then() {
        let mut reconnect = reconnect(1);
        let closed = |was_healthy| Ended::Closed { was_healthy };
        assert_eq!(reconnect.ended(NOW, closed(true)), Next::Now);
        let waits: Vec<_> = (0..10)
            .map(|_| pause(reconnect.ended(NOW, closed(false))))
            .collect();
        assert!(waits.iter().all(|pause| !pause.is_offline));
        assert_eq!(waits[0].on_call, Some(Duration::from_millis(100)));
        assert_eq!(waits[9].on_call, Some(Duration::from_secs(3)));
        assert_eq!(reconnect.ended(NOW, closed(true)), Next::Now);
        let broken = Ended::Broken { was_healthy: true };
        assert!(pause(reconnect.ended(NOW, broken)).wait < Duration::from_secs(1));
        assert_eq!(reconnect.failures(), 1);
    }

    #[test]
    fn who_is_refused_is_offline_at_once_and_still_dials_on() {
        let pause = pause(reconnect(7).ended(NOW, Ended::Refused));
        assert!(pause.is_offline && pause.wait < Duration::from_secs(30));
    }

    #[test]
    fn giving_up_for_good_is_a_choice_by_attempts_or_by_time() {
        let give_up = |after| Reconnect::new(Backoff::default(), Some(after), 3);
        let mut by_attempts = give_up(GiveUp::Attempts(2));
        pause(by_attempts.ended(NOW, Ended::Failed));
        assert_eq!(by_attempts.ended(NOW, Ended::Failed), Next::GiveUp);
        let mut by_time = give_up(GiveUp::Time(Duration::from_secs(60)));
        let later = |seconds| NOW + Duration::from_secs(seconds);
        pause(by_time.ended(NOW, Ended::Failed));
        pause(by_time.ended(later(59), Ended::Failed));
        assert_eq!(by_time.ended(later(60), Ended::Failed), Next::GiveUp);
    }

    #[test]
    fn jitter_uses_the_whole_range() {
        let first = |seed| pause(reconnect(seed).ended(NOW, Ended::Failed)).wait;
        let waits: Vec<Duration> = (0..500).map(first).collect();
        assert!(waits.iter().min().unwrap() < &Duration::from_millis(50));
        assert!(waits.iter().max().unwrap() > &Duration::from_millis(950));
    }

    #[test]
    fn a_backoff_that_would_loop_or_never_try_is_refused() {
        let none = Duration::ZERO;
        assert_eq!(
            Backoff {
                first: none,
                ..Backoff::default()
            }
            .check(),
            Err(BackoffError::NoWait)
        );
        assert_eq!(
            Backoff {
                max: none,
                ..Backoff::default()
            }
            .check(),
            Err(BackoffError::MaxBelowFirst)
        );
        let no_attempts = Backoff {
            attempts: Some(0),
            ..Backoff::default()
        };
        assert_eq!(no_attempts.check(), Err(BackoffError::NoAttempts));
    }
}
