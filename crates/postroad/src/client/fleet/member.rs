//! One server of a fleet: its connections, and what is known of how it does.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use postroad_proto::Time;
use postroad_proto::policy::{Breaker, Load, LoadConfig, Outlier, PoolConfig, hash_key};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::super::config::ClientConfig;
use super::super::keeper::Keeper;
use super::super::keeping;
use super::advice::Owner;
use super::{Fleet, TICK, draw};
use crate::clock;
use crate::discovery::Instance;
use crate::driver::Connection;
use crate::endpoint::Endpoint;
use crate::transport::Transport;

/// Unsent bytes at which a connection cannot write all that is to be sent.
const UNSENT: usize = 512 * 1024;

/// One server of a fleet, as the list describes it now. When its weight, tag or rank changes, there
/// is another member, which shares all that is known.
pub(in crate::client) struct Member {
    pub(super) instance: Instance,
    known: Arc<Known>,
}

/// What is known of a server, and its connections. Dropping the last handle drains them.
pub(in crate::client) struct Known {
    endpoint: Endpoint,
    /// What its keys go by, the same in every client.
    pub(super) identity: u64,
    transport: Arc<dyn Transport>,
    config: ClientConfig,
    runtime: Handle,
    news: Arc<Notify>,
    /// Its connections: none while it rests, one, or more where one cannot write all that is to be
    /// sent.
    keepers: ArcSwap<Vec<Arc<Keeper>>>,
    /// Held while the connections are exchanged for others, so that none is lost.
    changing: Mutex<()>,
    /// Calls in flight, latency, failures.
    pub(super) load: Load,
    pub(super) breaker: Option<Breaker>,
    pub(super) outlier: Outlier,
    /// What it says of its routes, once it has said so.
    pub(super) owner: ArcSwapOption<Owner>,
    /// Probes that were not answered, one after the other, and whether one is under way.
    failed_probes: AtomicU32,
    is_probed: AtomicBool,
    /// It has not answered too many probes.
    is_unhealthy: AtomicBool,
    /// It has said that it takes no calls now.
    says_not_ready: AtomicBool,
    /// Whether it was connected when the supervisor looked last, and since when.
    was_connected: AtomicBool,
    connected_since: AtomicU64,
    /// When the supervisor saw calls in flight last.
    used: AtomicU64,
    /// Ticks for which no connection could write all, and those since then.
    saturated: AtomicU32,
    calm: AtomicU32,
}

impl Deref for Member {
    type Target = Known;

    #[inline]
    fn deref(&self) -> &Known {
        &self.known
    }
}

impl Member {
    pub(super) fn new(
        instance: Instance,
        transport: Arc<dyn Transport>,
        fleet: &Fleet,
        breaker: Option<Breaker>,
    ) -> Self {
        let known = Known {
            endpoint: instance.endpoint.clone(),
            identity: hash_key(instance.endpoint.url().as_bytes()),
            transport,
            config: fleet.config.clone(),
            runtime: fleet.runtime.clone(),
            news: Arc::clone(&fleet.news),
            keepers: ArcSwap::default(),
            changing: Mutex::new(()),
            load: Load::new(LoadConfig::default()),
            breaker,
            outlier: Outlier::new(),
            owner: ArcSwapOption::empty(),
            failed_probes: AtomicU32::new(0),
            is_probed: AtomicBool::new(false),
            is_unhealthy: AtomicBool::new(false),
            says_not_ready: AtomicBool::new(false),
            was_connected: AtomicBool::new(false),
            connected_since: AtomicU64::new(0),
            used: AtomicU64::new(0),
            saturated: AtomicU32::new(0),
            calm: AtomicU32::new(0),
        };
        let known = Arc::new(known);
        Self { instance, known }
    }

    /// The same server with another weight, tag or rank.
    pub(super) fn changed(&self, instance: Instance) -> Self {
        let known = Arc::clone(&self.known);
        Self { instance, known }
    }

