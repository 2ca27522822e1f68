//! How many requests a server, or one route of it, may have in hand: as many as keep it busy, and
//! no more.
//!
//! By Little's law the requests in hand are throughput times latency. Where all that the server can
//! do at once is in hand, one more adds to the latency and nothing to the throughput. So the limit
//! follows from two figures: the latency without a queue, here called the *baseline*, and the
//! latency now:
//!
//! ```text
//! limit' = limit * min(1, tolerance * baseline / latency) + sqrt(limit)
//! ```
//!
//! The square root is what arrivals vary by; without it workers would be idle now and then. It is
//! small for a limit of hundreds, and enough for a limit of four.
//!
//! This is the rule of brpc's limiter, which has maximum throughput times least latency, put as a
//! ratio of latencies so that requests need not be counted, with brpc's probes. Gradient2 has the
//! same ratio, but takes for its baseline a long average of the latency. Under an overload that
//! lasts, the average goes to the latency of the overload, and the limit to its cap; and a service
//! that became faster is believed to be idle. A baseline has to be *measured* without a queue:
//!
//! - while less than half of the limit is in use there is none, and the baseline follows;
//! - otherwise a *probe* does so, now and then: for a moment a quarter less is let in than the
//!   server can do at once. Where probes of many servers must not coincide, their moments are
//!   random.
//!
//! A latency that is lower with less in hand shows a queue: throughput did not fall, the baseline
//! is not learned from it, and the probe goes on lower. One that is the same shows that there is
//! none: throughput fell with what was in hand. That is the sign of the covariance of both, and
//! only with the second a baseline may rise. So a service that takes twice as long from now on is
//! learned, and a queue is not.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::window::nanos;
use super::{Random, Verdict};
use crate::Time;

/// Between which bounds an [`AdaptiveLimit`] moves, and how.
///
/// # Defaults
/// Begins with 40, at least 4, at most 10,000; 40 % more latency is tolerated; a probe each 2
/// to 4 s, or 100 to 200 times the latency if that is longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdaptiveLimitConfig {
    /// It is never less, but for half of it during a probe; at least 1. Twice the number of threads
    /// that run handlers is right: with fewer requests some of them would have nothing to do.
    pub floor: usize,
    /// It is never more.
    pub cap: usize,
    /// What it begins with.
    pub start: usize,
    /// How much of the latency may be waiting, percent of the baseline.
    pub tolerance_percent: u32,
    /// The least time between two probes; it is stretched at random, up to twice.
    pub probe_every: Duration,
}

impl Default for AdaptiveLimitConfig {
    fn default() -> Self {
        Self {
            floor: 4,
            cap: 10_000,
            start: 40,
            tolerance_percent: 40,
            probe_every: Duration::from_secs(2),
        }
    }
}

/// No two samples are closer together than this, nanoseconds.
const SAMPLE_EVERY: u64 = 100_000;
/// Samples that end a window at once.
const SAMPLES: u32 = 200;
/// After so many nanoseconds so many samples end it.
const WINDOW: (u64, u32) = (250_000_000, 50);
const WINDOW_SLOW: (u64, u32) = (1_000_000_000, 20);
/// The same of a probe, which is rare and must not be mistaken.
const PROBE: (u64, u32) = (250_000_000, 100);
const PROBE_SLOW: (u64, u32) = (4_000_000_000, 20);
/// A window that is this old without enough samples says nothing, nanoseconds.
const STALE: u64 = 10_000_000_000;
/// Probes are as far apart as this many times the latency, and as the last one has lasted: so they
/// cost about half a percent of what the server can do.
const PROBE_LATENCIES: f64 = 100.0;
const PROBE_LENGTHS: f64 = 50.0;
/// A limit that has fallen so much since the last probe asks for another at once: something must
/// have changed.
const FALLEN: f64 = 0.7;
/// A latency within this of another is the same.
const SAME: f64 = 0.15;

