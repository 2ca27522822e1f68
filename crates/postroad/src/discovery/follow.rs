//! Following a source: what it says becomes what clients see.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::bounds::{APPLY_EVERY, COPY_AFTER, COPY_EVERY};
use super::copy;
use super::error::DiscoveryError;
use super::found::{Found, Gone, Trouble};
use super::instance::Instance;
use super::pauses::Pauses;
use super::source::Discovery;
use super::updates::Updates;
use crate::observe::discovery::{self as observe, Source};

/// The task that follows one source.
pub(super) struct Follower {
    source: Arc<Source>,
    discovery: Arc<dyn Discovery>,
    updates: Updates,
    found: watch::Sender<Found>,
    keep: Duration,
    copy: Option<PathBuf>,
    /// Told when there is a list to copy.
    has_list: Notify,
}

impl Follower {
    pub(super) fn new(
        url: String,
        discovery: Arc<dyn Discovery>,
        keep: Duration,
        copy: Option<PathBuf>,
        found: watch::Sender<Found>,
    ) -> Self {
        let source = Arc::new(Source::new(url));
        Self {
            updates: Updates::new(Arc::clone(&source)),
            source,
            discovery,
            found,
            keep,
            copy,
            has_list: Notify::new(),
        }
    }

    /// Ends when nobody wants to know any more.
    pub(super) async fn run(self) {
        tokio::select! {
            () = self.found.closed() => {}
            () = self.ask() => {}
            () = self.apply() => {}
            () = self.keep_copy() => {}
        }
    }

    /// Asks the source, and again after a wait when it has failed.
    async fn ask(&self) {
        let mut pauses = Pauses::new();
        loop {
            let before = self.updates.lists();
            let error = self.discovery.watch(&self.updates).await;
            if self.updates.lists() != before {
                pauses.reset();
            }
            self.updates.set_trouble(error);
            sleep(pauses.next()).await;
        }
    }

    /// Shows what has come to the clients, at a bounded rate.
    async fn apply(&self) {
        let mut view = View::new(self.keep);
        let copy_at = Instant::now() + COPY_AFTER;
        let mut has_copy = self.copy.is_some();
        loop {
            tokio::select! {
                () = self.updates.changed() => {
                    let (list, trouble) = self.updates.take();
                    let is_wanted = list.as_ref().is_none_or(Vec::is_empty);
                    if has_copy && is_wanted {
                        view.take_copy(self.read_copy().await);
                    }
                    has_copy = false;
                    self.take(&mut view, list, trouble);
                }
                () = sleep_until(copy_at), if has_copy => {
                    has_copy = false;
                    view.take_copy(self.read_copy().await);
                }
                () = at(view.believe_at()) => {
                    view.believe(Instant::now());
                    observe::found(&self.source, 0);
                }
            }
            if view.is_new() {
                self.found.send_replace(view.found.clone());
                if view.found.has_answered && !view.found.instances.is_empty() {
                    self.has_list.notify_one();
                }
            }
            sleep(APPLY_EVERY).await;
        }
    }

    /// Takes what the source has said into the view, and tells the log.
    fn take(&self, view: &mut View, list: Option<Vec<Instance>>, trouble: Option<DiscoveryError>) {
        let now = Instant::now();
        let had_trouble = view.found.trouble.is_some();
        if let Some(list) = list
            && view.take_list(arrange(list), now)
        {
            observe::found(&self.source, view.found.instances.len());
        }
        if let Some(error) = trouble {
            view.take_trouble(&error, now);
        }
        if let (false, Some(trouble)) = (had_trouble, &view.found.trouble) {
            observe::stale(&self.source, &trouble.said, view.found.instances.len());
        }
    }

    async fn read_copy(&self) -> Option<Vec<Instance>> {
        let (path, source) = (self.copy.clone()?, Arc::clone(&self.source));
        let read = spawn_blocking(move || copy::read(&path, &source.url)).await;
        match read.unwrap_or_else(|error| Err(error.into())) {
            Ok(list) => {
                let list = list?;
                observe::copy_serves(&self.source, list.len());
                Some(list)
            }
            Err(error) => {
                observe::no_copy(&self.source, &error);
                None
            }
        }
    }

