//! Heartbeats: whether the peer is alive, and how long a round trip takes.
//!
//! Any received frame is a sign of life. After an interval of silence a PING is sent; after three
//! intervals without any frame the connection is dead (M-022). The interval becomes shorter when a
//! ping is missed or when round trips vary much, so that a failing connection is found out sooner,
//! and grows back to the agreed length while round trips are calm. Round trips are smoothed as in
//! RFC 6298.

use std::time::Duration;

use crate::Time;
use crate::limits::{HEARTBEAT_MAX, HEARTBEAT_MIN, HEARTBEAT_SHRINK_MAX, HEARTBEATS_MISSED_MAX};

/// The heartbeat of one end of a connection.
#[derive(Debug)]
pub(super) struct Heartbeat {
    /// The interval that both ends have agreed on.
    agreed: Nanos,
    /// The interval that is used now, which is never longer than the agreed one.
    current: Nanos,
    /// When the last frame came.
    last_received: Time,
    /// When [`Self::handle_timeout`] has to be called.
    due: Time,
    /// Intervals that have passed without any frame since the last one that came.
    missed: u32,
    /// Whether the other end has said anything since the connection was opened.
    has_heard: bool,
    /// The smoothed round trip; zero before the first one was measured.
    smoothed: Nanos,
    /// How far round trips differ from the smoothed one.
    variation: Nanos,
}

/// A duration in eight bytes, where [`Duration`] takes sixteen. Every idle connection keeps four of
/// them, and the memory of an idle connection is bounded by a test.
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

/// What the passing of time asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// The peer was heard, or it is too early.
    Nothing,
    /// The peer has been silent for an interval: ask it for a sign of life.
    Ping,
    /// The peer has been silent for so long that the connection is over.
    Dead,
}

impl Heartbeat {
    /// The first interval begins now. An interval out of bounds is replaced by the nearest one
    /// that is allowed, because a peer may propose anything.
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

    /// For how long nothing was received.
    pub(super) fn silence(&self, now: Time) -> Duration {
        now.since(self.last_received)
    }

    /// Notes that a frame was received. The due time stays as it is: this is called for each piece
    /// of bytes, and so only notes the moment, which [`Self::handle_timeout`] looks at once an
    /// interval.
    #[inline]
    pub(super) fn received(&mut self, now: Time) {
        self.last_received = now;
        self.missed = 0;
        self.has_heard = true;
    }

    pub(super) fn has_heard(&self) -> bool {
        self.has_heard
    }

    /// Finds out whether the peer has been silent for too long.
    ///
    /// `hears` says whether silence means anything. It is false while this end itself does not
    /// read, and while the peer's answer to a ping may have to wait for the turn of other answers.
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
        // Frames have come in the meantime, so the interval runs from the last of them.
        let next = self.last_received + self.current.get();
        if self.missed == 0 && next > now {
            self.due = next;
            return Beat::Nothing;
        }
        // One wakeup counts as one missed interval, however late it is. A process that was stopped
        // for a minute wakes with the peer's frames still unread, and would otherwise take its own
        // sleep for the peer's silence.
        self.missed += 1;
        self.due = now + self.current.get();
        // A shortened interval sends pings sooner, but never declares the peer dead before the time
        // that was agreed with it.
        let silence_max = self.agreed.get() * HEARTBEATS_MISSED_MAX;
        if self.missed >= HEARTBEATS_MISSED_MAX && self.silence(now) >= silence_max {
            return Beat::Dead;
        }
        if self.missed > 1 {
            self.shrink();
        }
        Beat::Ping
    }

    /// Takes in one measured round trip, and adapts the interval to how much round trips vary.
    pub(super) fn measured(&mut self, sample: Duration) {
        let Some(smoothed) = self.round_trip() else {
            self.smoothed = sample.into();
            self.variation = (sample / 2).into();
            return;
        };
        let (variation, current) = (self.variation.get(), self.current.get());
        let difference = smoothed.abs_diff(sample);
        // Four times the variation is what RFC 6298 allows for. On a fast network that is a few
        // microseconds, which the scheduler alone exceeds, so a millisecond is never called jitter.
        let jitters = difference > (4 * variation).max(Duration::from_millis(1));
        self.variation = ((3 * variation + difference) / 4).into();
        self.smoothed = ((7 * smoothed + sample) / 8).into();
        if jitters {
            self.shrink();
        } else {
            self.current = (current + current / 4).min(self.agreed.get()).into();
        }
    }

    /// Halves the interval, down to a fraction of the agreed one.
    fn shrink(&mut self) {
        let least = (self.agreed.get() / HEARTBEAT_SHRINK_MAX).max(HEARTBEAT_MIN);
        self.current = (self.current.get() / 2).max(least).into();
    }

    /// The smoothed round trip, once one was measured.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        (self.smoothed != Nanos(0)).then(|| self.smoothed.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(30);

    #[test]
    fn three_intervals_of_silence_end_the_connection_and_any_frame_prevents_it_m_022() {
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
    fn the_interval_shrinks_when_a_ping_is_missed_and_grows_back_while_round_trips_are_calm() {
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
    fn a_process_that_was_stopped_does_not_declare_its_peers_dead() {
        let mut heart = Heartbeat::new(Time(0), BEAT);
        assert_eq!(heart.handle_timeout(Time(0) + 100 * BEAT, true), Beat::Ping);
        assert_eq!(
            heart.handle_timeout(Time(0) + 100 * BEAT, true),
            Beat::Nothing
        );
    }
}