/// A limit on requests in hand that finds its value by itself.
#[derive(Debug)]
pub struct AdaptiveLimit {
    limit: AtomicUsize,
    settled: AtomicUsize,
    /// When the last sample was taken. A [`Time`].
    sampled_at: AtomicU64,
    /// Nobody waits for it: while one thread takes a sample, the others leave theirs out.
    learned: Mutex<Learned>,
}

impl AdaptiveLimit {
    /// A limit that knows nothing yet. `seed` decides when it probes: a different one for each
    /// server.
    #[must_use]
    pub fn new(config: AdaptiveLimitConfig, seed: u64) -> Self {
        let learned = Learned::new(config, seed);
        Self {
            limit: AtomicUsize::new(learned.whole()),
            settled: AtomicUsize::new(learned.whole()),
            sampled_at: AtomicU64::new(0),
            learned: Mutex::new(learned),
        }
    }

    /// How many requests may be in hand now, running and waiting together.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// The same, but not lowered by a probe that is under way: for what is so important that it
    /// must not be refused for the sake of a measurement.
    #[must_use]
    pub fn settled(&self) -> usize {
        self.settled.load(Relaxed)
    }

    /// A request that was let in has ended. `took` is the time from when it was let in at `began`,
    /// waiting included; `in_flight` are those that were in hand, this one included.
    ///
    /// Requests that were refused are never told. Most calls are one load and one comparison, and
    /// none waits for another thread.
    #[inline]
    pub fn sample(
        &self,
        now: Time,
        began: Time,
        took: Duration,
        in_flight: usize,
        outcome: Verdict,
    ) {
        // A clock that went back makes this number large.
        if now.0.wrapping_sub(self.sampled_at.load(Relaxed)) >= SAMPLE_EVERY {
            self.take_sample(now, began, took, in_flight, outcome);
        }
    }

    #[cold]
    fn take_sample(
        &self,
        now: Time,
        began: Time,
        took: Duration,
        in_flight: usize,
        outcome: Verdict,
    ) {
        let Ok(mut learned) = self.learned.try_lock() else {
            return;
        };
        self.sampled_at.store(now.0, Relaxed);
        learned.sample(now, began, nanos(took), in_flight, outcome);
        self.limit.store(learned.whole(), Relaxed);
        self.settled.store(learned.limit.round() as usize, Relaxed);
    }
}

/// What the samples of one stretch of time add up to.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// Nanoseconds; samples that end earlier do not count.
    from: u64,
    succeeded: u32,
    failed: u32,
    /// Nanoseconds, of all.
    took: u64,
    in_flight: u64,
    most_in_flight: usize,
}

/// The averages of a window.
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    /// Nanoseconds.
    took: f64,
    in_flight: f64,
}

impl Window {
    fn samples(&self) -> u32 {
        self.succeeded + self.failed
    }

    /// Time that failures took is charged to those that succeeded: a service that fails slowly is
    /// slow.
    fn point(&self) -> Point {
        Point {
            took: self.took as f64 / f64::from(self.succeeded.max(1)),
            in_flight: self.in_flight as f64 / f64::from(self.samples().max(1)),
        }
    }

    fn is_over(&self, now: u64, (fast, slow): ((u64, u32), (u64, u32))) -> bool {
        let (length, samples) = (now.saturating_sub(self.from), self.samples());
        // Of a stretch that is shorter than two latencies, the short requests would say too much.
        let is_long = length * u64::from(samples) >= 2 * self.took;
        is_long
            && (samples >= SAMPLES
                || length >= fast.0 && samples >= fast.1
                || length >= slow.0 && samples >= slow.1)
    }
}

/// A probe that is under way.
#[derive(Clone, Copy, Debug)]
struct Probe {
    /// The limit while it lasts.
    limit: f64,
    /// What was seen before it began.
    before: Point,
    /// What was seen with the limit before this one.
    last: Point,
}

impl Probe {
    /// Whether its limit holds anything back. If it does not, the load has fallen, and the probe
    /// ends soon.
    fn is_reached(&self, point: Point) -> bool {
        point.in_flight >= 0.85 * self.limit
    }
}

