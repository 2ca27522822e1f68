//! Whether a request is started, queued or refused, and the places of those that are at work.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::code::{Code, Retry};
use postroad_proto::limits::REQUESTS_MAX;
use tokio::sync::Notify;

use super::lanes::Ticket;
use super::share::ShareMax;
use crate::clock;
use crate::error::Error;

/// How long handlers of one connection run in place before the others of the reactor have their
/// turn. Long enough that quick handlers never notice it: a driver's turn of 2,000 requests whose
/// handlers take 0.1 microseconds uses a tenth. Short enough that ten busy connections delay an
/// eleventh by no more than a scheduler's time slice.
const WORK_BUDGET: Duration = Duration::from_millis(2);
/// How long something may wait to be started, if its deadline is not sooner. After an overload the
/// queue is empty in no more than this.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// What a client that is refused for too much at once is told to wait.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Requests that one reactor may hold queued. Each is small; what they bring along has a bound of
/// its own.
pub(super) const QUEUED_MAX: usize = 8192;
/// Bytes of payloads that one reactor may hold queued.
pub(super) const QUEUED_BYTES_MAX: usize = 64 << 20;

/// What has to be known of a request that has arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrival {
    /// Its priority.
    pub(super) level: u8,
    /// Its deadline has passed. Asked for by whoever has the clock at hand, because most deadlines
    /// are so far that no clock need be read.
    pub(super) is_late: bool,
    /// Something as important is queued, or handlers have used up the turn.
    pub(super) must_wait: bool,
    /// Those of its connection that wait hold as much as one connection may.
    pub(super) is_share_full: bool,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Its handler is started at once.
    Start,
    /// It is queued, if the queue takes it.
    Queue,
    /// It is answered with an error.
    Refuse(Refusal),
}

/// Why a request is not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its deadline has passed.
    Late,
    /// So many requests are at work already.
    TooManyRunning(usize),
    /// Those of its connection that are at work hold as much as one connection may.
    ShareFull,
    /// The reactor's queue is full of what is as important.
    QueueFull,
    /// It would have to wait so long before it is started, which is longer than it can.
    Hopeless(Duration),
    /// Its route is called more often than it may be; the next may come after this time.
    RateExceeded(Duration),
    /// The server is being shut down.
    Draining,
}

impl Refusal {
    /// As the caller is told. Nothing was done, so all but a late one may be sent again.
    #[cold]
    pub(super) fn error(self) -> Error {
        let overloaded =
            |text| Error::of(Code::OVERLOADED, text).with_retry(Retry::Here, RETRY_AFTER);
        let elsewhere = |text: &str, after: Duration| {
            Error::of(Code::OVERLOADED, text).with_retry(Retry::Elsewhere, after)
        };
        match self {
            Self::Late => {
                let text = "the deadline passed before the request was started";
                Error::of(Code::DEADLINE, text)
            }
            Self::TooManyRunning(max) => overloaded(format!("{max} requests are running already")),
            Self::ShareFull => overloaded(
                "the requests of this connection that are running hold too much already".to_owned(),
            ),
            Self::Draining => Error::of(Code::DRAINING, "the server is shutting down")
                .with_retry(Retry::Elsewhere, Duration::ZERO),
            Self::Hopeless(wait) => elsewhere("it would have waited longer than it can", wait),
            Self::RateExceeded(wait) => {
                Error::of(Code::OVERLOADED, "the route is called too often")
                    .with_retry(Retry::Here, wait)
            }
            Self::QueueFull => overloaded(format!(
                "{QUEUED_MAX} requests, or {} MiB of them, are queued already",
                QUEUED_BYTES_MAX >> 20
            )),
        }
    }
}

/// How many of the places at work requests of this priority may take. The last tenth is for those
/// above the usual priority and the last twentieth for the most important, so that what is less
/// important cannot keep them out.
fn places_of(level: u8, most: usize) -> usize {
    match level {
        0..=3 => most - most / 10,
        4..=6 => most - most / 20,
        _ => most,
    }
}

/// Decides about a request, while there is a place at work for it or not.
fn decide(arrival: Arrival, has_place: bool, running_max: usize) -> Decision {
    // A request past its deadline is never started: those before it may have taken long.
    if arrival.is_late {
        return Decision::Refuse(Refusal::Late);
    }
    if !has_place {
        return Decision::Refuse(Refusal::TooManyRunning(running_max));
    }
    if arrival.is_share_full {
        return Decision::Refuse(Refusal::ShareFull);
    }
    match arrival.must_wait {
        false => Decision::Start,
        true => Decision::Queue,
    }
}

