//! How loaded an endpoint is, as its client sees it: calls in flight, and how long they take.
//!
//! The latency is a *peak-sensitive* moving average (Finagle's peak EWMA): what is slower than the
//! average replaces it at once, what is faster lowers it slowly. A failure counts as a long wait,
//! because an endpoint that refuses in ten microseconds would otherwise look like the fastest one
//! (linkerd2-proxy #4537, brpc `p2c_ewma`). The average fades while nobody measures, so that an
//! endpoint which was slow is asked again.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::Time;

/// In this time an average that nobody renews falls to a half, and one that is renewed forgets half
/// of what it was.
const FADE: u64 = 10_000_000_000;
/// What a failure counts as at least, nanoseconds: linkerd's default penalty.
const PENALTY: u64 = 5_000_000_000;
/// What a failure counts as at most.
const PENALTY_MAX: u64 = 30_000_000_000;
/// How long an endpoint that is new, or has come back, gets less than its share.
const SLOW_START: u64 = 10_000_000_000;
/// Latency below which no difference is made, nanoseconds: it is the noise of a clock and a
/// scheduler.
const FLOOR: u64 = 1_000;

/// Calls in flight and latency of one endpoint. All methods may be called by many threads at once;
/// none waits.
#[derive(Debug, Default)]
pub struct Load {
    in_flight: AtomicU32,
    /// Nanoseconds; 0 if there was no answer yet.
    average: AtomicU64,
    /// When the average was renewed last.
    renewed: AtomicU64,
    /// When it began to get load; 0 if that is long ago.
    joined: AtomicU64,
}

impl Load {
    /// Nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From here on it gets its share slowly: it is new, or has come back.
    pub fn begin_slowly(&self, now: Time) {
        self.joined.store(now.0.max(1), Ordering::Relaxed);
    }

    /// A call goes there.
    #[inline]
    pub fn start(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// A call that was started is over, whatever came of it.
    #[inline]
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Calls in flight.
    #[must_use]
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// An answer came after this time.
    #[inline]
    pub fn answered(&self, now: Time, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.renew(now, took.max(FLOOR));
    }

    /// A call has failed after this time. `retry_after` is what the endpoint asks for, if it does.
    pub fn failed(&self, now: Time, took: Duration, retry_after: Duration) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let average = self.average.load(Ordering::Relaxed);
        let worst = nanos(took.max(retry_after)).max(PENALTY);
        let worst = worst.max(average.saturating_mul(2));
        self.renew(now, worst.min(PENALTY_MAX));
    }

    #[inline]
    fn renew(&self, now: Time, sample: u64) {
        let renewed = self.renewed.load(Ordering::Relaxed);
        let average = faded(self.average.load(Ordering::Relaxed), now.0, renewed);
        let next = if sample >= average {
            sample
        } else {
            // Half of the old one is gone after FADE: exp(-t) by its first-order fraction, which
            // needs no floating point.
            let since = u128::from(now.0.saturating_sub(renewed));
            let fade = u128::from(FADE);
            let mixed = (u128::from(average) * fade + u128::from(sample) * since) / (fade + since);
            u64::try_from(mixed).unwrap_or(u64::MAX)
        };
        self.average.store(next.max(FLOOR), Ordering::Relaxed);
        self.renewed.store(now.0.max(renewed), Ordering::Relaxed);
    }

    /// The latency that is expected now; `None` if nothing was answered yet.
    #[must_use]
    pub fn latency(&self, now: Time) -> Option<Duration> {
        let average = self.average.load(Ordering::Relaxed);
        let renewed = self.renewed.load(Ordering::Relaxed);
        (average > 0).then(|| Duration::from_nanos(faded(average, now.0, renewed)))
    }

