//! Outlier ejection: an endpoint that does worse than its peers gets no calls for a while.
//!
//! A breaker judges an endpoint by itself; an ejection judges it by the others. If all do badly,
//! the cause lies elsewhere, and to eject them one after the other would only make it worse: so no
//! more are ejected than a share of all, counted *after* the ejection, and never the last.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Duration;

use super::Verdict;
use super::window::{below, nanos};
use crate::Time;

/// When endpoints are ejected.
///
/// # Defaults
/// 5 failures in a row, or a success rate 1.9 standard deviations below the mean, or 85 % failures;
/// for 30 s times the number of ejections, at most 300 s; at most 10 % of all, but one at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierConfig {
    /// Failures in a row that eject; at least 1.
    pub consecutive: u32,
    /// How often [`Ejector::sweep`] is to be called.
    pub interval: Duration,
    /// For how long the first ejection lasts.
    pub time: Duration,
    /// For how long an ejection lasts at most.
    pub time_max: Duration,
    /// How much of all may be ejected at a time, percent. One may be, however few there are.
    pub percent_max: u8,
    /// Thousandths of a standard deviation below the mean success rate that eject.
    pub deviations_per_mille: u32,
    /// Calls of an interval that a success rate has to have to be compared.
    pub requests_min: u32,
    /// The percentage of failures that ejects whatever the others do.
    pub failure_percent: u8,
    /// Calls of an interval that a percentage of failures has to have.
    pub failure_requests_min: u32,
    /// Endpoints with enough calls without which nothing is compared.
    pub endpoints_min: usize,
}

impl Default for OutlierConfig {
    fn default() -> Self {
        Self {
            consecutive: 5,
            interval: Duration::from_secs(10),
            time: Duration::from_secs(30),
            time_max: Duration::from_secs(300),
            percent_max: 10,
            deviations_per_mille: 1900,
            requests_min: 100,
            failure_percent: 85,
            failure_requests_min: 50,
            endpoints_min: 5,
        }
    }
}

/// What is known of one endpoint, shared by all who call it. Nothing in it takes a lock.
#[derive(Debug, Default)]
pub struct Outlier {
    /// Failures in a row.
    failures: AtomicU32,
    /// Calls of this interval in the upper half, successes in the lower.
    interval: AtomicU64,
    /// Ejections, less the clean intervals since.
    ejections: AtomicU32,
    ejected_at: AtomicU64,
    ejected_until: AtomicU64,
}

impl Outlier {
    /// Of an endpoint that was never ejected.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Hears how a call has ended, and says how many have failed in a row.
    pub fn observe(&self, verdict: Verdict) -> u32 {
        match verdict {
            Verdict::Unknown => self.failures.load(Relaxed),
            Verdict::Success => {
                self.succeeded(1);
                0
            }
            Verdict::Failure => {
                self.interval.fetch_add(1 << 32, Relaxed);
                self.failures.fetch_add(1, Relaxed) + 1
            }
        }
    }

    /// Hears that so many calls have succeeded.
    pub fn succeeded(&self, calls: u32) {
        let calls = u64::from(calls);
        self.interval.fetch_add(calls << 32 | calls, Relaxed);
        // Most calls succeed after one that did, and then there is nothing to write.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Whether it gets no calls now. A clock that went back ends an ejection.
    #[must_use]
    pub fn is_ejected(&self, now: Time) -> bool {
        let until = self.ejected_until.load(Relaxed);
        until > now.0 && self.ejected_at.load(Relaxed) <= now.0
    }

    fn eject(&self, config: &OutlierConfig, now: Time, random: u64) {
        let times = self.ejections.fetch_add(1, Relaxed).saturating_add(1);
        let time = config.time.saturating_mul(times).min(config.time_max);
        // All clients eject at about the same time; they need not come back at the same.
        let jitter = below(random, nanos(config.time) / 10);
        self.ejected_at.store(now.0, Relaxed);
        let until = now + time + Duration::from_nanos(jitter);
        self.ejected_until.store(until.0, Relaxed);
        self.failures.store(0, Relaxed);
    }
}

/// Ejects endpoints of one list.
#[derive(Debug)]
pub struct Ejector {
    config: OutlierConfig,
    /// Whether a thread counts who is ejected, so that two do not eject one too many together.
    is_busy: AtomicBool,
}

/// One endpoint in an interval that had enough calls.
struct Rate {
    index: usize,
    calls: u64,
    /// Successes of a million calls.
    rate: u64,
}

impl Ejector {
    /// An ejector.
    #[must_use]
    pub fn new(config: OutlierConfig) -> Self {
        Self {
            config,
            is_busy: AtomicBool::new(false),
        }
    }

