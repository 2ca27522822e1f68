//! A circuit breaker: it stops calls to an endpoint of which too many fail, and lets a few try
//! whether it works again.
//!
//! ```text
//!            too many of enough calls failed              sleep window over
//!   Closed ---------------------------------> Open ----------------------------> HalfOpen
//!     ^                                        ^                                  |    |
//!     |                                        +--------- a probe failed ---------+    |
//!     +------------------------------- all probes succeeded ---------------------------+
//! ```

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::Duration;

use super::Verdict;
use super::window::Window;
use crate::Time;

/// When a [`Breaker`] opens and closes.
///
/// # Defaults
/// Opens when half of at least 20 calls of the last 10 s have failed; sleeps 5 s; one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Over what time calls are counted.
    pub window: Duration,
    /// Fewer calls than this in the window prove nothing.
    pub request_volume: u32,
    /// The percentage of failed calls at which it opens, 1 to 100.
    pub error_percent: u8,
    /// How long no call is let through, and how long a probe may take.
    pub sleep: Duration,
    /// Calls that are let through at a time while half open, and successes that close the breaker;
    /// 1 to 255.
    pub probes: u8,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(10),
            request_volume: 20,
            error_percent: 50,
            sleep: Duration::from_secs(5),
            probes: 1,
        }
    }
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Calls pass and are counted.
    Closed,
    /// No call passes.
    Open,
    /// A few calls pass, to see whether the endpoint works again.
    HalfOpen,
}

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// That a call may pass. It is given back to [`Breaker::finish`] when the call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the breaker has to hear how the call ended"]
pub struct Permit {
    generation: u32,
    /// Whether the call is one of the few that try whether the endpoint works again.
    pub is_probe: bool,
}

/// That a call may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the circuit breaker is {state}; ask again in {}", humantime::format_duration(*wait))]
pub struct BreakerOpen {
    /// [`BreakerState::Open`] or [`BreakerState::HalfOpen`].
    pub state: BreakerState,
    /// When it may be otherwise. The end of a probe may change it sooner.
    pub wait: Duration,
}

/// State, generation and probes, which change together in one word.
///
/// Each change of the state begins a new generation, and an outcome counts in the generation only
/// in which its call began.
#[derive(Clone, Copy)]
struct Word {
    generation: u32,
    state: BreakerState,
    /// Probes that have not ended.
    probing: u8,
    /// Probes that have succeeded.
    succeeded: u8,
}

impl Word {
    fn read(bits: u64) -> Self {
        Self {
            generation: (bits >> 32) as u32,
            state: match bits >> 16 & 0xFF {
                0 => BreakerState::Closed,
                1 => BreakerState::Open,
                _ => BreakerState::HalfOpen,
            },
            probing: (bits >> 8) as u8,
            succeeded: bits as u8,
        }
    }

    fn bits(self) -> u64 {
        u64::from(self.generation) << 32
            | (self.state as u64) << 16
            | u64::from(self.probing) << 8
            | u64::from(self.succeeded)
    }

    fn next(self, state: BreakerState, probing: u8) -> Self {
        Self {
            generation: self.generation.wrapping_add(1),
            state,
            probing,
            succeeded: 0,
        }
    }
}

/// A circuit breaker of one endpoint, shared by all who call it. Nothing in it takes a lock.
#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    word: AtomicU64,
    /// Open: when the sleep is over. Half open: until when probes may take. A [`Time`].
    until: AtomicU64,
    window: Window<10>,
}

