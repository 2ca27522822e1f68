//! Calls that are due whatever the answers do: a call that the server makes late is late from when
//! it was due.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::line::Line;
use super::{KeptCall, Thread, nanos, pass_panic_on, sent};
use crate::failure::{Failure, Outcome};
use crate::targets::{Call, Connection};

/// Calls that are handed out before answers are read again.
const BATCH: usize = 64;
/// Shortest wait: calls that are due within it leave together, at most this much late, and a high
/// rate does not cost a wake-up for each.
const WAIT_MIN: u64 = 20_000;
/// How often calls that wait for a connection are looked at, whose time may be over.
const EXPIRY: Duration = Duration::from_millis(100);

pub(crate) async fn run<C: Connection>(
    thread: &Rc<Thread<C>>,
    schedule: impl Iterator<Item = Duration>,
    in_flight_max: usize,
) -> io::Result<()> {
    let mut timer = Timer::new()?;
    let pool = Pool::new(thread, in_flight_max);
    // They end with this.
    let mut tasks = pool.tend(thread);
    let mut now = thread.now();
    let mut batch = 0;
    let mut is_cut = false;
    for due in schedule.map(nanos) {
        if due >= thread.recorder.end() {
            break;
        }
        if !thread.takes(due) {
            is_cut = true;
            break;
        }
        if due > now {
            pool.flush();
            now = timer.wait(due, thread).await?;
            batch = 0;
        } else if batch == BATCH {
            // Behind: answers still have to be read.
            pool.flush();
            tokio::task::yield_now().await;
            now = thread.now();
            batch = 0;
        }
        batch += 1;
        thread.recorder.due(due, now);
        pool.hand_out(due, thread);
    }
    pool.drained(&mut tasks).await;
    if !is_cut {
        // The pause behind the last call belongs to the load as those before it do.
        tokio::time::sleep_until(thread.moment(thread.recorder.end())).await;
    }
    Ok(())
}

/// A timer of the kernel's own precision: the runtime's is a millisecond, which would be most of
/// the latency of a fast server.
struct Timer {
    descriptor: AsyncFd<std::os::fd::OwnedFd>,
}

impl Timer {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; an OwnedFd keeps the promise that it asks for"
    )]
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let descriptor = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
        Ok(Self { descriptor })
    }

    /// Waits until then at least; the time when it woke.
    async fn wait<C: Connection>(&mut self, until: u64, thread: &Thread<C>) -> io::Result<u64> {
        loop {
            let now = thread.now();
            if now >= until {
                return Ok(now);
            }
            let left = Duration::from_nanos((until - now).max(WAIT_MIN));
            let never = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let spec = Itimerspec {
                it_interval: never,
                it_value: Timespec {
                    tv_sec: left.as_secs() as i64,
                    tv_nsec: left.subsec_nanos().into(),
                },
            };
            timerfd_settime(&self.descriptor, TimerfdTimerFlags::empty(), &spec)?;
            // Setting it again takes the old expiry back, so nothing has to be read.
            self.descriptor.readable().await?.clear_ready();
        }
    }
}

/// One connection.
struct Lane<C: Connection> {
    line: RefCell<Line<C>>,
    held: RefCell<Held<C::Failure>>,
    /// Told when the first call is held.
    holds: Notify,
}

/// Calls that were due while their connection took none.
struct Held<F> {
    /// In their order, and when they were due.
    calls: VecDeque<(u64, KeptCall)>,
    /// What the connection has said last.
    why: Option<Box<F>>,
}

impl<F> Default for Held<F> {
    fn default() -> Self {
        Self {
            calls: VecDeque::new(),
            why: None,
        }
    }
}

impl<F: Failure> Held<F> {
    /// Why a call has failed whose time is over before it could be made.
    fn over(&self, timeout: Duration) -> F {
        F::expired(self.why.as_deref(), timeout)
    }
}

/// Whether a call may be made later that was not made now: there is no connection, or it carries as
/// many calls as its server allows.
fn may_wait(failure: &impl Failure) -> bool {
    matches!(failure.outcome(), Outcome::NoConnection | Outcome::Full)
}

/// The calls in flight of all connections, in turn.
struct Pool<C: Connection> {
    lanes: Vec<Lane<C>>,
    /// Which connection has the next call.
    turn: Cell<usize>,
    /// Calls that were handed out since the last flush: as many connections before the next.
    fresh: Cell<usize>,
    /// Held ones included.
    in_flight: Cell<usize>,
    in_flight_max: usize,
    /// Who waits until none is.
    waiting: RefCell<Option<Waker>>,
}

impl<C: Connection> Pool<C> {
    fn new(thread: &Rc<Thread<C>>, in_flight_max: usize) -> Rc<Self> {
        let lane = |connection| Lane {
            line: RefCell::new(Line::new(connection, thread)),
            held: RefCell::default(),
            holds: Notify::new(),
        };
        Rc::new(Self {
            lanes: thread.connections.iter().map(lane).collect(),
            turn: Cell::new(0),
            fresh: Cell::new(0),
            in_flight: Cell::new(0),
            in_flight_max,
            waiting: RefCell::new(None),
        })
    }

