//! Hedging: sending a slow call a second time, to another endpoint, and taking the answer that
//! comes first.
//!
//! The extra load that is allowed says when a call is slow: with 1 %, a call is slow that takes
//! longer than 99 of 100 do. It also is the budget, so a surge of latency, in which all calls are
//! slow, does not double the load.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Duration;

use super::window::{Window, nanos};
use super::{Budget, BudgetConfig};
use crate::Time;

/// How calls are hedged.
///
/// # Defaults
/// 1 % extra load; at least 1 ms of waiting; the percentile is looked up anew every 3 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HedgeConfig {
    /// Hedges allowed for each thousand calls; 1 to 500.
    pub extra_per_mille: u32,
    /// No call is hedged sooner than this.
    pub floor: Duration,
    /// How often the delay is worked out anew.
    pub refresh: Duration,
}

impl Default for HedgeConfig {
    fn default() -> Self {
        Self {
            extra_per_mille: 10,
            floor: Duration::from_millis(1),
            refresh: Duration::from_secs(3),
        }
    }
}

/// Why a call is not hedged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NoHedge {
    /// It may not run twice.
    #[error("not hedged: it is not declared idempotent")]
    NotIdempotent,
    /// The caller forbids it, or a hop before this one sends it again already.
    #[error("not hedged: the caller sends it again itself, or does not want that")]
    Forbidden,
    /// Too many calls are slow: this is no straggler but an outage.
    #[error("not hedged: too many calls are slow at present")]
    Outage,
    /// As much is hedged as may be.
    #[error("not hedged: the extra load is spent")]
    ExtraLoadSpent,
    /// Too much is sent again already.
    #[error("not hedged: the retry budget is spent")]
    BudgetSpent,
}

/// Over what time the extra load is counted. Stragglers come by chance: as many as are allowed on
/// average are more than that in half of all windows, and by the less the longer the window is.
const EXTRA_WINDOW: Duration = Duration::from_secs(60);
/// Fewer latencies than this say nothing about a percentile.
const SAMPLES_MIN: u64 = 100;
/// It is an outage when more calls of the last seconds are slow than so many times the extra load.
const OUTAGE: u64 = 10;
/// So few slow calls are no outage, whatever their share.
const OUTAGE_MIN: u64 = 10;

/// Hedging of the calls of one service or method. Nothing in it takes a lock.
#[derive(Debug)]
pub struct Hedge {
    config: HedgeConfig,
    latencies: Latencies,
    /// Nanoseconds; `u64::MAX` as long as too little is known.
    delay: AtomicU64,
    refreshed: AtomicU64,
    is_refreshing: AtomicBool,
    extra: Budget,
    /// Calls, and those of them that were slow.
    recent: Window<2>,
}

impl Hedge {
    /// Before anything is known: nothing is hedged until 100 calls were seen.
    #[must_use]
    pub fn new(config: HedgeConfig) -> Self {
        Self {
            config,
            latencies: Latencies::new(),
            delay: AtomicU64::new(u64::MAX),
            refreshed: AtomicU64::new(0),
            is_refreshing: AtomicBool::new(false),
            extra: Budget::new(BudgetConfig {
                per_mille: config.extra_per_mille,
                reserve_per_second: 0,
                window: EXTRA_WINDOW,
            }),
            recent: Window::new(Duration::from_secs(2)),
        }
    }

    /// A call begins: after what time [`Hedge::decide`] is to be asked, if it has not ended by
    /// then. `None` if it need not be asked.
    pub fn begin(&self, now: Time) -> Option<Duration> {
        self.extra.note_call(now);
        self.recent.add(now, 0, 1, 0);
        let delay = self.delay.load(Relaxed);
        (delay != u64::MAX).then(|| Duration::from_nanos(delay).max(self.config.floor))
    }

