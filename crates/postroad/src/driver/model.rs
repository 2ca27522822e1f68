//! A model of callers against the driver, run in every order in which their threads can run.
//!
//! [`Line`] and [`Wakeups`] are the real ones. The session is a queue of bytes, the transport takes
//! as many bytes as it has room for, and the peer makes room meanwhile. A turn of the driver, a
//! caller's write and leaving something to the driver are the same few steps as in `connection`,
//! with loom's lock in place of the standard one: loom repeats each test with the threads
//! interrupted at every place where they take or give back a lock.
//!
//! At the end, when the callers are gone and the driver sleeps with nobody to wake it, everything
//! must have arrived once and in order, the driver's timer must be set for the earliest deadline,
//! and whoever waited for room must have been told.

use std::collections::VecDeque;
use std::io;
use std::task::{Wake, Waker};

use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
use loom::thread;
use postroad_proto::Time;

use super::line::{Line, Writes};
use super::wakeups::{Change, Wakeups};

/// How often a thread is interrupted where it could have gone on. Bugs of this kind are found with
/// two interruptions; each more makes the test many times as long.
const INTERRUPTIONS: usize = 2;

/// What a caller does.
#[derive(Clone, Copy)]
enum Act {
    /// Queues bytes and writes them itself, as one who is alone.
    Write(&'static [u8]),
    /// Queues bytes for the driver.
    Leave(&'static [u8]),
    /// Sets a deadline, and writes.
    WriteWithDeadline(&'static [u8], Time),
    /// Waits until everything is written.
    WaitForRoom,
}

/// The task of the driver, as its runtime sees it.
#[derive(Default)]
struct Task {
    state: Mutex<TaskState>,
    changed: Condvar,
}

#[derive(Default)]
struct TaskState {
    is_woken: bool,
    /// Nobody is left who could wake it.
    is_over: bool,
}

impl Task {
    /// Sleeps until it is woken; false if nobody is left who could.
    fn sleep(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        while !state.is_woken && !state.is_over {
            state = self.changed.wait(state).unwrap();
        }
        std::mem::take(&mut state.is_woken)
    }

    fn end(&self) {
        self.state.lock().unwrap().is_over = true;
        self.changed.notify_one();
    }
}

impl Wake for Task {
    fn wake(self: std::sync::Arc<Self>) {
        self.state.lock().unwrap().is_woken = true;
        self.changed.notify_one();
    }
}

/// Takes so many bytes, and wakes whoever has asked to be when there is room again.
struct Transport {
    room: usize,
    arrived: Vec<u8>,
    waker: Option<Waker>,
}

impl Transport {
    fn write(&mut self, waker: Option<&Waker>, bytes: &[u8]) -> io::Result<usize> {
        if self.room == 0 {
            if let Some(waker) = waker {
                self.waker = Some(waker.clone());
            }
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = bytes.len().min(self.room);
        self.room -= taken;
        self.arrived.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }
}

struct Inner {
    line: Line,
    wakeups: Wakeups,
    /// What the session has to send.
    queue: VecDeque<u8>,
    /// All that was ever queued, in that order.
    queued: Vec<u8>,
    /// The session's next timeout.
    due: Time,
    /// When the driver's timer rings.
    armed: Time,
    is_room_awaited: bool,
}

impl Inner {
    fn queue(&mut self, bytes: &[u8]) {
        self.queue.extend(bytes);
        self.queued.extend_from_slice(bytes);
    }

    /// The session fills the buffer with a byte at a time, to be asked often.
    fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        out.extend(self.queue.pop_front());
        !out.is_empty()
    }

    fn is_all_written(&self) -> bool {
        self.queue.is_empty() && self.line.unsent() == 0 && !self.line.is_writing()
    }
}

struct Connection {
    inner: Mutex<Inner>,
    transport: Mutex<Transport>,
}

impl Connection {
    fn new(room: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                line: Line::new(),
                wakeups: Wakeups::new(false),
                queue: VecDeque::new(),
                queued: Vec::new(),
                due: Time::NEVER,
                armed: Time::NEVER,
                is_room_awaited: false,
            }),
            transport: Mutex::new(Transport {
                room,
                arrived: Vec::new(),
                waker: None,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn act(&self, act: Act) {
        let mut inner = self.lock();
        match act {
            Act::Write(bytes) => {
                inner.queue(bytes);
                self.write_now(inner, None);
            }
            Act::WriteWithDeadline(bytes, deadline) => {
                inner.queue(bytes);
                inner.due = inner.due.min(deadline);
                let is_sooner = inner.wakeups.is_before_alarm(deadline);
                let due = inner.due;
                let driver = is_sooner.then(|| inner.wakeups.after(Change::Due(due)));
                self.write_now(inner, driver.flatten());
            }
            Act::Leave(bytes) => {
                inner.queue(bytes);
                let driver = inner.wakeups.after(Change::Queued);
                drop(inner);
                wake(driver);
            }
            Act::WaitForRoom => {
                if !inner.is_all_written() {
                    inner.is_room_awaited = true;
                    inner.wakeups.want_room();
                }
            }
        }
    }

    fn write_now(&self, inner: MutexGuard<'_, Inner>, for_timeout: Option<Waker>) {
        let mut inner = self.transmit(inner, None);
        let change = if inner.line.needs_driver() {
            Change::Left
        } else {
            Change::Written
        };
        let for_rest = inner.wakeups.after(change);
        drop(inner);
        wake(for_timeout.or(for_rest));
    }

    fn transmit<'a>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        waker: Option<&Waker>,
    ) -> MutexGuard<'a, Inner> {
        let who = match waker {
            Some(_) => Writes::Driver,
            None => Writes::Caller,
        };
        let Some(mut token) = inner.line.begin(who) else {
            return inner;
        };
        while token.has_bytes() || inner.poll_transmit(token.buffer()) {
            drop(inner);
            let result = self.transport.lock().unwrap().write(waker, token.bytes());
            inner = self.lock();
            if !inner.line.note(&mut token, result) {
                break;
            }
        }
        inner.line.end(token, false);
        inner
    }

    /// All turns of the driver, until nobody can wake it any more.
    fn drive(&self, task: &std::sync::Arc<Task>) {
        let waker = Waker::from(std::sync::Arc::clone(task));
        self.lock().wakeups.register(&waker);
        loop {
            let mut inner = self.lock();
            inner.wakeups.clear();
            let mut inner = self.transmit(inner, Some(&waker));
            let armed = inner.armed.min(inner.due);
            inner.armed = armed;
            inner.wakeups.set(armed, false);
            if inner.wakeups.take_room() {
                // Whoever is told looks again, and waits on if there is not enough room.
                inner.is_room_awaited = !inner.is_all_written();
                if inner.is_room_awaited {
                    inner.wakeups.want_room();
                }
            }
            drop(inner);
            if !task.sleep() {
                return;
            }
        }
    }

    /// The peer reads, so that the transport takes more bytes.
    fn make_room(&self, bytes: usize) {
        let mut transport = self.transport.lock().unwrap();
        transport.room += bytes;
        let waker = transport.waker.take();
        drop(transport);
        wake(waker);
    }

    fn check(&self) {
        let inner = self.lock();
        let transport = self.transport.lock().unwrap();
        assert_eq!(transport.arrived, inner.queued, "each byte, once, in order");
        assert!(inner.is_all_written() && !inner.line.needs_driver());
        assert_eq!(inner.line.taken(), inner.queued.len() as u64);
        assert!(inner.armed <= inner.due, "the timer rings too late");
        assert!(!inner.is_room_awaited, "nobody told that there is room");
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Two callers against the driver, over a transport with so much room; the peer makes more.
fn check(room: usize, callers: [&'static [Act]; 2]) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(INTERRUPTIONS);
    model.check(move || {
        let connection = Arc::new(Connection::new(room));
        let task = std::sync::Arc::new(Task::default());
        let driver = thread::spawn({
            let connection = Arc::clone(&connection);
            let task = std::sync::Arc::clone(&task);
            move || connection.drive(&task)
        });
        let callers = callers.map(|acts| {
            let connection = Arc::clone(&connection);
            thread::spawn(move || acts.iter().for_each(|act| connection.act(*act)))
        });
        connection.make_room(100);
        for caller in callers {
            caller.join().unwrap();
        }
        task.end();
        driver.join().unwrap();
        connection.check();
    });
}

#[test]
fn what_lone_callers_write_arrives_once() {
    check(100, [&[Act::Write(b"ab")], &[Act::Write(b"cd")]]);
}

#[test]
fn what_is_left_to_the_driver_is_written_by_it_or_by_whoever_writes_just_then() {
    check(
        100,
        [&[Act::Leave(b"a"), Act::Leave(b"b")], &[Act::Leave(b"c")]],
    );
    check(100, [&[Act::Leave(b"ab")], &[Act::Write(b"cd")]]);
}

#[test]
fn a_full_transport_gets_the_rest_when_it_has_room_again() {
    check(1, [&[Act::Write(b"ab")], &[Act::Write(b"c")]]);
    check(1, [&[Act::Write(b"ab")], &[Act::Leave(b"c")]]);
    check(0, [&[Act::Write(b"a")], &[Act::Leave(b"b")]]);
}

#[test]
fn the_timer_is_set_for_the_earliest_deadline() {
    check(
        100,
        [
            &[Act::WriteWithDeadline(b"a", Time(9))],
            &[Act::WriteWithDeadline(b"b", Time(5))],
        ],
    );
}

#[test]
fn who_waits_for_room_is_told_whoever_has_made_it() {
    check(100, [&[Act::Write(b"ab")], &[Act::WaitForRoom]]);
    check(1, [&[Act::Write(b"ab")], &[Act::WaitForRoom]]);
    check(0, [&[Act::Leave(b"a")], &[Act::WaitForRoom]]);
}
