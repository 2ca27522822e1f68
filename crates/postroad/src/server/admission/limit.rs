//! How many requests of a route may be at work at once, and who of those that wait is next.
//!
//! A request gets a [`Permit`] at once while there are any and nobody waits. Otherwise it waits in
//! the *room*, where the most important is first and connections take turns, as in the run queue.
//! What would wait longer than it can is refused when it comes, because by then its caller can
//! still ask elsewhere.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::{
    AdaptiveLimit, AdaptiveLimitConfig, Levels, OrderConfig, Prospect, Usual, UsualConfig, Verdict,
};
use tokio::sync::oneshot;

use super::super::intake::nanos;
use super::super::lanes::{Lanes, Place, Ticket};
use crate::clock;
use crate::transport::ConnectionId;

/// Bounds what is at work at once.
pub(crate) struct Limit {
    most: AtomicUsize,
    running: AtomicUsize,
    waiting: AtomicUsize,
    /// Finds out how many, if that is not said.
    adaptive: Option<AdaptiveLimit>,
    /// How long one usually takes.
    usual: Usual,
    room: Mutex<Room>,
}

type Room = Lanes<(), oneshot::Sender<Permit>>;

/// A place at work, which is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    limit: Arc<Limit>,
    began: Time,
    /// Its deadline, if it was let in although it will hardly be done in time.
    doubted: Option<Time>,
    /// Its handler was started, and nobody has said yet how it ended.
    is_open: bool,
}

impl Limit {
    /// So many.
    pub(crate) fn of(most: usize) -> Arc<Self> {
        Self::new(most, None)
    }

    /// As many as are answered without becoming slow.
    pub(crate) fn adaptive() -> Arc<Self> {
        let adaptive = AdaptiveLimit::new(AdaptiveLimitConfig::default(), rand::random());
        Self::new(adaptive.limit(), Some(adaptive))
    }

    fn new(most: usize, adaptive: Option<AdaptiveLimit>) -> Arc<Self> {
        Arc::new(Self {
            most: AtomicUsize::new(most),
            adaptive,
            running: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            usual: Usual::new(UsualConfig::default()),
            room: Mutex::new(Lanes::new(Levels::new(OrderConfig::default()))),
        })
    }

