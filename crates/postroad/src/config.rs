//! Settings that client and server share, and how a setting out of its bounds is reported.

mod change;

use std::time::Duration;

use postroad_proto::limits::{CREDENTIALS_MAX, HEARTBEAT_MAX, HEARTBEAT_MIN, LimitError};
use postroad_proto::session;
use postroad_proto::units::time;
use serde::{Deserialize, Deserializer};

pub use crate::preset::Preset;
pub use change::{Change, Effect};
pub use postroad_proto::dialect::{Dialect, Envelope};
pub use postroad_proto::limits::Limits;
pub use postroad_proto::policy::{Backoff, GiveUp};
pub use postroad_proto::session::{Credentials, Mapping};

/// A time that may be left out.
fn some_time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    time::deserialize(from).map(Some)
}

/// Settings of a connection, of either end: `connection` of
/// [`ClientConfig`](crate::ClientConfig) and [`ServerConfig`](crate::ServerConfig).
///
/// # Defaults
/// As each field says.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ConnectionConfig {
    /// What the connection is tuned for.
    pub preset: Preset,
    /// Bounds of the connection. A client's calls in flight are bounded by its own `max_calls` and
    /// by what the server accepts.
    #[serde(skip)]
    pub limits: Limits,
    /// Heartbeat on an otherwise idle connection; the larger of both ends' is agreed. Default 30 s,
    /// 10 ms to 10 minutes.
    #[serde(deserialize_with = "time::deserialize")]
    pub heartbeat: Duration,
    /// Time for the opening; at a server for TLS, detection and opening together. Default 5 s, 1 ms
    /// to a day.
    #[serde(deserialize_with = "time::deserialize")]
    pub handshake: Duration,
    /// Time for a frame that has begun to arrive. Default 30 s, 1 ms to a day.
    #[serde(deserialize_with = "time::deserialize")]
    pub read_stall: Duration,
    /// Time in which a peer that reads nothing must read something. Default 10 s, 1 ms to a day.
    #[serde(deserialize_with = "time::deserialize")]
    pub write_stall: Duration,
    /// As a server: how long a connection may bring nothing but heartbeats, with no call at work,
    /// before its client is asked to leave; a connection of a dialect is closed. It is noticed
    /// within an eighth of that time. Default `None`: for ever. 1 ms to a day.
    #[serde(deserialize_with = "some_time")]
    pub idle: Option<Duration>,
    /// Whether frames carry a checksum. `None`, the default: where the transport has no integrity
    /// of its own.
    pub checksum: Option<bool>,
    /// As a client: what is sent to a native server when the connection is opened, to prove who
    /// this is; at most 3 KiB. Default `None`. A server that does not accept credentials refuses
    /// the connection. They are sent as they are, so the transport has to keep them secret; they
    /// are not shown in logs. A dialect has no place for them, and sends none.
    #[serde(skip)]
    pub credentials: Option<Credentials>,
    /// As a server: whether native clients may present credentials. Default false. Whoever sets it
    /// judges them, for instance in a hook: [`PeerInfo::credentials`].
    ///
    /// [`PeerInfo::credentials`]: crate::transport::PeerInfo::credentials
    #[serde(skip)]
    pub accepts_credentials: bool,
    /// Lowest and highest version of the native protocol that are spoken. Default 1 and 1.
    #[serde(skip)]
    pub versions: (u16, u16),
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        let session = session::Config::default();
        Self {
            preset: Preset::Default,
            limits: session.limits,
            heartbeat: session.heartbeat,
            handshake: session.handshake,
            read_stall: session.read_stall,
            write_stall: session.write_stall,
            idle: None,
            checksum: None,
            credentials: None,
            accepts_credentials: false,
            versions: (session.version_min, session.version_max),
        }
    }
}

impl ConnectionConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first that does not hold: its name, its value and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.limits.check()?;
        let least = Duration::from_millis(1);
        bound(
            (HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(&self.heartbeat),
            "heartbeat",
            self.heartbeat,
            "10 ms to 10 minutes",
        )?;
        check_time("handshake", self.handshake, least, "1 ms to a day")?;
        check_time("read_stall", self.read_stall, least, "1 ms to a day")?;
        check_time("write_stall", self.write_stall, least, "1 ms to a day")?;
        let idle = self.idle.unwrap_or(least);
        check_time("idle", idle, least, "1 ms to a day")?;
        let credentials = self.credentials.as_ref();
        let len = credentials.map_or(0, |credentials| credentials.0.len());
        bound(
            len <= CREDENTIALS_MAX,
            "length of credentials",
            len,
            "at most 3072 bytes",
        )?;
        let (low, high) = self.versions;
        let is_range = low > 0 && low <= high;
        bound(
            is_range,
            "versions",
            self.versions,
            "from 1, the lowest first",
        )
    }

    /// The session's settings over a transport that has integrity of its own or not.
    pub(crate) fn session(&self, has_integrity: bool) -> session::Config {
        let has_checksum = self.checksum.unwrap_or(!has_integrity);
        session::Config {
            version_min: self.versions.0,
            version_max: self.versions.1,
            offered: match has_checksum {
                true => session::features::CHECKSUM,
                false => 0,
            },
            limits: self.limits.clone(),
            fragment: self.preset.fragment(),
            heartbeat: self.heartbeat,
            handshake: self.handshake,
            read_stall: self.read_stall,
            write_stall: self.write_stall,
            idle: self.idle,
            credentials: self.credentials.clone(),
            accepts_credentials: self.accepts_credentials,
            ..session::Config::default()
        }
    }
}

/// A setting out of its bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// One of the limits of a connection.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// Another number or time.
    #[error("{name} = {value} is out of bounds: {bound}")]
    Bound {
        /// The field.
        name: &'static str,
        /// What was asked for.
        value: String,
        /// What is allowed.
        bound: &'static str,
    },
}

/// The longest that any time may be set to: more is a slip, and sums of times must not overflow.
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// Fails unless `ok`.
pub(crate) fn bound(
    ok: bool,
    name: &'static str,
    value: impl std::fmt::Debug,
    bound: &'static str,
) -> Result<(), ConfigError> {
    if ok {
        return Ok(());
    }
    Err(ConfigError::Bound {
        name,
        value: format!("{value:?}"),
        bound,
    })
}

/// Fails unless the time is between `least` and a day; `allowed` says so in words.
pub(crate) fn check_time(
    name: &'static str,
    value: Duration,
    least: Duration,
    allowed: &'static str,
) -> Result<(), ConfigError> {
    bound((least..=DAY).contains(&value), name, value, allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_out_of_bounds_is_named_with_value_and_bound() {
        ConnectionConfig::default().check().unwrap();
        let error = |change: fn(&mut ConnectionConfig)| {
            let mut config = ConnectionConfig::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert_eq!(
            error(|config| config.heartbeat = Duration::from_millis(1)),
            "heartbeat = 1ms is out of bounds: 10 ms to 10 minutes"
        );
        assert_eq!(
            error(|config| config.heartbeat = Duration::from_secs(601)),
            "heartbeat = 601s is out of bounds: 10 ms to 10 minutes"
        );
        assert_eq!(
            error(|config| config.versions = (2, 1)),
            "versions = (2, 1) is out of bounds: from 1, the lowest first"
        );
        assert_eq!(
            error(|config| config.limits.max_calls = 70_000),
            "max_calls = 70000 is out of bounds: 1 to 65536"
        );
    }
}
