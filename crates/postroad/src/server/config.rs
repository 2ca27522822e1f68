//! Settings of a server, checked once before it starts.

use std::time::Duration;

use postroad_proto::limits::REQUESTS_MAX;
use postroad_proto::units::{size, time};
use serde::{Deserialize, Deserializer};

use crate::config::{ConfigError, ConnectionConfig, bound, check_time};
use crate::identity::IdentityConfig;
use crate::route::{Concurrency, RouteRule};

/// The least that [`ServerConfig::memory_max`] may be, bytes.
const MEMORY_MIN: usize = 1 << 20;

/// A size that may be left out.
fn some_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    size::deserialize(from).map(Some)
}

/// Settings of a server.
///
/// ```
/// use std::time::Duration;
///
/// let mut config = postroad::ServerConfig::default();
/// config.drain = Duration::from_secs(5);
/// config.connection.heartbeat = Duration::from_secs(10);
/// config.check().unwrap();
/// ```
///
/// # Defaults
/// As each field says; they are those of `docs/configuration.md`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Settings of each connection.
    #[serde(skip)]
    pub connection: ConnectionConfig,
    /// Connections at once. Default 65,536; more are closed when they come.
    pub max_connections: usize,
    /// Connections at once from one address, which of IPv6 is a network of 64 bits; more are
    /// closed when they come. Unix sockets have no address. Default `None`, without a bound:
    /// behind a proxy or a gateway all clients have one address.
    pub max_connections_per_address: Option<usize>,
    /// Bytes that all connections together may hold: incomplete messages, answers that wait to be
    /// written, payloads of requests whose handlers wait. Over it the connections that hold the
    /// most are not read from; if that does not help within half a second they are closed; new ones
    /// are turned away. Default `None`: half of the machine's memory, or of what the control group
    /// of the process may have. At least 1 MiB.
    #[serde(deserialize_with = "some_size")]
    pub memory_max: Option<usize>,
    /// Requests whose handlers wait for something at once, of all connections. Default 10,000; more
    /// are answered `SRV-E-429`, save that each thread may start one more.
    pub max_requests: usize,
    /// Time for finishing what was accepted when the server is shut down. Default 25 s, within
    /// Kubernetes' 30 s; at most a day.
    #[serde(deserialize_with = "time::deserialize")]
    pub drain: Duration,
    /// How long the server still accepts and answers everything when it is shut down, after clients
    /// were asked to leave and before [`Self::drain`] begins. Default 0 s; at most a day. It is for
    /// those who are told late: a load balancer that goes on sending until it has noticed.
    #[serde(deserialize_with = "time::deserialize")]
    pub lameduck: Duration,
    /// Threads with a reactor of their own that connections are spread over. `None`, the default of
    /// the library, drives them on the runtime that the server was started on. At most 1,024.
    pub workers: Option<usize>,
    /// How many requests of a route may be at work at once, where no rule says it. Default
    /// [`Concurrency::Fixed`] of [`Self::max_requests`]: only the server's own bound counts.
    pub concurrency: Option<Concurrency>,
    /// Whether requests that would wait too long are refused early, the least important first.
    /// Default true.
    pub shed: bool,
    /// What is said of routes. Of several rules that are for a route the first counts.
    #[serde(skip)]
    pub rules: Vec<RouteRule>,
    /// How it is found out who calls.
    #[serde(skip)]
    pub identity: IdentityConfig,
    /// Threads for routes with [`Work::Cpu`](crate::route::Work::Cpu). Default: one a core. At most
    /// 1,024.
    #[serde(skip)]
    pub cpu_workers: Option<usize>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            connection: ConnectionConfig::default(),
            max_connections: 65_536,
            max_connections_per_address: None,
            memory_max: None,
            max_requests: REQUESTS_MAX,
            drain: Duration::from_secs(25),
            lameduck: Duration::ZERO,
            workers: None,
            concurrency: None,
            shed: true,
            rules: Vec::new(),
            identity: IdentityConfig::default(),
            cpu_workers: None,
        }
    }
}

impl ServerConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first that does not hold: its name, its value and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.connection.check()?;
        let connections = self.max_connections;
        bound(
            connections > 0,
            "max_connections",
            connections,
            "at least 1",
        )?;
        let of_address = self.max_connections_per_address.unwrap_or(1);
        bound(
            of_address > 0,
            "max_connections_per_address",
            of_address,
            "at least 1",
        )?;
        let memory = self.memory_max.unwrap_or(MEMORY_MIN);
        bound(memory >= MEMORY_MIN, "memory_max", memory, "at least 1 MiB")?;
        let requests = self.max_requests;
        bound(requests > 0, "max_requests", requests, "at least 1")?;
        check_time("drain", self.drain, Duration::ZERO, "at most a day")?;
        check_time("lameduck", self.lameduck, Duration::ZERO, "at most a day")?;
        let workers = self.workers.unwrap_or(1);
        let is_possible = (1..=1024).contains(&workers);
        bound(is_possible, "workers", workers, "1 to 1024")?;
        if let Some(Concurrency::Fixed(most)) = self.concurrency {
            let is_possible = (1..=1_000_000).contains(&most);
            bound(
                is_possible,
                "concurrency",
                most,
                "\"auto\", or 1 to 1000000",
            )?;
        }
        let cpu = self.cpu_workers.unwrap_or(1);
        let is_possible = (1..=1024).contains(&cpu);
        bound(is_possible, "workers.cpu", cpu, "1 to 1024")?;
        self.identity.check()?;
        self.rules.iter().try_for_each(RouteRule::check)
    }
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
