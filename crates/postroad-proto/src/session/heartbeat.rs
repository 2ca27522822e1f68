//! Signs of life, and what they measure.
//!
//! Any received frame counts. After an interval of silence a PING is sent; after three without any
//! frame the connection is dead (M-022). The interval shortens when a ping is missed or round trips
//! jitter, and lengthens back when they are calm. Round trips are smoothed as in RFC 6298.

use std::time::Duration;

use crate::Time;
use crate::limits::{HEARTBEAT_MAX, HEARTBEAT_MIN, HEARTBEAT_SHRINK_MAX, HEARTBEATS_MISSED_MAX};

#[derive(Debug)]
pub(super) struct Heartbeat {
    agreed: Duration,
    current: Duration,
    last_received: Time,
    due: Time,
    missed: u32,
    smoothed: Option<Duration>,
    variation: Duration,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Nothing,
    Ping,
    Dead,
}

impl Heartbeat {
    pub(super) fn new(now: Time, agreed: Duration) -> Self {
        let agreed = agreed.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX);
        Self {
            agreed,
            current: agreed,
            last_received: now,
            due: now + agreed,
            missed: 0,
            smoothed: None,
            variation: Duration::ZERO,
        }
    }

    pub(super) fn due(&self) -> Time {
        self.due
    }

    pub(super) fn silence(&self, now: Time) -> Duration {
        now.since(self.last_received)
    }

    #[inline]
    pub(super) fn received(&mut self, now: Time) {
        self.last_received = now;
        self.missed = 0;
    }

    /// `hears` is false while this end itself does not read, or while an answer that waits for its
    /// turn may hold the peer's heartbeat back: silence says nothing then.
    pub(super) fn handle_timeout(&mut self, now: Time, hears: bool) -> Beat {
        if now < self.due {
            return Beat::Nothing;
        }
        if !hears {
            self.received(now);
            self.due = now + self.current;
            return Beat::Ping;
        }
        // Frames came meanwhile: nothing was reset for each of them, only looked at now.
        let next = self.last_received + self.current;
        if self.missed == 0 && next > now {
            self.due = next;
            return Beat::Nothing;
        }
        // One beat a wakeup, however late: a process that was stopped does not count its own sleep.
        self.missed += 1;
        self.due = now + self.current;
        // The shortened interval asks sooner; it does not bury sooner than was agreed.
        let patience = self.agreed * HEARTBEATS_MISSED_MAX;
        if self.missed >= HEARTBEATS_MISSED_MAX && self.silence(now) >= patience {
            return Beat::Dead;
        }
        if self.missed > 1 {
            self.shrink();
        }
        Beat::Ping
    }

    pub(super) fn measured(&mut self, sample: Duration) {
        match self.smoothed {
            None => {
                self.smoothed = Some(sample);
                self.variation = sample / 2;
            }
            Some(smoothed) => {
                let difference = smoothed.abs_diff(sample);
                let jitters = difference > (4 * self.variation).max(Duration::from_millis(1));
                self.variation = (3 * self.variation + difference) / 4;
                self.smoothed = Some((7 * smoothed + sample) / 8);
                if jitters {
                    self.shrink();
                } else {
                    self.current = (self.current + self.current / 4).min(self.agreed);
                }
            }
        }
    }

    fn shrink(&mut self) {
        let least = (self.agreed / HEARTBEAT_SHRINK_MAX).max(HEARTBEAT_MIN);
        self.current = (self.current / 2).max(least);
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.smoothed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(30);

    #[test]
    fn three_intervals_of_silence_are_death_and_any_frame_is_life_m_022() {
        let mut heart = Heartbeat::new(Time(0), BEAT);
        assert_eq!(heart.handle_timeout(heart.due(), true), Beat::Ping);
        assert_eq!(heart.handle_timeout(heart.due(), true), Beat::Ping);
        heart.received(heart.due());
        assert_eq!(heart.handle_timeout(heart.due(), true), Beat::Nothing);
        let since = heart.last_received;
        while heart.handle_timeout(heart.due(), true) != Beat::Dead {}
        let silence = (heart.due() + Duration::ZERO).since(since) - heart.current;
        assert!(silence >= 3 * BEAT && silence <= 4 * BEAT, "{silence:?}");
    }

    #[test]
    fn the_interval_shortens_when_a_ping_is_missed_and_lengthens_when_calm() {
        let mut heart = Heartbeat::new(Time(0), BEAT);
        heart.handle_timeout(heart.due(), true);
        heart.handle_timeout(heart.due(), true);
        assert_eq!(heart.current, BEAT / 2);
        (0..10).for_each(|_| heart.measured(Duration::from_millis(5)));
        assert_eq!(heart.current, BEAT);
        heart.measured(Duration::from_millis(500));
        assert_eq!(heart.current, BEAT / 2, "jitter shortens it too");
    }

    #[test]
    fn a_process_that_slept_does_not_bury_its_peers() {
        let mut heart = Heartbeat::new(Time(0), BEAT);
        assert_eq!(heart.handle_timeout(Time(0) + 100 * BEAT, true), Beat::Ping);
        assert_eq!(
            heart.handle_timeout(Time(0) + 100 * BEAT, true),
            Beat::Nothing
        );
    }
}