/// The places of a server's requests.
#[derive(Debug)]
pub(super) struct Intake {
    /// Requests whose handlers were not done at once.
    running: AtomicUsize,

    running_max: AtomicUsize,
    /// How many of them requests of any priority may take.
    usual_max: AtomicUsize,
    /// Bounds of what waits for one connection: bytes, and one-way messages.
    share_bytes_max: AtomicUsize,
    share_messages_max: AtomicUsize,
    /// Requests in the run queues of all reactors.
    queued: AtomicUsize,
    /// Nanoseconds; see [`WORK_BUDGET`].
    work_budget: AtomicU64,
    /// Whether requests that would wait too long are refused when they come.
    is_shedding: AtomicBool,
    /// The server is being shut down. Its sessions refuse by themselves what comes from then on.
    is_draining: AtomicBool,
    /// Somebody waits in [`Self::wait_until_idle`]. So that giving back the last place, which an
    /// otherwise idle server does for each request that waits, need not touch `idle`.
    is_awaited: AtomicBool,
    idle: Notify,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            running: AtomicUsize::new(0),
            running_max: AtomicUsize::new(REQUESTS_MAX),
            usual_max: AtomicUsize::new(places_of(0, REQUESTS_MAX)),
            share_bytes_max: AtomicUsize::new(usize::MAX),
            share_messages_max: AtomicUsize::new(usize::MAX),
            queued: AtomicUsize::new(0),
            work_budget: AtomicU64::new(nanos(WORK_BUDGET)),
            is_shedding: AtomicBool::new(true),
            is_draining: AtomicBool::new(false),
            is_awaited: AtomicBool::new(false),
            idle: Notify::new(),
        }
    }
}

