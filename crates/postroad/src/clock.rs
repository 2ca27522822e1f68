//! The one place where a clock is read.

#[cfg(target_os = "linux")]
use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Duration;

use postroad_proto::Time;
use tokio::time::Instant;

/// The moment that [`Time`] counts from. Taken from the real clock, so that every paused one is
/// later.
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(|| Instant::from_std(std::time::Instant::now()))
}

/// Now, by the runtime's clock, which tests may pause.
pub(crate) fn now() -> Time {
    time(Instant::now())
}

/// The moment of an instant of the runtime's.
fn time(instant: Instant) -> Time {
    // A second is added so that moments a little before the first call still have a number.
    let since = instant.saturating_duration_since(start());
    Time((since.as_secs() + 1) * 1_000_000_000 + u64::from(since.subsec_nanos()))
}

/// Now, by the clock that no test pauses: for how long a processor was kept busy.
pub(crate) fn real() -> Time {
    time(Instant::from_std(std::time::Instant::now()))
}

#[cfg(target_os = "linux")]
thread_local! {
    /// The coarse clock and the clock, when the thread last asked both.
    static NOW_COARSE: Cell<(Time, Time)> = const { Cell::new((Time(0), Time(0))) };
}

/// Now, or up to a tick of the coarse clock before (1 to 10 ms), for what need not be exact: a
/// quarter of the cost. Where the runtime's clock is paused it is exact, from the tick on that
/// follows the pausing.
#[cfg(target_os = "linux")]
#[inline]
pub(crate) fn now_coarse() -> Time {
    let (asked, then) = NOW_COARSE.get();
    let tick = coarse();
    if tick == asked { then } else { ask(tick) }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use now as now_coarse;

#[cfg(target_os = "linux")]
#[cold]
fn ask(tick: Time) -> Time {
    let before = std::time::Instant::now();
    let instant = Instant::now();
    let (then, real) = (time(instant), instant.into_std());
    // A clock that is paused, or was, is not the real one; what it says is not kept.
    if before <= real && real <= std::time::Instant::now() {
        NOW_COARSE.set((tick, then));
    }
    then
}

/// Tells whether deadlines have passed, without reading the clock for those that are far.
///
/// The kernel keeps a coarse clock that is cheaper to read. It is late by about one tick at
/// most, so what has passed since this was made is known well enough for deadlines that lie further
/// ahead; for the others the clock itself is asked.
pub(crate) struct Watch {
    made: Time,
    /// The coarse clock when it was asked first.
    coarse: Option<Time>,
    /// Nanoseconds that it went on since, in ticks.
    ticks: u64,
}

/// Much more than a tick of any kernel, nanoseconds: on a virtual machine ticks may be late.
const TICK: u64 = 100_000_000;

impl Watch {
    /// From a reading of the clock that was made just now.
    pub(crate) fn new(now: Time) -> Self {
        Self {
            made: now,
            coarse: None,
            ticks: 0,
        }
    }

    // Asked for every request; a call costs as much as the answer.
    #[inline(always)]
    pub(crate) fn has_passed(&mut self, deadline: Time) -> bool {
        match self.coarse {
            Some(first) => self.ticks = coarse().0.saturating_sub(first.0),
            // One request is asked about at once.
            None => self.coarse = Some(coarse()),
        }
        deadline.0 <= self.made.0.saturating_add(self.ticks + TICK) && deadline <= now()
    }

    /// How far the coarse clock has gone on, nanoseconds, when it was asked last: it has changed
    /// if a tick has passed.
    #[inline]
    pub(crate) fn ticks(&self) -> u64 {
        self.ticks
    }
}

/// Time that passes in ticks; where there is no such clock, all deadlines are near.
#[cfg(target_os = "linux")]
fn coarse() -> Time {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    Time(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

#[cfg(not(target_os = "linux"))]
use now as coarse;

/// The runtime's instant for a moment.
pub(crate) fn instant(time: Time) -> Instant {
    start() + Duration::from_nanos(time.0).saturating_sub(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_was_lately_is_hardly_ago() {
        let mut last = Time(0);
        for _ in 0..1_000_000 {
            let (now_coarse, now) = (now_coarse(), now());
            assert!(last <= now_coarse && now_coarse <= now);
            last = now_coarse;
        }
        // A thread may be put aside between the two.
        let ago = (0..10)
            .map(|_| now_coarse())
            .map(|now_coarse| now().since(now_coarse));
        assert!(ago.min() < Some(Duration::from_millis(15)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_is_asked_each_time() {
        for _ in 0..3 {
            assert_eq!(now_coarse(), now());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    #[test]
    fn a_watch_knows_which_deadlines_have_passed_near_and_far() {
        let mut watch = Watch::new(now());
        for near in [0, 1_000_000, TICK] {
            assert!(!watch.has_passed(Time(now().0 + near + TICK)));
            assert!(watch.has_passed(Time(now().0 - near)));
        }
        assert!(!watch.has_passed(Time::NEVER) && watch.has_passed(Time(0)));
        let soon = now() + Duration::from_millis(2);
        while now() < soon {
            assert!(!watch.has_passed(soon) || now() >= soon);
        }
        assert!(watch.has_passed(soon));
    }
}
