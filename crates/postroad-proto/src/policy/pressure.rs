//! The simple choice against overload: how much of the capacity was in use during the last while.
//!
//! Two windows that slide. The short one asks for *back pressure*: reading less, so that callers
//! slow down before anything is refused. The long one asks to *refuse* what is not critical,
//! because an overload that lasts is not helped by waiting.
//!
//! What is counted is the part of the capacity that each arriving request found in use. So a server
//! to which nobody comes is not under pressure, however busy it was when the last one came.

use std::time::Duration;

use super::window::{Sums, Window};
use crate::Time;

/// When a [`Pressure`] asks for what.
///
/// # Defaults
/// 1 s over 80 % of the capacity: back pressure. 5 s over 90 %: refuse what is below priority 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PressureConfig {
    /// The short window.
    pub slow_down_window: Duration,
    /// More than so many percent of the capacity in use, on average over the short window, ask for
    /// back pressure.
    pub slow_down_percent: u8,
    /// The long window.
    pub refuse_window: Duration,
    /// More than this over the long window ask to refuse.
    pub refuse_percent: u8,
    /// Priorities from this on are critical and never refused.
    pub critical_level: u8,
}

impl Default for PressureConfig {
    fn default() -> Self {
        Self {
            slow_down_window: Duration::from_secs(1),
            slow_down_percent: 80,
            refuse_window: Duration::from_secs(5),
            refuse_percent: 90,
            critical_level: 6,
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PressureState {
    /// Nothing.
    Calm,
    /// Back pressure: read less.
    SlowDown,
    /// To refuse what is not critical, and to read less.
    Refuse,
}

const BUCKETS: usize = 10;
/// The capacity in units in which it is counted: small ones, because a bucket's counts are bounded.
const WHOLE: u64 = 100;

/// Watches how full a server is. It takes no lock.
#[derive(Debug)]
pub struct Pressure {
    config: PressureConfig,
    short: Window<BUCKETS>,
    long: Window<BUCKETS>,
}

impl Pressure {
    /// Of a server that is idle.
    #[must_use]
    pub fn new(config: PressureConfig) -> Self {
        Self {
            config,
            short: Window::new(config.slow_down_window),
            long: Window::new(config.refuse_window),
        }
    }

    /// A request has come and found so many in hand of so many that there may be.
    pub fn note(&self, now: Time, in_hand: usize, capacity: usize) {
        let used = (in_hand as u128 * u128::from(WHOLE) / capacity.max(1) as u128) as u64;
        let used = used.min(WHOLE);
        self.short.add(now, 0, WHOLE, used);
        self.long.add(now, 0, WHOLE, used);
    }

    /// What is asked for now. The whole window counts, and has to be filled: what lasts for less
    /// than most of it asks for nothing.
    #[must_use]
    pub fn state(&self, now: Time) -> PressureState {
        if is_over(&self.long, now, self.config.refuse_percent) {
            return PressureState::Refuse;
        }
        if is_over(&self.short, now, self.config.slow_down_percent) {
            return PressureState::SlowDown;
        }
        PressureState::Calm
    }

    /// Whether a request of this priority is let in.
    #[must_use]
    pub fn admits(&self, now: Time, level: u8) -> bool {
        level >= self.config.critical_level || self.state(now) < PressureState::Refuse
    }
}

/// Whether more than so many percent were in use in the average of the window's spans. Each span
/// counts the same, or the many requests of a short burst would outweigh the calm around it. One in
/// which nobody came counts as unused, unless it has only begun.
fn is_over(window: &Window<BUCKETS>, now: Time, percent: u8) -> bool {
    let mut before = window.recent(now, 0, 1);
    let per_mille = |sums: Sums| (sums.marked * 1000).checked_div(sums.all);
    let (mut used, mut spans) = (0, BUCKETS as u64);
    match per_mille(before) {
        Some(present) => used += present,
        None => spans -= 1,
    }
    // Other threads add meanwhile, so a longer stretch may even have less than a shorter one had.
    for back in 2..=BUCKETS {
        let sums = window.recent(now, 0, back);
        let span = Sums {
            all: sums.all.saturating_sub(before.all),
            marked: sums.marked.saturating_sub(before.marked),
        };
        used += per_mille(span).unwrap_or(0);
        before = sums;
    }
    used > spans * u64::from(percent) * 10
}
