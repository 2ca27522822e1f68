//! The reasons for which a session has to be woken although nothing happens outside of it.
//!
//! Nothing is stored here. Each moment follows from what a session keeps anyway (when its peer was
//! heard last, the earliest deadline of its calls, how far a drain has come), so a second copy
//! would have to be kept up to date for each message, and would cost memory in each idle
//! connection. A session therefore answers two questions, [`Timers::due`] and [`Timers::fire`],
//! with a `match` over all of [`Timer`]; what the driver calls is derived from them.

use crate::Time;

/// Declares [`Timer`] and the list of all its variants together, so that none can be left out.
macro_rules! timers {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A reason to wake a session, native or of a dialect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Timer {
            $($(#[$doc])* $name,)*
        }

        impl Timer {
            const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

// They fire in this order where several are due at once. What ends the connection whatever else
// happens comes first. Deadlines come before the end of a drain and before the heartbeat, because
// "its time was up" says more about a call than "the connection was closed". Memory is released
// before the heartbeat, because a ping takes some again.
timers! {
    /// A fault was found behind requests that had to be handed out first.
    LateFault,
    /// The opening, or finding out what the peer speaks, takes too long.
    Handshake,
    /// The transport has taken no bytes for too long.
    WriteStall,
    /// A frame has begun and does not end.
    ReadStall,
    /// The time of a call that this end has made may be up.
    CallDeadlines,
    /// The time of a request that this end serves may be up.
    RequestDeadlines,
    /// The next step of a drain.
    Drain,
    /// It is time to look whether nothing but heartbeats comes.
    Idle,
    /// Memory that calls have made grow is to be given back, if there are none now.
    ReleaseMemory,
    /// The peer was silent for an interval: it is asked for a sign of life, or declared dead.
    Heartbeat,
}

/// A session's timers, and what each of them does.
pub(super) trait Timers {
    /// When the timer is due; never, if there is nothing to wait for. A closed session waits for
    /// nothing.
    fn due(&self, timer: Timer) -> Time;

    /// Does what is due. It has to move the timer: one that stayed due would wake the driver for
    /// ever.
    fn fire(&mut self, now: Time, timer: Timer);

    /// The earliest moment at which any timer is due.
    #[inline]
    fn poll_timeout(&self) -> Option<Time> {
        let times = Timer::ALL.iter().map(|timer| self.due(*timer));
        times.min().filter(|due| *due != Time::NEVER)
    }

    /// Fires everything that is due. Each timer is asked when its turn comes, since one before it
    /// may have closed the session.
    fn handle_timeout(&mut self, now: Time) {
        for timer in Timer::ALL {
            if self.due(*timer) <= now {
                self.fire(now, *timer);
            }
        }
    }

    /// Ends the calls and requests whose deadlines have passed, and nothing else.
    fn expire(&mut self, now: Time) {
        for timer in [Timer::CallDeadlines, Timer::RequestDeadlines] {
            if self.due(timer) <= now {
                self.fire(now, timer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some timers with their moments; one of them closes the session, and the others move far
    /// ahead when they fire.
    struct Fake {
        armed: Vec<(Timer, Time)>,
        closes: Option<Timer>,
        fired: Vec<Timer>,
    }

    impl Timers for Fake {
        fn due(&self, timer: Timer) -> Time {
            let armed = self.armed.iter().find(|(armed, _)| *armed == timer);
            armed.map_or(Time::NEVER, |(_, due)| *due)
        }

        fn fire(&mut self, _now: Time, timer: Timer) {
            self.fired.push(timer);
            self.armed.retain(|(armed, _)| *armed != timer);
            if self.closes == Some(timer) {
                self.armed.clear();
            }
        }
    }

    fn fake(closes: Option<Timer>) -> Fake {
        let armed = vec![
            (Timer::Heartbeat, Time(5)),
            (Timer::Drain, Time(9)),
            (Timer::RequestDeadlines, Time(7)),
            (Timer::ReadStall, Time(7)),
        ];
        Fake {
            armed,
            closes,
            fired: Vec::new(),
        }
    }

    #[test]
    fn the_driver_is_told_the_earliest_of_all_timers_and_nothing_where_there_is_none() {
        let mut session = fake(None);
        assert_eq!(session.poll_timeout(), Some(Time(5)));
        session.armed.clear();
        assert_eq!(session.poll_timeout(), None);
    }

    #[test]
    fn what_is_due_fires_in_the_order_of_the_list_and_the_rest_stays() {
        let mut session = fake(None);
        session.handle_timeout(Time(7));
        let order = [Timer::ReadStall, Timer::RequestDeadlines, Timer::Heartbeat];
        assert_eq!(session.fired, order);
        assert_eq!(session.poll_timeout(), Some(Time(9)));
    }

    #[test]
    fn a_session_that_a_timer_has_closed_is_not_woken_for_the_others() {
        let mut session = fake(Some(Timer::ReadStall));
        session.handle_timeout(Time(9));
        assert_eq!(session.fired, [Timer::ReadStall]);
    }

    #[test]
    fn expiring_ends_calls_and_requests_and_nothing_else() {
        let mut session = fake(None);
        session.expire(Time(9));
        assert_eq!(session.fired, [Timer::RequestDeadlines]);
    }
}
