//! What callers, handlers and the driver of one connection share.
//!
//! Everything is behind one lock. Whoever has something to say queues it in the session under that
//! lock, and then it leaves in one of two ways:
//!
//! ```text
//!    call, pipe, respond                                   send, queue, many calls
//!    by one who is alone                                             |
//!            |                                                       v
//!            v                                          wake the driver, which runs after
//!      write it right here                              all callers that can run, and so
//!            |                                          writes many frames at once
//!            v
//!      wake the driver only if something is left for it: the line is full or broken, the
//!      session is over, the next timeout is earlier, or somebody waits for the write
//! ```
//!
//! A lone caller writes by itself because a wake-up would cost more than the write. Nobody waits to
//! make a batch larger. Who may write is decided by [`Line`], whether the driver is woken by
//! [`Wakeups`]; `model.rs` checks both in all orders of the threads with at most two interruptions.
//!
//! What callers do is in `callers.rs`, for pipelines in `pipelines.rs`, for handlers in
//! `handlers.rs`; what the driver does is in `turns.rs`; what all of that holds in memory is told
//! in `memory.rs`.

mod callers;
mod handlers;
mod memory;
mod pipelines;
mod turns;

use std::fmt;
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Waker};

use postroad_proto::Time;
use postroad_proto::session::{CloseReason, DropReason, Event, Session};
use tokio::sync::{Notify, watch};

use super::batch::Batch;
use super::line::{Flow, Line};
use super::link::LinkState;
use super::request_queue::{Forget, Unfinished};
use super::status::Status;
use super::transmit::{Shared, Source, transmit};
use super::waiters::Waiters;
use super::wakeups::{Change, Wakeups};
use crate::clock;
use crate::observe::counters::Counters;
use crate::observe::{calls, connections};
use crate::transport::{PeerInfo, Writer};

/// How many callers the last read has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fanout {
    /// None or one.
    One,
    /// Several. They will call together, so the first of them should not write alone.
    Several,
}

/// When the session's next timeout may have moved to.
#[derive(Clone, Copy, Debug)]
enum NextTimeout {
    /// To this deadline of a new call, at the earliest.
    Deadline(Time),
    /// To any moment: the session has to be asked.
    Unknown,
}

/// What is behind the lock.
#[derive(Debug)]
pub(in super::super) struct Inner {
    session: Session,
    line: Line,
    wakeups: Wakeups,
    fanout: Fanout,
    /// When the driver has read last.
    read_at: Time,
    /// Of a client.
    waiters: Option<Box<Waiters>>,
    /// On its own memory, because most connections have no such requests.
    unfinished: Option<Box<Unfinished>>,
    /// Why the connection has ended, if it has.
    closed: Option<Box<CloseReason>>,
    /// Bytes that were read and not taken by the session.
    unread: usize,
    /// What this connection has told last that it holds, bytes.
    told: usize,
    /// All connections together hold too much, and this one more than its part: nothing is read.
    is_paused: bool,
}

impl Inner {
    fn waiters(&mut self) -> &mut Waiters {
        self.waiters.get_or_insert_default()
    }

    /// Whether the session wants to be woken by `now`.
    fn is_due(&self, now: Time) -> bool {
        self.session.poll_timeout().is_some_and(|due| due <= now)
    }

    /// The driver's waker, if its timer rings too late for the next timeout.
    fn wake_for_timeout(&mut self, next: NextTimeout) -> Option<Waker> {
        if let NextTimeout::Deadline(deadline) = next
            && !self.wakeups.is_before_alarm(deadline)
        {
            return None;
        }
        let due = self.session.poll_timeout()?;
        self.wakeups.after(Change::Due(due))
    }

    /// What the session and the driver hold, bytes.
    #[inline]
    fn held(&self) -> usize {
        self.session.held() + self.unread
    }

