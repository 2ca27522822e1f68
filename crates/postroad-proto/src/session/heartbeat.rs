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
    agreed: Nanos,
    current: Nanos,
    last_received: Time,
    due: Time,
    missed: u32,
    /// Whether the other end has said anything since the connection was opened.
    has_heard: bool,
    /// Zero, if there was no round trip yet.
    smoothed: Nanos,
    variation: Nanos,
}

/// A duration in half the memory: every connection has some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Nanos(u64);

impl From<Duration> for Nanos {
    fn from(time: Duration) -> Self {
        Self(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Nanos {
    fn get(self) -> Duration {
        Duration::from_nanos(self.0)
    }
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
            agreed: agreed.into(),
            current: agreed.into(),
            last_received: now,
            due: now + agreed,
            missed: 0,
            has_heard: false,
            smoothed: Nanos(0),
            variation: Nanos(0),
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
        self.has_heard = true;
    }

    pub(super) fn has_heard(&self) -> bool {
        self.has_heard
    }

    /// `hears` is false while this end itself does not read, or while an answer that waits for its
    /// turn may hold the peer's heartbeat back: silence says nothing then.
    pub(super) fn handle_timeout(&mut self, now: Time, hears: bool) -> Beat {
        if now < self.due {
            return Beat::Nothing;
        }
        if !hears {
            self.last_received = now;
            self.missed = 0;
            self.due = now + self.current.get();
            return Beat::Ping;
        }
        // Frames came meanwhile: nothing was reset for each of them, only looked at now.
        let next = self.last_received + self.current.get();
        if self.missed == 0 && next > now {
            self.due = next;
            return Beat::Nothing;
        }
        // One beat a wakeup, however late: a process that was stopped does not count its own sleep.
        self.missed += 1;
        self.due = now + self.current.get();
        // The shortened interval asks sooner; it does not bury sooner than was agreed.
        let patience = self.agreed.get() * HEARTBEATS_MISSED_MAX;
        if self.missed >= HEARTBEATS_MISSED_MAX && self.silence(now) >= patience {
            return Beat::Dead;
        }
        if self.missed > 1 {
            self.shrink();
        }
        Beat::Ping
    }

    pub(super) fn measured(&mut self, sample: Duration) {
        let Some(smoothed) = self.round_trip() else {
            self.smoothed = sample.into();
            self.variation = (sample / 2).into();
            return;
        };
        let (variation, current) = (self.variation.get(), self.current.get());
        let difference = smoothed.abs_diff(sample);
        let jitters = difference > (4 * variation).max(Duration::from_millis(1));
        self.variation = ((3 * variation + difference) / 4).into();
        self.smoothed = ((7 * smoothed + sample) / 8).into();
        if jitters {
            self.shrink();
        } else {
            self.current = (current + current / 4).min(self.agreed.get()).into();
        }
    }

    fn shrink(&mut self) {
        let least = (self.agreed.get() / HEARTBEAT_SHRINK_MAX).max(HEARTBEAT_MIN);
        self.current = (self.current.get() / 2).max(least).into();
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        (self.smoothed != Nanos(0)).then(|| self.smoothed.get())
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
        let silence = (heart.due() + Duration::ZERO).since(since) - heart.current.get();
        assert!(silence >= 3 * BEAT && silence <= 4 * BEAT, "{silence:?}");
    }

    #[test]
    fn the_interval_shortens_when_a_ping_is_missed_and_lengthens_when_calm() {
        let mut heart = Heartbeat::new(Time(0), BEAT);
        heart.handle_timeout(heart.due(), true);
        heart.handle_timeout(heart.due(), true);
        assert_eq!(heart.current.get(), BEAT / 2);
        (0..10).for_each(|_| heart.measured(Duration::from_millis(5)));
        assert_eq!(heart.current.get(), BEAT);
        heart.measured(Duration::from_millis(500));
        assert_eq!(heart.current.get(), BEAT / 2, "jitter shortens it too");
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