    /// Two tasks for each connection, that take its answers and make the calls that are held.
    fn tend(self: &Rc<Self>, thread: &Rc<Thread<C>>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for number in 0..self.lanes.len() {
            let (pool, of) = (Rc::clone(self), Rc::clone(thread));
            tasks.spawn_local(async move { pool.take_answers(number, &of).await });
            let (pool, of) = (Rc::clone(self), Rc::clone(thread));
            tasks.spawn_local(async move { pool.make_held(number, &of).await });
        }
        tasks
    }

    /// Takes answers, without an end. Those that came together make room for calls that are held.
    async fn take_answers(&self, number: usize, thread: &Thread<C>) {
        let Lane { line, held, .. } = &self.lanes[number];
        loop {
            poll_fn(|cx| line.borrow_mut().poll_ended(thread, cx)).await;
            self.has_ended();
            if !held.borrow().calls.is_empty() && line.borrow().ready() == 0 {
                self.release(number, thread);
            }
        }
    }

    /// Sees to the calls that are held: they are made when there is a connection again, or fail
    /// when their time is over. Without an end.
    async fn make_held(&self, number: usize, thread: &Thread<C>) {
        let lane = &self.lanes[number];
        let mut status = thread.connections[number].status();
        loop {
            lane.holds.notified().await;
            while !lane.held.borrow().calls.is_empty() {
                status.mark_unchanged();
                self.release(number, thread);
                // A timeout is a change too; without a keeper there is no connection to come.
                let _changed = tokio::time::timeout(EXPIRY, status.changed()).await;
                self.expire(number, thread);
            }
        }
    }

    /// Makes a call, if not too many are in flight.
    fn hand_out(&self, due: u64, thread: &Thread<C>) {
        let (call, now) = (thread.next_call(), thread.now());
        if self.in_flight.get() >= self.in_flight_max {
            return thread.recorder.not_sent(due, now, sent(&call));
        }
        self.in_flight.set(self.in_flight.get() + 1);
        let number = self.turn.get();
        self.turn.set((number + 1) % self.lanes.len());
        self.fresh.set(self.fresh.get() + 1);
        thread.recorder.late(due, now);
        let lane = &self.lanes[number];
        if !lane.held.borrow().calls.is_empty() {
            return self.hold(lane, due, &call, thread);
        }
        let made = lane.line.borrow_mut().call(&call, due);
        match made {
            Ok(()) => {}
            Err(error) if may_wait(&*error) => {
                lane.held.borrow_mut().why = Some(error);
                self.hold(lane, due, &call, thread);
                lane.holds.notify_one();
            }
            Err(error) => {
                thread.recorder.failed(due, now, sent(&call), &*error);
                self.has_ended();
            }
        }
    }

    #[cold]
    fn hold(&self, lane: &Lane<C>, due: u64, call: &Call<'_>, thread: &Thread<C>) {
        thread.recorder.held(due, thread.now());
        lane.held
            .borrow_mut()
            .calls
            .push_back((due, KeptCall::of(call)));
    }

    /// Makes the calls that are held as far as their connection takes them, each with what is left
    /// of its time. They are answered late, which is the server's doing and not the generator's.
    fn release(&self, number: usize, thread: &Thread<C>) {
        let Lane { line, held, .. } = &self.lanes[number];
        let (mut line, mut held) = (line.borrow_mut(), held.borrow_mut());
        let now = thread.now();
        while let Some((due, call)) = held.calls.front() {
            let (due, call) = (*due, call.call());
            let left = (due + nanos(call.timeout)).saturating_sub(now);
            let failed = if left == 0 {
                Some(Box::new(held.over(call.timeout)))
            } else {
                line.call_late(&call, due, Duration::from_nanos(left)).err()
            };
            if let Some(error) = failed {
                if left > 0 && may_wait(&*error) {
                    held.why = Some(error);
                    break;
                }
                thread.recorder.failed(due, now, sent(&call), &*error);
                self.has_ended();
            }
            held.calls.pop_front();
        }
        line.flush();
    }

    /// Fails the calls that are held and whose time is over, wherever they stand.
    fn expire(&self, number: usize, thread: &Thread<C>) {
        let mut held = self.lanes[number].held.borrow_mut();
        let (now, mut calls) = (thread.now(), std::mem::take(&mut held.calls));
        calls.retain(|(due, call)| {
            let call = call.call();
            let is_over = now >= due + nanos(call.timeout);
            if is_over {
                let failure = held.over(call.timeout);
                thread.recorder.failed(*due, now, sent(&call), &failure);
                self.has_ended();
            }
            !is_over
        });
        held.calls = calls;
    }

    /// Has the calls leave that were handed out.
    fn flush(&self) {
        let lanes = self.lanes.len();
        for back in 1..=self.fresh.take().min(lanes) {
            let number = (self.turn.get() + lanes - back) % lanes;
            self.lanes[number].line.borrow_mut().flush();
        }
    }

    fn has_ended(&self) {
        let in_flight = self.in_flight.get() - 1;
        self.in_flight.set(in_flight);
        if in_flight == 0
            && let Some(waker) = self.waiting.take()
        {
            waker.wake();
        }
    }

    /// Until no call is in flight; deadlines see to it that it comes.
    async fn drained(&self, tasks: &mut JoinSet<()>) {
        self.flush();
        poll_fn(|context| {
            while let Poll::Ready(Some(ended)) = tasks.poll_join_next(context) {
                pass_panic_on(ended);
            }
            if self.in_flight.get() == 0 {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