    /// What one more call there costs, in nanoseconds of expected waiting. Lower is better.
    ///
    /// An endpoint that was never heard of costs nothing for its first call, and very much until
    /// that one is answered.
    #[must_use]
    #[inline]
    pub fn cost(&self, now: Time) -> u64 {
        let average = self.average.load(Ordering::Relaxed);
        let in_flight = u64::from(self.in_flight());
        let latency = match average {
            0 if in_flight == 0 => return 0,
            0 => PENALTY,
            average => faded(average, now.0, self.renewed.load(Ordering::Relaxed)),
        };
        let cost = latency.saturating_mul(in_flight + 1);
        match self.joined.load(Ordering::Relaxed) {
            0 => cost,
            joined => self.slowly(now, joined, cost),
        }
    }

    /// A tenth of its share at first, all of it after [`SLOW_START`].
    #[cold]
    fn slowly(&self, now: Time, joined: u64, cost: u64) -> u64 {
        let since = now.0.saturating_sub(joined);
        if since >= SLOW_START {
            self.joined.store(0, Ordering::Relaxed);
            return cost;
        }
        let share = (since * 10 / SLOW_START).max(1);
        cost.saturating_mul(10) / share
    }

    /// Which part of its share it gets at this moment, in percent: less than 100 while it begins.
    #[must_use]
    pub fn share(&self, now: Time) -> u32 {
        match self.joined.load(Ordering::Relaxed) {
            0 => 100,
            joined => {
                let since = now.0.saturating_sub(joined).min(SLOW_START);
                (since * 100 / SLOW_START).max(10) as u32
            }
        }
    }
}

/// What is left of an average after a while.
#[inline]
fn faded(average: u64, now: u64, renewed: u64) -> u64 {
    let since = now.saturating_sub(renewed);
    // Until a tick has passed that could be seen in the result.
    if since < FADE / 1024 {
        return average;
    }
    let left = u128::from(average) * u128::from(FADE) / (u128::from(FADE) + u128::from(since));
    u64::try_from(left).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(millis: u64) -> Time {
        Time(1_000_000_000 + millis * 1_000_000)
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_a_fast_one_slowly() {
        let load = Load::new();
        load.answered(at(0), MS);
        load.answered(at(1), 20 * MS);
        assert_eq!(load.latency(at(1)), Some(20 * MS));
        load.answered(at(2), MS);
        assert!(load.latency(at(2)) > Some(19 * MS));
        (3..60_000).for_each(|millis| load.answered(at(millis), MS));
        assert!(load.latency(at(60_000)) < Some(2 * MS));
    }

    #[test]
    fn a_failure_is_worse_than_any_usual_answer_and_fades() {
        let load = Load::new();
        load.answered(at(0), MS);
        load.failed(at(1), MS / 100, Duration::ZERO);
        assert!(load.latency(at(1)) >= Some(5_000 * MS));
        (2..20).for_each(|millis| load.failed(at(millis), MS / 100, Duration::ZERO));
        assert!(load.latency(at(20)) <= Some(30_000 * MS));
        assert!(load.latency(at(100_020)) < Some(3_000 * MS));
    }

    #[test]
    fn of_an_unknown_endpoint_one_answer_is_waited_for() {
        let load = Load::new();
        assert_eq!(load.cost(at(0)), 0);
        load.start();
        assert!(load.cost(at(0)) >= PENALTY);
        load.answered(at(1), MS);
        load.end();
        assert_eq!(load.cost(at(1)), 1_000_000);
    }

    #[test]
    fn what_has_come_back_costs_ten_times_as_much_at_first() {
        let load = Load::new();
        load.answered(at(0), MS);
        load.begin_slowly(at(0));
        assert_eq!((load.cost(at(0)), load.share(at(0))), (10_000_000, 10));
        assert!(load.cost(at(5_000)) < 2_000_000);
        assert_eq!(load.share(at(5_000)), 50);
        assert!(load.cost(at(10_000)) <= 1_000_000);
        assert_eq!(load.share(at(10_000)), 100);
    }
}
