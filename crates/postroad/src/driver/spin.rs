//! Whether to look again before going to sleep.
//!
//! A sleeping processor takes tens of microseconds to wake, longer than a whole round trip takes
//! otherwise. So a driver that waits for something that is probably close polls for a bounded time
//! first. What it finds out by polling decides how often it tries: where nothing comes in that
//! time, because traffic is thin, or where the thread is put aside before anything has, because
//! there is more runnable work than processors, it tries after twice as many waits each time.

use std::cell::Cell;
use std::time::Duration;

use postroad_proto::Time;

/// Longest polling at a time.
pub(crate) const SPIN: Duration = Duration::from_micros(50);
/// Two looks that are further apart say that the thread was put aside.
const PUT_ASIDE: Duration = Duration::from_micros(200);
/// Waits without polling after one that found nothing are doubled so many times at most.
const DOUBLINGS_MAX: u32 = 10;

thread_local! {
    /// Which connection has polled on this thread last, and when.
    static LAST: Cell<(usize, Time)> = const { Cell::new((0, Time(0))) };
}

/// Whether no other connection polls on this thread: one may look at its socket itself, while for
/// several the runtime looks at all of them at once.
pub(super) fn is_alone(connection: usize, now: Time) -> bool {
    let (last, at) = LAST.replace((connection, now));
    last == connection || now.since(at) > SPIN
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Something came since the last wait.
    Awake,
    /// Polls since the first moment; the last look was at the second.
    Polling(Time, Time),
    /// This wait is slept through.
    Asleep,
}

/// Decides for one connection.
#[derive(Debug)]
pub(super) struct Spin {
    budget: Duration,
    state: State,
    /// Waits that found nothing, less those that found something.
    failed: u32,
    /// Waits to sleep through before polling is tried again.
    skip: u32,
}

impl Spin {
    /// Polls for `budget` at a time; never on a machine, or in a process, that has one processor.
    pub(super) fn new(budget: Duration) -> Option<Box<Self>> {
        let has_cores = || std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
        let is_on = !budget.is_zero() && has_cores();
        is_on.then(|| Box::new(Self::polling_for(budget)))
    }

    fn polling_for(budget: Duration) -> Self {
        Self {
            budget,
            state: State::Awake,
            failed: 0,
            skip: 0,
        }
    }

    pub(super) fn is_polling(&self) -> bool {
        matches!(self.state, State::Polling(..))
    }

    /// Something came, or a new wait begins.
    #[inline]
    pub(super) fn wake(&mut self) {
        // One that paid outweighs one that did not, no more: a wake-up that is saved is worth about
        // as much as the time of one that was polled for in vain.
        if self.is_polling() {
            self.failed = self.failed.saturating_sub(1);
        }
        self.state = State::Awake;
    }

    /// Nothing has come yet: whether to look again at once.
    pub(super) fn look_again(&mut self, now: Time) -> bool {
        self.state = match self.state {
            State::Awake if self.skip == 0 => State::Polling(now, now),
            State::Awake => {
                self.skip -= 1;
                State::Asleep
            }
            State::Polling(since, last)
                if now.since(since) < self.budget && now.since(last) < PUT_ASIDE =>
            {
                State::Polling(since, now)
            }
            State::Polling(..) => {
                self.failed = (self.failed + 1).min(DOUBLINGS_MAX);
                self.skip = (1 << self.failed) - 1;
                State::Asleep
            }
            State::Asleep => State::Asleep,
        };
        self.is_polling()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = 1_000;

    /// Waits for something that comes `after` so long; how long it polled.
    fn wait(spin: &mut Spin, now: &mut Time, after: Duration) -> Duration {
        let (begin, mut polled) = (*now, Duration::ZERO);
        while now.since(begin) < after {
            if !spin.look_again(*now) {
                *now = begin + after;
                break;
            }
            polled += Duration::from_nanos(STEP);
            *now = Time(now.0 + STEP);
        }
        spin.wake();
        polled
    }

    #[test]
    fn what_comes_soon_is_always_polled_for() {
        let (mut spin, mut now) = (Spin::polling_for(SPIN), Time(0));
        for _ in 0..1000 {
            let soon = Duration::from_micros(7);
            assert_eq!(wait(&mut spin, &mut now, soon), soon);
        }
    }

    #[test]
    fn thin_traffic_costs_nearly_nothing_and_thick_traffic_is_found_again() {
        let (mut spin, mut now) = (Spin::polling_for(SPIN), Time(0));
        let gap = Duration::from_millis(1);
        let polled: Duration = (0..10_000).map(|_| wait(&mut spin, &mut now, gap)).sum();
        assert!(polled < gap * 10_000 / 1000, "{polled:?}");
        let soon = Duration::from_micros(7);
        let polled: Duration = (0..10_000).map(|_| wait(&mut spin, &mut now, soon)).sum();
        assert!(polled > soon * 8_000, "{polled:?}");
    }

    #[test]
    fn traffic_that_comes_soon_only_now_and_then_costs_little() {
        let (mut spin, mut now) = (Spin::polling_for(SPIN), Time(0));
        let (soon, gap) = (Duration::from_micros(7), Duration::from_micros(200));
        let waits = (0..10_000).map(|n| if n % 4 == 0 { soon } else { gap });
        let polled: Duration = waits.map(|after| wait(&mut spin, &mut now, after)).sum();
        assert!(
            polled < now.since(Time(0)) / 20,
            "{polled:?} of {:?}",
            now.since(Time(0))
        );
    }

    #[test]
    fn a_thread_that_is_put_aside_stops_polling() {
        let mut spin = Spin::polling_for(SPIN);
        assert!(spin.look_again(Time(0)));
        assert!(!spin.look_again(Time(0) + PUT_ASIDE));
        spin.wake();
        assert!(
            !spin.look_again(Time(1_000_000)),
            "one wait is slept through"
        );
    }

    #[test]
    fn one_connection_of_a_thread_looks_itself_and_several_do_not() {
        assert!(is_alone(1, Time(1_000_000)));
        assert!(is_alone(1, Time(1_001_000)));
        assert!(!is_alone(2, Time(1_002_000)));
        assert!(!is_alone(1, Time(1_003_000)));
        assert!(is_alone(1, Time(1_004_000)), "the other is gone");
        let later = Time(1_004_001) + SPIN;
        assert!(is_alone(2, later), "the other is gone for long");
    }

    #[test]
    fn who_was_not_asked_to_never_polls() {
        assert!(Spin::new(Duration::ZERO).is_none());
    }
}
