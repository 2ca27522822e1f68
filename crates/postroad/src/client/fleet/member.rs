//! One server of a fleet: its connections, and what is known of how it does.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use postroad_proto::Time;
use postroad_proto::policy::{Breaker, Load, LoadConfig, Outlier, hash_key};
use tokio::sync::Notify;

use super::super::config::ClientConfig;
use super::super::keeper::Keeper;
use super::super::keeping;
use super::super::policies::{Policies, PoolPolicy};
use super::{Fleet, TICK};
use crate::clock;
use crate::discovery::Instance;
use crate::driver::Connection;
use crate::transport::Transport;

/// Unsent bytes at which a connection cannot write all that is to be sent.
const UNSENT: usize = 512 * 1024;

/// One server of a fleet. Dropping the last handle drains its connections.
pub(in crate::client) struct Member {
    pub(super) instance: Instance,
    /// What its keys go by, the same in every client.
    pub(super) identity: u64,
    transport: Arc<dyn Transport>,
    config: ClientConfig,
    news: Arc<Notify>,
    /// Its connections: none while it rests, one, or more where one cannot write all that is to be
    /// sent.
    keepers: Arc<ArcSwap<Vec<Arc<Keeper>>>>,
    /// Calls in flight, latency, failures.
    pub(super) load: Load,
    pub(super) breaker: Option<Breaker>,
    pub(super) outlier: Outlier,
    /// Probes that have failed one after the other, and whether one is under way.
    failed_probes: AtomicU32,
    is_probed: AtomicBool,
    /// It has failed too many probes, or has said that it takes no calls now.
    is_unhealthy: AtomicBool,
    /// Whether it was connected when the supervisor looked last, and since when.
    was_connected: AtomicBool,
    connected_since: AtomicU64,
    /// When the supervisor saw calls in flight last.
    used: AtomicU64,
    /// Ticks for which no connection could write all, and those since then.
    saturated: AtomicU32,
    calm: AtomicU32,
}

impl Member {
    pub(super) fn new(
        instance: Instance,
        transport: Arc<dyn Transport>,
        config: ClientConfig,
        breaker: Option<Breaker>,
        news: Arc<Notify>,
    ) -> Self {
        Self {
            identity: hash_key(instance.endpoint.url().as_bytes()),
            instance,
            transport,
            config,
            news,
            keepers: Arc::default(),
            load: Load::new(LoadConfig::default()),
            breaker,
            outlier: Outlier::new(),
            failed_probes: AtomicU32::new(0),
            is_probed: AtomicBool::new(false),
            is_unhealthy: AtomicBool::new(false),
            was_connected: AtomicBool::new(false),
            connected_since: AtomicU64::new(0),
            used: AtomicU64::new(0),
            saturated: AtomicU32::new(0),
            calm: AtomicU32::new(0),
        }
    }

    /// The same server with another weight, tag or rank. It keeps its connections.
    pub(super) fn changed(&self, instance: Instance) -> Self {
        let breaker = self
            .config
            .policies
            .as_ref()
            .and_then(Policies::breaker_config);
        let (transport, config) = (Arc::clone(&self.transport), self.config.clone());
        let breaker = breaker.map(Breaker::new);
        let news = Arc::clone(&self.news);
        Self {
            keepers: Arc::clone(&self.keepers),
            is_unhealthy: AtomicBool::new(self.is_unhealthy()),
            was_connected: AtomicBool::new(self.was_connected.load(Ordering::Relaxed)),
            ..Self::new(instance, transport, config, breaker, news)
        }
    }

    /// What it is known by.
    pub(in crate::client) fn url(&self) -> &str {
        self.instance.endpoint.url()
    }

    /// A connection that takes messages now, of several the one whose turn it is.
    #[inline]
    pub(super) fn connection(&self, turn: u64) -> Option<Arc<Connection>> {
        let keepers = self.keepers.load();
        match &keepers[..] {
            [] => None,
            [only] => only.current(),
            many => {
                let (before, from) = many.split_at(turn as usize % many.len());
                let mut all = from.iter().chain(before);
                all.find_map(|keeper| keeper.current())
            }
        }
    }

    /// Whether there is a connection that takes messages now.
    #[inline]
    pub(super) fn is_connected(&self) -> bool {
        let keepers = self.keepers.load();
        keepers.iter().any(|keeper| keeper.is_connected())
    }

    /// Whether attempts to connect have failed since there was a connection last.
    pub(super) fn has_failed(&self) -> bool {
        let keepers = self.keepers.load();
        !keepers.is_empty() && keepers.iter().all(|keeper| keeper.has_failed())
    }

    /// Why there is no connection, if that is so.
    pub(super) fn trouble(&self) -> Option<String> {
        let keepers = self.keepers.load();
        let keeper = keepers.first().filter(|keeper| !keeper.is_connected())?;
        Some(keeper.explain())
    }

    /// Whether balancing may choose it: it is healthy, and was not put aside for doing worse than
    /// its peers.
    #[inline]
    pub(super) fn is_available(&self, now: Time) -> bool {
        !self.is_unhealthy() && !self.outlier.is_ejected(now)
    }

