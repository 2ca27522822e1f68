//! Whether to look again before going to sleep.
//!
//! A sleeping processor takes tens of microseconds to wake, longer than a whole round trip takes
//! otherwise. So with the low-latency preset a driver that waits for something that is probably
//! close polls for a bounded time first. What it finds out by polling decides how often it tries.
//! After a wait in which nothing came, because traffic is thin, it sleeps through twice as many
//! waits as the time before. The same goes for a wait in which its thread did not run for a while,
//! because there is more runnable work than there are processors.
//!
//! ```text
//!               a wait begins                     the budget is used up,
//!      Awake ------------------> Polling ------------------------------------> Asleep
//!       ^ ^                       |         or the thread did not run           |
//!       | +---- something came ---+                                             |
//!       +------------------------------- something came -----------------------+
//! ```

use std::cell::Cell;
use std::io;
use std::task::Context;
use std::time::Duration;

use postroad_proto::Time;

use super::inbox::Inbox;
use crate::clock;
use crate::preset::SPIN;

/// Two polls that are further apart say that the thread did not run meanwhile.
const SUSPENDED: Duration = Duration::from_micros(200);
/// Waits without polling after one that found nothing are doubled so many times at most.
const DOUBLINGS_MAX: u32 = 10;

thread_local! {
    /// Which connection has polled on this thread last, and when.
    static LAST: Cell<(usize, Time)> = const { Cell::new((0, Time(0))) };
}

/// Whether no other connection polls on this thread: one may read its socket itself, while for
/// several the runtime asks for all of them at once. A connection is known by a number of its own.
fn is_alone(connection: usize, now: Time) -> bool {
    let (last, at) = LAST.replace((connection, now));
    last == connection || now.since(at) > SPIN
}

/// See the module's drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Something came since the last wait.
    Awake,
    /// Polls since the first moment; the last poll was at the second.
    Polling(Time, Time),
    /// This wait is slept through.
    Asleep,
}

/// Decides for one connection whether to poll.
#[derive(Debug)]
pub(super) struct Polling {
    /// Longest polling at a time.
    budget: Duration,
    state: State,
    /// Waits that found nothing, less those that found something.
    failed: u32,
    /// Waits to sleep through before polling is tried again.
    skip: u32,
}

impl Polling {
    /// Polls for `budget` at a time. `None` if that is nothing, or in a process that may use one
    /// processor only, where polling would keep the other end from running.
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

    fn is_polling(&self) -> bool {
        matches!(self.state, State::Polling(..))
    }

    /// Something came, or a new wait begins.
    pub(super) fn wake(&mut self) {
        // A success makes up for one failure and no more: a wake-up that was saved is worth about
        // as much as the time that was polled for in vain.
        if self.is_polling() {
            self.failed = self.failed.saturating_sub(1);
        }
        self.state = State::Awake;
    }

    /// Nothing has come yet. Looks once more, if polling probably pays: what was read, if
    /// anything was. Otherwise the task sleeps, or comes back after all others that can run.
    ///
    /// `connection` tells the connections of a thread apart. `is_first` says that the driver has
    /// just begun its turn, and so has given all other tasks theirs.
    pub(super) fn look_again(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
        connection: usize,
        is_first: bool,
    ) -> Option<io::Result<usize>> {
        // Not the runtime's clock: one that a test has paused stands still while this task comes
        // back, and so the polling would never end.
        let now = clock::real();
        let was_polling = self.is_polling();
        if !self.goes_on(now) {
            return None;
        }
        // The first look of a wait is the runtime's. If its other tasks take long, the next call
        // finds that this thread was busy, and polling stops without a single read of its own.
        if is_first
            && was_polling
            && is_alone(connection, now)
            && let Some(read) = inbox.try_read()
        {
            self.wake();
            return Some(read);
        }
        super::go_behind_others(cx);
        None
    }

    /// Nothing has come by now: whether to poll on.
    fn goes_on(&mut self, now: Time) -> bool {
        self.state = match self.state {
            State::Awake if self.skip == 0 => State::Polling(now, now),
            State::Awake => {
                self.skip -= 1;
                State::Asleep
            }
            State::Polling(since, last)
                if now.since(since) < self.budget && now.since(last) < SUSPENDED =>
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
    fn wait(polling: &mut Polling, now: &mut Time, after: Duration) -> Duration {
        let (begin, mut polled) = (*now, Duration::ZERO);
        while now.since(begin) < after {
            if !polling.goes_on(*now) {
                *now = begin + after;
                break;
            }
            polled += Duration::from_nanos(STEP);
            *now = Time(now.0 + STEP);
        }
        polling.wake();
        polled
    }

    #[test]
    fn what_comes_soon_is_always_polled_for() {
        let (mut polling, mut now) = (Polling::polling_for(SPIN), Time(0));
        for _ in 0..1000 {
            let soon = Duration::from_micros(7);
            assert_eq!(wait(&mut polling, &mut now, soon), soon);
        }
    }

    #[test]
    fn thin_traffic_costs_nearly_nothing_and_thick_traffic_is_found_again() {
        let (mut polling, mut now) = (Polling::polling_for(SPIN), Time(0));
        let gap = Duration::from_millis(1);
        let polled: Duration = (0..10_000).map(|_| wait(&mut polling, &mut now, gap)).sum();
        assert!(polled < gap * 10_000 / 1000, "{polled:?}");
        let soon = Duration::from_micros(7);
        let polled: Duration = (0..10_000)
            .map(|_| wait(&mut polling, &mut now, soon))
            .sum();
        assert!(polled > soon * 8_000, "{polled:?}");
    }

    #[test]
    fn traffic_that_comes_soon_only_now_and_then_costs_little() {
        let (mut polling, mut now) = (Polling::polling_for(SPIN), Time(0));
        let (soon, gap) = (Duration::from_micros(7), Duration::from_micros(200));
        let waits = (0..10_000).map(|n| if n % 4 == 0 { soon } else { gap });
        let polled: Duration = waits.map(|after| wait(&mut polling, &mut now, after)).sum();
        assert!(
            polled < now.since(Time(0)) / 20,
            "{polled:?} of {:?}",
            now.since(Time(0))
        );
    }

    #[test]
    fn a_thread_that_did_not_run_for_a_while_stops_polling() {
        let mut polling = Polling::polling_for(SPIN);
        assert!(polling.goes_on(Time(0)));
        assert!(!polling.goes_on(Time(0) + SUSPENDED));
        polling.wake();
        assert!(
            !polling.goes_on(Time(1_000_000)),
            "one wait is slept through"
        );
    }

    #[test]
    fn one_connection_of_a_thread_reads_its_socket_itself_and_several_do_not() {
        assert!(is_alone(1, Time(1_000_000)));
        assert!(is_alone(1, Time(1_001_000)));
        assert!(!is_alone(2, Time(1_002_000)));
        assert!(!is_alone(1, Time(1_003_000)));
        assert!(is_alone(1, Time(1_004_000)), "the other is gone");
        let later = Time(1_004_001) + SPIN;
        assert!(is_alone(2, later), "the other is gone for long");
    }

    #[test]
    fn a_connection_without_a_budget_never_polls() {
        assert!(Polling::new(Duration::ZERO).is_none());
    }
}
