//! Settings of a client, checked once.

use std::path::PathBuf;
use std::time::Duration;

use postroad_proto::policy::{Backoff, BackoffError, GiveUp};

use super::policies::Policies;
use crate::config::{ConfigError, ConnectionConfig, bound, check_time};
use crate::identity::TokenSource;

/// Settings of a client.
///
/// ```
/// use std::time::Duration;
///
/// let mut config = postroad::ClientConfig::default();
/// config.timeout = Duration::from_millis(250);
/// config.connection.limits.max_calls = 10_000;
/// config.check().unwrap();
/// ```
///
/// # Defaults
/// As each field says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Settings of the connection.
    pub connection: ConnectionConfig,
    /// Time for one attempt to connect, from looking up the name to the server's first word, TLS
    /// included. Default 5 s, at most a day.
    pub connect_timeout: Duration,
    /// Deadline of a call that names none. Default 5 s, or what is left to the handler that makes
    /// the call; at most a day.
    pub timeout: Duration,
    /// How long a caller waits for a connection at most. Default 3 s, and never past its deadline.
    ///
    /// As many may wait as may have calls in flight: `connection.limits.max_calls`, by default
    /// 1,000. More fail at once.
    pub max_wait: Duration,
    /// When to dial again.
    pub backoff: Backoff,
    /// When to stop dialling for good. Default `None`: never.
    pub give_up_after: Option<GiveUp>,
    /// What is done when one of several servers is slow, wrong or gone. `None`, the default: as
    /// [`Policies::default`] says if the target is several servers, and nothing if it is one
    /// endpoint. With policies, one endpoint is a fleet of one: its calls are retried, and so on.
    pub policies: Option<Policies>,
    /// The token that says who this is, presented to native servers when a connection is opened and
    /// again before it expires. It goes before `connection.credentials`. Default `None`.
    pub token: Option<TokenSource>,
    /// A file that keeps the last list of servers, so that a client can start while discovery is
    /// down. Default `None`.
    pub copy: Option<PathBuf>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            connection: ConnectionConfig::default(),
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            max_wait: Duration::from_secs(3),
            backoff: Backoff::default(),
            give_up_after: None,
            policies: None,
            token: None,
            copy: None,
        }
    }
}

impl ClientConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first that does not hold: its name, its value and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.connection.check()?;
        self.policies.iter().try_for_each(Policies::check)?;
        let least = Duration::from_nanos(1);
        let allowed = "more than 0, at most a day";
        check_time("connect_timeout", self.connect_timeout, least, allowed)?;
        check_time("timeout", self.timeout, least, allowed)?;
        match self.give_up_after {
            None => {}
            Some(GiveUp::Attempts(attempts)) => {
                bound(attempts > 0, "give_up_after", attempts, "at least 1")?;
            }
            Some(GiveUp::Time(time)) => {
                check_time("give_up_after", time, least, "more than 0, at most a day")?;
            }
        }
        self.backoff.check().map_err(|error| ConfigError::Bound {
            name: "backoff",
            value: format!("{:?}", self.backoff),
            bound: match error {
                BackoffError::NoWait => "first is more than 0",
                BackoffError::MaxBelowFirst => "max is at least first",
                BackoffError::NoAttempts => "attempts are at least 1",
            },
        })
    }
}
