//! Whether anything but heartbeats comes.
//!
//! Nothing is noted when a message comes: from time to time something is looked at that every
//! message changes anyway, such as the number of bytes. So this costs a connection eight bytes, and
//! a message nothing.

use std::time::Duration;

use crate::Time;

/// How often it is looked in the time that a connection may be idle. One that is idle ends at most
/// a part of so many later.
const LOOKS: u32 = 8;

/// How long a server's connection has been idle, as far as anybody has looked.
#[derive(Debug)]
pub(super) struct Idle {
    /// How long it may be.
    time: Duration,
    /// When to look next; never, once its time was up.
    due: Time,
    /// What was seen the last time.
    seen: u64,
    /// Looks in a row that have found nothing new.
    quiet: u32,
    /// Bytes of heartbeats, which are no reason to stay.
    pub(super) heartbeats: u64,
}

impl Idle {
    /// Of a connection that begins now and may be idle for `time`, if that has a bound.
    pub(super) fn new(now: Time, time: Option<Duration>) -> Option<Box<Self>> {
        let time = time?;
        Some(Box::new(Self {
            time,
            due: now + time / LOOKS,
            seen: 0,
            quiet: 0,
            heartbeats: 0,
        }))
    }

    /// When to look next.
    pub(super) fn due(&self) -> Time {
        self.due
    }

    /// Its time was up.
    pub(super) fn is_over(&self) -> bool {
        self.due == Time::NEVER
    }

    /// Looks: `seen` is another number if something has come. Tells for how long the connection may
    /// have been idle, once, when that is over.
    pub(super) fn look(&mut self, now: Time, seen: u64, is_busy: bool) -> Option<Duration> {
        let is_quiet = !is_busy && seen == self.seen;
        self.seen = seen;
        self.quiet = if is_quiet { self.quiet + 1 } else { 0 };
        if self.quiet < LOOKS {
            self.due = now + self.time / LOOKS;
            return None;
        }
        self.due = Time::NEVER;
        Some(self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(8);

    /// Looks until the connection's time is up, and says when that was.
    fn over(idle: &mut Idle, mut at: impl FnMut(Time) -> (u64, bool)) -> Time {
        loop {
            let now = idle.due();
            let (seen, is_busy) = at(now);
            if idle.look(now, seen, is_busy).is_some() {
                return now;
            }
        }
    }

    #[test]
    fn a_connection_is_over_when_nothing_was_seen_for_its_time_and_soon_after_that() {
        let mut idle = Idle::new(Time(0), Some(TIME)).expect("it has a bound");
        let last = Time(0) + Duration::from_secs(20);
        let end = over(&mut idle, |now| (now.min(last).0, false));
        assert!(
            end >= last + TIME && end <= last + TIME + TIME / 4,
            "{end:?}"
        );
        assert!(idle.is_over());
    }

    #[test]
    fn a_request_that_is_at_work_is_no_idleness() {
        let mut idle = Idle::new(Time(0), Some(TIME)).expect("it has a bound");
        let last = Time(0) + Duration::from_secs(100);
        let end = over(&mut idle, |now| (7, now <= last));
        assert!(end >= last + TIME, "{end:?}");
        assert!(Idle::new(Time(0), None).is_none());
    }
}
