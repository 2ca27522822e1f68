//! What a client of several servers does when one is slow, wrong or gone: the settings.

use std::collections::BTreeMap;
use std::time::Duration;

use postroad_proto::policy::{
    Balance, BreakerConfig, BudgetConfig, HedgeConfig, OutlierConfig, PoolConfig, RetryConfig,
    ThrottleConfig,
};
use postroad_proto::units::{permille, time};
use serde::{Deserialize, Deserializer, de};

use super::why_sink::WhySink;
use crate::config::{ConfigError, bound, check_time};
use crate::discovery::Target;
use crate::route::fits;

/// What a client of several servers does when one is slow, wrong or gone. The guide is
/// docs/client.md.
///
/// # Defaults
/// As each field says; they are meant to be good for a service of a few to a few hundred servers.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Policies {
    /// Which server gets the next call. Default [`Balance::P2c`].
    #[serde(deserialize_with = "by_name")]
    pub balance: Balance,
    /// Servers that get calls only when no other can take one. Default none.
    #[serde(deserialize_with = "some_target")]
    pub standby: Option<Target>,
    /// Shares of the calls, in tenths of a percent, for servers with these tags; servers with no
    /// tag, or another, get the rest. Default none: tags make no difference.
    #[serde(deserialize_with = "shares")]
    pub tags: BTreeMap<String, u32>,
    /// Routes that may be called twice: names, or beginnings of names that end in `*`. What a
    /// server says of its routes, and what a call says of itself, counts too. Default none.
    pub idempotent: Vec<String>,
    /// When calls are sent again. `None` is never.
    pub retry: Option<RetryPolicy>,
    /// When a second server is asked. Default `None`: never.
    pub hedge: Option<HedgePolicy>,
    /// When a server that does not answer is left alone. `None` is never.
    pub breaker: Option<BreakerPolicy>,
    /// Whether a server that does worse than its peers is put aside for a while. Default true.
    pub eject: bool,
    /// Whether calls are refused here that a shedding service would refuse. Default true.
    pub throttle: bool,
    /// How servers are asked whether they are well. `None` is never.
    pub health: Option<HealthPolicy>,
    /// Bounds of the connections.
    pub pool: PoolPolicy,
    /// The share of the calls, in tenths of a percent, of which it is logged why they went where
    /// they went; one-way messages and pipelines are not sampled. Default 0: none, which costs
    /// nothing.
    #[serde(deserialize_with = "permille::deserialize")]
    pub explain: u32,
    /// Who is given those records in place of the log; see
    /// [`ClientBuilder::explain_sample`](super::ClientBuilder::explain_sample).
    #[serde(skip)]
    pub(super) explain_to: Option<WhySink>,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            balance: Balance::default(),
            standby: None,
            tags: BTreeMap::new(),
            idempotent: Vec::new(),
            retry: Some(RetryPolicy::default()),
            hedge: None,
            breaker: Some(BreakerPolicy::default()),
            eject: true,
            throttle: true,
            health: Some(HealthPolicy::default()),
            pool: PoolPolicy::default(),
            explain: 0,
            explain_to: None,
        }
    }
}

/// When calls are sent again: those that are idempotent, and those that certainly were not started.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Attempts after the first. Default 2, at most 6.
    pub attempts: u8,
    /// How many of the calls of the last ten seconds may be sent again, in tenths of a percent;
    /// ten a second are always allowed. Hedges count too. Default 200.
    #[serde(deserialize_with = "permille::deserialize")]
    pub budget: u32,
    /// The mean wait before a retry, with full jitter; the next is three times as long. Waits are
    /// never longer than half of the time that is left. Default 1 s.
    #[serde(deserialize_with = "time::deserialize")]
    pub wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 2,
            budget: 200,
            wait: Duration::from_secs(1),
        }
    }
}

/// When a second server is asked: if an idempotent call takes longer than nearly all others do.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HedgePolicy {
    /// How many of the calls may be sent twice, in tenths of a percent. Default 10, at most 500.
    #[serde(deserialize_with = "permille::deserialize")]
    pub extra_load: u32,
    /// The shortest time before a second server is asked. Default 1 ms.
    #[serde(deserialize_with = "time::deserialize")]
    pub delay_min: Duration,
}

impl Default for HedgePolicy {
    fn default() -> Self {
        Self {
            extra_load: 10,
            delay_min: Duration::from_millis(1),
        }
    }
}