#[derive(Debug)]
struct Learned {
    config: AdaptiveLimitConfig,
    limit: f64,
    /// Latency without a queue, nanoseconds.
    baseline: Option<f64>,
    window: Window,
    /// Requests that began earlier began under another limit.
    since: Time,
    probe: Option<Probe>,
    /// When the next probe is due, nanoseconds.
    probe_at: u64,
    /// The limit after the last one.
    probed_limit: f64,
    random: Random,
}

impl Learned {
    fn new(config: AdaptiveLimitConfig, seed: u64) -> Self {
        let mut learned = Self {
            config,
            limit: 0.0,
            baseline: None,
            window: Window::default(),
            since: Time(0),
            probe: None,
            probe_at: 0,
            probed_limit: 0.0,
            random: Random::new(seed),
        };
        learned.set(config.start as f64);
        learned
    }

    fn floor(&self) -> f64 {
        self.config.floor.max(1) as f64
    }

    fn set(&mut self, limit: f64) {
        let cap = (self.config.cap as f64).max(self.floor());
        self.limit = limit.clamp(self.floor(), cap);
    }

    /// The limit that holds now.
    fn whole(&self) -> usize {
        let limit = self.probe.map_or(self.limit, |probe| probe.limit);
        limit.round() as usize
    }

    fn sample(&mut self, now: Time, began: Time, took: u64, in_flight: usize, outcome: Verdict) {
        let age = now.0.wrapping_sub(self.window.from);
        let is_stale = age > STALE && age < u64::MAX / 2 || self.window.from > now.0 + STALE;
        if is_stale {
            // Few requests, a long pause, or a clock that went back: there is no queue to find.
            self.probe = None;
            self.since = Time(0);
            self.begin(now, 0.0);
        }
        if now.0 < self.window.from || began < self.since {
            return;
        }
        let window = &mut self.window;
        match outcome {
            Verdict::Success => window.succeeded += 1,
            Verdict::Failure => window.failed += 1,
            Verdict::Unknown => return,
        }
        window.took = window.took.saturating_add(took.max(1));
        window.in_flight += in_flight as u64;
        window.most_in_flight = window.most_in_flight.max(in_flight);
        let ends = match self.probe {
            Some(probe) if !probe.is_reached(self.window.point()) => (WINDOW, WINDOW_SLOW),
            Some(_) => (PROBE, PROBE_SLOW),
            None => (WINDOW, WINDOW_SLOW),
        };
        if self.window.is_over(now.0, ends) {
            self.learn(now);
        }
    }

    /// Begins a window, after what is needed to get used to a new limit.
    fn begin(&mut self, now: Time, settle: f64) {
        self.window = Window {
            from: now.0.saturating_add(settle as u64),
            ..Window::default()
        };
    }

    /// Likewise under a limit that differs so much that what began before says nothing.
    fn begin_anew(&mut self, now: Time, latency: f64) {
        self.since = now;
        self.begin(now, 3.0 * latency);
    }

    fn learn(&mut self, now: Time) {
        let window = self.window;
        self.begin(now, 0.0);
        if window.succeeded == 0 {
            self.probe = None;
            self.set(self.limit / 2.0);
            self.since = now;
            return;
        }
        let point = window.point();
        if let Some(probe) = self.probe {
            return self.judge_probe(now, probe, point);
        }
        let Some(baseline) = self.baseline else {
            if point.in_flight < self.limit / 2.0 {
                self.baseline = Some(point.took);
                self.plan_probe(now, 0.0);
            } else {
                self.begin_probe(now, point, point);
            }
            return;
        };
        if point.in_flight < self.limit / 2.0 {
            self.baseline = Some(baseline + 0.2 * (point.took - baseline));
            // Only a burst is refused then, and it would have been over soon.
            if window.most_in_flight as f64 >= self.limit.round() {
                self.set(self.limit + self.limit.sqrt());
            }
            return;
        }
        let baseline = if point.took < (1.0 - SAME) * baseline {
            baseline + 0.25 * (point.took - baseline)
        } else {
            baseline
        };
        self.baseline = Some(baseline);
        let was_reached = window.most_in_flight as f64 >= 0.9 * self.limit;
        self.adjust(now, baseline, point, was_reached);
        // A limit that is not reached does no harm, and a probe would refuse somebody.
        let has_fallen = self.limit < FALLEN * self.probed_limit;
        if was_reached && (has_fallen || now.0 >= self.probe_at) {
            self.begin_probe(now, point, point);
        }
    }

