//! When to dial again: exponential backoff with full jitter.
//!
//! Full jitter draws the wait uniformly between nothing and the exponential bound, so that many
//! clients of one restarted server do not come back in step (AWS Architecture Blog, "Exponential
//! Backoff and Jitter", 2015).

use std::time::Duration;

use serde::Deserialize;

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
    /// Failed attempts after which the state becomes `Offline`; `None` goes on for ever.
    pub attempts: Option<u32>,
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

/// Counts failed attempts and says what comes next.
#[derive(Clone, Debug)]
pub struct Reconnect {
    backoff: Backoff,
    failures: u32,
    random: Random,
}

impl Reconnect {
    /// Before the first attempt.
    #[must_use]
    pub fn new(backoff: Backoff, seed: u64) -> Self {
        Self {
            backoff,
            failures: 0,
            random: Random::new(seed),
        }
    }

    /// An attempt has succeeded: the next failure begins anew.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Somebody knows better: the next failure begins anew.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// An attempt has failed: wait this long, or `None` when the attempts are used up.
    pub fn failed(&mut self) -> Option<Duration> {
        let bound = self
            .backoff
            .first
            .saturating_mul(1 << self.failures.min(20))
            .min(self.backoff.max);
        self.failures = self.failures.saturating_add(1);
        if self
            .backoff
            .attempts
            .is_some_and(|attempts| self.failures >= attempts)
        {
            return None;
        }
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Some(Duration::from_nanos(self.random.below(nanos)))
    }

    /// Failed attempts since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_below_a_bound_that_doubles_and_end_offline() {
        for seed in 0..200 {
            let mut reconnect = Reconnect::new(Backoff::default(), seed);
            for bound in [1, 2, 4, 8] {
                let wait = reconnect.failed().unwrap();
                assert!(wait < Duration::from_secs(bound), "seed {seed}: {wait:?}");
            }
            assert_eq!(reconnect.failed(), None, "the fifth failure is the last");
            reconnect.succeeded();
            assert!(reconnect.failed().unwrap() < Duration::from_secs(1));
        }
    }

    #[test]
    fn jitter_uses_the_whole_range() {
        let first = |seed| Reconnect::new(Backoff::default(), seed).failed().unwrap();
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
