//! A client with a few settings, said one after the other.

use std::path::PathBuf;
use std::time::Duration;

use postroad_proto::policy::Balance;

use super::config::ClientConfig;
use super::handle::{Client, ConnectError};
use super::policies::{
    BreakerPolicy, HealthPolicy, HedgePolicy, Policies, PoolPolicy, RetryPolicy,
};
use super::why::Why;
use super::why_sink::WhySink;
use crate::discovery::Target;
use crate::identity::TokenSource;
use crate::transport::Transports;

/// Makes a [`Client`] with settings of its own; see [`Client::builder`].
///
/// What is not set is as [`ClientConfig`] and [`Policies`] say. One endpoint has no policies until
/// one of them is set: then all are as [`Policies::default`] says, but for what is set here.
///
/// ```
/// use std::time::Duration;
///
/// use postroad::Client;
/// use postroad::client::Balance;
///
/// # async fn run() -> Result<(), postroad::client::ConnectError> {
/// let client = Client::builder("tcp://10.0.0.1:7400,10.0.0.2:7400?tag=v2")
///     .timeout(Duration::from_millis(250))
///     .balance(Balance::LeastInFlight)
///     .tag("v2", 50)
///     .idempotent("Orders.get")
///     .idempotent("Stock.*")
///     .connect()
///     .await?;
/// # let _ = client;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until it connects"]
pub struct ClientBuilder {
    target: String,
    standby: Option<String>,
    config: ClientConfig,
    transports: Transports,
}

impl Client {
    /// A client of this target with settings of its own, said one after the other.
    pub fn builder(target: &str) -> ClientBuilder {
        ClientBuilder::new(target)
    }
}

impl ClientBuilder {
    fn new(target: &str) -> Self {
        Self {
            target: target.to_owned(),
            standby: None,
            config: ClientConfig::default(),
            transports: Transports::default(),
        }
    }

    fn change(mut self, change: impl FnOnce(&mut Policies)) -> Self {
        change(self.config.policies.get_or_insert_default());
        self
    }

    /// Deadline of a call that names none; at most a day. Default 5 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.config.timeout = timeout;
        self
    }

    /// All policies at once, in the place of those set so far.
    pub fn policies(mut self, policies: Policies) -> Self {
        self.config.policies = Some(policies);
        self
    }

    /// Which server gets the next call.
    pub fn balance(self, balance: Balance) -> Self {
        self.change(|policies| policies.balance = balance)
    }

    /// The URL of servers that get calls only when no other can take one.
    pub fn standby(mut self, target: &str) -> Self {
        self.standby = Some(target.to_owned());
        self
    }

    /// The share of the calls, in tenths of a percent, for servers with this tag.
    pub fn tag(self, name: impl Into<String>, share: u32) -> Self {
        self.change(|policies| {
            policies.tags.insert(name.into(), share);
        })
    }

    /// When calls are sent again; `None` is never.
    pub fn retry(self, retry: impl Into<Option<RetryPolicy>>) -> Self {
        self.change(|policies| policies.retry = retry.into())
    }

    /// When a second server is asked; `None` is never.
    pub fn hedge(self, hedge: impl Into<Option<HedgePolicy>>) -> Self {
        self.change(|policies| policies.hedge = hedge.into())
    }

    /// When a server that does not answer is left alone; `None` is never.
    pub fn breaker(self, breaker: impl Into<Option<BreakerPolicy>>) -> Self {
        self.change(|policies| policies.breaker = breaker.into())
    }

    /// How servers are asked whether they are well; `None` is never.
    pub fn health(self, health: impl Into<Option<HealthPolicy>>) -> Self {
        self.change(|policies| policies.health = health.into())
    }

    /// Bounds of the connections.
    pub fn pool(self, pool: PoolPolicy) -> Self {
        self.change(|policies| policies.pool = pool)
    }

    /// Gives a record of why a call went where it went, with its route, to `sink` for this share of
    /// the calls, in tenths of a percent. It is called when the call has ended, and must not block.
    pub fn explain_sample(
        self,
        share: u32,
        sink: impl Fn(&str, &Why) + Send + Sync + 'static,
    ) -> Self {
        self.change(|policies| {
            policies.explain = share;
            policies.explain_to = Some(WhySink::new(sink));
        })
    }

    /// A route that may be called twice, by its name or by a beginning of names that ends in `*`.
    pub fn idempotent(self, pattern: impl Into<String>) -> Self {
        self.change(|policies| policies.idempotent.push(pattern.into()))
    }

    /// The token that says who this is: a text, or what [`TokenSource`] knows besides. It is sent
    /// as it is, so the transport has to keep it secret: `tls://`, `unix://`.
    pub fn token(mut self, token: impl Into<TokenSource>) -> Self {
        self.config.token = Some(token.into());
        self
    }

    /// A file that keeps the last list of servers, so that the client can start while discovery is
    /// down.
    pub fn copy_in(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.copy = Some(path.into());
        self
    }

    /// Transports of your own.
    pub fn transports(mut self, transports: &Transports) -> Self {
        self.transports = transports.clone();
        self
    }

    /// The client, ready when a server is connected, within [`ClientConfig::connect_timeout`].
    /// Dropping the future ends the attempt.
    ///
    /// # Errors
    /// If settings or target are wrong, or no server can be reached.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let client = self.build()?;
        client.connected().await?;
        Ok(client)
    }

    /// The client, at once; it dials in the background. Must be called on a runtime.
    ///
    /// # Errors
    /// If settings or target are wrong.
    pub fn build(mut self) -> Result<Client, ConnectError> {
        if let Some(standby) = self.standby.take() {
            let standby = standby.parse::<Target>()?;
            self = self.change(|policies| policies.standby = Some(standby));
        }
        let target = self.target.parse::<Target>()?;
        Client::with_transports(target, self.config, &self.transports)
    }
}
