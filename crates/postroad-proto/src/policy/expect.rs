//! How long requests of a route usually take, and so which of them cannot be done in time.
//!
//! A request whose time ends before it can be answered is better refused when it comes: running it
//! takes the time of others, and its caller learns sooner that it has to look elsewhere. Two things
//! must not happen. Too few samples must refuse nothing, or there never would be any. And whoever
//! is wrong about what is usual, because the fast requests of a route are mixed with slow ones,
//! must not refuse everything and then hear of no counterexample: so few are refused in any 10 s
//! until requests that were let in show that the estimate is right.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::window::{Window, nanos};
use crate::Time;

/// When an [`Usual`] refuses.
///
/// # Defaults
/// From 20 samples on; at most 20 % of the requests of the last 10 s while unproven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsualConfig {
    /// With fewer samples than this nothing is refused.
    pub samples_min: u64,
    /// The largest share that is refused while the estimate is unproven, of a thousand.
    pub unproven_per_mille: u32,
    /// Over what time that share is counted, and for how long a proof holds.
    pub window: Duration,
}

impl Default for UsualConfig {
    fn default() -> Self {
        Self {
            samples_min: 20,
            unproven_per_mille: 200,
            window: Duration::from_secs(10),
        }
    }
}

/// What can be expected of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prospect {
    /// It is let in and can be done in time, as far as is known.
    Good,
    /// It is let in although it will be late: to be given to [`Usual::prove`] when it has ended.
    Poor,
    /// It is refused, because it would be late.
    Refused,
}

/// Of the requests with a poor prospect that were let in, so many have to have ended in a window to
/// prove anything, and of a thousand so many too late.
const PROOFS: u64 = 20;
const PROVEN_PER_MILLE: u64 = 900;
/// Of a thousand requests so many are refused at most.
const PROVEN_MOST: u64 = 950;
/// A sample has this weight in the average: one in so many.
const WEIGHT: u64 = 16;

/// How long requests of one route take. Nothing in it takes a lock.
#[derive(Debug)]
pub struct Usual {
    config: UsualConfig,
    /// Moving average, nanoseconds.
    mean: AtomicU64,
    /// About what 95 of 100 take no longer than, nanoseconds.
    high: AtomicU64,
    samples: AtomicU64,
    /// Requests that were asked for, and those of them that were refused.
    asked: Window<10>,
    /// Requests with a poor prospect that were let in, and those of them that were too late.
    proofs: Window<10>,
}

impl Usual {
    /// Of a route about which nothing is known.
    #[must_use]
    pub fn new(config: UsualConfig) -> Self {
        Self {
            config,
            mean: AtomicU64::new(0),
            high: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            asked: Window::new(config.window),
            proofs: Window::new(config.window),
        }
    }

    /// A request took so long to run; waiting for its turn does not count.
    pub fn sample(&self, took: Duration) {
        let took = nanos(took).max(1);
        let first = self.samples.fetch_add(1, Relaxed) == 0;
        let next_mean = |mean: u64| {
            if first {
                took
            } else {
                mean - mean / WEIGHT + took / WEIGHT
            }
        };
        // Steps up are nineteen times as large as steps down, so it stands still where nineteen of
        // twenty are below. A step is a part of the mean, so that it suits any route.
        let step = (self.mean.load(Relaxed) / 64).max(1);
        let next_high = |high: u64| match took > high {
            _ if first => took,
            true => high.saturating_add(step.saturating_mul(19) / 4),
            false => high.saturating_sub(step / 4).max(1),
        };
        // What another thread stores at the same time may be lost; it is one of many.
        self.mean.store(next_mean(self.mean.load(Relaxed)), Relaxed);
        self.high.store(next_high(self.high.load(Relaxed)), Relaxed);
    }

    /// What a request takes on average; zero before the first.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.mean.load(Relaxed))
    }

    /// About what 95 of 100 requests take no longer than; zero before the first.
    #[must_use]
    pub fn high(&self) -> Duration {
        Duration::from_nanos(self.high.load(Relaxed).max(self.mean.load(Relaxed)))
    }

    /// Whether there are enough samples to judge by.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.samples.load(Relaxed) >= self.config.samples_min
    }

    /// How long a request waits before which so much work is queued, nanoseconds of one worker, if
    /// so many work at it.
    #[must_use]
    pub fn wait(ahead_work_nanos: u64, workers: usize) -> Duration {
        Duration::from_nanos(ahead_work_nanos / workers.max(1) as u64)
    }

    /// Whether a request can be done in the time that is left, if it waits for so long and then
    /// takes as long as usual. Always if too little is known.
    #[must_use]
    pub fn fits(&self, remaining: Duration, expected_wait: Duration) -> bool {
        !self.is_known() || expected_wait.saturating_add(self.mean()) <= remaining
    }

    /// Whether a request is let in. `in_flight` are those of the route that are in hand without it:
    /// with none it always is, for then at least somebody tries.
    #[must_use]
    pub fn admits(
        &self,
        now: Time,
        remaining: Duration,
        expected_wait: Duration,
        in_flight: usize,
    ) -> Prospect {
        let fits = self.fits(remaining, expected_wait);
        let is_refused = !fits && in_flight > 0 && self.may_refuse(now);
        self.asked.add(now, 0, 1, u64::from(is_refused));
        match (fits, is_refused) {
            (true, _) => Prospect::Good,
            (false, false) => Prospect::Poor,
            (false, true) => Prospect::Refused,
        }
    }

    fn may_refuse(&self, now: Time) -> bool {
        let share = match self.is_proven(now) {
            // Some are always tried: what is proven of one caller's requests may be wrong for
            // another's, and nobody would ever learn that it is not true any more.
            true => PROVEN_MOST,
            false => u64::from(self.config.unproven_per_mille),
        };
        let asked = self.asked.sums(now, 0);
        let most = (asked.all + 1) * share;
        (asked.marked + 1) * 1000 <= most
    }

    /// A request of which little was expected has ended, and was late or was not.
    pub fn prove(&self, now: Time, was_late: bool) {
        self.proofs.add(now, 0, 1, u64::from(was_late));
    }

    /// Whether nearly all of those were late of which it was expected.
    #[must_use]
    pub fn is_proven(&self, now: Time) -> bool {
        let proofs = self.proofs.sums(now, 0);
        proofs.all >= PROOFS && proofs.marked * 1000 >= proofs.all * PROVEN_PER_MILLE
    }
}
