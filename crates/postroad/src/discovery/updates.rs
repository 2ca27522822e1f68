//! How a source hands over what it has found.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::bounds::{INSTANCES_MAX, REASON_MAX};
use super::error::DiscoveryError;
use super::instance::{Instance, cut};
use crate::observe::discovery::{self as observe, Source};

/// Takes what a [`Discovery`](super::Discovery) finds. Only the newest list is kept, so a source
/// that is faster than its clients costs no memory.
#[derive(Debug)]
pub struct Updates {
    source: Arc<Source>,
    news: Mutex<News>,
    changed: Notify,
}

/// What has come since it was looked at last.
#[derive(Debug, Default)]
pub(super) struct News {
    /// A new list.
    pub(super) list: Option<Vec<Instance>>,
    /// Why the source cannot be asked now.
    pub(super) trouble: Option<DiscoveryError>,
    /// How many lists there have been.
    lists: u64,
}

impl Updates {
    pub(super) fn new(source: Arc<Source>) -> Self {
        Self {
            source,
            news: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn news(&self) -> MutexGuard<'_, News> {
        // Nothing in here leaves it half-changed when it panics.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are all instances now. One that nobody could use is left out and logged; of several
    /// with one URL the last counts. More than 65,536 are refused, and the list before stays.
    pub fn set(&self, mut instances: Vec<Instance>) {
        if instances.len() > INSTANCES_MAX {
            let many = instances.len();
            let error = format!("a list of {many} instances; at most {INSTANCES_MAX} are taken");
            return self.set_trouble(DiscoveryError::nonsense(error));
        }
        instances.retain(|instance| match instance.flaw() {
            None => true,
            Some(flaw) => {
                self.skipped(&instance.endpoint.to_string(), &flaw);
                false
            }
        });
        {
            let mut news = self.news();
            news.list = Some(instances);
            news.trouble = None;
            news.lists += 1;
        }
        self.changed.notify_one();
    }

    /// The source cannot be asked now, and whoever says so goes on trying. The next list ends it.
    pub fn set_trouble(&self, error: DiscoveryError) {
        self.news().trouble = Some(error);
        self.changed.notify_one();
    }

    /// Tells the log, at a bounded rate, that an entry of the source was left out, and why.
    pub fn skipped(&self, entry: &str, why: impl fmt::Display) {
        let why = why.to_string();
        let (entry, why) = (cut(entry, REASON_MAX), cut(&why, REASON_MAX));
        observe::skipped(&self.source, entry, why);
    }

    /// How many lists there have been.
    pub(super) fn lists(&self) -> u64 {
        self.news().lists
    }

    /// Waits for news. Cancellation safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The new list, if there is one, and the present trouble.
    pub(super) fn take(&self) -> (Option<Vec<Instance>>, Option<DiscoveryError>) {
        let mut news = self.news();
        (news.list.take(), news.trouble.clone())
    }
}
