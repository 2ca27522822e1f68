//! Asks a second endpoint when the first takes unusually long, and takes whichever answers first.
//!
//! The delay is a percentile of the latencies of the last seconds: with `extra` permille of extra
//! load allowed, the delay is what all but `extra` permille of the calls stay below (Finagle's
//! `BackupRequestFilter`), so the load stays within bounds by itself. In a surge of latency, when
//! every call is late before the percentile has followed, two budgets stop it: the hedges' own
//! share, and the one shared with retries (brpc #2668).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::budget::{Budget, BudgetRule};
use crate::Time;

/// How often the delay follows the latencies.
const REFRESH: u64 = 3_000_000_000;
/// Latencies that must be known before anything is hedged.
const SAMPLES_MIN: u64 = 100;
/// Buckets of a power of two, so that a percentile is exact to an eighth.
const FINE: u32 = 8;
/// Up to `2^41` ns, more than half an hour.
const BUCKETS: usize = 42 * FINE as usize;

/// How much may be hedged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HedgeRule {
    /// Extra calls, of a thousand. Default 10, at most 500.
    pub extra_permille: u32,
    /// The shortest delay. Default 1 ms.
    pub delay_min: Duration,
}

impl Default for HedgeRule {
    fn default() -> Self {
        Self {
            extra_permille: 10,
            delay_min: Duration::from_millis(1),
        }
    }
}

/// What is known of the latencies of one service. All methods may be called by many threads at
/// once; none waits.
#[derive(Debug)]
pub struct Hedge {
    rule: HedgeRule,
    /// How many latencies were in each bucket; older ones count less.
    buckets: Box<[AtomicU32]>,
    /// Nanoseconds; 0 while nothing is hedged.
    delay: AtomicU64,
    refreshed: AtomicU64,
    /// Calls, of which the share may be hedged. Its percent are permille.
    own: Budget,
}

impl Hedge {
    /// Nothing is known yet, so nothing is hedged.
    #[must_use]
    pub fn new(rule: HedgeRule) -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect(),
            delay: AtomicU64::new(0),
            refreshed: AtomicU64::new(0),
            own: Budget::permille(rule.extra_permille),
            rule,
        }
    }

    /// A call that may be hedged begins: after how long, if at all.
    #[must_use]
    pub fn begin(&self, now: Time) -> Option<Duration> {
        self.own.deposit(now);
        let refreshed = self.refreshed.load(Ordering::Relaxed);
        if now.0 >= refreshed.saturating_add(REFRESH) {
            self.refresh(refreshed, now);
        }
        match self.delay.load(Ordering::Relaxed) {
            0 => None,
            delay => Some(Duration::from_nanos(delay).max(self.rule.delay_min)),
        }
    }

    /// The delay has passed without an answer: whether a second call may be made.
    #[must_use]
    pub fn withdraw(&self, shared: &Budget, now: Time) -> bool {
        self.own.withdraw(now) && shared.withdraw(now)
    }

    /// How long a call took, or has taken when it was given up because another was faster.
    #[inline]
    pub fn took(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
    }

    #[cold]
    fn refresh(&self, refreshed: u64, now: Time) {
        let taken =
            self.refreshed
                .compare_exchange(refreshed, now.0, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_err() {
            return;
        }
        let counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|bucket| u64::from(bucket.load(Ordering::Relaxed)))
            .collect();
        let all: u64 = counts.iter().sum();
        // What comes in meanwhile may be lost; it is a sample among many.
        for bucket in &self.buckets {
            let old = bucket.load(Ordering::Relaxed);
            bucket.store(old / 2, Ordering::Relaxed);
        }
        let above = all * u64::from(self.rule.extra_permille.min(500)) / 1000;
        let mut left = all;
        let delay = counts.iter().enumerate().find_map(|(at, count)| {
            left -= count;
            (left <= above).then(|| upper(at))
        });
        let delay = delay.filter(|_| all >= SAMPLES_MIN).unwrap_or(0);
        self.delay.store(delay, Ordering::Relaxed);
    }
}