/// More than a tick of any coarse clock.
const TICK: Duration = Duration::from_millis(20);

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            word: AtomicU64::new(0),
            until: AtomicU64::new(0),
            window: Window::new(config.window),
        }
    }

    /// Where it stands. It becomes half open when a call asks after the sleep.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        Word::read(self.word.load(Acquire)).state
    }

    /// Whether a call that asked now would pass; asking changes nothing.
    #[must_use]
    pub fn would_admit(&self, now: Time) -> bool {
        let word = Word::read(self.word.load(Acquire));
        match word.state {
            BreakerState::Closed => true,
            BreakerState::HalfOpen if word.probing < self.probes() => true,
            BreakerState::Open | BreakerState::HalfOpen => self.wait(now).is_zero(),
        }
    }

    /// How long until a call may pass; zero if one may now.
    #[must_use]
    pub fn retry_after(&self, now: Time) -> Duration {
        match self.would_admit(now) {
            true => Duration::ZERO,
            false => self.wait(now),
        }
    }

    /// Lets a call pass or not.
    ///
    /// # Errors
    /// If the breaker is open, or half open and as many probes as may be are on their way.
    pub fn admit(&self, now: Time) -> Result<Permit, BreakerOpen> {
        let word = Word::read(self.word.load(Acquire));
        if word.state == BreakerState::Closed {
            return Ok(Permit {
                generation: word.generation,
                is_probe: false,
            });
        }
        self.admit_probe(now)
    }

    fn admit_probe(&self, now: Time) -> Result<Permit, BreakerOpen> {
        loop {
            let old = Word::read(self.word.load(Acquire));
            let wait = self.wait(now);
            let new = match old.state {
                BreakerState::Closed => return self.admit(now),
                BreakerState::HalfOpen if old.probing < self.probes() => Word {
                    probing: old.probing + 1,
                    ..old
                },
                // The sleep is over, or a probe never answered: it no longer counts.
                BreakerState::Open | BreakerState::HalfOpen if wait.is_zero() => {
                    old.next(BreakerState::HalfOpen, 1)
                }
                state => return Err(BreakerOpen { state, wait }),
            };
            // The time comes first, as in `open`.
            self.until.store((now + self.config.sleep).0, Release);
            if self.exchange(old, new) {
                return Ok(Permit {
                    generation: new.generation,
                    is_probe: true,
                });
            }
        }
    }

    /// How long it stays as it is. No moment is much further away than the sleep window: if one is,
    /// the clock went back. Threads that read a coarse clock may differ by a tick.
    fn wait(&self, now: Time) -> Duration {
        let wait = Time(self.until.load(Acquire)).since(now);
        if wait > self.config.sleep + TICK {
            Duration::ZERO
        } else {
            wait.min(self.config.sleep)
        }
    }

    fn probes(&self) -> u8 {
        self.config.probes.max(1)
    }

    fn exchange(&self, old: Word, new: Word) -> bool {
        let (old, new) = (old.bits(), new.bits());
        self.word
            .compare_exchange(old, new, AcqRel, Relaxed)
            .is_ok()
    }

    /// Hears how a call has ended that was let through, and says into which state that has brought
    /// the breaker, if into another. Calls that began in an earlier state change nothing.
    pub fn finish(&self, now: Time, permit: Permit, verdict: Verdict) -> Option<BreakerState> {
        let word = Word::read(self.word.load(Acquire));
        if word.generation != permit.generation {
            return None;
        }
        if permit.is_probe {
            return self.finish_probe(now, permit, verdict);
        }
        match verdict {
            Verdict::Success => {
                self.succeeded(now, permit, 1);
                return None;
            }
            Verdict::Failure => {}
            Verdict::Unknown => return None,
        }
        let generation = permit.generation as u8;
        self.window.add(now, generation, 1, 1);
        let sums = self.window.sums(now, generation);
        let share = u64::from(self.config.error_percent.clamp(1, 100));
        let trips = sums.all >= u64::from(self.config.request_volume)
            && sums.marked * 100 >= sums.all * share;
        (trips && self.open(now, word)).then_some(BreakerState::Open)
    }

    /// Hears that several calls have succeeded that were let through by the same permit, which is
    /// none of a probe: a success changes no state then, and they are counted at once.
    pub fn succeeded(&self, now: Time, permit: Permit, calls: u32) {
        let word = Word::read(self.word.load(Acquire));
        if word.generation == permit.generation {
            let generation = permit.generation as u8;
            self.window.add(now, generation, u64::from(calls), 0);
        }
    }

    /// Opens it, unless it has changed since the word was read.
    fn open(&self, now: Time, old: Word) -> bool {
        // The time comes first, so that nobody sees an open breaker whose sleep seems to be over.
        self.until.store((now + self.config.sleep).0, Release);
        self.exchange(old, old.next(BreakerState::Open, 0))
    }

    fn finish_probe(&self, now: Time, permit: Permit, verdict: Verdict) -> Option<BreakerState> {
        loop {
            let old = Word::read(self.word.load(Acquire));
            if old.generation != permit.generation {
                return None;
            }
            let less = Word {
                probing: old.probing.saturating_sub(1),
                ..old
            };
            let new = match verdict {
                Verdict::Failure if self.open(now, old) => return Some(BreakerState::Open),
                Verdict::Failure => continue,
                Verdict::Unknown => less,
                Verdict::Success if old.succeeded + 1 >= self.probes() => {
                    old.next(BreakerState::Closed, 0)
                }
                Verdict::Success => Word {
                    succeeded: old.succeeded + 1,
                    ..less
                },
            };
            if self.exchange(old, new) {
                return (new.state != old.state).then_some(new.state);
            }
        }
    }
}
