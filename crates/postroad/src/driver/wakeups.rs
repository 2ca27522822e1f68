//! When the driver has to be woken, and by whom.
//!
//! The driver sleeps until its transport, its timer or its waker wakes it. Everybody else who uses
//! the connection changes something that may be the driver's business; [`Wakeups::after`] is told
//! what has changed and answers with the waker if the driver has to know. It is asked under the
//! connection's lock and the waker is used without the lock.
//!
//! ```text
//!                   after(..) hands out the waker
//!      Clear ----------------------------------------> Sent
//!        ^                                              |
//!        |        clear: the driver writes              | QueuedAll
//!        +----------------------------------------------+----------> SentComplete
//! ```
//!
//! A *wake-up* is not what is *due*. A wake-up comes from another task that has changed something,
//! and asks the driver to look at once. What is due ([`Status::due`](super::status::Status)) is a
//! moment that the session has named, at which its timer rings though nobody has changed anything.
//! They meet in one place: whoever brings a moment that is before the one for which the timer was
//! set ([`Change::Due`]) has to wake the driver, which sets the timer anew.
//!
//! While a wake-up is under way nobody sends another: what is queued before the driver clears the
//! signal is written by the driver's next write, since both happen under the lock. This is why the
//! signal is cleared right before the driver writes. Besides, it is cleared when the driver has
//! moved to another task: a wake-up that is under way may reach the old one only, so the driver
//! looks at how things stand right after that, as [`Wakeups::register`] says.

use std::task::Waker;

use postroad_proto::Time;

/// What somebody who is not the driver has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A frame was queued that the driver is to write.
    Queued,
    /// The same, by a pipeline that has queued everything it has: the driver need not give it time
    /// to queue more.
    QueuedAll,
    /// A command was given, such as cancelling or closing, which the driver carries out.
    Commanded,
    /// The session's next timeout may have moved; it is this one now.
    Due(Time),
    /// A caller has written by itself, and everything has left.
    Written,
    /// A caller has written by itself, and something is left that only the driver can do.
    Left,
}

/// What the driver wants to hear of when somebody else has written. A set, because the reasons come
/// and go independently of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Interests(u8);

impl Interests {
    /// Reading is paused, or handlers are not started, until answers have left.
    const PAUSED: u8 = 1;
    /// Somebody waits for room in the send queues, and the driver tells when there is some.
    const ROOM: u8 = 2;
    /// The driver polls for the answer to what was written (low latency), and has to begin.
    const ANSWERS: u8 = 4;

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn contains(self, interest: u8) -> bool {
        self.0 & interest != 0
    }

    fn set(&mut self, interest: u8, is_on: bool) {
        if is_on {
            self.0 |= interest;
        } else {
            self.0 &= !interest;
        }
    }
}

/// Whether the driver was woken by one of those who share its connection. See the module's drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// Not since it has written last.
    Clear,
    /// It was, and whoever woke it may queue more before it runs.
    Sent,
    /// It was, and whoever woke it has queued everything.
    SentComplete,
}

/// Decides whether the driver is to be woken.
#[derive(Debug)]
pub(super) struct Wakeups {
    /// The driver's; `None` until it has run once.
    driver: Option<Waker>,
    /// When the driver's timer rings at the latest. Whoever brings the next timeout before that
    /// wakes the driver, which sets the timer anew.
    armed: Time,
    signal: Signal,
    interests: Interests,
}

impl Wakeups {
    /// For a driver that has not run yet. One that `polls` wants to be woken whenever a caller has
    /// written, so that it is awake when the answer comes.
    pub(super) fn new(polls: bool) -> Self {
        let mut interests = Interests::default();
        interests.set(Interests::ANSWERS, polls);
        Self {
            driver: None,
            armed: Time::NEVER,
            signal: Signal::Clear,
            interests,
        }
    }

    /// The driver runs in a task that this wakes. A wake-up that went to another task is forgotten,
    /// so the driver has to see how things stand afterwards.
    pub(super) fn register(&mut self, driver: &Waker) {
        self.driver = Some(driver.clone());
        self.signal = Signal::Clear;
    }

