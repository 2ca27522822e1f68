//! How many connections to one endpoint, who may wait for one, and when one is old.
//!
//! A connection carries many calls at once, so a second one helps only where the first has no room:
//! its writer cannot keep up, or it has as many calls in flight as the other end takes. That is
//! what [`PoolConfig::wanted`] goes by, and not by the number of callers.

use std::time::Duration;

use super::window::{below, nanos};
use crate::Time;

/// Limits of a pool.
///
/// # Defaults
/// 100 connections; 5 stay when idle; others end after 30 s without a call; 20 callers wait, each
/// at most 3 s; no greatest age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// The most connections; at least 1.
    pub connections: usize,
    /// Connections that are kept once there was a reason for them.
    pub idle: usize,
    /// For how long a connection beyond those is kept without a call.
    pub idle_timeout: Duration,
    /// The most callers that wait because all connections are in use.
    pub pending: usize,
    /// The longest that one of them waits.
    pub wait: Duration,
    /// The age at which a connection is replaced; `None` keeps it as long as it lives.
    pub age: Option<Duration>,
    /// How much sooner or later than that, percent, so that they are not all replaced at once.
    pub age_jitter_percent: u8,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            connections: 100,
            idle: 5,
            idle_timeout: Duration::from_secs(30),
            pending: 20,
            wait: Duration::from_secs(3),
            age: None,
            age_jitter_percent: 10,
        }
    }
}

/// The connections to one endpoint, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Open, draining ones not counted.
    pub open: usize,
    /// Being dialled.
    pub dialling: usize,
    /// Those of the open ones that take no call now: their writer has more than it can write, or
    /// they have as many calls in flight as the other end takes.
    pub saturated: usize,
    /// Those of the open ones without a call in flight.
    pub idle: usize,
    /// Callers that wait.
    pub waiting: usize,
}

/// That a caller may not wait for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all connections are in use and {waiting} callers wait already, which is the limit")]
pub struct PoolFull {
    /// How many wait.
    pub waiting: usize,
}

impl PoolConfig {
    /// How many connections there should be, those that are being dialled included. It is never
    /// more than one above what there is: before the next is dialled, it is seen whether one more
    /// helps.
    #[must_use]
    pub fn wanted(&self, counts: &PoolCounts) -> usize {
        let most = self.connections.max(1);
        let have = counts.open + counts.dialling;
        let is_short = counts.saturated >= counts.open && counts.dialling == 0;
        let wanted = if is_short { have + 1 } else { have };
        wanted.min(most).max(have.min(most))
    }

    /// How many connections should be kept warm although nobody calls.
    #[must_use]
    pub fn warm(&self) -> usize {
        self.idle.min(self.connections.max(1))
    }

    /// Whether one more caller may wait, and for how long: its own time or the pool's, whichever is
    /// over first.
    ///
    /// # Errors
    /// If as many wait as may.
    pub fn may_wait(&self, counts: &PoolCounts, left: Duration) -> Result<Duration, PoolFull> {
        let waiting = counts.waiting;
        if waiting >= self.pending {
            return Err(PoolFull { waiting });
        }
        Ok(left.min(self.wait))
    }

    /// Whether a connection that has had no call for so long is closed.
    #[must_use]
    pub fn closes_idle(&self, counts: &PoolCounts, idle_for: Duration) -> bool {
        counts.open > self.warm() && idle_for >= self.idle_timeout
    }

    /// When a connection that was opened now is to be replaced, with 64 random bits.
    #[must_use]
    pub fn expires(&self, opened: Time, random: u64) -> Time {
        let Some(age) = self.age else {
            return Time::NEVER;
        };
        let percent = u32::from(self.age_jitter_percent.min(100));
        let jitter = age / 100 * percent;
        let drawn = below(random, nanos(jitter.saturating_mul(2)));
        opened + (age - jitter) + Duration::from_nanos(drawn)
    }
}
