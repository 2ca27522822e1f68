//! What callers, handlers and the driver of one connection share.

mod pipe;

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postroad_proto::Time;
use postroad_proto::session::{Call, CallId, CloseReason, Event, Failure, Reply, Session};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::batch::{Answers, Batch, BatchSink, RequestBatch};
use super::budget::Budget;
use super::waiters::{Answer, WaiterKey, Waiters};
use crate::clock;
use crate::error::Error;
use crate::transport::{ConnectionId, PeerInfo, Writer};

/// Where a connection stands, for whoever watches it.
#[derive(Clone, Debug)]
pub(crate) enum LinkState {
    /// Not agreed yet.
    Opening,
    /// Calls can be made.
    Open,
    /// The server wants no new calls here.
    Draining,
    /// Over.
    Closed(CloseReason),
}

/// An answer to a request.
pub(crate) type Answered = Result<Reply, Error>;

/// Which requests of a connection that were not started yet are called off.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Forget {
    /// This one.
    Call(CallId),
    /// All that somebody waits for.
    Calls,
    /// One-way messages as well.
    All,
}

/// Holds requests of connections that were read and not started yet.
pub(crate) trait RequestQueue: Send + Sync + fmt::Debug {
    /// Lets requests of a connection go. Called with the connection locked.
    fn forget(&self, connection: ConnectionId, what: Forget);
}

/// Handles the requests of one connection; its driver owns it.
pub(crate) trait Service: Send {
    /// The driver's turn begins: other tasks had theirs.
    fn begin_turn(&mut self) {}

    /// Whether the driver may read more requests. If not, whoever starts those that are held wakes
    /// it. Asked after each round of reading and writing; `has_room` says whether answers find
    /// room.
    fn may_read(&mut self, has_room: bool) -> bool {
        let _ = has_room;
        true
    }

    /// No request is in flight: what is kept for the next may be given back.
    fn rest(&mut self);

    /// Starts handlers in place, in the order of arrival, and notes the answers of those that were
    /// done at once, until `answers` is full. The others answer by [`Connection::spawn`] later. It
    /// is `now` as far as the driver knows, who has just looked.
    fn start(
        &mut self,
        connection: &Arc<Connection>,
        now: Time,
        arrived: &mut RequestBatch,
        answers: &mut Answers,
    );
}

/// Bytes of the largest buffer that a thread keeps to write from.
const OUT_KEPT_MAX: usize = 256 * 1024;

