//! Calls that are due whatever the answers do: a call that the server makes late is late from when
//! it was due.

use std::cell::{Cell, RefCell};
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

/// The calls in flight of all connections, in turn.
struct Pool {
    lines: Vec<RefCell<Line>>,
    /// Which connection has the next call.
    turn: Cell<usize>,
    /// Calls that were handed out since the last flush: as many connections before the next.
    fresh: Cell<usize>,
    in_flight: Cell<usize>,
    in_flight_max: usize,
    /// Who waits until none is.
    waiting: RefCell<Option<Waker>>,
    /// Those that take answers, and those that wait for a connection.
    tasks: RefCell<JoinSet<()>>,
}

impl Pool {
    /// With a task for each connection, that takes its answers.
    fn start(thread: &Rc<Thread>, in_flight_max: usize) -> Rc<Self> {
        let line = |client| RefCell::new(Line::new(client, thread));
        let pool = Rc::new(Self {
            lines: thread.clients.iter().map(line).collect(),
            turn: Cell::new(0),
            fresh: Cell::new(0),
            in_flight: Cell::new(0),
            in_flight_max,
            waiting: RefCell::new(None),
            tasks: RefCell::default(),
        });
        for number in 0..pool.lines.len() {
            let (of, thread) = (Rc::clone(&pool), Rc::clone(thread));
            pool.tasks.borrow_mut().spawn_local(async move {
                loop {
                    poll_fn(|cx| of.lines[number].borrow_mut().poll_ended(&thread, cx)).await;
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
        self.turn.set((number + 1) % self.lines.len());
        self.fresh.set(self.fresh.get() + 1);
        let job = thread.job();
        let now = thread.now();
        let made = self.lines[number].borrow_mut().call(&job, due);
        match made {
            Ok(()) => thread.recorder.late(due, now),
            Err(error) if matches!(*error, CallError::NotConnected { .. }) => {
                self.wait_for_connection(due, number, job.kept(), thread);
            }
            Err(error) => {
                thread.recorder.late(due, now);
                thread.recorder.failed(due, now, job.sent(), &error);
                self.has_ended();
            }
        }
        true
    }

    /// A call that waits for a connection does not keep others waiting.
    #[cold]
    fn wait_for_connection(
        self: &Rc<Self>,
        due: u64,
        number: usize,
        job: KeptJob,
        thread: &Rc<Thread>,
    ) {
        let (pool, thread) = (Rc::clone(self), Rc::clone(thread));
        let mut tasks = self.tasks.borrow_mut();
        // Those that have ended are not kept.
        while let Some(ended) = tasks.try_join_next() {
            pass_panic_on(ended);
        }
        tasks.spawn_local(async move {
            let job = job.job();
            thread.recorder.late(due, thread.now());
            let result = thread.call(thread.client(number), &job).await;
            thread
                .recorder
                .ended(due, thread.now(), job.sent(), &result);
            pool.has_ended();
        });
    }

    /// Has the calls leave that were handed out.
    fn flush(&self) {
        let lines = self.lines.len();
        for back in 1..=self.fresh.take().min(lines) {
            let number = (self.turn.get() + lines - back) % lines;
            self.lines[number].borrow_mut().flush();
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
