//! A transport that does not move: a frame that does not end, bytes that are not taken.

use std::time::Duration;

use super::{CloseReason, Config};
use crate::Time;

/// A wakeup that comes this much later than it was due tells that the process did not run.
pub(super) const LATE_MIN: Duration = Duration::from_millis(500);

/// How long the transport then has to show what came meanwhile.
pub(super) const GRACE: Duration = Duration::from_millis(100);

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Watches a transport: how long a frame has been incomplete, how long nothing was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stalls {
    /// Never, if there is no frame that has begun.
    partial_since: Time,
    /// Never, if bytes are taken.
    blocked_since: Time,
}

impl Default for Stalls {
    fn default() -> Self {
        Self {
            partial_since: Time::NEVER,
            blocked_since: Time::NEVER,
        }
    }
}

impl Stalls {
    /// After decoding: bytes are left, and whether a frame was completed since the last time.
    pub(super) fn handle_rest(&mut self, now: Time, is_partial: bool, made_progress: bool) {
        self.partial_since = match is_partial {
            false => Time::NEVER,
            true if made_progress => now,
            true => self.partial_since.min(now),
        };
    }

    pub(super) fn handle_written(&mut self, now: Time, blocked: bool) {
        self.blocked_since = match blocked {
            false => Time::NEVER,
            true => self.blocked_since.min(now),
        };
    }

    pub(super) fn due(&self, config: &Config) -> Option<Time> {
        let read = self.partial_since + config.read_stall;
        let due = read.min(self.blocked_since + config.write_stall);
        (due != Time::NEVER).then_some(due)
    }

    /// Whether the transport has stood still for too long.
    ///
    /// A wakeup that comes late tells that this process was stopped meanwhile: the machine slept,
    /// or a debugger held it. What the other end did in that time lies in the kernel and was not
    /// looked at yet, so nobody is judged before the transport was asked once more.
    pub(super) fn check(&mut self, now: Time, config: &Config) -> Option<CloseReason> {
        let late = now.since(self.due(config)?);
        if late >= LATE_MIN {
            let second_look = |since: Time, bound: Duration| match since + bound <= now {
                true => Time(
                    now.0
                        .saturating_sub(nanos(bound))
                        .saturating_add(nanos(GRACE)),
                ),
                false => since,
            };
            self.partial_since = second_look(self.partial_since, config.read_stall);
            self.blocked_since = second_look(self.blocked_since, config.write_stall);
            return None;
        }
        if self.blocked_since + config.write_stall <= now {
            return Some(CloseReason::WriteStall(config.write_stall));
        }
        if self.partial_since + config.read_stall <= now {
            return Some(CloseReason::ReadStall(config.read_stall));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_stopped_looks_once_more_before_it_judges_and_then_does_judge() {
        let config = Config::default();
        let begin = Time(1_000);
        for is_read in [true, false] {
            let (mut stalls, bound) = (
                Stalls::default(),
                if is_read {
                    config.read_stall
                } else {
                    config.write_stall
                },
            );
            if is_read {
                stalls.handle_rest(begin, true, false);
            } else {
                stalls.handle_written(begin, true);
            }
            let woken = begin + 10 * bound;
            assert_eq!(stalls.check(woken, &config), None);
            assert_eq!(stalls.due(&config), Some(woken + GRACE));
            assert!(
                stalls.check(woken + GRACE, &config).is_some(),
                "it has stood still"
            );
        }
    }
}
