//! A model of callers against the driver, run in all orders of their threads with at most two
//! interruptions.
//!
//! [`Line`], [`Wakeups`] and [`transmit`] are the real ones. The session is a queue of bytes, the
//! transport takes as many bytes as it has room for, and the peer makes room meanwhile, or breaks
//! the line. A turn of the driver, a caller's write and leaving something to the driver are the
//! same few steps as in `connection`, with loom's lock in place of the standard one: loom repeats
//! each test with the threads interrupted at every place where they take or give back a lock.
//!
//! At the end, when the callers are gone and the driver sleeps with nobody to wake it, everything
//! must have arrived once and in order, or the session must be closed if the line is broken; the
//! driver's timer must be set for the earliest deadline, it must have read on where it had paused,
//! and whoever waited for room must have been told.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Wake, Waker};

use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
use loom::thread;
use postroad_proto::Time;

use super::line::{Flow, Line};
use super::transmit::{Shared, Source, transmit};
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
    /// Waits until everything is written, or nothing can be any more.
    WaitForRoom,
}

/// What is given beside the callers.
#[derive(Clone, Copy)]
struct Given {
    /// Bytes that the transport takes before the peer makes more room.
    room: usize,
    /// The peer breaks the line instead of making room.
    breaks: bool,
    /// Requests that have come, which the driver reads while nothing waits to be written.
    unread: usize,
    /// The driver's future is moved to another task after its first turn.
    moves: bool,
}

const QUIET: Given = Given {
    room: 100,
    breaks: false,
    unread: 0,
    moves: false,
};

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
    is_broken: bool,
    arrived: Vec<u8>,
    waker: Option<Waker>,
}

impl Transport {
    fn write(&mut self, waker: Option<&Waker>, bytes: &[u8]) -> io::Result<usize> {
        if self.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
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
    /// Requests that have come and were not read.
    unread: usize,
    is_closed: bool,
    is_room_awaited: bool,
}

impl Inner {
    fn queue(&mut self, bytes: &[u8]) {
        self.queue.extend(bytes);
        self.queued.extend_from_slice(bytes);
    }

    fn is_all_written(&self) -> bool {
        self.queue.is_empty() && self.line.unsent() == 0 && !self.line.is_writing()
    }
}

impl Source for Inner {
    fn line(&mut self) -> &mut Line {
        &mut self.line
    }

    /// A byte at a time, to be asked often.
    fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        out.extend(self.queue.pop_front());
        !out.is_empty()
    }

    fn has_output(&self) -> bool {
        !self.queue.is_empty()
    }

    fn handle_written(&mut self, _flow: Flow) {}
}

struct Connection {
    inner: Mutex<Inner>,
    transport: Mutex<Transport>,
}

impl Shared for Connection {
    type Source = Inner;
    type Guard<'a> = MutexGuard<'a, Inner>;

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn write(&self, cx: Option<&mut Context<'_>>, bytes: &[u8]) -> io::Result<usize> {
        let waker = cx.map(|cx| cx.waker());
        self.transport.lock().unwrap().write(waker, bytes)
    }
}