    /// Whether so many failures in a row, as [`Outlier::observe`] has told, are to be followed by
    /// [`Ejector::eject`].
    #[must_use]
    pub fn is_enough(&self, failures: u32) -> bool {
        failures >= self.config.consecutive.max(1)
    }

    /// Ejects an endpoint, if enough others are left: says whether it did. `outlier` finds what is
    /// known of an endpoint, and `may_take` says whether it could be called but for an ejection. If
    /// another thread is ejecting, nothing happens; the next failure asks again.
    pub fn eject<C>(
        &self,
        all: &[C],
        index: usize,
        outlier: impl Fn(&C) -> &Outlier,
        may_take: impl Fn(&C) -> bool,
        now: Time,
        random: u64,
    ) -> bool {
        if self.is_busy.swap(true, Acquire) {
            return false;
        }
        let (mut ejected, mut others) = (0, 0);
        for (at, one) in all.iter().enumerate() {
            if outlier(one).is_ejected(now) {
                ejected += 1;
            } else if at != index && may_take(one) {
                others += 1;
            }
        }
        let most = (all.len() * usize::from(self.config.percent_max) / 100).max(1);
        let is_new = all
            .get(index)
            .is_some_and(|one| !outlier(one).is_ejected(now));
        let ejects = is_new && others > 0 && ejected < most;
        if ejects {
            outlier(&all[index]).eject(&self.config, now, random);
        }
        self.is_busy.store(false, Release);
        ejects
    }

    /// Ends an interval: compares the endpoints and ejects those that stand out. Says how many.
    pub fn sweep<C>(
        &self,
        all: &[C],
        outlier: impl Fn(&C) -> &Outlier,
        may_take: impl Fn(&C) -> bool,
        now: Time,
        mut random: impl FnMut() -> u64,
    ) -> usize {
        let mut rates = Vec::new();
        for (index, one) in all.iter().enumerate() {
            let one = outlier(one);
            let interval = one.interval.swap(0, Relaxed);
            let (calls, successes) = (interval >> 32, interval & 0xFFFF_FFFF);
            if let Some(rate) = (successes * 1_000_000).checked_div(calls)
                && !one.is_ejected(now)
            {
                rates.push(Rate { index, calls, rate });
            }
        }
        let mut bad = self.below_the_others(&rates);
        bad.extend(self.failing(&rates));
        let mut ejected = 0;
        for rate in &rates {
            let one = outlier(&all[rate.index]);
            if !bad.contains(&rate.index) {
                let less = |ejections: u32| ejections.checked_sub(1);
                let _ = one.ejections.fetch_update(Relaxed, Relaxed, less);
            } else if self.eject(all, rate.index, &outlier, &may_take, now, random()) {
                ejected += 1;
            }
        }
        ejected
    }

    /// Those whose success rate is too many deviations below the mean.
    fn below_the_others(&self, rates: &[Rate]) -> Vec<usize> {
        let enough = |rate: &&Rate| rate.calls >= u64::from(self.config.requests_min);
        let rates: Vec<&Rate> = rates.iter().filter(enough).collect();
        let count = rates.len() as u64;
        if rates.len() < self.config.endpoints_min.max(2) {
            return Vec::new();
        }
        let mean = rates.iter().map(|rate| rate.rate).sum::<u64>() / count;
        let squares = rates.iter().map(|rate| rate.rate.abs_diff(mean).pow(2));
        let deviation = (squares.sum::<u64>() / count).isqrt();
        let allowed = deviation * u64::from(self.config.deviations_per_mille) / 1000;
        let is_bad = |rate: &&&Rate| rate.rate + allowed < mean;
        rates.iter().filter(is_bad).map(|rate| rate.index).collect()
    }

    /// Those that fail nearly always.
    fn failing(&self, rates: &[Rate]) -> Vec<usize> {
        let enough = |rate: &&Rate| rate.calls >= u64::from(self.config.failure_requests_min);
        let rates: Vec<&Rate> = rates.iter().filter(enough).collect();
        if rates.len() < self.config.endpoints_min {
            return Vec::new();
        }
        let most = u64::from(self.config.failure_percent) * 10_000;
        let is_bad = |rate: &&&Rate| 1_000_000 - rate.rate > most;
        rates.iter().filter(is_bad).map(|rate| rate.index).collect()
    }
}
