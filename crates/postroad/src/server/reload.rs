//! Another configuration while the server runs: all of it or nothing.

use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::changes::changes;
use super::memory_guard::half_of_the_machine;
use super::share::ShareMax;
use super::{RunningServer, ServerConfig, Shared};
use crate::config::{Change, ConfigError};
use crate::route::RouteRule;

/// The configuration that counts now.
pub(crate) struct Live {
    config: ArcSwap<ServerConfig>,
    /// Held by whoever changes it, so that two changes do not mix.
    turn: Mutex<()>,
}

impl Live {
    pub(super) fn new(config: ServerConfig) -> Self {
        Self {
            config: ArcSwap::from_pointee(config),
            turn: Mutex::default(),
        }
    }

    /// As it is now. Whoever keeps it keeps what counted then.
    pub(crate) fn now(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }
}

impl Shared {
    /// Tells everything that has bounds of its own what they are.
    pub(super) fn bound_intake(&self) {
        let (config, intake) = (self.config.now(), &self.routes.dispatch.intake);
        let memory_max = config.memory_max.unwrap_or_else(half_of_the_machine);
        self.counters.held.set_max(memory_max);
        let limits = &config.connection.limits;
        intake.set_running_max(config.max_requests);
        intake.set_share_max(ShareMax {
            bytes: limits.assembly_max,
            messages: limits.max_calls,
        });
        intake.set_shedding(config.shed);
        let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
        let workers = config.cpu_workers.unwrap_or_else(cores);
        self.routes
            .obey(config.rules.clone(), config.concurrency, workers);
    }
}

impl RunningServer {
    /// Replaces the configuration while the server runs, all of it or nothing, and says what is
    /// different now, in the order of the keys; nothing if all is as it was.
    ///
    /// No connection ends and no call is lost by it. Bounds, rules and times of the server count at
    /// once; settings of connections count for those that are opened from now on; the number of
    /// [`ServerConfig::workers`] stays as it is until the next start, and is named again by the
    /// next call. Of open connections, those beyond a smaller
    /// [`ServerConfig::max_connections`] are kept.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// use postroad::{Router, Server, ServerConfig};
    ///
    /// let server = Server::new(Router::new()).listen("mem://again".parse()?).start().await?;
    /// let mut config = ServerConfig::default();
    /// config.drain = Duration::from_secs(10);
    /// let changes = server.reconfigure(config)?;
    /// assert_eq!(changes[0].to_string(), "server.drain: 25s -> 10s");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The first setting that is out of its bounds; then nothing has changed.
    pub fn reconfigure(&self, config: ServerConfig) -> Result<Vec<Change>, ConfigError> {
        self.change(|_| config)
    }

    /// One change after the other, each from what the one before has left.
    fn change(
        &self,
        next: impl FnOnce(&ServerConfig) -> ServerConfig,
    ) -> Result<Vec<Change>, ConfigError> {
        let live = &self.shared.config;
        let _turn = live.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let before = live.now();
        let config = next(&before);
        config.check()?;
        let changes = changes(&before, &config);
        let (workers, identity) = (before.workers, before.identity.clone());
        live.config.store(Arc::new(ServerConfig {
            workers,
            identity,
            ..config
        }));
        self.shared.bound_intake();
        Ok(changes)
    }

    /// Replaces the rules of routes while the server runs, all of them or none.
    ///
    /// # Errors
    /// The first rule that is out of its bounds; then nothing has changed.
    pub fn set_rules(&self, rules: Vec<RouteRule>) -> Result<(), ConfigError> {
        let next = |before: &ServerConfig| ServerConfig {
            rules,
            ..before.clone()
        };
        self.change(next).map(drop)
    }
}