    /// How many may be at work at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Changes that; those that are at work go on.
    pub(crate) fn resize(self: &Arc<Self>, most: usize) {
        self.most.store(most, Ordering::SeqCst);
        self.admit();
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many may be at work, are, and wait.
    pub(crate) fn counts(&self) -> [usize; 3] {
        [self.most(), self.running(), self.waiting()]
    }

    /// How long one usually takes.
    pub(crate) fn usual(&self) -> Duration {
        self.usual.mean()
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        // Nothing in here leaves the room half-changed when it panics.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit, if there is one and nobody waits.
    pub(crate) fn try_enter(self: &Arc<Self>, now: Time) -> Option<Permit> {
        match self.waiting.load(Ordering::SeqCst) {
            0 => self.reserve(now),
            _ => None,
        }
    }

    /// What can be expected of a request that has its permit and has to be done by then.
    pub(crate) fn prospect(&self, deadline: Time, now: Time) -> Prospect {
        let left = deadline.since(now);
        let others = self.running().saturating_sub(1);
        self.usual.admits(now, left, Duration::ZERO, others)
    }

    fn reserve(self: &Arc<Self>, now: Time) -> Option<Permit> {
        let most = self.most.load(Ordering::SeqCst);
        let next = |running| (running < most).then_some(running + 1);
        // Sequentially consistent: either who gives a permit back sees who has come to wait, or
        // who waits sees the permit.
        let reserved = self
            .running
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        reserved.ok().map(|_| Permit {
            limit: Arc::clone(self),
            began: now,
            doubted: None,
            is_open: false,
        })
    }

    /// A place among those that wait, unless that would take longer than it can wait.
    ///
    /// # Errors
    /// How long it would have to wait.
    pub(crate) fn wait(
        self: &Arc<Self>,
        connection: ConnectionId,
        ticket: Ticket,
        patience: Option<Duration>,
    ) -> Result<Waiting, Duration> {
        let usual = nanos(self.usual());
        let (sender, granted) = oneshot::channel();
        let mut room = self.lock();
        let many = self.most().max(1) as u64;
        let wait = Duration::from_nanos(room.wait(ticket.level) / many);
        if patience.is_some_and(|patience| wait > patience) {
            return Err(wait);
        }
        let ticket = Ticket {
            cost: usual,
            ..ticket
        };
        let place = room.push(connection, || (), sender, ticket);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        drop(room);
        // A permit may have been given back before anybody was seen to wait.
        self.admit();
        Ok(Waiting {
            limit: Arc::clone(self),
            place: Some(place),
            granted,
        })
    }

    /// Gives permits to those who wait, as long as there are any.
    fn admit(self: &Arc<Self>) {
        while self.waiting.load(Ordering::SeqCst) > 0
            && let Some(mut permit) = self.reserve(clock::now())
        {
            let mut room = self.lock();
            let Some(next) = room.take(permit.began) else {
                // Whoever waited has gone. The permit is given back, and its drop looks again.
                drop(room);
                return;
            };
            // What it will take is charged now: many begin before the first ends.
            let usual = nanos(self.usual());
            room.done(next.connection, usual.max(1));
            let Some(taken) = next.taken else { continue };
            // With the lock: so many wait as are in the room.
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            drop(room);
            permit.began = clock::now();
            // If nobody takes it, it comes back and is dropped here.
            drop(taken.item.send(permit));
        }
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limit")
            .field("most", &self.most())
            .field("running", &self.running())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

impl Permit {
    /// Notes that it was given although the work will hardly be done by its deadline.
    pub(crate) fn doubted(mut self, deadline: Time) -> Self {
        self.doubted = Some(deadline);
        self
    }

    /// Tells whether the doubt was right.
    fn prove(&mut self, now: Time) {
        if let Some(deadline) = self.doubted.take() {
            self.limit.usual.prove(now, now >= deadline);
        }
    }

    /// The handler is started now: from here on the end of the permit says something of it.
    pub(crate) fn begun(mut self) -> Self {
        self.is_open = true;
        self
    }

    /// Gives it back after work that was done, well or not, and learns how long that took.
    pub(crate) fn finish(mut self, is_ok: bool) {
        self.is_open = false;
        let now = clock::now();
        let took = now.since(self.began);
        self.limit.usual.sample(took);
        self.prove(now);
        self.adapt(now, took, is_ok);
    }

    /// It was cut off, by its deadline or because its caller has gone: it would have taken longer
    /// than this. If nobody learned of those, only the quick ones would count.
    fn cut_off(&mut self) {
        let now = clock::now();
        let took = now.since(self.began);
        if self.doubted.is_some_and(|deadline| now >= deadline) {
            self.prove(now);
        }
        if took > self.limit.usual.mean() {
            self.limit.usual.sample(took);
            self.adapt(now, took, false);
        }
    }

    fn adapt(&self, now: Time, took: Duration, is_ok: bool) {
        if let Some(adaptive) = &self.limit.adaptive {
            let verdict = match is_ok {
                true => Verdict::Success,
                false => Verdict::Failure,
            };
            adaptive.sample(now, self.began, took, self.limit.running(), verdict);
            let most = adaptive.limit();
            if most != self.limit.most() {
                self.limit.resize(most);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_open {
            self.cut_off();
        }
        self.limit.running.fetch_sub(1, Ordering::SeqCst);
        if self.limit.waiting.load(Ordering::SeqCst) > 0 {
            self.limit.admit();
        }
    }
}

/// A request that waits for its permit.
///
/// Cancellation safe: dropping it gives up its place, and its permit if it has just got one.
#[derive(Debug)]
pub(crate) struct Waiting {
    limit: Arc<Limit>,
    place: Option<Place>,
    granted: oneshot::Receiver<Permit>,
}

impl Future for Waiting {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        let this = &mut *self;
        match Pin::new(&mut this.granted).poll(cx) {
            Poll::Ready(Ok(permit)) => {
                this.place = None;
                Poll::Ready(permit)
            }
            // The sender lies in the room until it is used or its place is given up here.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let mut room = self.limit.lock();
            if room.remove(place).is_some() {
                self.limit.waiting.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::transport::PeerInfo;

    fn ticket(level: u8, deadline: u64) -> Ticket {
        Ticket {
            level,
            deadline: Time(deadline),
            bytes: 0,
            cost: 0,
            is_message: false,
            call: None,
        }
    }

    fn poll(waiting: &mut Waiting) -> Option<Permit> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(waiting).poll(&mut cx) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    fn connection() -> ConnectionId {
        PeerInfo::named("tester").connection()
    }

    #[test]
    fn the_most_important_is_next_and_then_the_most_urgent() {
        let limit = Limit::of(1);
        let only = connection();
        let first = limit.try_enter(clock::now()).expect("nobody is at work");
        assert!(limit.try_enter(clock::now()).is_none());
        let wait = |level, deadline| {
            let waiting = limit.wait(only, ticket(level, deadline), None);
            waiting.expect("it may wait")
        };
        let (mut low, mut late, mut soon) = (wait(1, 5), wait(6, 9), wait(6, 7));
        assert_eq!(limit.waiting(), 3);
        drop(first);
        assert!(poll(&mut low).is_none() && poll(&mut late).is_none());
        let second = poll(&mut soon).expect("it is the most urgent");
        assert!(
            limit.try_enter(clock::now()).is_none(),
            "nobody passes who waits"
        );
        drop(second);
        let third = poll(&mut late).expect("it is more important");
        drop(third);
        drop(poll(&mut low).expect("it is the last"));
        assert_eq!((limit.running(), limit.waiting()), (0, 0));
    }

    #[test]
    fn who_gives_up_leaves_no_trace_with_or_without_a_permit() {
        let limit = Limit::of(1);
        let only = connection();
        let first = limit.try_enter(clock::now()).expect("nobody is at work");
        let gone = limit.wait(only, ticket(3, 5), None).expect("it may wait");
        let granted = limit.wait(only, ticket(2, 5), None).expect("it may wait");
        drop(gone);
        assert_eq!(limit.waiting(), 1);
        drop(first);
        assert_eq!((limit.running(), limit.waiting()), (1, 0));
        drop(granted);
        assert_eq!(limit.running(), 0);
    }

    #[test]
    fn what_would_wait_too_long_is_told_how_long() {
        let limit = Limit::of(2);
        let only = connection();
        (0..50).for_each(|_| limit.usual.sample(Duration::from_millis(10)));
        let _permits = [limit.try_enter(clock::now()), limit.try_enter(clock::now())];
        let patience = Some(Duration::from_millis(12));
        let waiting: Vec<_> = (0..3)
            .map(|_| limit.wait(only, ticket(3, 5), patience))
            .collect();
        assert!(waiting.iter().all(Result::is_ok));
        let refused = limit.wait(only, ticket(3, 5), patience);
        assert_eq!(refused.err(), Some(Duration::from_millis(15)));
        // What is more important waits for nobody.
        assert!(limit.wait(only, ticket(4, 5), patience).is_ok());
    }

    #[test]
    fn a_larger_limit_lets_those_in_who_wait() {
        let limit = Limit::of(1);
        let _first = limit.try_enter(clock::now());
        let mut waits = limit
            .wait(connection(), ticket(3, 5), None)
            .expect("it may wait");
        assert!(poll(&mut waits).is_none());
        limit.resize(2);
        assert!(poll(&mut waits).is_some());
    }
}