/// When a server that does not answer is left alone.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BreakerPolicy {
    /// Calls of the last ten seconds below which nothing is decided. Default 20.
    pub volume: u32,
    /// The share of failed calls at which it is left alone, in tenths of a percent. Default 500.
    #[serde(deserialize_with = "permille::deserialize")]
    pub error_threshold: u32,
    /// For how long, until one call tries it again. Default 5 s.
    #[serde(deserialize_with = "time::deserialize")]
    pub sleep: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            volume: 20,
            error_threshold: 500,
            sleep: Duration::from_secs(5),
        }
    }
}

/// How servers are asked whether they are well.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HealthPolicy {
    /// The route that is called. A server that does not have it is well if it says so. Default
    /// `postroad/health`, which every Postroad server has.
    pub route: String,
    /// How often, and how long an answer may take. Default 5 s.
    #[serde(deserialize_with = "time::deserialize")]
    pub every: Duration,
    /// Bad answers in a row after which a server gets no calls. Default 3.
    pub failures: u32,
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self {
            route: "postroad/health".to_owned(),
            every: Duration::from_secs(5),
            failures: 3,
        }
    }
}

/// Bounds of the connections of a client to all servers together.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct PoolPolicy {
    /// Connections at most. Of more servers than that, each client uses some, drawn by itself; when
    /// they go, others take their places. Default 100.
    pub connections: usize,
    /// Connections that are kept although nobody uses them. Default 5.
    pub idle: usize,
    /// Time without a call after which a connection beyond those is let go. Default 30 s.
    #[serde(deserialize_with = "time::deserialize")]
    pub idle_timeout: Duration,
    /// Callers that may wait because every connection has as many calls in flight as it may.
    /// Default 20; more fail at once.
    pub pending: usize,
    /// How long each waits at most. Default 3 s.
    #[serde(deserialize_with = "time::deserialize")]
    pub wait: Duration,
    /// Age at which a connection is replaced by a new one, so that load moves to servers that came
    /// later; each lives up to a tenth longer or shorter. Default `None`: never.
    #[serde(deserialize_with = "some_time")]
    pub age: Option<Duration>,
}

impl Default for PoolPolicy {
    fn default() -> Self {
        Self {
            connections: 100,
            idle: 5,
            idle_timeout: Duration::from_secs(30),
            pending: 20,
            wait: Duration::from_secs(3),
            age: None,
        }
    }
}

impl Policies {
    /// Nothing is decided but which server gets the next call: no retries, no breaker, no probes.
    #[must_use]
    pub fn none() -> Self {
        Self {
            retry: None,
            hedge: None,
            breaker: None,
            eject: false,
            throttle: false,
            health: None,
            ..Self::default()
        }
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// The first that does not hold: its name, its value and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        let least = Duration::from_millis(1);
        let shares = self
            .tags
            .values()
            .fold(0, |all: u32, share| all.saturating_add(*share));
        bound(shares <= 1000, "tags", shares, "at most 100% together")?;
        bound(self.explain <= 1000, "explain", self.explain, "0% to 100%")?;
        if let Some(retry) = &self.retry {
            let attempts = retry.attempts;
            bound(attempts <= 6, "retry.attempts", attempts, "0 to 6")?;
            check_time("retry.wait", retry.wait, least, "1 ms to a day")?;
        }
        if let Some(hedge) = &self.hedge {
            let extra = hedge.extra_load;
            let allowed = "0.1% to 50%";
            bound(
                (1..=500).contains(&extra),
                "hedge.extra_load",
                extra,
                allowed,
            )?;
            check_time(
                "hedge.delay_min",
                hedge.delay_min,
                Duration::ZERO,
                "at most a day",
            )?;
        }
        if let Some(breaker) = &self.breaker {
            let threshold = breaker.error_threshold;
            let allowed = "1% to 100%";
            let holds = (10..=1000).contains(&threshold);
            bound(holds, "breaker.error_threshold", threshold, allowed)?;
            bound(
                breaker.volume > 0,
                "breaker.volume",
                breaker.volume,
                "at least 1",
            )?;
            check_time("breaker.sleep", breaker.sleep, least, "1 ms to a day")?;
        }
        if let Some(health) = &self.health {
            check_time("health.every", health.every, least * 10, "10 ms to a day")?;
            bound(
                health.failures > 0,
                "health.failures",
                health.failures,
                "at least 1",
            )?;
        }
        self.pool.check()
    }

    /// Whether these settings say that a route may be called twice.
    pub(super) fn is_idempotent(&self, route: &str) -> bool {
        self.idempotent.iter().any(|pattern| fits(pattern, route))
    }

    pub(super) fn budget_config(&self) -> BudgetConfig {
        self.retry.unwrap_or_default().budget()
    }

    pub(super) fn retry_config(&self) -> Option<RetryConfig> {
        self.retry.map(|retry| retry.config())
    }

    pub(super) fn hedge_config(&self) -> Option<HedgeConfig> {
        self.hedge.map(|hedge| hedge.config())
    }