    /// Sets the limit by the latency of a window in which it was reached or nearly so.
    fn adjust(&mut self, now: Time, baseline: f64, point: Point, was_reached: bool) {
        let old = self.limit;
        let gradient = (self.tolerance() * baseline / point.took).clamp(0.5, 1.0);
        if gradient < 1.0 || was_reached {
            self.set(old * gradient + old.sqrt());
        }
        if self.limit < 0.8 * old {
            self.begin_anew(now, baseline);
        }
    }

    fn tolerance(&self) -> f64 {
        1.0 + f64::from(self.config.tolerance_percent) / 100.0
    }

    fn plan_probe(&mut self, now: Time, lasted: f64) {
        let latency = self.baseline.unwrap_or(0.0);
        let least = (nanos(self.config.probe_every) as f64)
            .max(PROBE_LATENCIES * latency)
            .max(PROBE_LENGTHS * lasted);
        let wait = least * (1.0 + self.random.bits() as f64 / u64::MAX as f64);
        self.probe_at = now.0.saturating_add(wait as u64);
        self.probed_limit = self.limit;
    }

    /// Lets in a quarter less than can be done at once, as far as is known. What is seen then is
    /// compared with `last`. If so few are in hand that it cannot be less, more are let in: a
    /// service that became slower would otherwise be held at the floor for ever.
    fn begin_probe(&mut self, now: Time, before: Point, last: Point) {
        let queueing = match self.baseline {
            Some(baseline) => (baseline / last.took).min(1.0),
            None => 0.7,
        };
        let least = (self.floor() / 2.0).round();
        let less = (0.75 * last.in_flight * queueing).round().max(least);
        let limit = if less <= 0.85 * last.in_flight {
            less
        } else {
            (2.0 * last.in_flight).min(self.config.cap as f64)
        };
        let expected = match self.baseline {
            Some(_) => last.took,
            None => last.took * limit / last.in_flight,
        };
        self.probe = Some(Probe {
            limit,
            before,
            last,
        });
        self.begin_anew(now, expected);
    }

    fn judge_probe(&mut self, now: Time, probe: Probe, point: Point) {
        let is_same = |other: f64| (point.took - other).abs() <= SAME * other;
        let is_more = probe.limit > probe.last.in_flight;
        let shows_no_queue = if is_more {
            point.took <= (1.0 + SAME) * probe.last.took
        } else {
            point.took >= (1.0 - SAME) * probe.last.took
        };
        match self.baseline {
            // As it was, or nothing is held back.
            Some(known) if is_same(known) || !probe.is_reached(point) => {
                self.baseline = Some(known + 0.5 * (point.took - known));
            }
            _ if shows_no_queue || !probe.is_reached(point) => self.baseline = Some(point.took),
            known => {
                let least = point.took.min(probe.last.took);
                self.baseline = known.map(|known| known.min(least));
                if !is_more {
                    return self.begin_probe(now, probe.before, point);
                }
                self.baseline = self.baseline.or(Some(least));
            }
        }
        self.end_probe(now, probe.before);
    }

    /// Goes back to what was before, as it is seen with the baseline known now.
    fn end_probe(&mut self, now: Time, before: Point) {
        self.probe = None;
        let baseline = self.baseline.unwrap_or(before.took);
        let at_once = before.in_flight * (baseline / before.took).min(1.0);
        self.set(at_once * self.tolerance() + at_once.sqrt());
        self.plan_probe(now, now.since(self.since).as_nanos() as f64);
        self.begin_anew(now, baseline);
    }
}