    /// Whether both are of one server.
    #[inline]
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.known, &other.known)
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

    /// Whether it can be asked when there is no better one.
    pub(super) fn can_be_asked(&self, now: Time) -> bool {
        let passes = |breaker: &Breaker| breaker.would_admit(now);
        self.is_connected() && self.breaker.as_ref().is_none_or(passes)
    }

    /// Whether it has said that it wants no calls while others do.
    pub(super) fn says_not_ready(&self) -> bool {
        self.says_not_ready.load(Ordering::Relaxed)
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
        let is_awake = |keepers: &[Arc<Keeper>]| keepers.iter().any(|keeper| !keeper.has_ended());
        if is_awake(&self.keepers.load()) || fleet.is_closed() {
            return;
        }
        let _changing = self.change();
        if !is_awake(&self.keepers.load()) {
            self.keepers.store(Arc::new(vec![self.keep()]));
        }
    }

    /// One more connection.
    pub(super) fn add_connection(&self) {
        let _changing = self.change();
        let mut keepers = Vec::clone(&self.keepers.load());
        keepers.push(self.keep());
        self.keepers.store(Arc::new(keepers));
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a connection, on the client's own runtime: whoever needs it first may live on another.
    fn keep(&self) -> Arc<Keeper> {
        self.saturated.store(0, Ordering::Relaxed);
        self.calm.store(0, Ordering::Relaxed);
        let _entered = self.runtime.enter();
        keeping::start(
            self.endpoint.clone(),
            self.config.clone(),
            Arc::clone(&self.transport),
            Some(Arc::clone(&self.news)),
        )
    }

    /// Lets all but the last connection go, once that one is there.
    pub(super) fn drop_extra(&self) {
        let _changing = self.change();
        let mut keepers = Vec::clone(&self.keepers.load());
        if keepers.len() > 1 && keepers.last().is_some_and(|last| last.is_connected()) {
            let last = keepers.split_off(keepers.len() - 1);
            self.keepers.store(Arc::new(last));
            keepers.iter().for_each(|keeper| keeper.begin_close());
        }
    }

    /// Ends its connections after the calls in flight; whoever still holds one is told.
    pub(super) fn leave(&self) {
        let _changing = self.change();
        let keepers = self.keepers.swap(Arc::default());
        keepers.iter().for_each(|keeper| keeper.begin_close());
        self.was_connected.store(false, Ordering::Relaxed);
        self.owner.store(None);
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
            self.owner.store(None);
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
    pub(super) fn replace_old(&self, pool: &PoolConfig, now: Time) {
        let since = self.connected_since.load(Ordering::Relaxed);
        // The same bits at every look, and others for every member and connection.
        let bits = draw(since, self.identity);
        let is_old = since > 0 && pool.expires(Time(since), bits) <= now;
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

    /// It answers, and takes calls. Whether that is new; then it gets its share slowly.
    pub(super) fn is_well(&self) -> bool {
        self.failed_probes.store(0, Ordering::Relaxed);
        let was_silent = self.is_unhealthy.swap(false, Ordering::Relaxed);
        let was_not_ready = self.says_not_ready.swap(false, Ordering::Relaxed);
        if was_silent || was_not_ready {
            self.load.became_healthy(clock::now());
        }
        was_silent || was_not_ready
    }

    /// It answers that it takes no calls now. Whether that is new.
    pub(super) fn is_not_ready(&self) -> bool {
        self.failed_probes.store(0, Ordering::Relaxed);
        !self.says_not_ready.swap(true, Ordering::Relaxed)
    }

    /// It has not answered. Whether that was once too often.
    pub(super) fn is_silent(&self, failures: u32) -> bool {
        let failed = self.failed_probes.fetch_add(1, Ordering::Relaxed) + 1;
        failed >= failures && !self.is_unhealthy.swap(true, Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn is_unhealthy(&self) -> bool {
        self.is_unhealthy.load(Ordering::Relaxed) || self.says_not_ready.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.instance.to_string();
        f.debug_tuple("Member").field(&endpoint).finish()
    }
}
