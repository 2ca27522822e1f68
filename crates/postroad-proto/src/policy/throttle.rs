//! Client-side throttling: who is refused by an overloaded service stops asking so often.
//!
//! Of a service that refuses half of what it is asked, the refusing alone may be more than it can
//! do. So a client fails a share of its calls by itself: (requests - K * accepted) / (requests + 1)
//! over the last two minutes (Site Reliability Engineering, 2016, chapter 21). With K = 2 a service
//! still sees twice what it accepts, and so the client learns when it accepts more. What was not
//! refused counts as accepted, also while it is in flight: many calls on their way are no overload.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::window::{Window, below};
use crate::Time;

/// When a [`Throttle`] fails calls by itself.
///
/// # Defaults
/// K = 2 over 2 min; at most 75 % of the calls; never below 5 calls a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrottleConfig {
    /// How many times as many calls are made as are accepted, in thousandths; at least 1000.
    pub k_per_mille: u32,
    /// Over what time calls are counted.
    pub window: Duration,
    /// The largest share of calls that is failed here, of a thousand.
    pub most_per_mille: u32,
    /// With fewer calls a second than this none is failed here.
    pub calls_per_second: u32,
}

impl Default for ThrottleConfig {
    fn default() -> Self {
        Self {
            k_per_mille: 2000,
            window: Duration::from_secs(120),
            most_per_mille: 750,
            calls_per_second: 5,
        }
    }
}

/// That a call is not made, because the other end refuses too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not sent: the service refuses so much that {}.{} % of calls are held back here",
    per_mille / 10, per_mille % 10)]
pub struct Throttled {
    /// The share of such calls that is held back, of a thousand.
    pub per_mille: u32,
}

/// The most urgent calls. They are held back only when twice as large a K would hold them back.
const CRITICAL: u8 = 7;
const BUCKETS: usize = 24;

/// Counts the calls to one endpoint or service, and holds some back. It takes no lock.
#[derive(Debug)]
pub struct Throttle {
    config: ThrottleConfig,
    /// Calls that were asked for, and those of them that were refused, there or here.
    window: Window<BUCKETS>,
    /// [`Time`] of the last call that was refused; 0 if none was.
    refused_at: AtomicU64,
}

impl Throttle {
    /// Before the first call.
    #[must_use]
    pub fn new(config: ThrottleConfig) -> Self {
        Self {
            config,
            window: Window::new(config.window),
            refused_at: AtomicU64::new(0),
        }
    }

    /// Counts a call that is about to be made. `priority` is 0 to 7, 7 the most urgent; `random`
    /// draws 64 bits if they are needed.
    ///
    /// # Errors
    /// If the call is to be failed here. It was counted all the same: that is what keeps the share
    /// up as long as the other end refuses.
    pub fn admit(
        &self,
        now: Time,
        priority: u8,
        random: impl FnOnce() -> u64,
    ) -> Result<(), Throttled> {
        let per_mille = self.share(now, priority);
        let is_held_back = per_mille > 0 && below(random(), 1000) < u64::from(per_mille);
        self.window.add(now, 0, 1, u64::from(is_held_back));
        if is_held_back {
            self.refused_at.store(now.0, Relaxed);
            return Err(Throttled { per_mille });
        }
        Ok(())
    }

    /// The other end has refused a call that was admitted, because it has too many.
    pub fn refused(&self, now: Time) {
        self.window.add(now, 0, 0, 1);
        self.refused_at.store(now.0, Relaxed);
    }

    /// The share of calls that is held back now, of a thousand.
    #[must_use]
    pub fn share(&self, now: Time, priority: u8) -> u32 {
        // Nearly always nothing was refused lately, and then there is nothing to count.
        let refused_at = Time(self.refused_at.load(Relaxed));
        if refused_at.0 == 0 || now.since(refused_at) > self.config.window {
            return 0;
        }
        let sums = self.window.sums(now, 0);
        let mut k = u64::from(self.config.k_per_mille.max(1000));
        if priority >= CRITICAL {
            k *= 2;
        }
        let accepted = sums.all.saturating_sub(sums.marked);
        let held_back = (sums.all * 1000).saturating_sub(accepted * k);
        if held_back == 0 || self.is_quiet(now) {
            return 0;
        }
        let share = held_back / (sums.all + 1);
        share.min(u64::from(self.config.most_per_mille)) as u32
    }

    /// Whether there were too few calls lately to judge by.
    fn is_quiet(&self, now: Time) -> bool {
        let recent = self.window.recent(now, 0, 2).all;
        let span = self.config.window.as_millis() as u64 / BUCKETS as u64;
        recent * 1000 < u64::from(self.config.calls_per_second) * span
    }
}