    /// How things stand; the driver, whose timer rings at `armed`, will set it for what is due.
    fn status(&mut self, armed: Time) -> Status {
        let status = Status {
            wants_read: self.session.wants_read() && !self.is_paused,
            has_room: self.session.has_room() && !self.is_paused,
            is_closed: self.session.is_closed(),
            // A wake-up counts as output: the driver writes, and so clears the signal.
            has_output: self.wakeups.is_sent()
                || self.line.needs_driver()
                || self.session.has_output(),
            is_cut: self.line.is_cut(),
            is_calling: self.session.calls_in_flight() > 0,
            due: self.session.poll_timeout().unwrap_or(Time::NEVER),
        };
        let is_paused = !status.wants_read || !status.has_room;
        self.wakeups.set(armed.min(status.due), is_paused);
        status
    }
}

impl Source for Inner {
    #[inline]
    fn line(&mut self) -> &mut Line {
        &mut self.line
    }

    #[inline]
    fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        self.session.poll_transmit(out)
    }

    #[inline]
    fn has_output(&self) -> bool {
        self.session.has_output()
    }

    fn handle_written(&mut self, flow: Flow) {
        let now = clock::now();
        // A transport that took something is not stalled, though it is full again: the time that
        // it may take nothing begins anew.
        if let Flow::Reopened | Flow::Refilled = flow {
            self.session.handle_written(now, false);
        }
        if let Flow::Filled | Flow::StillFull | Flow::Refilled = flow {
            self.session.handle_written(now, true);
        }
    }
}

impl Shared for Connection {
    type Source = Inner;
    type Guard<'a> = MutexGuard<'a, Inner>;

    #[inline]
    fn lock(&self) -> MutexGuard<'_, Inner> {
        Self::lock(self)
    }

    #[inline]
    fn write(&self, cx: Option<&mut Context<'_>>, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(cx, bytes)
    }
}

/// For those who wait for something of a client's connection.
struct Watched {
    /// Told after each write while somebody waits for room.
    emptied: Notify,
    link: watch::Sender<LinkState>,
}

/// One connection: handles are cheap and hold no protocol state.
pub(crate) struct Connection {
    inner: Mutex<Inner>,
    writer: Writer,
    /// Of a client.
    watched: Option<Box<Watched>>,
    /// Of a server: where what is dropped on arrival is counted.
    counters: Option<Arc<Counters>>,
    /// Of a server, once a request has had to wait: bytes of those that do, which count themselves.
    waiting: OnceLock<Arc<AtomicUsize>>,
    pub(crate) peer: Arc<PeerInfo>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection whose driver has not run yet. `link` is told where a client's connection
    /// stands, and a server's has `counters`. A driver that `polls` is woken whenever a caller has
    /// written.
    pub(super) fn new(
        session: Session,
        writer: Writer,
        peer: PeerInfo,
        link: Option<watch::Sender<LinkState>>,
        counters: Option<Arc<Counters>>,
        polls: bool,
    ) -> Self {
        let inner = Inner {
            session,
            line: Line::new(),
            wakeups: Wakeups::new(polls),
            fanout: Fanout::One,
            read_at: clock::now(),
            waiters: None,
            unfinished: None,
            closed: None,
            unread: 0,
            told: 0,
            is_paused: false,
        };
        let watched = link.map(|link| {
            let emptied = Notify::new();
            Box::new(Watched { emptied, link })
        });
        Self {
            inner: Mutex::new(inner),
            writer,
            watched,
            counters,
            waiting: OnceLock::new(),
            peer: Arc::new(peer),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here leaves the state half-changed when it panics: handlers run without the
        // lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves what was queued to the driver, which writes it after all callers that can run.
    #[inline]
    fn leave_to_driver(&self, mut inner: MutexGuard<'_, Inner>, change: Change) {
        let driver = inner.wakeups.after(change);
        drop(inner);
        wake(driver);
    }

    /// Writes what was queued, as a caller that is alone. The driver is woken for what it has to do
    /// afterwards, and for a timeout before its next wake-up.
    fn write_now(&self, mut inner: MutexGuard<'_, Inner>, next: NextTimeout) {
        let for_timeout = inner.wake_for_timeout(next);
        let mut inner = self.transmit(inner, None);
        // A stream that keeps bytes in a buffer of its own has to be flushed by the driver.
        let is_left =
            inner.session.is_closed() || inner.line.needs_driver() || self.writer.buffers();
        let change = if is_left {
            Change::Left
        } else {
            Change::Written
        };
        let for_rest = inner.wakeups.after(change);
        drop(inner);
        wake(for_timeout.or(for_rest));
    }

    /// Writes what there is; see [`transmit`].
    fn transmit<'a>(
        &'a self,
        inner: MutexGuard<'a, Inner>,
        cx: Option<&mut Context<'_>>,
    ) -> MutexGuard<'a, Inner> {
        transmit(self, inner, cx)
    }

