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

use super::{Thread, nanos};

/// Calls that are handed out before answers are read again.
const BATCH: usize = 64;
/// Shortest wait: calls that are due within it leave together, at most this much late, and a high
/// rate does not cost a wake-up for each.
const WAIT_MIN: u64 = 50_000;

pub(super) async fn run(
    thread: &Rc<Thread>,
    schedule: impl Iterator<Item = Duration>,
    in_flight_max: usize,
) -> io::Result<()> {
    let mut timer = Timer::new()?;
    let pool = Rc::new(Pool::new(in_flight_max));
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
            now = timer.wait(due, thread).await?;
            batch = 0;
        } else if batch == BATCH {
            // Behind: answers still have to be read.
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

/// Callers that are used again and again: as many as were ever in flight at once.
struct Pool {
    /// The last that became idle is the first to work: what it needs is still in the cache.
    idle: RefCell<Vec<Rc<Caller>>>,
    callers: Cell<usize>,
    callers_max: usize,
    /// Who waits until all are idle.
    waiting: RefCell<Option<Waker>>,
}

#[derive(Default)]
struct Caller {
    due: Cell<Option<u64>>,
    waker: RefCell<Option<Waker>>,
}

impl Pool {
    fn new(callers_max: usize) -> Self {
        Self {
            idle: RefCell::new(Vec::new()),
            callers: Cell::new(0),
            callers_max,
            waiting: RefCell::new(None),
        }
    }

    /// False if too many calls are in flight.
    fn hand_out(self: &Rc<Self>, due: u64, thread: &Rc<Thread>) -> bool {
        let idle = self.idle.borrow_mut().pop();
        if let Some(caller) = idle {
            caller.due.set(Some(due));
            if let Some(waker) = caller.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
            return true;
        }
        let number = self.callers.get();
        if number >= self.callers_max {
            return false;
        }
        self.callers.set(number + 1);
        let caller = Rc::new(Caller::default());
        caller.due.set(Some(due));
        let (pool, thread) = (Rc::clone(self), Rc::clone(thread));
        tokio::task::spawn_local(async move {
            let client = thread.client(number);
            loop {
                let due = caller.next().await;
                let job = thread.job();
                thread.recorder.late(due, thread.now());
                let result = thread.call(client, &job).await;
                let now = thread.now();
                thread.recorder.ended(due, now, job.sent(), &result);
                pool.is_idle(&caller);
            }
        });
        true
    }

    fn is_idle(&self, caller: &Rc<Caller>) {
        let mut idle = self.idle.borrow_mut();
        idle.push(Rc::clone(caller));
        if idle.len() == self.callers.get()
            && let Some(waker) = self.waiting.take()
        {
            waker.wake();
        }
    }

    /// Until no call is in flight; deadlines see to it that it comes.
    async fn drained(&self) {
        poll_fn(|context| {
            if self.idle.borrow().len() == self.callers.get() {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Caller {
    /// When the next call is due, as soon as there is one.
    async fn next(&self) -> u64 {
        poll_fn(|context| {
            if let Some(due) = self.due.take() {
                return Poll::Ready(due);
            }
            let mut waker = self.waker.borrow_mut();
            match waker.as_mut() {
                Some(waker) => waker.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }
}
