//! A bound on how often something may happen: token bucket and leaky bucket in one word.
//!
//! It is the *generic cell rate algorithm*: instead of tokens it keeps the moment at which the
//! bucket would be full again, the *theoretical arrival time*. That is 8 bytes and one
//! compare-and-exchange, nothing has to be filled up while nobody asks, and it says exactly when
//! asking again will help.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::window::nanos;
use crate::Time;

/// What a [`Rate`] does with what comes at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A token bucket: up to `burst` may pass at once after a pause.
    #[default]
    Bucket,
    /// A leaky bucket: even spacing, also after a pause. `burst` is only the largest number that
    /// may be taken at a time.
    Leaky,
}

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateConfig {
    /// The time that one of them pays for, nanoseconds; at least 1.
    pub nanos_each: u64,
    /// How many may pass at once after a pause; at least 1.
    pub burst: u32,
    /// What is done with those that come at once.
    pub shape: Shape,
}

impl RateConfig {
    /// So many a second. Above a million a second the rate is a little lower than asked for,
    /// because the time of each is rounded up to a whole nanosecond.
    #[must_use]
    pub fn per_second(count: u32, burst: u32, shape: Shape) -> Self {
        Self::new(count, Duration::from_secs(1), burst, shape)
    }

    /// So many in each `span`: 10 in a minute, for instance. It rounds as [`Self::per_second`].
    #[must_use]
    pub fn new(count: u32, span: Duration, burst: u32, shape: Shape) -> Self {
        Self {
            nanos_each: nanos(span).div_ceil(u64::from(count.max(1))).max(1),
            burst: burst.max(1),
            shape,
        }
    }

    /// The time that so many of them pay for, nanoseconds.
    fn pays_for(&self, n: u32) -> u64 {
        self.nanos_each.max(1).saturating_mul(u64::from(n))
    }

    /// How far the theoretical arrival may lie ahead while `n` may still pass, nanoseconds.
    fn tolerance(&self, n: u32) -> u64 {
        match self.shape {
            Shape::Bucket => self.pays_for(self.burst.max(1).saturating_sub(n)),
            Shape::Leaky => 0,
        }
    }
}

/// That something may not happen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateExceeded {
    /// It may after this time, if nothing else is let through in the meantime.
    #[error("the rate is exceeded; ask again in {}", humantime::format_duration(*.0))]
    Wait(Duration),
    /// It never may: more is asked for at once than ever passes at once.
    #[error("{n} at once can never pass, because the burst is {burst}; ask for fewer at a time")]
    Never {
        /// What was asked for.
        n: u32,
        /// The most that passes at once.
        burst: u32,
    },
}

impl RateExceeded {
    /// When asking again will help; `None` if it never will.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Wait(wait) => Some(*wait),
            Self::Never { .. } => None,
        }
    }
}

/// Clocks that threads read may differ by this much, nanoseconds: more than a tick of a coarse one.
const TICK: u64 = 20_000_000;

/// What was let through of one thing: one route, or one client of it. It takes no lock.
///
/// In any time `t`, a bucket lets at most `burst + t / nanos_each` pass.
#[derive(Debug, Default)]
pub struct Rate {
    /// When all that passed is paid for. A [`Time`].
    paid_at: AtomicU64,
}

impl Rate {
    /// A full bucket.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `n` pass at once, or none of them; 0 always pass.
    ///
    /// # Errors
    /// [`RateExceeded::Wait`] says when they may pass, and [`RateExceeded::Never`] that they are
    /// more than the burst. What is refused costs nothing.
    pub fn take(&self, config: &RateConfig, now: Time, n: u32) -> Result<(), RateExceeded> {
        let burst = config.burst.max(1);
        if n > burst {
            return Err(RateExceeded::Never { n, burst });
        }
        if n == 0 {
            return Ok(());
        }
        let latest = now.0.saturating_add(config.tolerance(n));
        let mut refused = 0;
        let pass = |paid_at: u64| {
            let paid_at = Self::believed(config, now, paid_at);
            refused = paid_at.saturating_sub(latest);
            (refused == 0).then(|| paid_at.max(now.0).saturating_add(config.pays_for(n)))
        };
        match self.paid_at.fetch_update(Relaxed, Relaxed, pass) {
            Ok(_) => Ok(()),
            Err(_) => Err(RateExceeded::Wait(Duration::from_nanos(refused))),
        }
    }

    /// Whether it is as good as new, so that whoever keeps many of them can forget this one.
    #[must_use]
    pub fn is_idle(&self, now: Time) -> bool {
        self.paid_at.load(Relaxed) <= now.0
    }

    /// No more than a burst is ever paid for in advance: if more seems to be, the clock went back
    /// or the burst is smaller than it was, and neither must refuse everything for a long time.
    fn believed(config: &RateConfig, now: Time, paid_at: u64) -> u64 {
        let most = config.pays_for(config.burst.max(1)).saturating_add(TICK);
        if paid_at.saturating_sub(now.0) > most {
            return now.0;
        }
        paid_at
    }
}
