//! A transport that does not move: a frame that does not end, bytes that are not taken.

use super::{CloseReason, Config};
use crate::Time;

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

    pub(super) fn check(&self, now: Time, config: &Config) -> Option<CloseReason> {
        if self.blocked_since + config.write_stall <= now {
            return Some(CloseReason::WriteStall(config.write_stall));
        }
        if self.partial_since + config.read_stall <= now {
            return Some(CloseReason::ReadStall(config.read_stall));
        }
        None
    }
}
