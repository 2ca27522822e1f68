//! The waits between failures of a source.

use std::time::Duration;

use postroad_proto::policy::Random;

use super::bounds::{APPLY_EVERY, RETRY_FIRST, RETRY_MAX};

/// Full jitter under a bound that doubles.
pub(super) struct Pauses {
    random: Random,
    bound: Duration,
}

impl Pauses {
    pub(super) fn new() -> Self {
        Self {
            random: Random::new(rand::random()),
            bound: RETRY_FIRST,
        }
    }

    pub(super) fn reset(&mut self) {
        self.bound = RETRY_FIRST;
    }

    pub(super) fn next(&mut self) -> Duration {
        let bound = self.bound.as_nanos() as u64;
        self.bound = (self.bound * 2).min(RETRY_MAX);
        // Never nothing: a source that fails at once must not be asked in a loop.
        APPLY_EVERY / 2 + Duration::from_nanos(self.random.below(bound))
    }
}
