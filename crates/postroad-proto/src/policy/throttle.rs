//! Stops sending what a shedding server would refuse anyway, before it costs the server anything.
//!
//! Client-side throttling of *Site Reliability Engineering*, chapter 21: of the calls of the last
//! two minutes, let `requests` be those that were wanted and `accepts` those that were not shed. A
//! call is refused here with probability `(requests - K * accepts) / (requests + 1)`. Refused calls
//! count as requests, so that the probability grows as long as callers go on, and calls that were
//! let through tell when the server has recovered. What is urgent has a larger `K`.

use std::time::Duration;

use super::window::Window;
use crate::Time;

const WINDOW: Duration = Duration::from_secs(120);
/// At least a quarter goes through, so that a recovery is noticed (Finagle's `NackAdmission`).
const REFUSED_MAX: u64 = 750;
/// Below five calls a second nobody is overloaded by this client.
const REQUESTS_MIN: u64 = 5 * 120;

/// A throttle of one service. All methods may be called by many threads at once; none waits.
#[derive(Debug)]
pub struct Throttle {
    requests: Window,
    sheds: Window,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

impl Throttle {
    /// With nothing counted.
    #[must_use]
    pub fn new() -> Self {
        Self {
            requests: Window::new(WINDOW),
            sheds: Window::new(WINDOW),
        }
    }

    /// Whether a call of this priority, 0 to 7, may be sent. `random` is drawn for each call.
    #[inline]
    pub fn admit(&self, priority: u8, random: impl FnOnce() -> u64, now: Time) -> bool {
        self.requests.add(1, now);
        let sheds = self.sheds.count(now);
        sheds == 0 || self.admit_from_shedding(priority, sheds, random, now)
    }

    #[cold]
    fn admit_from_shedding(
        &self,
        priority: u8,
        sheds: u64,
        random: impl FnOnce() -> u64,
        now: Time,
    ) -> bool {
        let refused = self.refused_permille(priority, sheds, now);
        let admitted = random() % 1000 >= refused;
        if !admitted {
            // The server has not accepted it, and would not have.
            self.sheds.add(1, now);
        }
        admitted
    }

    /// Of a thousand calls of this priority, how many are refused.
    fn refused_permille(&self, priority: u8, sheds: u64, now: Time) -> u64 {
        let requests = self.requests.count(now);
        if requests < REQUESTS_MIN {
            return 0;
        }
        let accepts = requests.saturating_sub(sheds);
        // K is 2 at the usual priority 3, from 1.25 to 3.
        let let_through = accepts * (5 + u64::from(priority.min(7))) / 4;
        let over = requests.saturating_sub(let_through);
        (over * 1000 / (requests + 1)).min(REFUSED_MAX)
    }

    /// The server has refused a call because it has too many.
    pub fn shed(&self, now: Time) {
        self.sheds.add(1, now);
    }

    /// Of a hundred calls of priority 3, how many are refused here.
    #[must_use]
    pub fn refused_percent(&self, now: Time) -> u32 {
        (self.refused_permille(3, self.sheds.count(now), now) / 10) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten seconds of 1,000 calls a second of one priority to a server that takes `capacity` a
    /// second; how many a second reached it in the last of them.
    fn reach(priority: u8, capacity: u64, is_on: bool) -> u64 {
        let throttle = Throttle::new();
        let mut random = 7_u64;
        let mut draw = || {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            random >> 33
        };
        let mut last = 0;
        for second in 0..120_u64 {
            let mut reached = 0;
            for call in 0..1_000 {
                let now = Time(1_000_000_000_000 + (second * 1000 + call) * 1_000_000);
                if throttle.admit(priority, &mut draw, now) || !is_on {
                    reached += 1;
                    if reached > capacity {
                        throttle.shed(now);
                    }
                }
            }
            last = reached;
        }
        last
    }

    #[test]
    fn a_server_that_sheds_is_asked_about_twice_what_it_takes() {
        let reached = reach(3, 300, true);
        assert!((500..700).contains(&reached), "{reached}");
        assert_eq!(reach(3, 300, false), 1_000);
        assert_eq!(reach(3, 1_000, true), 1_000, "one that takes all gets all");
        assert!(reach(3, 0, true) >= 200, "a recovery must be noticed");
    }

    #[test]
    fn what_is_urgent_is_refused_last() {
        let (bulk, urgent) = (reach(0, 300, true), reach(7, 300, true));
        assert!(bulk < reach(3, 300, true) && reach(3, 300, true) < urgent);
    }
}
