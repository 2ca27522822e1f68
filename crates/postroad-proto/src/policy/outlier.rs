//! Puts aside an endpoint that does worse than its peers, for a while that grows each time.
//!
//! Two signs, as in Envoy and gRPC's A50: so many failures one after the other, which shows at
//! once, and a rate of success far below that of the others, which is looked at every few seconds.
//! Never too many are aside at once, and never the last one: an endpoint that fails is better than
//! none.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::Time;

/// When an endpoint is put aside, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierRule {
    /// Failures one after the other; 0 never. Default 5.
    pub consecutive: u32,
    /// How long the first time; the second time twice as long, and so on. Default 30 s.
    pub time: Duration,
    /// How long at most. Default 5 min.
    pub time_max: Duration,
    /// Percentage of the endpoints that may be aside at once; it is rounded up, and one always
    /// stays. Default 50.
    pub percent_max: u32,
    /// How often rates of success are compared. Default 10 s.
    pub every: Duration,
    /// Calls of an endpoint between two comparisons below which it takes no part. Default 100.
    pub volume: u32,
}

impl Default for OutlierRule {
    fn default() -> Self {
        Self {
            consecutive: 5,
            time: Duration::from_secs(30),
            time_max: Duration::from_secs(300),
            percent_max: 50,
            every: Duration::from_secs(10),
            volume: 100,
        }
    }
}

impl OutlierRule {
    /// How many of so many may be aside at once.
    #[must_use]
    pub fn most(&self, endpoints: usize) -> usize {
        let share = endpoints * self.percent_max.min(100) as usize;
        share.div_ceil(100).min(endpoints.saturating_sub(1))
    }
}

/// What is known of one endpoint. All methods may be called by many threads at once; none waits.
#[derive(Debug, Default)]
pub struct Outlier {
    consecutive: AtomicU32,
    calls: AtomicU32,
    failures: AtomicU32,
    /// How often it was put aside lately.
    ejections: AtomicU32,
    /// Until when it is aside; 0 if it never was.
    until: AtomicU64,
}

impl Outlier {
    /// Nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it is aside now.
    #[must_use]
    #[inline]
    pub fn is_ejected(&self, now: Time) -> bool {
        self.until.load(Ordering::Relaxed) > now.0
    }

    /// When it is asked again; a moment that has passed, or 0, if it is not aside.
    #[must_use]
    pub fn until(&self) -> Time {
        Time(self.until.load(Ordering::Relaxed))
    }

    /// A call was answered.
    #[inline]
    pub fn answered(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.consecutive.load(Ordering::Relaxed) != 0 {
            self.consecutive.store(0, Ordering::Relaxed);
        }
    }

    /// A call has failed; true if it should be put aside for that.
    #[must_use]
    pub fn failed(&self, rule: &OutlierRule) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.failures.fetch_add(1, Ordering::Relaxed);
        let consecutive = self.consecutive.fetch_add(1, Ordering::Relaxed) + 1;
        rule.consecutive > 0 && consecutive >= rule.consecutive
    }

    /// Puts it aside, and says until when.
    pub fn eject(&self, rule: &OutlierRule, now: Time) -> Time {
        let times = self.ejections.fetch_add(1, Ordering::Relaxed) + 1;
        let time = rule.time.saturating_mul(times).min(rule.time_max);
        self.consecutive.store(0, Ordering::Relaxed);
        let until = now + time;
        self.until.store(until.0, Ordering::Relaxed);
        until
    }

    /// Ends an interval: the calls and failures in it. An interval that ends well, and not aside,
    /// makes the next ejection shorter again.
    fn take(&self, now: Time) -> (u32, u32) {
        let calls = self.calls.swap(0, Ordering::Relaxed);
        let failures = self.failures.swap(0, Ordering::Relaxed);
        let ejections = self.ejections.load(Ordering::Relaxed);
        if failures == 0 && calls > 0 && ejections > 0 && !self.is_ejected(now) {
            self.ejections.store(ejections - 1, Ordering::Relaxed);
        }
        (calls, failures)
    }
}