    /// The delay has passed and the call has not ended: whether it is sent once more, to another
    /// endpoint. `Ok` has paid for it from the extra load and from the budget.
    ///
    /// # Errors
    /// Why it is not.
    pub fn decide(
        &self,
        now: Time,
        is_idempotent: bool,
        no_retry: bool,
        budget: &Budget,
    ) -> Result<(), NoHedge> {
        self.recent.add(now, 0, 0, 1);
        if !is_idempotent {
            return Err(NoHedge::NotIdempotent);
        }
        if no_retry {
            return Err(NoHedge::Forbidden);
        }
        let recent = self.recent.sums(now, 0);
        let most = u64::from(self.config.extra_per_mille) * OUTAGE;
        if recent.marked > OUTAGE_MIN && recent.marked * 1000 > recent.all * most {
            return Err(NoHedge::Outage);
        }
        if !self.extra.try_spend(now) {
            return Err(NoHedge::ExtraLoadSpent);
        }
        if !budget.try_spend(now) {
            self.extra.give_back(now);
            return Err(NoHedge::BudgetSpent);
        }
        Ok(())
    }

    /// A call took so long: to its success, to its timeout, or until the answer to its hedge came
    /// first. Failures that came fast are not told.
    pub fn observe(&self, now: Time, took: Duration) {
        self.latencies.add(nanos(took));
        let since = now.since(Time(self.refreshed.load(Relaxed)));
        let is_first = self.delay.load(Relaxed) == u64::MAX;
        if since >= self.config.refresh || is_first {
            self.refresh(now);
        }
    }

    /// One thread works the delay out; the others go on with the one that there is.
    fn refresh(&self, now: Time) {
        if self.is_refreshing.swap(true, Acquire) {
            return;
        }
        if let Some(delay) = self.latencies.exceeded_by(self.config.extra_per_mille) {
            self.delay.store(delay, Relaxed);
            self.refreshed.store(now.0, Relaxed);
            self.latencies.fade();
        }
        self.is_refreshing.store(false, Release);
    }
}

/// 16 buckets for each power of two, from 1.024 µs to 70 s: an error of 6 %.
const BUCKETS: usize = 26 * STEPS as usize;
const STEPS: u64 = 1 << STEP_BITS;
const STEP_BITS: u32 = 4;
const UNIT_BITS: u32 = 10;

/// How often which latency was seen. What is older counts half as much with each refresh.
#[derive(Debug)]
struct Latencies(Box<[AtomicU32]>);

impl Latencies {
    fn new() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU32::new(0)).collect())
    }

    fn bucket(nanos: u64) -> usize {
        let units = nanos >> UNIT_BITS;
        if units < STEPS {
            return units as usize;
        }
        let power = units.ilog2() - STEP_BITS;
        let bucket = u64::from(power) * STEPS + (units >> power);
        (bucket as usize).min(BUCKETS - 1)
    }

    /// The first latency beyond a bucket.
    fn end(bucket: usize) -> u64 {
        let next = bucket as u64 + 1;
        let units = match (next / STEPS).checked_sub(1) {
            None | Some(0) => next,
            Some(power) => (STEPS + next % STEPS) << power,
        };
        units << UNIT_BITS
    }

    fn add(&self, nanos: u64) {
        self.0[Self::bucket(nanos)].fetch_add(1, Relaxed);
    }

    /// The least latency that no more than so many of a thousand calls exceed, as far as can be
    /// told: two standard deviations are allowed for, or chance would move the delay behind the
    /// very stragglers. The budget sees to it that no more is hedged than may be.
    fn exceeded_by(&self, per_mille: u32) -> Option<u64> {
        let read = |count: &AtomicU32| u64::from(count.load(Relaxed));
        let all: u64 = self.0.iter().map(read).sum();
        if all < SAMPLES_MIN {
            return None;
        }
        let expected = all * u64::from(per_mille) / 1000;
        let most = expected + 2 * expected.isqrt();
        let mut beyond = 0;
        for (bucket, count) in self.0.iter().enumerate().rev() {
            beyond += read(count);
            if beyond > most {
                return Some(Self::end(bucket));
            }
        }
        None
    }

    fn fade(&self) {
        for count in &self.0 {
            // What others add meanwhile stays.
            let old = count.load(Relaxed);
            count.fetch_sub(old - old / 2, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_in_a_bucket_that_ends_at_most_a_sixteenth_behind_it() {
        let mut nanos = 1;
        while nanos < 60_000_000_000 {
            let end = Latencies::end(Latencies::bucket(nanos));
            let most = nanos + (nanos / 16).max(1 << UNIT_BITS);
            assert!(nanos < end && end <= most, "{nanos} {end}");
            nanos += nanos / 7 + 1;
        }
        assert_eq!(Latencies::bucket(u64::MAX), BUCKETS - 1);
    }
}
