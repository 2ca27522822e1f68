//! When what waits in a queue is hopeless: a queue discipline on how long each has waited.
//!
//! A queue that runs empty now and then is good, however long it is at times: it takes up what
//! comes at once. A queue is bad if the one who came first has waited for long at every moment of a
//! whole interval. Then all who wait are served too late, and serving fewer of them in time is
//! better.
//!
//! This is CoDel as folly applies it to requests: while the queue is bad, what has waited for more
//! than twice the target is dropped when it is taken out. The first of each interval is never
//! dropped, so that something is served whatever happens. Target and interval
//! follow from how long requests usually take, because 5 ms are nothing for some services and for
//! others a thousand requests.

use std::time::Duration;

use super::window::nanos;
use crate::Time;

/// What counts as waiting for long.
///
/// # Defaults
/// The target is 10 times what a request usually takes, and at least 0.5 ms; the interval is 20
/// times the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodelConfig {
    /// The target is at least this.
    pub target_min: Duration,
    /// The target is so many times what a request usually takes.
    pub usual_times: u32,
    /// The interval is so many times the target.
    pub interval_times: u32,
}

impl Default for CodelConfig {
    fn default() -> Self {
        Self {
            target_min: Duration::from_micros(500),
            usual_times: 10,
            interval_times: 20,
        }
    }
}

/// What becomes of a request that was taken out of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queued {
    /// It is run.
    Run,
    /// It is refused: it has waited for so long that running it would only delay the others.
    Drop,
}

/// Watches one queue. It belongs to whoever takes requests out.
#[derive(Clone, Debug)]
pub struct Codel {
    config: CodelConfig,
    /// How long a request may wait, nanoseconds.
    target: u64,
    /// When the interval ends. A [`Time`]; 0 before the first.
    ends: u64,
    /// The shortest that the oldest has waited in this interval, nanoseconds.
    shortest: u64,
    is_overloaded: bool,
}

impl Codel {
    /// Of a queue that is empty.
    #[must_use]
    pub fn new(config: CodelConfig) -> Self {
        Self {
            config,
            target: nanos(config.target_min),
            ends: 0,
            shortest: 0,
            is_overloaded: false,
        }
    }

    /// The target of a queue whose requests usually take so long, nanoseconds.
    fn target(&self, usual: Duration) -> u64 {
        let times = nanos(usual).saturating_mul(u64::from(self.config.usual_times));
        times.max(nanos(self.config.target_min)).max(1)
    }

    /// A request that has waited for `waited` was taken out. `oldest` is how long the one has
    /// waited that came first of those in the queue and this one: where the oldest is served
    /// first, the same. `usual` is how long a request takes to run; zero if that is not known.
    pub fn on_dequeue(
        &mut self,
        now: Time,
        waited: Duration,
        oldest: Duration,
        usual: Duration,
    ) -> Queued {
        let oldest = nanos(oldest.max(waited));
        let interval = |target: u64| target.saturating_mul(self.config.interval_times.into());
        // An end that is further away than an interval means that the clock went back.
        if now.0 >= self.ends || self.ends - now.0 > interval(self.target) {
            // If nobody has come for a whole interval, the queue was empty.
            let was_seen =
                self.ends != 0 && now.0.saturating_sub(self.ends) < interval(self.target);
            self.is_overloaded = was_seen && self.shortest > self.target;
            self.target = self.target(usual);
            self.ends = now.0.saturating_add(interval(self.target));
            self.shortest = oldest;
            return Queued::Run;
        }
        self.shortest = self.shortest.min(oldest);
        if self.is_overloaded && nanos(waited) > self.target.saturating_mul(2) {
            return Queued::Drop;
        }
        Queued::Run
    }

    /// The queue was seen empty: nobody waits at all.
    pub fn on_empty(&mut self) {
        self.shortest = 0;
        self.is_overloaded = false;
    }

    /// Whether the queue was bad for a whole interval. While it is, the newest should be served
    /// first: they can still be answered in time, and the oldest mostly cannot.
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        self.is_overloaded
    }
}
