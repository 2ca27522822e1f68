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
use tokio::task::JoinSet;

use postroad::CallError;

use super::line::Line;
use super::{KeptJob, Thread, nanos, pass_panic_on};

/// Calls that are handed out before answers are read again.
const BATCH: usize = 64;
/// Shortest wait: calls that are due within it leave together, at most this much late, and a high
/// rate does not cost a wake-up for each.
const WAIT_MIN: u64 = 20_000;
/// How often a connection is tried that takes no calls.
const RETRY: Duration = Duration::from_millis(1);

pub(super) async fn run(
    thread: &Rc<Thread>,
    schedule: impl Iterator<Item = Duration>,
    in_flight_max: usize,
) -> io::Result<()> {
    let mut timer = Timer::new()?;
    let pool = Pool::start(thread, in_flight_max);
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
        if !pool.hand_out(due, thread) {
            thread.recorder.not_sent(due, now);
        }
    }
    pool.drained().await;
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
    async fn wait(&mut self, until: u64, thread: &Thread) -> io::Result<u64> {
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
struct Lane {
    line: RefCell<Line>,
    /// Calls that were due while it took none, in their order, and when they were.
    held: RefCell<VecDeque<(u64, KeptJob)>>,
}

/// The calls in flight of all connections, in turn.
struct Pool {
    lanes: Vec<Lane>,
    /// Which connection has the next call.
    turn: Cell<usize>,
    /// Calls that were handed out since the last flush: as many connections before the next.
    fresh: Cell<usize>,
    /// Held ones included.
    in_flight: Cell<usize>,
    in_flight_max: usize,
    /// Who waits until none is.
    waiting: RefCell<Option<Waker>>,
    /// Those that take answers, and those that try a connection again.
    tasks: RefCell<JoinSet<()>>,
}

impl Pool {
    /// With a task for each connection, that takes its answers.
    fn start(thread: &Rc<Thread>, in_flight_max: usize) -> Rc<Self> {
        let lane = |client| Lane {
            line: RefCell::new(Line::new(client, thread)),
            held: RefCell::default(),
        };
        let pool = Rc::new(Self {
            lanes: thread.clients.iter().map(lane).collect(),
            turn: Cell::new(0),
            fresh: Cell::new(0),
            in_flight: Cell::new(0),
            in_flight_max,
            waiting: RefCell::new(None),
            tasks: RefCell::default(),
        });
        for number in 0..pool.lanes.len() {
            let (of, thread) = (Rc::clone(&pool), Rc::clone(thread));
            pool.tasks.borrow_mut().spawn_local(async move {
                let line = &of.lanes[number].line;
                loop {
                    poll_fn(|cx| line.borrow_mut().poll_ended(&thread, cx)).await;
                    of.has_ended();
                }
            });
        }
        pool
    }

    /// Makes a call; false if too many are in flight.
    fn hand_out(self: &Rc<Self>, due: u64, thread: &Rc<Thread>) -> bool {
        if self.in_flight.get() >= self.in_flight_max {
            return false;
        }
        self.in_flight.set(self.in_flight.get() + 1);
        let number = self.turn.get();
        self.turn.set((number + 1) % self.lanes.len());
        self.fresh.set(self.fresh.get() + 1);
        let (job, now) = (thread.job(), thread.now());
        thread.recorder.late(due, now);
        let Lane { line, held } = &self.lanes[number];
        if !held.borrow().is_empty() {
            held.borrow_mut().push_back((due, job.kept()));
            return true;
        }
        let made = line.borrow_mut().call(&job, due);
        match made {
            Ok(()) => {}
            Err(error) if matches!(*error, CallError::NotConnected { .. }) => {
                held.borrow_mut().push_back((due, job.kept()));
                self.hold(number, thread);
            }
            Err(error) => {
                thread.recorder.failed(due, now, job.sent(), &error);
                self.has_ended();
            }
        }
        true
    }

    /// Tries a connection until it has taken the calls that wait for it, or they are over. It does
    /// not keep the others waiting.
    #[cold]
    fn hold(self: &Rc<Self>, number: usize, thread: &Rc<Thread>) {
        let (pool, thread) = (Rc::clone(self), Rc::clone(thread));
        let mut tasks = self.tasks.borrow_mut();
        // Those that have ended are not kept.
        while let Some(ended) = tasks.try_join_next() {
            pass_panic_on(ended);
        }
        tasks.spawn_local(async move {
            while !pool.release(number, &thread) {
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    /// Makes the calls that are held as far as their connection takes them; whether none is left.
    /// A call that was due while there was no connection is answered late, which is the server's
    /// doing and not the generator's; it fails if its time is over before it can be made.
    fn release(&self, number: usize, thread: &Thread) -> bool {
        let Lane { line, held } = &self.lanes[number];
        let (mut line, mut held) = (line.borrow_mut(), held.borrow_mut());
        let now = thread.now();
        while let Some((due, job)) = held.front() {
            let (due, job) = (*due, job.job());
            if let Err(error) = line.call(&job, due) {
                let is_over = now >= due + nanos(job.timeout);
                let error = match *error {
                    CallError::NotConnected { .. } | CallError::Busy(_) if !is_over => break,
                    // It was never asked whether the server can do it.
                    CallError::Busy(_) => CallError::Deadline {
                        timeout: job.timeout,
                        sent: false,
                    },
                    error => error,
                };
                thread.recorder.failed(due, now, job.sent(), &error);
                self.has_ended();
            }
            held.pop_front();
        }
        line.flush();
        held.is_empty()
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
    async fn drained(&self) {
        self.flush();
        poll_fn(|context| {
            while let Poll::Ready(Some(ended)) = self.tasks.borrow_mut().poll_join_next(context) {
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