    pub(super) fn breaker_config(&self) -> Option<BreakerConfig> {
        self.breaker.map(|breaker| breaker.config())
    }

    pub(super) fn outlier_config(&self) -> Option<OutlierConfig> {
        self.eject.then(OutlierConfig::default)
    }

    pub(super) fn throttle_config(&self) -> Option<ThrottleConfig> {
        self.throttle.then(ThrottleConfig::default)
    }
}

impl RetryPolicy {
    /// What decides by it.
    pub(super) fn config(&self) -> RetryConfig {
        RetryConfig {
            attempts: self.attempts,
            first: self.wait,
            ..RetryConfig::default()
        }
    }

    pub(super) fn budget(&self) -> BudgetConfig {
        BudgetConfig {
            per_mille: self.budget,
            ..BudgetConfig::default()
        }
    }
}

impl HedgePolicy {
    /// What decides by it.
    pub(super) fn config(&self) -> HedgeConfig {
        HedgeConfig {
            extra_per_mille: self.extra_load,
            floor: self.delay_min,
            ..HedgeConfig::default()
        }
    }
}

impl BreakerPolicy {
    /// What decides by it.
    pub(super) fn config(&self) -> BreakerConfig {
        BreakerConfig {
            request_volume: self.volume,
            error_percent: u8::try_from(self.error_threshold / 10).unwrap_or(100),
            sleep: self.sleep,
            ..BreakerConfig::default()
        }
    }
}

impl PoolPolicy {
    /// What decides by these bounds.
    pub(super) fn config(&self) -> PoolConfig {
        PoolConfig {
            connections: self.connections,
            idle: self.idle,
            idle_timeout: self.idle_timeout,
            pending: self.pending,
            wait: self.wait,
            age: self.age,
            ..PoolConfig::default()
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let least = Duration::from_millis(1);
        let connections = self.connections;
        let holds = (1..=65_536).contains(&connections);
        bound(holds, "pool.connections", connections, "1 to 65536")?;
        let allowed = "at most pool.connections";
        bound(self.idle <= connections, "pool.idle", self.idle, allowed)?;
        check_time(
            "pool.idle_timeout",
            self.idle_timeout,
            least,
            "1 ms to a day",
        )?;
        check_time("pool.wait", self.wait, Duration::ZERO, "at most a day")?;
        match self.age {
            Some(age) => check_time("pool.age", age, Duration::from_secs(1), "1 s to a day"),
            None => Ok(()),
        }
    }
}

fn by_name<'de, D: Deserializer<'de>>(from: D) -> Result<Balance, D::Error> {
    let name = String::deserialize(from)?;
    Balance::by_name(&name).ok_or_else(|| {
        let names = Balance::ALL.map(Balance::name).join(", ");
        de::Error::custom(format!(
            "no way to balance is called {name:?}; there are {names}"
        ))
    })
}

fn some_target<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Target>, D::Error> {
    let url = String::deserialize(from)?;
    url.parse().map(Some).map_err(de::Error::custom)
}

fn some_time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    time::deserialize(from).map(Some)
}

fn shares<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, u32>, D::Error> {
    #[derive(Deserialize)]
    struct Share(#[serde(deserialize_with = "permille::deserialize")] u32);
    let shares = BTreeMap::<String, Share>::deserialize(from)?;
    Ok(shares
        .into_iter()
        .map(|(tag, share)| (tag, share.0))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound_of(change: fn(&mut Policies)) -> String {
        let mut policies = Policies::default();
        change(&mut policies);
        policies.check().unwrap_err().to_string()
    }

    #[test]
    fn defaults_hold_and_what_is_out_of_bounds_is_named() {
        Policies::default().check().unwrap();
        Policies::none().check().unwrap();
        let shares = bound_of(|p| {
            p.tags = [("v1".to_owned(), 600), ("v2".to_owned(), 600)].into();
        });
        assert!(shares.starts_with("tags = 1200"), "{shares}");
        assert!(bound_of(|p| p.pool.connections = 0).contains("pool.connections"));
        assert!(bound_of(|p| p.pool.idle = 1000).contains("at most pool.connections"));
    }

    #[test]
    fn a_route_is_idempotent_by_its_name_or_its_beginning() {
        let policies = Policies {
            idempotent: vec!["Orders.get".to_owned(), "Stock.*".to_owned()],
            ..Policies::default()
        };
        let is_idempotent = |route| policies.is_idempotent(route);
        assert!(is_idempotent("Orders.get") && is_idempotent("Stock.count"));
        assert!(!is_idempotent("Orders.getAll") && !is_idempotent("Orders.place"));
    }
}