/// Compares the rates of success of all endpoints since the last comparison: those (by their place)
/// that should be put aside, the worst first. At least five must have had enough calls; an endpoint
/// is an outlier if its rate is below the mean by 1.9 standard deviations (A50's default), and by
/// five percent.
#[must_use]
pub fn outliers<'a>(
    endpoints: impl Iterator<Item = &'a Outlier>,
    rule: &OutlierRule,
    now: Time,
) -> Vec<usize> {
    let rates: Vec<(usize, f64)> = endpoints
        .enumerate()
        .map(|(place, outlier)| (place, outlier.take(now)))
        .filter(|(_, (calls, _))| *calls >= rule.volume)
        .map(|(place, (calls, failures))| {
            let succeeded = calls.saturating_sub(failures);
            (place, f64::from(succeeded) / f64::from(calls))
        })
        .collect();
    if rates.len() < 5 {
        return Vec::new();
    }
    let many = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / many;
    let variance = rates
        .iter()
        .map(|(_, rate)| (rate - mean).powi(2))
        .sum::<f64>()
        / many;
    let bound = mean - (1.9 * variance.sqrt()).max(0.05);
    let mut found: Vec<_> = rates
        .into_iter()
        .filter(|(_, rate)| *rate < bound)
        .collect();
    found.sort_by(|(_, one), (_, other)| one.total_cmp(other));
    found.into_iter().map(|(place, _)| place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: OutlierRule = OutlierRule {
        consecutive: 5,
        time: Duration::from_secs(30),
        time_max: Duration::from_secs(300),
        percent_max: 50,
        every: Duration::from_secs(10),
        volume: 100,
    };

    fn at(seconds: u64) -> Time {
        Time((1_000 + seconds) * 1_000_000_000)
    }

    #[test]
    fn five_failures_in_a_row_put_aside_and_an_answer_between_them_does_not() {
        let outlier = Outlier::new();
        for _ in 0..10 {
            assert!((0..4).all(|_| !outlier.failed(&RULE)));
            outlier.answered();
        }
        assert!((0..4).all(|_| !outlier.failed(&RULE)) && outlier.failed(&RULE));
        assert_eq!(outlier.eject(&RULE, at(0)), at(30));
        assert!(outlier.is_ejected(at(29)) && !outlier.is_ejected(at(30)));
        assert_eq!(outlier.eject(&RULE, at(40)), at(100), "longer each time");
        (0..20).for_each(|_| {
            outlier.eject(&RULE, at(100));
        });
        assert_eq!(outlier.eject(&RULE, at(100)), at(400), "but never longer");
    }

    #[test]
    fn one_always_stays_and_one_may_always_go_if_there_are_two() {
        let most = [0, 1, 2, 3, 4, 10].map(|endpoints| RULE.most(endpoints));
        assert_eq!(most, [0, 0, 1, 2, 2, 5]);
        let all = OutlierRule {
            percent_max: 100,
            ..RULE
        };
        assert_eq!(all.most(3), 2);
        let few = OutlierRule {
            percent_max: 10,
            ..RULE
        };
        assert_eq!(few.most(3), 1);
    }

    #[test]
    fn what_fails_far_more_often_than_its_peers_is_found_and_what_all_do_is_not() {
        let endpoints: Vec<Outlier> = (0..10).map(|_| Outlier::new()).collect();
        let fill = |failing: &[usize], every: u32| {
            for (place, outlier) in endpoints.iter().enumerate() {
                for call in 0..200 {
                    if failing.contains(&place) && call % every == 0 {
                        let _ = outlier.failed(&RULE);
                    } else {
                        outlier.answered();
                    }
                }
            }
        };
        fill(&[3], 3);
        assert_eq!(outliers(endpoints.iter(), &RULE, at(0)), [3]);
        assert!(
            outliers(endpoints.iter(), &RULE, at(10)).is_empty(),
            "no calls"
        );
        fill(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 2);
        assert!(outliers(endpoints.iter(), &RULE, at(20)).is_empty());
        fill(&[3], 100);
        assert!(
            outliers(endpoints.iter(), &RULE, at(30)).is_empty(),
            "one percent"
        );
    }
}
