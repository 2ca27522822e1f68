//! Whether the other end and the transport still move: heartbeats, a frame that does not end, bytes
//! that are not taken. The same for the native protocol and for every dialect.

use std::time::Duration;

use super::heartbeat::{Beat, Heartbeat};
use super::{CloseReason, Config, Event};
use crate::Time;

/// A wakeup that comes this much later than it was due tells that the process did not run.
pub(super) const LATE_MIN: Duration = Duration::from_millis(500);

/// How long the transport then has to show what came meanwhile.
pub(super) const GRACE: Duration = Duration::from_millis(100);

/// The signs of life of one connection.
///
/// It keeps moments, and no settings: these are in [`Config`], which all connections share.
#[derive(Debug)]
pub(super) struct Liveness {
    heartbeat: Heartbeat,
    /// Since when a frame has been incomplete; never, while none has begun.
    partial_since: Time,
    /// Since when the transport has taken no bytes; never, while it takes them.
    blocked_since: Time,
}

impl Liveness {
    /// Of a connection whose ends send heartbeats in this interval.
    pub(super) fn new(now: Time, heartbeat: Duration) -> Self {
        Self {
            heartbeat: Heartbeat::new(now, heartbeat),
            partial_since: Time::NEVER,
            blocked_since: Time::NEVER,
        }
    }

    /// The opening has settled the interval of heartbeats, and they begin now.
    pub(super) fn agree(&mut self, now: Time, heartbeat: Duration) {
        self.heartbeat = Heartbeat::new(now, heartbeat);
    }

    /// To be called after each piece of bytes: whether it ends in the middle of a frame, and
    /// whether at least one frame was completed.
    #[inline]
    pub(super) fn handle_read(&mut self, now: Time, is_partial: bool, made_progress: bool) {
        if made_progress {
            self.heartbeat.received(now);
        }
        self.partial_since = match is_partial {
            false => Time::NEVER,
            // It is another frame than the one that was incomplete before.
            true if made_progress => now,
            true => self.partial_since.min(now),
        };
    }

    /// The transport has taken bytes, or has refused to.
    pub(super) fn handle_written(&mut self, now: Time, blocked: bool) {
        self.blocked_since = match blocked {
            false => Time::NEVER,
            true => self.blocked_since.min(now),
        };
    }

    /// When a frame that has begun must have ended.
    pub(super) fn read_stall_due(&self, config: &Config) -> Time {
        self.partial_since + config.read_stall
    }

    /// When a transport that takes nothing must have taken something.
    pub(super) fn write_stall_due(&self, config: &Config) -> Time {
        self.blocked_since + config.write_stall
    }

    /// Why the connection has to end, if the transport has stood still for too long.
    ///
    /// A wakeup that comes late tells that this process was stopped meanwhile: the machine slept,
    /// or a debugger held it. What the other end did in that time is in the kernel and was not
    /// looked at yet, so nobody is judged before the transport was asked once more.
    pub(super) fn stalled(&mut self, now: Time, config: &Config) -> Option<CloseReason> {
        let due = self
            .read_stall_due(config)
            .min(self.write_stall_due(config));
        if due != Time::NEVER && now.since(due) >= LATE_MIN {
            let looked_at_again = |since: Time, bound: Duration| match since + bound <= now {
                true => now.before(bound) + GRACE,
                false => since,
            };
            self.partial_since = looked_at_again(self.partial_since, config.read_stall);
            self.blocked_since = looked_at_again(self.blocked_since, config.write_stall);
            return None;
        }
        if self.write_stall_due(config) <= now {
            return Some(CloseReason::WriteStall(config.write_stall));
        }
        let is_late = self.read_stall_due(config) <= now;
        is_late.then_some(CloseReason::ReadStall(config.read_stall))
    }

    /// Whether the other end has said anything since the connection was opened.
    pub(super) fn has_heard(&self) -> bool {
        self.heartbeat.has_heard()
    }

    /// When a heartbeat is due.
    pub(super) fn heartbeat_due(&self) -> Time {
        self.heartbeat.due()
    }

    /// Whether a heartbeat has to be sent now. `hears` as in [`Heartbeat::handle_timeout`].
    ///
    /// # Errors
    /// If the other end was silent for so long that the connection is dead.
    pub(super) fn beat(&mut self, now: Time, hears: bool) -> Result<bool, CloseReason> {
        match self.heartbeat.handle_timeout(now, hears) {
            Beat::Nothing => Ok(false),
            Beat::Ping => Ok(true),
            Beat::Dead => Err(CloseReason::HeartbeatTimeout(self.heartbeat.silence(now))),
        }
    }

    /// A heartbeat that was sent at `sent` came back: what the driver is told.
    pub(super) fn handle_pong(&mut self, now: Time, sent: Time) -> Option<Event> {
        self.heartbeat.measured(now.since(sent));
        self.heartbeat.round_trip().map(Event::RoundTrip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_was_stopped_looks_once_more_before_it_judges_and_then_does_judge() {
        let config = Config::default();
        let begin = Time(1_000);
        for is_read in [true, false] {
            let mut liveness = Liveness::new(begin, config.heartbeat);
            let bound = match is_read {
                true => config.read_stall,
                false => config.write_stall,
            };
            if is_read {
                liveness.handle_read(begin, true, false);
            } else {
                liveness.handle_written(begin, true);
            }
            let woken = begin + 10 * bound;
            assert_eq!(liveness.stalled(woken, &config), None);
            let due = liveness.read_stall_due(&config);
            let due = due.min(liveness.write_stall_due(&config));
            assert_eq!(due, woken + GRACE);
            assert!(liveness.stalled(due, &config).is_some(), "it stood still");
        }
    }
}
