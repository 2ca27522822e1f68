//! Handlers that the end of a drain has cut off: whoever stops a server should know which.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use postroad_proto::Time;

/// Routes that are named; there may be thousands.
const NAMED_MAX: usize = 8;

/// How many handlers of which routes were not done when the time of the drain was over.
#[derive(Debug)]
pub(super) struct CutOff {
    /// When a handler that is dropped was cut off by the drain, and not called off by its caller.
    from: AtomicU64,
    routes: Mutex<BTreeMap<Arc<str>, usize>>,
}

impl Default for CutOff {
    fn default() -> Self {
        Self {
            from: AtomicU64::new(Time::NEVER.0),
            routes: Mutex::default(),
        }
    }
}

impl CutOff {
    /// The drain ends then.
    pub(super) fn begin_at(&self, end: Time) {
        self.from.store(end.0, Ordering::Relaxed);
    }

    /// A handler of this route was dropped before it was done.
    #[cold]
    pub(super) fn note(&self, route: &Arc<str>, now: Time) {
        if now.0 >= self.from.load(Ordering::Relaxed) {
            // A counter is right also after a panic beside it.
            let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
            *routes.entry(Arc::clone(route)).or_default() += 1;
        }
    }

    /// Those that were noted so far.
    pub(super) fn take(&self) -> Handlers {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        Handlers(std::mem::take(&mut *routes))
    }
}

/// How many handlers there were of which route.
pub(super) struct Handlers(BTreeMap<Arc<str>, usize>);

impl Handlers {
    pub(super) fn count(&self) -> usize {
        self.0.values().sum()
    }
}

impl fmt::Display for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (route, count)) in self.0.iter().take(NAMED_MAX).enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{route} ({count})")?;
        }
        match self.0.len().saturating_sub(NAMED_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more routes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_are_cut_off_from_the_end_of_the_drain_on_and_called_off_before() {
        let cut = CutOff::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        cut.note(&a, Time(99));
        cut.begin_at(Time(10));
        cut.note(&a, Time(9));
        assert_eq!(cut.take().count(), 0);
        cut.note(&b, Time(10));
        cut.note(&a, Time(11));
        cut.note(&b, Time(12));
        let handlers = cut.take();
        assert_eq!(handlers.to_string(), "a (1), b (2)");
        assert_eq!((handlers.count(), cut.take().count()), (3, 0));
        for route in 0..10 {
            cut.note(&format!("route {route}").into(), Time(10));
        }
        let many = cut.take().to_string();
        assert!(many.ends_with("route 7 (1) and 2 more routes"), "{many}");
    }
}
