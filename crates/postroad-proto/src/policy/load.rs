//! How loaded one endpoint is, as its client sees it: calls in flight, latency, failures.
//!
//! The latency is a *peak* EWMA: a call that took longer than the average raises it at once, and it
//! sinks with time only. A failure is charged a penalty, because an endpoint that fails in ten
//! microseconds would otherwise look like the fastest of all. The penalty sinks faster than the
//! latency does, so that a healed endpoint is back within three times [`LoadConfig::decay`].

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::window::nanos;
use super::{Ending, Outcome, Verdict};
use crate::Time;

/// How a [`Load`] weighs what it learns.
///
/// # Defaults
/// Decay 10 s; a failure is charged at least 5 s and at most 30 s; slow start over 10 s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadConfig {
    /// Time in which an old latency loses 63 % of its weight; more than 0.
    pub decay: Duration,
    /// What a failure is charged if its call had no timeout.
    pub penalty: Duration,
    /// The most that a failure is charged, unless the endpoint itself asked for more.
    pub penalty_max: Duration,
    /// The most that an endpoint's own hint *not sooner than* is believed.
    pub hint_max: Duration,
    /// Over what time an endpoint that has just become healthy is given its full share. Zero gives
    /// it all at once.
    pub slow_start: Duration,
}

impl Default for LoadConfig {
    fn default() -> Self {
        Self {
            decay: Duration::from_secs(10),
            penalty: Duration::from_secs(5),
            penalty_max: Duration::from_secs(30),
            hint_max: Duration::from_secs(300),
            slow_start: Duration::from_secs(10),
        }
    }
}

/// The whole of [`Load::ramp`].
pub const RAMP_WHOLE: u32 = 1024;
/// What [`Load::ramp`] begins with: a tenth, so that a cold endpoint warms up by real calls.
const RAMP_FIRST: u32 = RAMP_WHOLE / 10;
/// No endpoint is scored as faster than this, nanoseconds, because differences below it are noise.
const LATENCY_MIN: u64 = 1_000;
/// The penalty decays this many times faster than the latency.
const PENALTY_HASTE: u32 = 4;

/// Load of one endpoint, shared by all who call it. Nothing in it takes a lock.
#[derive(Debug)]
pub struct Load {
    config: LoadConfig,
    in_flight: AtomicU32,
    latency: Decaying,
    penalty: Decaying,
    /// [`Time`] of the last failure; 0 if there was none.
    failed_at: AtomicU64,
    /// [`Time`] at which the endpoint became healthy; 0 if it always was.
    healthy_since: AtomicU64,
}

impl Load {
    /// Of an endpoint about which nothing is known.
    #[must_use]
    pub fn new(config: LoadConfig) -> Self {
        Self {
            config,
            in_flight: AtomicU32::new(0),
            latency: Decaying::default(),
            penalty: Decaying::default(),
            failed_at: AtomicU64::new(0),
            healthy_since: AtomicU64::new(0),
        }
    }

