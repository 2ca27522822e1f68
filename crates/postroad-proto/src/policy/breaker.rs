//! Stops asking an endpoint that does not answer, and tries it again after a while.
//!
//! ```text
//!            enough calls, too many of them failed
//!   Closed -----------------------------------------> Open
//!     ^                                              |    ^
//!     | the probe is answered          after `sleep` |    | the probe fails
//!     |                                              v    |
//!     +------------------------------------------- HalfOpen
//! ```
//!
//! Half open, one call at a time goes through as a probe. One whose end is never heard of does not
//! block for ever: after another `sleep` there is a new one. What began before the state changed
//! says nothing about the new state, so each call carries the number of the state that it began in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::window::Window;
use crate::Time;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerRule {
    /// Calls in the window below which it never opens. Default 20.
    pub volume: u32,
    /// Percentage of failed calls at which it opens, 1 to 100. Default 50.
    pub error_percent: u32,
    /// The window. Default 10 s.
    pub window: Duration,
    /// How long it stays open. Default 5 s.
    pub sleep: Duration,
}

impl Default for BreakerRule {
    fn default() -> Self {
        Self {
            volume: 20,
            error_percent: 50,
            window: Duration::from_secs(10),
            sleep: Duration::from_secs(5),
        }
    }
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls go through.
    Closed,
    /// No call goes through.
    Open,
    /// A probe goes through now and then.
    HalfOpen,
}

/// The permission to make one call, to be given back with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit(u64);

const CLOSED: u64 = 0;
const OPEN: u64 = 1;
const HALF_OPEN: u64 = 2;
const KIND: u64 = 3;