    /// As anybody but the driver: hands out what a command has caused.
    fn hand_out_events(&self, mut inner: MutexGuard<'_, Inner>) {
        let mut batch = Batch::default();
        self.collect(&mut inner, &mut batch);
        drop(inner);
        self.hand_out(&mut batch);
        self.tell_emptied();
    }

    /// A command was given: hands out what it has caused, and lets the driver write it.
    fn finish_command(&self, mut inner: MutexGuard<'_, Inner>) {
        let driver = inner.wakeups.after(Change::Commanded);
        self.hand_out_events(inner);
        wake(driver);
    }

    /// Those who wait for room look again.
    fn tell_emptied(&self) {
        if let Some(watched) = &self.watched {
            watched.emptied.notify_waiters();
        }
    }

    /// Takes out what has happened: answers to their callers, requests into the batch.
    fn collect(&self, inner: &mut Inner, batch: &mut Batch) {
        while let Some(event) = inner.session.poll_event() {
            match event {
                Event::Failed(id, failure) => {
                    let waiters = inner.waiters.as_mut();
                    let waker = waiters.and_then(|all| all.finish(id, Err(Box::new(failure))));
                    batch.wakers.extend(waker);
                }
                event => self.collect_rare(event, inner, batch),
            }
        }
    }

    /// The same for what happens a few times in the life of a connection.
    fn collect_rare(&self, event: Event, inner: &mut Inner, batch: &mut Batch) {
        match event {
            Event::Cancelled(id, _) => {
                batch.arrived.forget(id);
                self.forget_queued(inner, Forget::Call(id));
                let all = inner.unfinished.as_mut();
                if let Some(task) = all.and_then(|all| all.tasks.remove(&id)) {
                    task.abort();
                }
            }
            Event::Presented(credentials) => batch.presented = Some(credentials),
            Event::Opened(hello) => {
                let hello = *hello;
                connections::opened(&self.peer, &hello);
                let credentials = hello.credentials.map(|credentials| credentials.0);
                self.peer.opened(&hello.agent, credentials);
                batch.link = Some(LinkState::Open);
            }
            Event::Dropped(reason) => self.count_dropped(1, reason),
            Event::Refused(reason) => {
                if let Some(counters) = &self.counters {
                    calls::refused_on_arrival(counters, &self.peer, reason);
                }
            }
            Event::Draining => batch.link = Some(LinkState::Draining),
            Event::RoundTrip(round_trip) => {
                connections::round_trip(&self.peer, round_trip);
            }
            Event::Closed(reason) => {
                self.forget_queued(inner, Forget::after(&reason));
                inner.closed = Some(Box::new(reason.clone()));
                batch.link = Some(LinkState::Closed(reason));
            }
            _ => {}
        }
    }

    /// One-way messages were dropped before their routes were looked up.
    pub(super) fn count_dropped(&self, many: usize, reason: DropReason) {
        if let Some(counters) = &self.counters {
            calls::dropped_on_arrival(counters, &self.peer, many, reason);
        }
    }

    fn forget_queued(&self, inner: &Inner, what: Forget) {
        if let Some(unfinished) = &inner.unfinished {
            unfinished.forget_queued(self.peer.connection(), what);
        }
    }

    /// Tells whoever waits for what was taken out. Without the lock: whoever is woken may run at
    /// once on another thread, and would wait for it.
    fn hand_out(&self, batch: &mut Batch) {
        if let Some(link) = batch.link.take()
            && let Some(watched) = &self.watched
        {
            watched.link.send_replace(link);
        }
        if !batch.wakers.is_empty() {
            batch.wakers.drain(..).for_each(Waker::wake);
        }
    }
}

/// Wakes the driver, if somebody has to.
fn wake(driver: Option<Waker>) {
    if let Some(driver) = driver {
        driver.wake();
    }
}
