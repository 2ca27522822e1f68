//! Time as a number that the caller passes in: the core never reads a clock.

use std::ops::Add;
use std::time::Duration;

/// A moment, in nanoseconds since an arbitrary start that is the same for one process or
/// simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// A moment that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment that lies so far back; the first of all, if there is none so early.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }

    /// Microseconds until this moment as a request carries them: `u32::MAX` means without end.
    #[must_use]
    pub fn micros_left(self, now: Self) -> u32 {
        if self == Self::NEVER {
            return u32::MAX;
        }
        u32::try_from(self.0.saturating_sub(now.0) / 1000).unwrap_or(u32::MAX)
    }

    /// How many microseconds after `earlier` this is, as an answer carries them; no more than fit.
    #[must_use]
    pub fn micros_since(self, earlier: Self) -> u32 {
        u32::try_from(self.0.saturating_sub(earlier.0) / 1000).unwrap_or(u32::MAX)
    }

    /// The moment that lies `micros` ahead; `u32::MAX` is [`Time::NEVER`].
    #[must_use]
    pub fn from_micros_left(now: Self, micros: u32) -> Self {
        if micros == u32::MAX {
            Self::NEVER
        } else {
            Self(now.0 + u64::from(micros) * 1000)
        }
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        let nanos = by.as_secs().saturating_mul(1_000_000_000);
        let nanos = nanos.saturating_add(u64::from(by.subsec_nanos()));
        Self(self.0.saturating_add(nanos))
    }
}