/// A circuit breaker. All methods may be called by many threads at once; none waits.
#[derive(Debug)]
pub struct Breaker {
    rule: BreakerRule,
    /// The state in the two lowest bits, above them how many states there were.
    state: AtomicU64,
    /// Open: when it opened. Half open: when the last probe went out.
    since: AtomicU64,
    calls: Window,
    failures: Window,
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(rule: BreakerRule) -> Self {
        Self {
            state: AtomicU64::new(CLOSED),
            since: AtomicU64::new(0),
            calls: Window::new(rule.window),
            failures: Window::new(rule.window),
            rule,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        match self.state.load(Ordering::Acquire) & KIND {
            CLOSED => BreakerState::Closed,
            OPEN => BreakerState::Open,
            _ => BreakerState::HalfOpen,
        }
    }

    /// How long until the next probe may go out; zero if calls go through.
    #[must_use]
    pub fn retry_after(&self, now: Time) -> Duration {
        if self.state() == BreakerState::Closed {
            return Duration::ZERO;
        }
        let since = Time(self.since.load(Ordering::Relaxed));
        (since + self.rule.sleep).since(now)
    }

    /// Whether a call would be let through, without taking the permission.
    #[must_use]
    #[inline]
    pub fn is_passable(&self, now: Time) -> bool {
        self.state.load(Ordering::Relaxed) & KIND == CLOSED || self.retry_after(now).is_zero()
    }

    /// Asks for the permission to make a call.
    #[inline]
    pub fn admit(&self, now: Time) -> Option<Permit> {
        let state = self.state.load(Ordering::Acquire);
        if state & KIND == CLOSED {
            return Some(Permit(state));
        }
        self.admit_probe(state, now)
    }

    #[cold]
    fn admit_probe(&self, state: u64, now: Time) -> Option<Permit> {
        let since = self.since.load(Ordering::Relaxed);
        if now < Time(since) + self.rule.sleep {
            return None;
        }
        // Whoever moves the time on sends the probe.
        let moved = self
            .since
            .compare_exchange(since, now.0, Ordering::AcqRel, Ordering::Relaxed);
        moved.ok()?;
        if state & KIND == HALF_OPEN {
            return Some(Permit(state));
        }
        let half_open = next(state, HALF_OPEN);
        let changed =
            self.state
                .compare_exchange(state, half_open, Ordering::AcqRel, Ordering::Relaxed);
        changed.ok().map(|_| Permit(half_open))
    }

    /// A call with this permission has ended; whether that has changed the state.
    #[inline]
    pub fn ended(&self, permit: Permit, has_failed: bool, now: Time) -> bool {
        if permit.0 & KIND != CLOSED {
            return self.probed(permit.0, has_failed, now);
        }
        if self.state.load(Ordering::Relaxed) != permit.0 {
            return false;
        }
        self.calls.add(1, now);
        has_failed && self.count_failure(permit.0, now)
    }

    /// A call with this permission was never made, or its end says nothing about the endpoint: if
    /// it was a probe, another may go out at once.
    pub fn released(&self, permit: Permit) {
        if permit.0 & KIND == HALF_OPEN && self.state.load(Ordering::Acquire) == permit.0 {
            self.since.store(0, Ordering::Release);
        }
    }

    #[cold]
    fn count_failure(&self, state: u64, now: Time) -> bool {
        self.failures.add(1, now);
        let (calls, failures) = (self.calls.count(now), self.failures.count(now));
        let is_enough = calls >= u64::from(self.rule.volume);
        let is_too_many = failures * 100 >= calls * u64::from(self.rule.error_percent);
        is_enough && is_too_many && self.change(state, OPEN, now)
    }

    #[cold]
    fn probed(&self, state: u64, has_failed: bool, now: Time) -> bool {
        let to = if has_failed { OPEN } else { CLOSED };
        self.change(state, to, now)
    }

    /// Goes from this very state to another; false if it is another already.
    fn change(&self, state: u64, to: u64, now: Time) -> bool {
        // Before the state, so that nobody sees it open since long ago.
        if self.state.load(Ordering::Acquire) != state {
            return false;
        }
        self.since.store(now.0, Ordering::Release);
        let changed = self.state.compare_exchange(
            state,
            next(state, to),
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if changed.is_ok() {
            self.calls.clear();
            self.failures.clear();
        }
        changed.is_ok()
    }
}

/// The state after this one, of that kind.
fn next(state: u64, kind: u64) -> u64 {
    ((state >> 2) + 1) << 2 | kind
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time(1_000_000_000_000 + millis * 1_000_000)
    }

    /// One that has just opened, at 0.
    fn opened() -> Breaker {
        let breaker = Breaker::new(BreakerRule::default());
        for call in 0..20 {
            let permit = breaker.admit(at(0)).expect("it is closed");
            assert_eq!(breaker.ended(permit, true, at(0)), call == 19);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker
    }

    #[test]
    fn it_opens_when_enough_calls_have_failed_and_not_before() {
        let breaker = Breaker::new(BreakerRule::default());
        for call in 0..200 {
            let permit = breaker.admit(at(call)).expect("49 of 100 may fail");
            breaker.ended(permit, call % 100 >= 51, at(call));
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        let breaker = opened();
        assert!(breaker.admit(at(4_999)).is_none());
        assert!(!breaker.is_passable(at(4_999)));
        assert_eq!(breaker.retry_after(at(4_000)), Duration::from_secs(1));
    }

    #[test]
    fn one_probe_decides_whether_it_closes() {
        for has_failed in [false, true] {
            let breaker = opened();
            let probe = breaker.admit(at(5_000)).expect("it has slept");
            assert_eq!(breaker.state(), BreakerState::HalfOpen);
            assert!(breaker.admit(at(5_000)).is_none(), "one probe at a time");
            assert!(breaker.ended(probe, has_failed, at(5_001)));
            let passes = breaker.admit(at(5_002)).is_some();
            assert_eq!(passes, !has_failed);
        }
    }

    #[test]
    fn a_probe_that_is_never_heard_of_again_blocks_nothing_for_ever() {
        let breaker = opened();
        let lost = breaker.admit(at(5_000)).expect("it has slept");
        assert!(breaker.admit(at(9_999)).is_none());
        let second = breaker.admit(at(10_000)).expect("it has slept again");
        assert!(breaker.ended(second, false, at(10_001)));
        assert!(!breaker.ended(lost, true, at(20_000)), "it is too late");
        assert_eq!(breaker.state(), BreakerState::Closed);
        let breaker = opened();
        let unsent = breaker.admit(at(5_000)).expect("it has slept");
        breaker.released(unsent);
        assert!(breaker.admit(at(5_001)).is_some());
    }

    #[test]
    fn what_began_before_it_opened_says_nothing_about_what_is_now() {
        let breaker = Breaker::new(BreakerRule::default());
        let early: Vec<_> = (0..100).map(|_| breaker.admit(at(0)).unwrap()).collect();
        for permit in &early[..20] {
            breaker.ended(*permit, true, at(1));
        }
        let probe = breaker.admit(at(6_000)).expect("it has slept");
        assert!(breaker.ended(probe, false, at(6_001)));
        for permit in &early[20..] {
            assert!(!breaker.ended(*permit, true, at(6_002)), "it stays closed");
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn of_many_threads_one_sends_the_probe() {
        let breaker = opened();
        let probes = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| usize::from(breaker.admit(at(5_000)).is_some())))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum::<usize>()
        });
        assert_eq!(probes, 1);
    }
}