/// The bucket of a latency.
fn bucket(nanos: u64) -> usize {
    let nanos = nanos.max(u64::from(FINE));
    let power = nanos.ilog2();
    let fine = (nanos >> (power - FINE.ilog2())) as u32 - FINE;
    let at = (power - FINE.ilog2()) * FINE + fine;
    (at as usize).min(BUCKETS - 1)
}

/// The least latency that is above a bucket.
fn upper(at: usize) -> u64 {
    let (power, fine) = (at as u32 / FINE, at as u32 % FINE);
    u64::from(FINE + fine + 1) << power
}

impl Budget {
    /// So many of a thousand calls, and no reserve.
    fn permille(permille: u32) -> Self {
        Self::scaled(
            BudgetRule {
                percent: permille,
                reserve: 0,
            },
            1000,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_LIMIT: BudgetRule = BudgetRule {
        percent: 100,
        reserve: 1_000_000,
    };

    #[test]
    fn each_latency_lies_just_below_the_bound_of_its_bucket() {
        for nanos in (3..41).flat_map(|power| [1_u64 << power, (1 << power) + 1, (2 << power) - 1])
        {
            let bound = upper(bucket(nanos));
            assert!(
                nanos < bound && bound <= nanos + nanos / 8 + 1,
                "{nanos} {bound}"
            );
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    /// 20,000 calls, each a millisecond after the one before; a straggler of twenty times the usual
    /// latency as often as is said. The 99.9th percentile in microseconds, and the extra calls.
    fn run(is_on: bool, straggles: impl Fn(u64) -> bool) -> (u64, u64) {
        let hedge = Hedge::new(HedgeRule::default());
        let shared = Budget::new(NO_LIMIT);
        let (mut latencies, mut extra) = (Vec::new(), 0);
        let mut random = 1_u64;
        let mut draw = || {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            random >> 40
        };
        for call in 0..20_000_u64 {
            let now = Time(1_000_000_000_000 + call * 1_000_000);
            let mut latency = |at| {
                let usual = 1_000 + draw() % 200;
                if straggles(at) { usual * 20 } else { usual }
            };
            let first = latency(draw_place(call, 0));
            let delay = hedge.begin(now).filter(|_| is_on);
            let delay = delay.map(|delay| delay.as_micros() as u64);
            let second = match delay {
                Some(delay) if delay < first && hedge.withdraw(&shared, now) => {
                    extra += 1;
                    delay + latency(draw_place(call, 1))
                }
                _ => u64::MAX,
            };
            let took = first.min(second);
            hedge.took(Duration::from_micros(took));
            latencies.push(took);
        }
        // The first seconds are for learning.
        let mut known = latencies.split_off(6_000);
        known.sort_unstable();
        (known[known.len() * 999 / 1000], extra)
    }

    fn draw_place(call: u64, attempt: u64) -> u64 {
        (call * 2 + attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
    }

    #[test]
    fn one_percent_of_stragglers_and_one_percent_of_extra_load_cut_the_tail_fivefold() {
        let straggles = |at: u64| at % 110 == 0;
        let (plain, none) = run(false, straggles);
        let (hedged, extra) = run(true, straggles);
        assert_eq!(none, 0);
        assert!(hedged * 5 <= plain, "{hedged} us instead of {plain}");
        assert!(extra <= 20_000 / 100, "{extra} of 20,000");
    }

    #[test]
    fn when_all_calls_are_late_no_more_than_the_share_is_hedged() {
        let (_, extra) = run(true, |_| true);
        assert!(extra <= 20_000 / 100, "{extra}");
        let hedge = Hedge::new(HedgeRule::default());
        let nothing_left = Budget::new(BudgetRule {
            percent: 0,
            reserve: 0,
        });
        (0..1_000).for_each(|_| {
            let _ = hedge.begin(Time(1));
        });
        assert!(
            !hedge.withdraw(&nothing_left, Time(1)),
            "an outage has spent it"
        );
    }
}