    /// A call was given to the endpoint. Each start is followed by one [`Load::finish`].
    pub fn start(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// A call has ended. `timeout` is the time that it had, if it had an end; `hint` is what the
    /// endpoint said about not being asked sooner.
    pub fn finish(
        &self,
        now: Time,
        outcome: &Outcome,
        timeout: Option<Duration>,
        hint: Option<Duration>,
    ) {
        let took = outcome.timing.map(|timing| nanos(timing.took));
        let verdict = Verdict::of(&outcome.ending);
        if verdict == Verdict::Success {
            if let Some(took) = took {
                self.latency.raise_or_sink(now, took, self.config.decay);
            }
            return self.answered(1);
        }
        self.ended(1);
        match verdict {
            Verdict::Success => {}
            Verdict::Failure => self.charge(now, took, timeout, hint),
            // A call that was given up has taken at least so long.
            Verdict::Unknown => {
                if let (Ending::GivenUp, Some(took)) = (outcome.ending, took)
                    && took > self.latency.now(now, self.config.decay).unwrap_or(0)
                {
                    self.latency.raise_or_sink(now, took, self.config.decay);
                }
            }
        }
    }

    /// So many calls were answered, of which it is not known how long they took.
    pub fn answered(&self, calls: u32) {
        self.ended(calls);
        self.penalty.halve(calls);
    }

    fn ended(&self, calls: u32) {
        // A finish too many must not make an endpoint look busy for ever.
        let less = |in_flight: u32| Some(in_flight.saturating_sub(calls));
        let _ = self.in_flight.fetch_update(Relaxed, Relaxed, less);
    }

    fn charge(
        &self,
        now: Time,
        took: Option<u64>,
        timeout: Option<Duration>,
        hint: Option<Duration>,
    ) {
        self.failed_at.store(now.0.max(1), Relaxed);
        let before = self.penalty.now(now, self.penalty_decay()).unwrap_or(0);
        let penalty = match hint {
            Some(hint) => nanos(hint.min(self.config.hint_max)),
            None => nanos(timeout.unwrap_or(self.config.penalty))
                .max(took.unwrap_or(0))
                .max(before.saturating_mul(2))
                .min(nanos(self.config.penalty_max)),
        };
        self.penalty.set(now, penalty.max(before));
    }

    fn penalty_decay(&self) -> Duration {
        self.config.decay / PENALTY_HASTE
    }

    /// The endpoint has become healthy: its share begins small and grows over the slow start.
    pub fn became_healthy(&self, now: Time) {
        self.healthy_since.store(now.0.max(1), Relaxed);
    }

    /// The share of its weight that the endpoint has now, of [`RAMP_WHOLE`]; at least a tenth.
    #[must_use]
    pub fn ramp(&self, now: Time) -> u32 {
        let since = self.healthy_since.load(Relaxed);
        let window = nanos(self.config.slow_start);
        // A clock that went back ends the slow start rather than making it endless.
        if since == 0 || now.0 < since || now.0 - since >= window {
            return RAMP_WHOLE;
        }
        let grown = u128::from(now.0 - since) * u128::from(RAMP_WHOLE) / u128::from(window);
        (grown as u32).max(RAMP_FIRST)
    }

    /// Calls that have started and not finished.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// The peak EWMA of the latency, as it has decayed until now; `None` before the first answer.
    #[must_use]
    pub fn latency(&self, now: Time) -> Option<Duration> {
        let nanos = self.latency.now(now, self.config.decay)?;
        Some(Duration::from_nanos(nanos))
    }

    /// When a call failed last.
    #[must_use]
    pub fn failed_at(&self) -> Option<Time> {
        let at = self.failed_at.load(Relaxed);
        (at != 0).then_some(Time(at))
    }

    /// What one more call would cost, nanoseconds for a weight of 1: (latency and penalty) times
    /// (calls in flight and this one), by the weight as the slow start lets it count. `latency` is
    /// [`Load::latency`], or a guess where nothing is known.
    #[must_use]
    pub fn score(&self, now: Time, weight: u32, latency: Duration) -> u64 {
        let penalty = self.penalty.now(now, self.penalty_decay());
        let each = nanos(latency)
            .saturating_add(penalty.unwrap_or(0))
            .max(LATENCY_MIN);
        let calls = (u64::from(self.in_flight()) + 1) * u64::from(RAMP_WHOLE);
        let weight = u64::from(weight.max(1)) * u64::from(self.ramp(now));
        // Nearly always it fits; wide numbers are divided by a function.
        match each.checked_mul(calls) {
            Some(load) => load / weight,
            None => {
                let load = u128::from(each) * u128::from(calls) / u128::from(weight);
                u64::try_from(load).unwrap_or(u64::MAX)
            }
        }
    }
}

/// A time that decays, and when it was set, in one word: a reader never sees half of an update.
///
/// The upper half is the moment in ticks of 2^20 ns (about a millisecond), which wraps after 52
/// days; the lower half is the value in units of 128 ns, and 0 if there is none yet.
#[derive(Debug, Default)]
struct Decaying(AtomicU64);

const TICK_BITS: u32 = 20;
const UNIT_BITS: u32 = 7;

fn tick(now: Time) -> u32 {
    (now.0 >> TICK_BITS) as u32
}

fn pack(tick: u32, nanos: u64) -> u64 {
    let units = (nanos >> UNIT_BITS).clamp(1, u64::from(u32::MAX));
    u64::from(tick) << 32 | units
}

/// What is left after `ticks` of something that decays by `decay`, as a share.
fn left(ticks: u32, decay: Duration) -> f64 {
    let decay = (nanos(decay) >> TICK_BITS).max(1) as f64;
    (-f64::from(ticks) / decay).exp()
}

fn ticks_since(word: u64, now: Time) -> u32 {
    let ticks = tick(now).wrapping_sub((word >> 32) as u32);
    // More than half of all ticks means that the clock went back.
    if ticks > u32::MAX / 2 { 0 } else { ticks }
}

impl Decaying {
    fn now(&self, now: Time, decay: Duration) -> Option<u64> {
        let word = self.0.load(Relaxed);
        let value = u64::from(word as u32) << UNIT_BITS;
        match ticks_since(word, now) {
            _ if value == 0 => None,
            0 => Some(value),
            ticks => Some((value as f64 * left(ticks, decay)) as u64),
        }
    }

    fn set(&self, now: Time, nanos: u64) {
        self.0.store(pack(tick(now), nanos), Relaxed);
    }

    fn halve(&self, times: u32) {
        let half = |word: u64| {
            let units = word as u32;
            let less = units.checked_shr(times).unwrap_or(0).max(1);
            (units > 1).then_some(word >> 32 << 32 | u64::from(less))
        };
        let _ = self.0.fetch_update(Relaxed, Relaxed, half);
    }

    /// Takes a larger value at once, and goes to a smaller one as fast as time passes.
    fn raise_or_sink(&self, now: Time, nanos: u64, decay: Duration) {
        let update = |word: u64| {
            let value = u64::from(word as u32) << UNIT_BITS;
            if value == 0 || nanos >= value {
                return Some(pack(tick(now), nanos));
            }
            let ticks = ticks_since(word, now);
            if ticks == 0 {
                return None;
            }
            let kept = left(ticks, decay);
            let sunk = value as f64 * kept + nanos as f64 * (1.0 - kept);
            let next = pack(tick(now), sunk as u64);
            // A step too small to be seen is not taken, and its time counts with the next one.
            (next as u32 != word as u32).then_some(next)
        };
        let _ = self.0.fetch_update(Relaxed, Relaxed, update);
    }
}