/// A time in nanoseconds, at most 584 years.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Intake {
    /// Sets the bound on requests that are at work, before the server starts.
    pub(super) fn set_running_max(&self, max: usize) {
        self.running_max.store(max, Ordering::Relaxed);
        self.usual_max.store(places_of(0, max), Ordering::Relaxed);
    }

    /// Sets the bounds of each connection's share.
    pub(super) fn set_share_max(&self, max: ShareMax) {
        self.share_bytes_max.store(max.bytes, Ordering::Relaxed);
        self.share_messages_max
            .store(max.messages, Ordering::Relaxed);
    }

    pub(super) fn share_max(&self) -> ShareMax {
        ShareMax {
            bytes: self.share_bytes_max.load(Ordering::Relaxed),
            messages: self.share_messages_max.load(Ordering::Relaxed),
        }
    }

    /// Sets how long handlers run in place, before the server starts.
    pub(super) fn set_work_budget(&self, budget: Duration) {
        self.work_budget.store(nanos(budget), Ordering::Relaxed);
    }

    /// Sets whether requests that would wait too long are refused when they come.
    pub(super) fn set_shedding(&self, is_shedding: bool) {
        self.is_shedding.store(is_shedding, Ordering::Relaxed);
    }

    /// How long something may wait to be started; `None` if nothing is refused for that.
    pub(super) fn patience(&self, ticket: &Ticket, now: Time) -> Option<Duration> {
        // Nobody can be told of a message: it waits, and with it what its connection sends.
        if ticket.is_message || !self.is_shedding.load(Ordering::Relaxed) {
            return None;
        }
        let left = ticket.deadline.since(now);
        let left = left.saturating_sub(Duration::from_nanos(ticket.cost));
        Some(left.min(WAIT_MAX))
    }

    /// The same for a request.
    pub(super) fn patience_of(&self, deadline: Time, is_message: bool) -> Option<Duration> {
        let ticket = Ticket {
            deadline,
            is_message,
            ..Ticket::default()
        };
        self.patience(&ticket, clock::now())
    }

    pub(super) fn work_budget(&self) -> u64 {
        self.work_budget.load(Ordering::Relaxed)
    }

    /// What becomes of a request that has arrived, or whose turn in the queue has come.
    pub(super) fn decide(&self, arrival: Arrival) -> Decision {
        let most = self.running_max.load(Ordering::Relaxed);
        decide(arrival, self.has_place(arrival.level, most), most)
    }

    /// Whether one more of this priority may be at work.
    fn has_place(&self, level: u8, most: usize) -> bool {
        self.running() < places_of(level, most)
    }

    /// Requests that are at work now.
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Requests that are queued now.
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Whether [`Self::decide`] would say [`Decision::Start`]. Nearly always it does, and then the
    /// queue need not be asked.
    #[inline]
    pub(super) fn starts_at_once(&self, is_late: bool, must_wait: bool) -> bool {
        !is_late && !must_wait && self.running() < self.usual_max.load(Ordering::Relaxed)
    }

    /// Takes a place at work; [`Self::leave_work`] gives it back.
    pub(super) fn enter_work(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    /// The same for a request without a connection, unless it is late, there is no place left, or
    /// the server is being shut down.
    ///
    /// # Errors
    /// Which of these it is.
    pub(super) fn try_enter_work(&self, is_late: bool, level: u8) -> Result<(), Refusal> {
        if is_late {
            return Err(Refusal::Late);
        }
        let max = self.running_max.load(Ordering::Relaxed);
        let places = places_of(level, max);
        let next = |running| (running < places).then_some(running + 1);
        // Sequentially consistent, as in `leave`: either a drain that begins now sees this place,
        // or this thread sees the drain.
        self.running
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, next)
            .map_err(|_| Refusal::TooManyRunning(max))?;
        if self.is_draining.load(Ordering::SeqCst) {
            self.leave_work();
            return Err(Refusal::Draining);
        }
        Ok(())
    }

    /// From now on [`Self::try_enter_work`] lets nothing in.
    pub(super) fn drain(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
    }

    pub(super) fn leave_work(&self) {
        self.leave(&self.running);
    }

    /// Takes a place in a queue; [`Self::leave_queue`] gives it back.
    pub(super) fn enter_queue(&self) {
        self.queued.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave_queue(&self) {
        self.leave(&self.queued);
    }

    fn leave(&self, places: &AtomicUsize) {
        // Sequentially consistent, as in `wait_until_idle`: either this thread sees that somebody
        // waits, or the one who begins to wait sees this place given back. With weaker orderings
        // both may miss each other, and a shutdown would wait for its whole grace.
        let was_last = places.fetch_sub(1, Ordering::SeqCst) == 1;
        if was_last && self.is_awaited.load(Ordering::SeqCst) {
            self.idle.notify_waiters();
        }
    }

    /// Waits until no request is at work or queued. Cancellation safe.
    pub(super) async fn wait_until_idle(&self) {
        self.is_awaited.store(true, Ordering::SeqCst);
        loop {
            // Made before the counters are read: it is told also of what happens in between.
            let idle = self.idle.notified();
            let running = self.running.load(Ordering::SeqCst);
            if running == 0 && self.queued.load(Ordering::SeqCst) == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// How much of a turn's time the handlers of a connection have used.
///
/// Only handlers count, not reading and writing: those are bounded by the number of rounds, and a
/// driver that is busy with them alone has nothing to queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn {
    /// Nanoseconds of the turn's batches before this one.
    used: u64,
}

impl Turn {
    /// The next turn: everything is left of it.
    pub(super) fn begin(&mut self) {
        self.used = 0;
    }

    /// Starts to measure a batch that begins now.
    pub(super) fn measure(&self, budget: u64, now: Time) -> Meter {
        Meter {
            began: now,
            left: budget.saturating_sub(self.used),
            ticks: 0,
            // Without any budget not even the first request is started in place.
            is_over: budget == 0 || self.used > budget,
        }
    }

    /// Adds what a batch has used, if the coarse clock has ticked meanwhile. The clock itself is
    /// not read for a batch that ends within a tick: of many such batches as many see a tick as
    /// they use of it.
    pub(super) fn add(&mut self, meter: &Meter) {
        if meter.ticks > 0 {
            let used = clock::now().since(meter.began);
            self.used = self.used.saturating_add(nanos(used));
        }
    }
}

/// Measures the handlers of one batch without reading the clock for each: only when the coarse
/// clock has ticked, which is read for each request's deadline anyway. So a turn is over by a tick
/// (1 to 4 ms on Linux) after its budget at the latest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meter {
    began: Time,
    /// Nanoseconds from there on until the turn is over.
    left: u64,
    /// The coarse clock at the last look.
    ticks: u64,
    is_over: bool,
}

impl Meter {
    /// Whether the turn is over. Asked before each request, with what the coarse clock says.
    #[inline]
    pub(super) fn is_over(&mut self, ticks: u64) -> bool {
        if ticks != self.ticks {
            self.look(ticks);
        }
        self.is_over
    }

    #[cold]
    fn look(&mut self, ticks: u64) {
        self.ticks = ticks;
        // Once over it stays so: the rest of the batch goes into the queue in order.
        self.is_over |= nanos(clock::now().since(self.began)) > self.left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_started_unless_it_must_wait_and_refused_with_the_first_reason() {
        let quiet = Arrival::default();
        assert_eq!(decide(quiet, true, 10), Decision::Start);
        let waits = Arrival {
            must_wait: true,
            ..quiet
        };
        assert_eq!(decide(waits, true, 10), Decision::Queue);
        let many = Decision::Refuse(Refusal::TooManyRunning(10));
        assert_eq!(decide(waits, false, 10), many);
        let greedy = Arrival {
            is_share_full: true,
            ..waits
        };
        assert_eq!(
            decide(greedy, true, 10),
            Decision::Refuse(Refusal::ShareFull)
        );
        let late = Arrival {
            is_late: true,
            ..waits
        };
        assert_eq!(decide(late, false, 10), Decision::Refuse(Refusal::Late));
    }

    #[test]
    fn the_last_places_are_for_what_is_more_important() {
        let intake = Intake::default();
        intake.set_running_max(20);
        let entered = |level| {
            let enter = |_: &i32| intake.try_enter_work(false, level).is_ok();
            (0..99).take_while(enter).count()
        };
        assert_eq!([entered(3), entered(6), entered(7)], [18, 1, 1]);
        let refused = Arrival::default();
        let many = Decision::Refuse(Refusal::TooManyRunning(20));
        assert_eq!(intake.decide(refused), many);
    }

    #[test]
    fn only_a_late_request_may_not_be_sent_again() {
        assert_eq!(Refusal::QueueFull.error().retry(), Retry::Here);
        assert_eq!(Refusal::ShareFull.error().retry(), Retry::Here);
        assert_eq!(Refusal::TooManyRunning(3).error().retry(), Retry::Here);
        assert_eq!(Refusal::Late.error().retry(), Retry::Never);
    }

    #[test]
    fn a_turn_is_over_when_the_handlers_of_its_batches_have_used_it_up() {
        let mut turn = Turn::default();
        let began = Time(clock::now().0 - 5_000_000);
        let mut meter = turn.measure(10_000_000_000, began);
        // Within a tick the clock is not read, and nothing is added.
        assert!(!meter.is_over(0));
        turn.add(&meter);
        assert_eq!(turn.used, 0);
        assert!(!meter.is_over(4_000_000));
        turn.add(&meter);
        assert!(turn.used >= 5_000_000, "{turn:?}");
        // What is left of the turn is less than the whole.
        let mut meter = turn.measure(10_000_000, Time(clock::now().0 - 6_000_000));
        assert!(meter.is_over(1), "{turn:?}");
        turn.begin();
        let mut meter = turn.measure(10_000_000_000, clock::now());
        assert!(!meter.is_over(1));
        assert!(turn.measure(0, clock::now()).is_over(0), "no budget");
    }

    #[test]
    fn places_for_requests_without_a_connection_are_never_more_than_the_bound() {
        let intake = Intake::default();
        intake.set_running_max(8);
        let entered = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| {
                scope.spawn(|| {
                    (0..8)
                        .filter(|_| intake.try_enter_work(false, 3).is_ok())
                        .count()
                })
            });
            threads
                .map(|thread| thread.join().expect("it counts"))
                .iter()
                .sum::<usize>()
        });
        assert_eq!((entered, intake.running()), (8, 8));
        assert_eq!(intake.try_enter_work(true, 3), Err(Refusal::Late));
        intake.leave_work();
        intake.drain();
        assert_eq!(intake.try_enter_work(false, 3), Err(Refusal::Draining));
        assert_eq!(intake.running(), 7, "its place was given back");
    }

    #[tokio::test]
    async fn whoever_waits_is_told_when_the_last_place_is_given_back() {
        let intake = std::sync::Arc::new(Intake::default());
        intake.enter_work();
        intake.enter_queue();
        let waiting = tokio::spawn({
            let intake = std::sync::Arc::clone(&intake);
            async move { intake.wait_until_idle().await }
        });
        tokio::task::yield_now().await;
        intake.leave_queue();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        intake.leave_work();
        waiting.await.expect("it was told");
    }
}
