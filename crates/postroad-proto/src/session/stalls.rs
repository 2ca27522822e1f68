//! A transport that does not move: a frame that does not end, bytes that are not taken.

use super::{CloseReason, Config, earliest};
use crate::Time;

/// Watches a transport: how long a frame has been incomplete, how long nothing was taken.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stalls {
    partial_since: Option<Time>,
    blocked_since: Option<Time>,
}

impl Stalls {
    /// After decoding: bytes are left, and whether a frame was completed since the last time.
    pub(super) fn handle_rest(&mut self, now: Time, is_partial: bool, made_progress: bool) {
        self.partial_since = match self.partial_since {
            _ if !is_partial => None,
            Some(since) if !made_progress => Some(since),
            _ => Some(now),
        };
    }

    pub(super) fn handle_written(&mut self, now: Time, blocked: bool) {
        self.blocked_since = blocked.then_some(self.blocked_since.unwrap_or(now));
    }

    pub(super) fn due(&self, config: &Config) -> Option<Time> {
        let read = self.partial_since.map(|since| since + config.read_stall);
        let write = self.blocked_since.map(|since| since + config.write_stall);
        earliest([read, write])
    }

    pub(super) fn check(&self, now: Time, config: &Config) -> Option<CloseReason> {
        if self
            .blocked_since
            .is_some_and(|since| since + config.write_stall <= now)
        {
            return Some(CloseReason::WriteStall(config.write_stall));
        }
        if self
            .partial_since
            .is_some_and(|since| since + config.read_stall <= now)
        {
            return Some(CloseReason::ReadStall(config.read_stall));
        }
        None
    }
}