    /// Writes the list to disk when it has changed.
    async fn keep_copy(&self) {
        loop {
            self.has_list.notified().await;
            if let Some(path) = self.copy.clone() {
                let source = Arc::clone(&self.source);
                let list = Arc::clone(&self.found.borrow().instances);
                let write = move || copy::write(&path, &source.url, &list);
                let written = spawn_blocking(write).await;
                if let Err(error) = written.unwrap_or_else(|error| Err(error.into())) {
                    observe::no_copy(&self.source, &error);
                }
            }
            sleep(COPY_EVERY).await;
        }
    }
}

/// Sleeps until then, or for ever.
async fn at(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => std::future::pending().await,
    }
}

/// Instances in a fixed order, each URL once: the last one of a URL counts, for a server that came
/// back may stand beside what it was before.
fn arrange(list: Vec<Instance>) -> Arc<[Instance]> {
    let mut keyed: Vec<_> = list
        .into_iter()
        .rev()
        .map(|instance| (instance.endpoint.to_string(), instance))
        .collect();
    // The sort is stable, so the one that was last comes first of its URL.
    keyed.sort_by(|one, other| one.0.cmp(&other.0));
    keyed.dedup_by(|one, other| one.0 == other.0);
    keyed.sort_by_key(|(_, instance)| instance.priority);
    keyed.into_iter().map(|(_, instance)| instance).collect()
}

/// What clients see, and what is not believed yet.
struct View {
    found: Found,
    keep: Duration,
    /// Since when the source says that there are no instances, while nobody believes it.
    doubt: Option<Instant>,
    is_new: bool,
}

impl View {
    fn new(keep: Duration) -> Self {
        Self {
            found: Found::default(),
            keep,
            doubt: None,
            is_new: false,
        }
    }

    /// Whether it has changed since this was asked last.
    fn is_new(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }

    /// The source has answered with a list. Whether clients see another one now.
    fn take_list(&mut self, list: Arc<[Instance]>, now: Instant) -> bool {
        if list.is_empty() && !self.found.instances.is_empty() && !self.keep.is_zero() {
            self.found.has_answered = true;
            self.doubt.get_or_insert(now);
            let kept = self.keep;
            let said = format!("it says that there are no instances; believed after {kept:?}");
            self.set_trouble(&said, now);
            return false;
        }
        self.doubt = None;
        self.is_new |= self.found.trouble.take().is_some() || !self.found.has_answered;
        self.found.has_answered = true;
        self.replace(list, now)
    }

    fn replace(&mut self, list: Arc<[Instance]>, now: Instant) -> bool {
        let is_gone_now = list.is_empty() && self.found.gone.is_none();
        let is_other = list != self.found.instances || self.found.is_copy;
        if !is_gone_now && !is_other {
            return false;
        }
        let last = std::mem::replace(&mut self.found.instances, list);
        let is_empty = self.found.instances.is_empty();
        self.found.gone = is_empty.then(|| Gone::new(last, now));
        self.found.is_copy = false;
        self.is_new = true;
        true
    }

    /// The source cannot be asked. What it said of no instances is not confirmed any more.
    fn take_trouble(&mut self, error: &DiscoveryError, now: Instant) {
        self.doubt = None;
        self.set_trouble(&error.to_string(), now);
    }

    fn set_trouble(&mut self, said: &str, now: Instant) {
        let since = self.found.trouble.as_ref().map_or(now, Trouble::since);
        let trouble = Some(Trouble::new(said, since));
        self.is_new |= self.found.trouble != trouble;
        self.found.trouble = trouble;
    }

    /// The copy on disk, while the source has not answered.
    fn take_copy(&mut self, list: Option<Vec<Instance>>) {
        let Some(list) = list.filter(|_| !self.found.has_answered) else {
            return;
        };
        self.found.instances = arrange(list);
        self.found.is_copy = true;
        self.is_new = true;
    }

    /// When an empty list is believed.
    fn believe_at(&self) -> Option<Instant> {
        self.doubt.map(|since| since + self.keep)
    }

    /// Believes it.
    fn believe(&mut self, now: Instant) {
        self.doubt = None;
        self.found.trouble = None;
        self.replace(Arc::default(), now);
    }
}