    /// The driver's waker, if it has to know of the change and was not woken already. Whoever gets
    /// it has to use it, after the lock was given back.
    pub(super) fn after(&mut self, change: Change) -> Option<Waker> {
        let has_to_know = match change {
            Change::Due(due) => due <= self.armed,
            Change::Written => !self.interests.is_empty(),
            Change::Queued | Change::QueuedAll | Change::Commanded | Change::Left => true,
        };
        if !has_to_know {
            return None;
        }
        let was_clear = self.signal == Signal::Clear;
        if change == Change::QueuedAll {
            self.signal = Signal::SentComplete;
        } else if was_clear {
            self.signal = Signal::Sent;
        }
        if was_clear { self.driver.clone() } else { None }
    }

    /// Whether a new deadline is before the driver's next wake-up. This is cheaper than to ask the
    /// session for its next timeout, which only then may have moved.
    pub(super) fn is_before_alarm(&self, deadline: Time) -> bool {
        deadline < self.armed
    }

    /// The driver is about to write: what comes from now on needs another wake-up.
    pub(super) fn clear(&mut self) {
        self.signal = Signal::Clear;
    }

    /// The driver has used the session. Its timer rings at `armed`; `is_paused` says that it does
    /// not read, or starts no handlers, until answers have left.
    pub(super) fn set(&mut self, armed: Time, is_paused: bool) {
        self.armed = armed;
        self.interests.set(Interests::PAUSED, is_paused);
    }

    /// Whether the driver does not read, or starts no handlers, until answers have left.
    pub(super) fn is_paused(&self) -> bool {
        self.interests.contains(Interests::PAUSED)
    }

    /// Somebody waits for room, and is told after the next write.
    pub(super) fn want_room(&mut self) {
        self.interests.set(Interests::ROOM, true);
    }

    /// Whether somebody waits for room. Who asks tells them; they ask anew if it is not enough.
    pub(super) fn take_room(&mut self) -> bool {
        let is_wanted = self.interests.contains(Interests::ROOM);
        self.interests.set(Interests::ROOM, false);
        is_wanted
    }

    /// Whether the driver was woken and has not written since.
    pub(super) fn is_sent(&self) -> bool {
        self.signal != Signal::Clear
    }

    /// Whether the driver was woken by somebody who may queue more before it writes.
    pub(super) fn is_incomplete(&self) -> bool {
        self.signal == Signal::Sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(polls: bool) -> Wakeups {
        let mut wakeups = Wakeups::new(polls);
        wakeups.register(Waker::noop());
        wakeups
    }

    #[test]
    fn of_many_who_queue_one_wakes_the_driver() {
        let mut wakeups = registered(false);
        assert!(wakeups.after(Change::Queued).is_some());
        assert!(wakeups.after(Change::Queued).is_none());
        assert!(wakeups.after(Change::Commanded).is_none());
        assert!(wakeups.is_sent() && wakeups.is_incomplete());
        assert!(wakeups.after(Change::QueuedAll).is_none());
        assert!(wakeups.is_sent() && !wakeups.is_incomplete());
        wakeups.clear();
        assert!(!wakeups.is_sent() && wakeups.after(Change::Queued).is_some());
    }

    #[test]
    fn a_timeout_wakes_only_if_the_timer_rings_too_late() {
        let mut wakeups = registered(false);
        wakeups.set(Time(10), false);
        assert!(!wakeups.is_before_alarm(Time(10)) && wakeups.is_before_alarm(Time(9)));
        assert!(wakeups.after(Change::Due(Time(11))).is_none());
        assert!(wakeups.after(Change::Due(Time(9))).is_some());
    }

    #[test]
    fn who_has_written_wakes_a_driver_that_wants_to_know() {
        let mut wakeups = registered(false);
        assert!(wakeups.after(Change::Written).is_none());
        assert!(wakeups.after(Change::Left).is_some());
        wakeups.clear();
        wakeups.set(Time::NEVER, true);
        assert!(wakeups.is_paused() && wakeups.after(Change::Written).is_some());
        wakeups.clear();
        wakeups.set(Time::NEVER, false);
        wakeups.want_room();
        assert!(wakeups.after(Change::Written).is_some());
        assert!(wakeups.take_room() && !wakeups.take_room());
        assert!(registered(true).after(Change::Written).is_some());
    }
}