thread_local! {
    /// What the thread writes from. A connection keeps a buffer of its own only while the transport
    /// is full.
    static OUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What the driver has to know after it has used the session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Status {
    pub(super) wants_read: bool,
    /// Requests that have arrived may be started: their answers find room.
    pub(super) has_room: bool,
    pub(super) is_closed: bool,
    /// There is something to write, or to try again.
    pub(super) has_output: bool,
    /// Calls of this end are in flight.
    pub(super) is_calling: bool,
    /// When the session wants to be woken.
    pub(super) due: Time,
}

#[derive(Debug)]
struct Inner {
    session: Session,
    /// What the last write did not take.
    out: Vec<u8>,
    /// Bytes of it that were taken.
    out_at: usize,
    /// Somebody has `out` and writes it.
    writing: bool,
    /// The transport takes nothing; only the driver may try again.
    blocked: bool,
    write_error: Option<io::Error>,
    written: u64,
    /// When the driver has read last.
    read_at: Time,
    /// Of a client.
    waiters: Option<Box<Waiters>>,
    /// Handlers that were not done at once, if there were any.
    #[expect(clippy::box_collection, reason = "most connections have none")]
    tasks: Option<Box<HashMap<CallId, AbortHandle>>>,
    driver: Option<Waker>,
    /// The driver was woken and has not written since.
    is_woken: bool,
    /// Whoever woke it has said all it had to say.
    is_complete: bool,
    /// Several callers were answered at once.
    is_crowded: bool,
    /// Somebody waits for room.
    is_awaited: bool,
    /// When the driver's timer rings. Whoever makes that too late wakes the driver.
    armed: Time,
    /// The driver does not read, or starts no handlers. Whoever makes room wakes it.
    paused: bool,
    closed: Option<Box<CloseReason>>,
    /// Where requests wait to be started, once one has had to.
    queue: Option<Arc<dyn RequestQueue>>,
    /// Also who writes himself wakes the driver, so that it polls for what comes back.
    wakes: bool,
}

impl Inner {
    #[inline]
    fn waiters(&mut self) -> &mut Waiters {
        self.waiters.get_or_insert_default()
    }

    /// The driver's waker, unless it was woken and has not run since.
    #[inline]
    fn wake_driver(&mut self) -> Option<Waker> {
        if std::mem::replace(&mut self.is_woken, true) {
            return None;
        }
        self.driver.clone()
    }

    fn is_due(&self, now: Time) -> bool {
        self.session.poll_timeout().is_some_and(|due| due <= now)
    }

    /// A reading of the clock for a message that nobody waits for: all that counts is how much of
    /// its time the server is told, so any will do.
    #[inline]
    fn read_lately(&self, budget: Budget) -> Time {
        match (&self.session, budget.limit) {
            (Session::Native(_), Time::NEVER) => self.read_at,
            _ => clock::now(),
        }
    }

    /// Bytes that go before a message of this priority.
    fn unsent_before(&self, priority: u8) -> usize {
        self.out.len() - self.out_at + self.session.unsent_before(priority)
    }

    /// How things stand; the driver, whose timer rings at `armed`, will arm it for what is due.
    fn status(&mut self, armed: Time) -> Status {
        let status = Status {
            wants_read: self.session.wants_read(),
            has_room: self.session.has_room(),
            is_closed: self.session.is_closed(),
            has_output: self.is_woken
                || self.blocked
                || !self.out.is_empty()
                || self.write_error.is_some()
                || self.session.has_output(),
            is_calling: self.session.calls_in_flight() > 0,
            due: self.session.poll_timeout().unwrap_or(Time::NEVER),
        };
        self.paused = !status.wants_read || !status.has_room;
        self.armed = armed.min(status.due);
        status
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
    pub(super) fn new(
        session: Session,
        writer: Writer,
        peer: PeerInfo,
        link: Option<watch::Sender<LinkState>>,
        wakes: bool,
    ) -> Self {
        let inner = Inner {
            session,
            out: Vec::new(),
            out_at: 0,
            writing: false,
            blocked: false,
            write_error: None,
            written: 0,
            read_at: clock::now(),
            waiters: None,
            tasks: None,
            driver: None,
            is_woken: false,
            is_complete: false,
            is_crowded: false,
            is_awaited: false,
            armed: Time::NEVER,
            paused: false,
            closed: None,
            queue: None,
            wakes,
        };
        let watched = link.map(|link| {
            let emptied = Notify::new();
            Box::new(Watched { emptied, link })
        });
        Self {
            inner: Mutex::new(inner),
            writer,
            watched,
            peer: Arc::new(peer),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here leaves the state half-changed when it panics: handlers run without the
        // lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(&self, waker: &Waker) {
        let mut inner = self.lock();
        inner.driver = Some(waker.clone());
        inner.is_woken = false;
    }

    /// Makes a call, sets its deadline, and keeps the caller's waker.
    #[inline]
    pub(crate) fn call(
        &self,
        call: &mut Call<'_>,
        budget: Budget,
        waker: &Waker,
    ) -> Result<WaiterKey, Failure> {
        let now = budget.now();
        let mut inner = self.lock();
        call.deadline = budget.deadline(now);
        let id = inner.session.call(now, call)?;
        let key = inner.waiters().add(id, waker);
        // Those who were answered together will call together.
        let is_lone = inner.session.calls_in_flight() == 1 && !inner.is_crowded;
        self.push_out(inner, is_lone, call.deadline);
        Ok(key)
    }

    /// Sends a message that nobody answers.
    pub(crate) fn send(&self, call: &mut Call<'_>, budget: Budget) -> Result<(), Failure> {
        let now = budget.now();
        let mut inner = self.lock();
        call.deadline = budget.deadline(now);
        inner.session.send(now, call)?;
        self.push_out(inner, false, Time::NEVER);
        Ok(())
    }

    /// Queues a message that nobody answers; the driver writes it soon, or with what else is
    /// written.
    #[inline]
    pub(crate) fn queue(
        &self,
        call: &mut Call<'_>,
        budget: Budget,
        is_hasty: bool,
    ) -> Result<(), Failure> {
        let mut inner = self.lock();
        let now = inner.read_lately(budget);
        call.deadline = budget.deadline(now);
        inner.session.send(now, call)?;
        let driver = is_hasty.then(|| inner.wake_driver()).flatten();
        drop(inner);
        driver.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// The same for messages that are sent together, in their order: how many were queued before
    /// one could not be. Each takes its place in `call`.
    pub(crate) fn queue_all(
        &self,
        call: &Call<'_>,
        messages: &[Bytes],
        budget: Budget,
        is_hasty: bool,
    ) -> usize {
        let mut inner = self.lock();
        let now = inner.read_lately(budget);
        let deadline = budget.deadline(now);
        let sent = messages.iter().take_while(|payload| {
            let call = Call {
                payload,
                deadline,
                ..*call
            };
            inner.session.send(now, &call).is_ok()
        });
        let queued = sent.count();
        let must_wake = is_hasty && queued > 0;
        let driver = must_wake.then(|| inner.wake_driver()).flatten();
        drop(inner);
        driver.into_iter().for_each(Waker::wake);
        queued
    }

    /// Has the driver write what is queued.
    pub(crate) fn hasten(&self) {
        let driver = self.lock().wake_driver();
        driver.into_iter().for_each(Waker::wake);
    }

    /// Waits until no more than so many bytes are unsent that go before a message of this priority;
    /// false if the connection ended before. Cancellation safe.
    pub(crate) async fn room(&self, window: usize, priority: u8) -> bool {
        let Some(watched) = &self.watched else {
            return false;
        };
        loop {
            let emptied = watched.emptied.notified();
            {
                let mut inner = self.lock();
                if inner.write_error.is_some() {
                    return false;
                }
                if inner.unsent_before(priority) <= window && (window > 0 || !inner.writing) {
                    return true;
                }
                if inner.session.is_closed() {
                    return false;
                }
                inner.is_awaited = true;
            }
            emptied.await;
        }
    }

    /// Whether [`Self::room`] would be ready at once, whatever the priority.
    pub(crate) fn has_room(&self, window: usize) -> bool {
        self.lock().unsent_before(0) <= window
    }

    /// The answer, once it is there.
    pub(crate) fn poll_answer(&self, key: WaiterKey, waker: &Waker) -> Poll<Answer> {
        self.lock().waiters().poll(key, waker)
    }

    /// The caller is gone: the server is told.
    pub(crate) fn abandon(&self, key: WaiterKey) {
        let mut inner = self.lock();
        if let Some(id) = inner.waiters().abandon(key) {
            inner.session.cancel(clock::now(), id);
            self.wake_driver(inner);
        }
    }

    /// Sees that what was queued is written: by the caller itself if it is alone, else by the
    /// driver, which also has to know of a deadline before its next wakeup.
    #[inline]
    fn push_out(&self, mut inner: MutexGuard<'_, Inner>, is_lone: bool, deadline: Time) {
        let mut driver = None;
        if !is_lone || deadline < inner.armed && inner.is_due(inner.armed) {
            driver = inner.wake_driver();
        }
        if is_lone {
            let mut inner = self.flush(inner, None);
            // What this write kept the driver from, it has to do now.
            let waited =
                inner.paused || inner.is_awaited || inner.session.is_closed() || inner.wakes;
            if waited || inner.write_error.is_some() || inner.blocked || self.writer.buffers() {
                driver = driver.or(inner.wake_driver());
            }
        } else {
            drop(inner);
        }
        driver.into_iter().for_each(Waker::wake);
    }

    /// Writes what there is, unless somebody else does already or the transport takes nothing. The
    /// driver has a context and is woken when the transport takes bytes again; for anybody else it
    /// has to be.
    fn flush<'a>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        mut cx: Option<&mut Context<'_>>,
    ) -> MutexGuard<'a, Inner> {
        if inner.writing || inner.write_error.is_some() || inner.blocked && cx.is_none() {
            return inner;
        }
        inner.writing = true;
        let was_blocked = std::mem::take(&mut inner.blocked);
        let mut out = match inner.out.is_empty() {
            true => OUT.take(),
            false => std::mem::take(&mut inner.out),
        };
        let mut at = std::mem::take(&mut inner.out_at);
        let mut written_any = false;
        while !out.is_empty() || inner.session.poll_transmit(&mut out) {
            drop(inner);
            let result = self.writer.write(cx.as_deref_mut(), &out[at..]);
            inner = self.lock();
            written_any |= result.is_ok();
            inner.written += *result.as_ref().unwrap_or(&0) as u64;
            match result {
                Ok(written) if at + written == out.len() => {
                    out.clear();
                    at = 0;
                }
                Ok(0) => {
                    let error = "the stream takes no bytes";
                    inner.write_error = Some(io::Error::new(io::ErrorKind::WriteZero, error));
                    out.clear();
                    break;
                }
                Ok(written) => at += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    inner.blocked = true;
                    break;
                }
                Err(error) => {
                    inner.write_error = Some(error);
                    out.clear();
                    break;
                }
            }
        }
        if inner.blocked || was_blocked {
            let (now, is_blocked) = (clock::now(), inner.blocked);
            // A transport that took something is not stalled, though it is full again.
            if written_any && was_blocked {
                inner.session.handle_written(now, false);
            }
            inner.session.handle_written(now, is_blocked);
        }
        if !out.is_empty() {
            (inner.out, inner.out_at) = (out, at);
        } else if out.capacity() <= OUT_KEPT_MAX {
            OUT.set(out);
        }
        inner.writing = false;
        inner
    }

    /// As the driver: encodes the answers that were made at once, goes on where the transport was
    /// full, and ends the session where it failed.
    pub(super) fn poll_flush(
        &self,
        cx: &mut Context<'_>,
        answers: &mut Answers,
        batch: &mut Batch,
        armed: Time,
    ) -> Status {
        // Answers say how long they took, and what has become late meanwhile is not written.
        let now = clock::now();
        let mut inner = self.lock();
        (inner.is_woken, inner.is_complete) = (false, false);
        answers.drain(|id, answer| {
            let answer = answer.map_err(Error::body);
            inner.session.respond_with(now, id, answer);
        });
        // A transport that was full is judged by the timer, after it was asked once more: perhaps
        // it was this thread that was held up.
        if inner.is_due(now) {
            inner.session.expire(now);
        }
        let mut inner = self.flush(inner, Some(cx));
        if self.writer.buffers() && !inner.blocked {
            drop(inner);
            let flushed = self.writer.poll_flush(cx);
            inner = self.lock();
            if let Poll::Ready(Err(error)) = flushed {
                inner.write_error = Some(error);
            }
        }
        if let Some(error) = &inner.write_error
            && !inner.session.is_closed()
        {
            let reason = CloseReason::Transport(error.to_string());
            inner.session.close(now, reason);
        }
        self.finish(inner, batch, armed)
    }

    /// As the driver: takes out what has happened, gives the lock back and hands it out.
    fn finish(&self, mut inner: MutexGuard<'_, Inner>, batch: &mut Batch, armed: Time) -> Status {
        self.collect(&mut inner, batch);
        let status = inner.status(armed);
        let is_awaited = std::mem::take(&mut inner.is_awaited);
        drop(inner);
        self.hand_out(batch);
        if is_awaited {
            self.tell_emptied();
        }
        status
    }

    /// Ready when everything is written, or cannot be.
    pub(super) fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(
            cx,
            &mut Answers::default(),
            &mut Batch::default(),
            Time::NEVER,
        );
        let inner = self.lock();
        if inner.write_error.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if inner.blocked || inner.writing {
            return Poll::Pending;
        }
        drop(inner);
        self.writer.poll_flush(cx)
    }

    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_shutdown(cx)
    }

    /// Hands out what has happened without bytes: a dialect is open from the start.
    pub(super) fn hand_out_events(&self) -> Status {
        self.finish(self.lock(), &mut Batch::default(), Time::NEVER)
    }

    /// Takes what was read; also whether it stopped before the end, though there may be whole
    /// frames left.
    pub(super) fn handle_bytes(
        &self,
        now: Time,
        buf: &mut BytesMut,
        batch: &mut Batch,
        armed: Time,
    ) -> (Status, bool) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.read_at = now;
        let mut sink = BatchSink {
            waiters: inner.waiters.as_deref_mut(),
            batch,
        };
        inner.session.handle_bytes(now, buf, &mut sink);
        let has_stopped = !inner.session.wants_read() || batch.room() == 0;
        inner.is_crowded = batch.wakers.len() > 1;
        (self.finish(guard, batch, armed), has_stopped)
    }

    pub(super) fn handle_end(&self, now: Time, buf: &BytesMut, error: Option<String>) -> Status {
        let mut inner = self.lock();
        inner.session.handle_end(now, buf, error);
        self.finish(inner, &mut Batch::default(), Time::NEVER)
    }

    /// The driver's timer has rung.
    pub(super) fn handle_timeout(&self, now: Time, batch: &mut Batch) -> Status {
        let mut inner = self.lock();
        inner.session.handle_timeout(now);
        self.finish(inner, batch, Time::NEVER)
    }

    /// Keeps no memory for requests while there are none; whether that is so.
    pub(super) fn rest(&self) -> bool {
        let mut inner = self.lock();
        let is_idle = inner.session.requests_in_flight() == 0;
        if is_idle {
            inner.tasks = None;
        }
        is_idle
    }

    /// Whether the driver was woken for what others have queued, who may not be done.
    pub(super) fn is_woken(&self) -> bool {
        let inner = self.lock();
        inner.is_woken && !inner.is_complete
    }

    /// Whether there is something for the driver to do that it was woken for.
    pub(crate) fn has_left(&self) -> bool {
        self.lock().is_woken
    }

    /// Whether taken bytes may sit in a buffer of the stream.
    pub(super) fn buffers(&self) -> bool {
        self.writer.buffers()
    }

    /// How things stand, for a driver that did not use the session now_coarse.
    pub(super) fn status(&self, armed: Time) -> Status {
        self.lock().status(armed)
    }

    /// Bytes that the transport has taken.
    pub(super) fn written(&self) -> u64 {
        self.lock().written
    }

    /// As anybody else: hands out what a command has caused.
    fn release(&self, mut inner: MutexGuard<'_, Inner>) {
        let mut batch = Batch::default();
        self.collect(&mut inner, &mut batch);
        drop(inner);
        self.hand_out(&mut batch);
        self.tell_emptied();
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

    fn collect_rare(&self, event: Event, inner: &mut Inner, batch: &mut Batch) {
        match event {
            Event::Cancelled(id, _) => {
                batch.arrived.forget(id);
                self.forget_queued(inner, Forget::Call(id));
                let tasks = inner.tasks.as_mut();
                if let Some(task) = tasks.and_then(|tasks| tasks.remove(&id)) {
                    task.abort();
                }
            }
            Event::Opened {
                protocol,
                version,
                agent,
            } => {
                self.peer.opened(&agent, None);
                tracing::debug!(
                    target: "postroad::connection", peer = %self.peer,
                    connection = self.peer.connection().number(), protocol, version, agent, "open"
                );
                batch.link = Some(LinkState::Open);
            }
            Event::Draining => batch.link = Some(LinkState::Draining),
            Event::RoundTrip(round_trip) => {
                tracing::trace!(
                    target: "postroad::connection", peer = %self.peer, ?round_trip, "heartbeat"
                );
            }
            Event::Closed(reason) => {
                // A server that ends at once starts nothing more.
                let what = match reason {
                    CloseReason::Local => Forget::All,
                    _ => Forget::Calls,
                };
                self.forget_queued(inner, what);
                inner.closed = Some(Box::new(reason.clone()));
                batch.link = Some(LinkState::Closed(reason));
            }
            _ => {}
        }
    }

    fn forget_queued(&self, inner: &Inner, what: Forget) {
        if let Some(queue) = &inner.queue {
            queue.forget(self.peer.connection(), what);
        }
    }

    /// Names the queue that has to hear of requests that are called off.
    pub(crate) fn queue_requests_in(&self, queue: Arc<dyn RequestQueue>) {
        self.lock().queue = Some(queue);
    }

    /// Whether requests may be started: their answers find room.
    pub(crate) fn has_room_for_answers(&self) -> bool {
        self.lock().session.has_room()
    }

    /// Tells whoever waits for what was taken out.
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

    /// Runs a handler that was not done at once; it is aborted when its call is called off.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        id: Option<CallId>,
        handler: impl Future<Output = Answered> + Send + 'static,
    ) {
        let connection = Arc::clone(self);
        // The lock is held so that the handler cannot be done before it is entered.
        let mut inner = self.lock();
        // Nobody waits for an answer any more; a one-way message was taken over all the same.
        if id.is_some() && inner.session.is_closed() {
            return;
        }
        let task = tokio::spawn(async move {
            let answer = handler.await;
            if let Some(id) = id {
                connection.respond(id, answer);
            }
        });
        if let Some(id) = id {
            let tasks = inner.tasks.get_or_insert_default();
            tasks.insert(id, task.abort_handle());
        }
    }

    /// Answers a request whose handler was a task.
    fn respond(&self, id: CallId, answer: Answered) {
        let now = clock::now();
        let mut inner = self.lock();
        if let Some(tasks) = &mut inner.tasks {
            tasks.remove(&id);
        }
        let answer = answer.as_ref().map_err(Error::body);
        inner.session.respond_with(now, id, answer);
        self.push_answers(inner);
    }

    /// Sends answers that were made outside of the driver's turn.
    pub(crate) fn respond_all(&self, answers: &mut Answers) {
        if answers.is_empty() {
            return;
        }
        let now = clock::now();
        let mut inner = self.lock();
        answers.drain(|id, answer| {
            let answer = answer.map_err(Error::body);
            inner.session.respond_with(now, id, answer);
        });
        self.push_answers(inner);
    }

    fn push_answers(&self, inner: MutexGuard<'_, Inner>) {
        let must_look = inner.session.is_closed() || inner.paused;
        let is_lone = inner.session.requests_in_flight() == 0 && !must_look;
        // An answer may have moved the end of a drain: the driver has to know.
        self.push_out(inner, is_lone, Time(0));
        if must_look {
            self.release(self.lock());
        }
    }

    /// Begins to end the connection without losing anything.
    pub(crate) fn drain(&self, grace: Duration) {
        let mut inner = self.lock();
        inner.session.drain(clock::now(), grace);
        self.wake_driver(inner);
    }

    /// Ends the connection; calls in flight end with an error.
    pub(crate) fn close(&self, reason: CloseReason) {
        let mut inner = self.lock();
        inner.session.close(clock::now(), reason);
        self.wake_driver(inner);
    }

    /// Hands out what a command has caused, and lets the driver write it.
    fn wake_driver(&self, mut inner: MutexGuard<'_, Inner>) {
        let driver = inner.wake_driver();
        self.release(inner);
        driver.into_iter().for_each(Waker::wake);
    }

    pub(super) fn close_reason(&self) -> CloseReason {
        match &self.lock().closed {
            Some(reason) => CloseReason::clone(reason),
            None => CloseReason::Local,
        }
    }

    /// The name behind a route's number.
    pub(crate) fn route_name(&self, number: u16) -> Option<Arc<str>> {
        self.lock().session.route_name(number).cloned()
    }

    /// `native` or the dialect, once it is known.
    pub(crate) fn protocol(&self) -> &'static str {
        self.lock().session.protocol()
    }
}
