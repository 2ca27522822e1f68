//! Settings of a server, checked once before it starts.

use std::time::Duration;

use postroad_proto::limits::{LimitError, Limits};
use postroad_proto::session::Config;

use crate::preset::Preset;

/// Settings of a server.
///
/// # Defaults
/// As each field says; they are those of `docs/configuration.md`.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// What connections are tuned for.
    pub preset: Preset,
    /// Bounds of one connection.
    pub limits: Limits,
    /// Connections at once. Default 65,536; more are closed when they come.
    pub max_connections: usize,
    /// Requests whose handlers wait for something at once, of all connections. Default 10,000; more
    /// are answered `SRV-E-429`, save that each thread may start one more.
    pub max_requests: usize,
    /// Heartbeat on an otherwise idle connection. Default 30 s; at least 10 ms.
    pub heartbeat: Duration,
    /// Time for TLS, detection and opening together. Default 5 s.
    pub handshake: Duration,
    /// Time for a frame that has begun to arrive. Default 30 s.
    pub read_stall: Duration,
    /// Time in which a peer that reads nothing must read something. Default 10 s.
    pub write_stall: Duration,
    /// Time for finishing what was accepted when the server is shut down. Default 25 s, within
    /// Kubernetes' 30 s.
    pub drain: Duration,
    /// Threads with a reactor of their own that connections are spread over. `None`, the default of
    /// the library, drives them on the runtime that the server was started on. At most 1,024.
    pub workers: Option<usize>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        let session = Config::default();
        Self {
            preset: Preset::Default,
            limits: session.limits,
            max_connections: 65_536,
            max_requests: 10_000,
            heartbeat: session.heartbeat,
            handshake: session.handshake,
            read_stall: session.read_stall,
            write_stall: session.write_stall,
            drain: Duration::from_secs(25),
            workers: None,
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

/// No setting is longer: a greater one is a slip, and sums of times must not overflow.
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// Fails unless `ok`.
pub(crate) fn bound(
    ok: bool,
    name: &'static str,
    value: impl std::fmt::Debug,
    bound: &'static str,
) -> Result<(), ConfigError> {
    if ok {
        Ok(())
    } else {
        Err(ConfigError::Bound {
            name,
            value: format!("{value:?}"),
            bound,
        })
    }
}

impl ServerConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first that does not hold: its name, its value and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.limits.check()?;
        bound(
            self.max_connections > 0,
            "max_connections",
            self.max_connections,
            "at least 1",
        )?;
        bound(
            self.max_requests > 0,
            "max_requests",
            self.max_requests,
            "at least 1",
        )?;
        check_times(
            self.heartbeat,
            self.handshake,
            self.read_stall,
            self.write_stall,
        )?;
        bound(self.drain <= DAY, "drain", self.drain, "at most a day")?;
        let workers = self.workers.unwrap_or(1);
        bound(
            (1..=1024).contains(&workers),
            "workers",
            workers,
            "1 to 1024",
        )
    }

    /// The session's share of it.
    pub(crate) fn session(&self, has_integrity: bool) -> Config {
        let config = Config::default();
        Config {
            offered: if has_integrity { 0 } else { config.offered },
            limits: self.limits.clone(),
            fragment: self.preset.fragment(),
            heartbeat: self.heartbeat,
            handshake: self.handshake,
            read_stall: self.read_stall,
            write_stall: self.write_stall,
            ..config
        }
    }
}

pub(crate) fn check_times(
    heartbeat: Duration,
    handshake: Duration,
    read_stall: Duration,
    write_stall: Duration,
) -> Result<(), ConfigError> {
    let milli = Duration::from_millis(1);
    bound(
        heartbeat >= 10 * milli,
        "heartbeat",
        heartbeat,
        "at least 10 ms",
    )?;
    bound(handshake >= milli, "handshake", handshake, "at least 1 ms")?;
    bound(
        read_stall >= milli,
        "read_stall",
        read_stall,
        "at least 1 ms",
    )?;
    bound(
        write_stall >= milli,
        "write_stall",
        write_stall,
        "at least 1 ms",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_out_of_bounds_is_named_with_value_and_bound() {
        let config = ServerConfig {
            workers: Some(0),
            ..ServerConfig::default()
        };
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "workers = 0 is out of bounds: 1 to 1024"
        );
        ServerConfig::default().check().unwrap();
    }
}
