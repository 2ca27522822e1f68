//! Settings of a client, checked once.

use std::time::Duration;

use postroad_proto::limits::Limits;
use postroad_proto::policy::Backoff;
use postroad_proto::session::Config;

use crate::preset::Preset;
use crate::server::{ConfigError, bound, check_times};

/// Settings of a client.
///
/// # Defaults
/// As each field says.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// What the connection is tuned for.
    pub preset: Preset,
    /// Time for connecting, TLS included. Default 5 s.
    pub connect_timeout: Duration,
    /// Time for the opening. Default 5 s.
    pub handshake: Duration,
    /// Deadline of a call that names none. Default 5 s, or what is left to the handler that makes
    /// the call.
    pub timeout: Duration,
    /// Callers that may wait for a connection at once. Default 20; more fail at once.
    pub max_pending: usize,
    /// How long a caller waits for a connection at most. Default 3 s, and never past its deadline.
    pub max_wait: Duration,
    /// When to dial again.
    pub backoff: Backoff,
    /// Bounds of the connection. `max_calls` bounds the calls in flight together with what the
    /// server accepts.
    pub limits: Limits,
    /// Heartbeat on an otherwise idle connection. Default 30 s; at least 10 ms.
    pub heartbeat: Duration,
    /// Time for a frame that has begun to arrive. Default 30 s.
    pub read_stall: Duration,
    /// Time in which a server that reads nothing must read something. Default 10 s.
    pub write_stall: Duration,
    /// Whether frames carry a checksum. `None`, the default: where the transport has no integrity
    /// of its own.
    pub checksum: Option<bool>,
    /// Lowest and highest version of the native protocol to offer. Default 1 and 1.
    pub versions: (u16, u16),
}

impl Default for ClientConfig {
    fn default() -> Self {
        let session = Config::default();
        Self {
            preset: Preset::Default,
            connect_timeout: Duration::from_secs(5),
            handshake: session.handshake,
            timeout: Duration::from_secs(5),
            max_pending: 20,
            max_wait: Duration::from_secs(3),
            backoff: Backoff::default(),
            limits: session.limits,
            heartbeat: session.heartbeat,
            read_stall: session.read_stall,
            write_stall: session.write_stall,
            checksum: None,
            versions: (session.version_min, session.version_max),
        }
    }
}

impl ClientConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first that does not hold: its name, its value and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.limits.check()?;
        check_times(
            self.heartbeat,
            self.handshake,
            self.read_stall,
            self.write_stall,
        )?;
        let positive = "more than 0";
        bound(
            !self.connect_timeout.is_zero(),
            "connect_timeout",
            self.connect_timeout,
            positive,
        )?;
        bound(!self.timeout.is_zero(), "timeout", self.timeout, positive)?;
        bound(
            self.max_pending > 0,
            "max_pending",
            self.max_pending,
            "at least 1",
        )?;
        let (low, high) = self.versions;
        bound(
            low <= high && low > 0,
            "versions",
            self.versions,
            "from 1, lowest first",
        )?;
        self.backoff.check().map_err(|error| ConfigError::Bound {
            name: "backoff",
            value: format!("{:?}", self.backoff),
            bound: match error {
                postroad_proto::policy::BackoffError::NoWait => "first is more than 0",
                postroad_proto::policy::BackoffError::MaxBelowFirst => "max is at least first",
                postroad_proto::policy::BackoffError::NoAttempts => "attempts are at least 1",
            },
        })
    }

    pub(super) fn session(&self, has_integrity: bool) -> Config {
        let checksum = self.checksum.unwrap_or(!has_integrity);
        Config {
            version_min: self.versions.0,
            version_max: self.versions.1,
            offered: if checksum {
                postroad_proto::session::features::CHECKSUM
            } else {
                0
            },
            limits: self.limits.clone(),
            fragment: self.preset.fragment(),
            heartbeat: self.heartbeat,
            handshake: self.handshake,
            read_stall: self.read_stall,
            write_stall: self.write_stall,
            ..Config::default()
        }
    }
}