    /// Why it cannot take a call now.
    pub(super) fn refusal(&self, now: Time) -> Option<&'static str> {
        if self.keepers.load().is_empty() {
            Some("it rests")
        } else if !self.is_connected() {
            Some("no connection")
        } else if self.is_unhealthy() {
            Some("it is not well, or not ready")
        } else if self.outlier.is_ejected(now) {
            Some("it does worse than the others")
        } else if self
            .breaker
            .as_ref()
            .is_some_and(|breaker| !breaker.would_admit(now))
        {
            Some("its breaker is open")
        } else {
            None
        }
    }

    /// Begins to connect, unless it has begun.
    pub(super) fn wake(&self, fleet: &Fleet) {
        if self.keepers.load().is_empty() && !fleet.is_closed() {
            self.add_connection();
        }
    }

    /// One more connection.
    pub(super) fn add_connection(&self) {
        let keeper = keeping::start(
            self.instance.endpoint.clone(),
            self.config.clone(),
            Arc::clone(&self.transport),
            Some(Arc::clone(&self.news)),
        );
        self.saturated.store(0, Ordering::Relaxed);
        self.calm.store(0, Ordering::Relaxed);
        let mut keepers = Vec::clone(&self.keepers.load());
        keepers.push(keeper);
        self.keepers.store(Arc::new(keepers));
    }

    /// Lets all but the last connection go, once that one is there.
    pub(super) fn drop_extra(&self) {
        let mut keepers = Vec::clone(&self.keepers.load());
        if keepers.len() > 1 && keepers.last().is_some_and(|last| last.is_connected()) {
            let last = keepers.split_off(keepers.len() - 1);
            self.keepers.store(Arc::new(last));
            keepers.iter().for_each(|keeper| keeper.begin_close());
        }
    }

    /// Ends its connections after the calls in flight; whoever still holds one is told.
    pub(super) fn leave(&self) {
        let keepers = self.keepers.swap(Arc::default());
        keepers.iter().for_each(|keeper| keeper.begin_close());
        self.was_connected.store(false, Ordering::Relaxed);
    }

    /// The keepers of its connections.
    pub(super) fn keepers(&self) -> Arc<Vec<Arc<Keeper>>> {
        self.keepers.load_full()
    }

    pub(super) fn connections(&self) -> usize {
        self.keepers.load().len()
    }

    /// Looks whether it was connected since the last time. One that comes back gets its share
    /// slowly.
    pub(super) fn notice_connection(self: &Arc<Self>, now: Time, fleet: &Arc<Fleet>) {
        let is_connected = self.is_connected();
        let was_connected = self.was_connected.swap(is_connected, Ordering::Relaxed);
        if is_connected && !was_connected {
            let before = self.connected_since.swap(now.0, Ordering::Relaxed);
            self.used.store(now.0, Ordering::Relaxed);
            if before > 0 {
                self.load.became_healthy(now);
            }
            fleet.ask_owner(self);
        }
    }

    pub(super) fn last_used(&self) -> Time {
        Time(self.used.load(Ordering::Relaxed))
    }

    /// For how many ticks none of its connections could write all that was to be sent.
    pub(super) fn saturated(&self) -> u32 {
        let keepers = self.keepers.load();
        let now = clock::now();
        if self.load.in_flight() > 0 {
            self.used.store(now.0, Ordering::Relaxed);
        }
        let mut connections = keepers
            .iter()
            .filter_map(|keeper| keeper.current())
            .peekable();
        let is_full = connections.peek().is_some()
            && connections.all(|connection| !connection.has_room(UNSENT));
        if is_full {
            self.calm.store(0, Ordering::Relaxed);
            self.saturated.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            self.calm.fetch_add(1, Ordering::Relaxed);
            self.saturated.store(0, Ordering::Relaxed);
            0
        }
    }

    /// For how long its connections could write all.
    pub(super) fn calm_for(&self) -> Duration {
        TICK.saturating_mul(self.calm.load(Ordering::Relaxed))
    }

    /// Begins a new connection in the place of one that is too old.
    pub(super) fn replace_old(&self, pool: &PoolPolicy, now: Time) {
        let Some(age) = pool.age else {
            return;
        };
        let since = self.connected_since.load(Ordering::Relaxed);
        // Up to a tenth longer or shorter, so that not all are replaced at once.
        let jitter = (since >> 10) % 201;
        let age = age / 1000 * (900 + jitter as u32);
        let is_old = since > 0 && Time(since) + age <= now;
        if is_old && self.connections() == 1 {
            self.connected_since.store(now.0, Ordering::Relaxed);
            self.add_connection();
            // It counts as calm, so that the old one is let go as soon as the new one is there.
            self.calm.store(u32::MAX / 2, Ordering::Relaxed);
        }
    }

    /// Whether no other probe is under way.
    pub(super) fn begin_probe(&self) -> bool {
        !self.is_probed.swap(true, Ordering::Relaxed)
    }

    pub(super) fn end_probe(&self) {
        self.is_probed.store(false, Ordering::Relaxed);
    }

    /// It was asked how it does. After `failures` bad answers in a row it gets no calls, and after
    /// a good one it is brought back slowly. Whether that has changed anything.
    pub(super) fn probed(&self, is_well: bool, failures: u32) -> bool {
        if is_well {
            self.failed_probes.store(0, Ordering::Relaxed);
            let was_unhealthy = self.is_unhealthy.swap(false, Ordering::Relaxed);
            if was_unhealthy {
                self.load.became_healthy(clock::now());
            }
            return was_unhealthy;
        }
        let failed = self.failed_probes.fetch_add(1, Ordering::Relaxed) + 1;
        failed >= failures && !self.is_unhealthy.swap(true, Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn is_unhealthy(&self) -> bool {
        self.is_unhealthy.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.instance.to_string();
        f.debug_tuple("Member").field(&endpoint).finish()
    }
}
