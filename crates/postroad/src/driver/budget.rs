//! How long a caller waits.

use std::time::Duration;

use postroad_proto::Time;

use crate::clock;

/// The time that a call has: so long, but not beyond a limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) timeout: Duration,
    pub(super) limit: Time,
}

/// Timeouts from here on are kept within a tick of the coarse clock, which is cheaper to read.
const LONG: Duration = Duration::from_secs(1);

impl Budget {
    /// When a call is made, as exactly as its timeout asks for.
    pub(super) fn now(self) -> Time {
        match (self.timeout < LONG, self.limit) {
            (false, Time::NEVER) => clock::now_coarse(),
            _ => clock::now(),
        }
    }

    /// A timeout within a limit that may end sooner: a handler's own time.
    pub(crate) fn within(timeout: Duration, limit: Time) -> Self {
        let timeout = match limit {
            Time::NEVER => timeout,
            limit => timeout.min(limit.since(clock::now())),
        };
        Self { timeout, limit }
    }

    pub(super) fn deadline(self, now: Time) -> Time {
        (now + self.timeout).min(self.limit)
    }

    /// The same since a moment that may have passed, and when it ends.
    pub(crate) fn since(self, since: Time) -> (Self, Time) {
        let limit = self.deadline(since);
        (Self { limit, ..self }, limit)
    }

    /// The same from now on, and when it ends: what is waited for before the call is charged to it.
    pub(crate) fn starting_now(self) -> (Self, Time) {
        let limit = self.deadline(clock::now());
        (Self { limit, ..self }, limit)
    }
}