impl Connection {
    fn new(given: Given) -> Self {
        Self {
            inner: Mutex::new(Inner {
                line: Line::new(),
                wakeups: Wakeups::new(false),
                queue: VecDeque::new(),
                queued: Vec::new(),
                due: Time::NEVER,
                armed: Time::NEVER,
                unread: given.unread,
                is_closed: false,
                is_room_awaited: false,
            }),
            transport: Mutex::new(Transport {
                room: given.room,
                is_broken: false,
                arrived: Vec::new(),
                waker: None,
            }),
        }
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
                if !inner.is_all_written() && inner.line.error().is_none() {
                    inner.is_room_awaited = true;
                    inner.wakeups.want_room();
                }
            }
        }
    }

    fn write_now(&self, inner: MutexGuard<'_, Inner>, for_timeout: Option<Waker>) {
        let mut inner = transmit(self, inner, None);
        let change = if inner.line.needs_driver() {
            Change::Left
        } else {
            Change::Written
        };
        let for_rest = inner.wakeups.after(change);
        drop(inner);
        wake(for_timeout.or(for_rest));
    }

    /// All turns of the driver, until nobody can wake it any more. They run in the first task, or,
    /// if it is moved, all but the first in the second.
    fn drive(&self, tasks: &[std::sync::Arc<Task>]) {
        for (at, task) in tasks.iter().enumerate() {
            let waker = Waker::from(std::sync::Arc::clone(task));
            self.lock().wakeups.register(&waker);
            self.run_turn(&waker);
            if at + 1 == tasks.len() {
                while task.sleep() {
                    self.run_turn(&waker);
                }
            }
        }
    }

    fn run_turn(&self, waker: &Waker) {
        let mut cx = Context::from_waker(waker);
        loop {
            let mut inner = self.lock();
            inner.wakeups.clear();
            let mut inner = transmit(self, inner, Some(&mut cx));
            inner.is_closed |= inner.line.error().is_some();
            // Reading is paused while answers wait to be written.
            if inner.unread > 0 && inner.queue.is_empty() && !inner.is_closed {
                inner.unread -= 1;
                inner.queue(b"r");
                continue;
            }
            let is_paused = inner.unread > 0;
            inner.armed = inner.armed.min(inner.due);
            let armed = inner.armed;
            inner.wakeups.set(armed, is_paused);
            if inner.wakeups.take_room() {
                // Whoever is told looks again, and waits on if there is not enough room.
                inner.is_room_awaited = !inner.is_all_written() && inner.line.error().is_none();
                if inner.is_room_awaited {
                    inner.wakeups.want_room();
                }
            }
            return;
        }
    }

    /// The peer reads, so that the transport takes more bytes.
    fn make_room(&self, bytes: usize) {
        self.change_transport(|transport| transport.room += bytes);
    }

    /// The peer hangs up.
    fn break_line(&self) {
        self.change_transport(|transport| transport.is_broken = true);
    }

    fn change_transport(&self, change: impl FnOnce(&mut Transport)) {
        let mut transport = self.transport.lock().unwrap();
        change(&mut transport);
        let waker = transport.waker.take();
        drop(transport);
        wake(waker);
    }

    fn check(&self) {
        let inner = self.lock();
        let transport = self.transport.lock().unwrap();
        assert!(inner.armed <= inner.due, "the timer rings too late");
        assert!(!inner.is_room_awaited, "nobody told that there is room");
        assert_eq!(inner.line.taken(), transport.arrived.len() as u64);
        if inner.line.error().is_some() {
            assert!(
                inner.is_closed,
                "nobody closes a session whose line is broken"
            );
            assert!(inner.queued.starts_with(&transport.arrived));
            return;
        }
        assert_eq!(transport.arrived, inner.queued, "each byte, once, in order");
        assert!(inner.is_all_written() && !inner.line.needs_driver());
        assert_eq!(inner.unread, 0, "nobody reads on");
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Two callers against the driver; meanwhile the peer makes room, or breaks the line.
fn check(given: Given, callers: [&'static [Act]; 2]) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(INTERRUPTIONS);
    model.check(move || {
        let connection = Arc::new(Connection::new(given));
        let many = 1 + usize::from(given.moves);
        let tasks: Vec<std::sync::Arc<Task>> =
            (0..many).map(|_| std::sync::Arc::default()).collect();
        let driver = thread::spawn({
            let connection = Arc::clone(&connection);
            let tasks = tasks.clone();
            move || connection.drive(&tasks)
        });
        let callers = callers.map(|acts| {
            let connection = Arc::clone(&connection);
            thread::spawn(move || acts.iter().for_each(|act| connection.act(*act)))
        });
        match given.breaks {
            true => connection.break_line(),
            false => connection.make_room(100),
        }
        for caller in callers {
            caller.join().unwrap();
        }
        tasks.iter().for_each(|task| task.end());
        driver.join().unwrap();
        connection.check();
    });
}

/// The same over a transport with so much room, and nothing else.
fn check_room(room: usize, callers: [&'static [Act]; 2]) {
    check(Given { room, ..QUIET }, callers);
}

#[test]
fn what_lone_callers_write_arrives_once() {
    check(QUIET, [&[Act::Write(b"ab")], &[Act::Write(b"cd")]]);
}

#[test]
fn what_is_left_to_the_driver_is_written_by_it_or_by_whoever_writes_just_then() {
    check(
        QUIET,
        [&[Act::Leave(b"a"), Act::Leave(b"b")], &[Act::Leave(b"c")]],
    );
    check(QUIET, [&[Act::Leave(b"ab")], &[Act::Write(b"cd")]]);
}

#[test]
fn a_full_transport_gets_the_rest_when_it_has_room_again() {
    check_room(1, [&[Act::Write(b"ab")], &[Act::Write(b"c")]]);
    check_room(1, [&[Act::Write(b"ab")], &[Act::Leave(b"c")]]);
    check_room(0, [&[Act::Write(b"a")], &[Act::Leave(b"b")]]);
}

#[test]
fn the_timer_is_set_for_the_earliest_deadline() {
    check(
        QUIET,
        [
            &[Act::WriteWithDeadline(b"a", Time(9))],
            &[Act::WriteWithDeadline(b"b", Time(5))],
        ],
    );
}

#[test]
fn who_waits_for_room_is_told_whoever_has_made_it() {
    check_room(100, [&[Act::Write(b"ab")], &[Act::WaitForRoom]]);
    check_room(1, [&[Act::Write(b"ab")], &[Act::WaitForRoom]]);
    check_room(0, [&[Act::Leave(b"a")], &[Act::WaitForRoom]]);
}

#[test]
fn a_driver_that_moves_to_another_task_misses_no_wake_up() {
    let moves = Given {
        moves: true,
        ..QUIET
    };
    check(moves, [&[Act::Leave(b"a")], &[Act::Leave(b"b")]]);
    check(moves, [&[Act::Leave(b"a")], &[Act::Write(b"b")]]);
    check(Given { room: 0, ..moves }, [&[Act::Write(b"a")], &[]]);
}

#[test]
fn a_driver_that_has_paused_reads_on_whoever_has_written_the_answers() {
    let reads = Given { unread: 2, ..QUIET };
    check(reads, [&[Act::Write(b"a")], &[]]);
    check(reads, [&[Act::Write(b"ab")], &[Act::Leave(b"c")]]);
    check(Given { room: 1, ..reads }, [&[Act::Write(b"a")], &[]]);
}

#[test]
fn the_session_of_a_broken_line_is_closed_and_nobody_waits_for_it() {
    let breaks = Given {
        breaks: true,
        room: 1,
        ..QUIET
    };
    check(breaks, [&[Act::Write(b"ab")], &[Act::Leave(b"c")]]);
    check(breaks, [&[Act::Write(b"ab")], &[Act::WaitForRoom]]);
}
