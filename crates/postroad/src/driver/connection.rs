//! What callers, handlers and the driver of one connection share.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use postroad_proto::Time;
use postroad_proto::error::ErrorBody;
use postroad_proto::session::{
    Call, CallId, CloseReason, Event, Failure, Reply, Request, RouteRef, Session,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::waiters::{Answer, WaiterKey, Waiters};
use crate::clock;
use crate::transport::Writer;

/// Where a connection stands, for whoever watches it.
#[derive(Clone, Debug)]
pub(crate) enum Link {
    /// Not agreed yet.
    Opening,
    /// Calls can be made.
    Open,
    /// The server wants no new calls here.
    Draining,
    /// Over.
    Closed(CloseReason),
}

/// A request and the name of its route, if it has one.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) request: Request,
    pub(crate) route: Option<Arc<str>>,
    /// `native` or the dialect.
    pub(crate) protocol: &'static str,
}

/// Handles requests.
pub(crate) trait Service: Send + Sync {
    /// Starts the handler in place; its answer if it was done at once, else it answers by
    /// [`Connection::respond`] later.
    fn start(
        &self,
        connection: &Arc<Connection>,
        arrived: Arrived,
    ) -> Option<Result<Reply, ErrorBody>>;
}

#[derive(Debug)]
struct Inner {
    session: Session,
    /// What the last write did not take.
    out: BytesMut,
    /// Somebody has `out` and writes it.
    writing: bool,
    /// The transport takes nothing; only the driver may try again.
    blocked: bool,
    write_error: Option<String>,
    written: u64,
    waiters: Waiters,
    /// Handlers that were not done at once.
    tasks: HashMap<CallId, AbortHandle>,
    driver: Option<Waker>,
    /// When the driver's timer rings.
    armed: Time,
    paused: bool,
    closed: Option<CloseReason>,
    wakers: Vec<Waker>,
}

/// One connection: handles are cheap and hold no protocol state.
pub(crate) struct Connection {
    inner: Mutex<Inner>,
    writer: Writer,
    link: watch::Sender<Link>,
    pub(crate) peer: Arc<str>,
}

impl Connection {
    pub(super) fn new(
        session: Session,
        writer: Writer,
        peer: String,
    ) -> (Self, watch::Receiver<Link>) {
        let (link, watcher) = watch::channel(Link::Opening);
        let inner = Inner {
            session,
            out: BytesMut::new(),
            writing: false,
            blocked: false,
            write_error: None,
            written: 0,
            waiters: Waiters::default(),
            tasks: HashMap::new(),
            driver: None,
            armed: Time::NEVER,
            paused: false,
            closed: None,
            wakers: Vec::new(),
        };
        (
            Self {
                inner: Mutex::new(inner),
                writer,
                link,
                peer: peer.into(),
            },
            watcher,
        )
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here leaves the state half-changed when it panics: handlers run without the
        // lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(&self, waker: &Waker) {
        let mut inner = self.lock();
        match &mut inner.driver {
            Some(driver) => driver.clone_from(waker),
            None => inner.driver = Some(waker.clone()),
        }
    }

    /// Makes a call and keeps the caller's waker.
    pub(crate) fn call(&self, call: &Call<'_>, waker: &Waker) -> Result<WaiterKey, Failure> {
        let now = clock::now();
        let mut inner = self.lock();
        let id = inner.session.call(now, call)?;
        let key = inner.waiters.add(id, waker);
        let is_lone = inner.session.calls_in_flight() == 1;
        self.push_out(inner, now, is_lone);
        Ok(key)
    }

    /// Sends a message that nobody answers.
    pub(crate) fn send(&self, call: &Call<'_>) -> Result<(), Failure> {
        let now = clock::now();
        let mut inner = self.lock();
        inner.session.send(now, call)?;
        self.push_out(inner, now, false);
        Ok(())
    }

    /// The answer, once it is there.
    pub(crate) fn poll_answer(&self, key: WaiterKey, waker: &Waker) -> Poll<Answer> {
        self.lock().waiters.poll(key, waker)
    }

    /// The caller is gone: the server is told.
    pub(crate) fn abandon(&self, key: WaiterKey) {
        let mut inner = self.lock();
        if let Some(id) = inner.waiters.abandon(key) {
            inner.session.cancel(clock::now(), id);
            self.wake_driver(inner);
        }
    }

    /// Sees that what was queued is written: by the caller itself if it is alone, else by the
    /// driver.
    fn push_out(&self, inner: MutexGuard<'_, Inner>, now: Time, is_lone: bool) {
        let must_rearm = inner
            .session
            .poll_timeout()
            .is_some_and(|due| due < inner.armed);
        let mut driver = (must_rearm || !is_lone)
            .then(|| inner.driver.clone())
            .flatten();
        if is_lone {
            let inner = self.flush(inner, now, None);
            // What this write kept the driver from, it has to do now.
            let waited = inner.paused || inner.session.is_closed();
            if waited || inner.write_error.is_some() || inner.blocked || self.writer.buffers() {
                driver.clone_from(&inner.driver);
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
        now: Time,
        mut cx: Option<&mut Context<'_>>,
    ) -> MutexGuard<'a, Inner> {
        if inner.writing || inner.write_error.is_some() || inner.blocked && cx.is_none() {
            return inner;
        }
        inner.writing = true;
        let was_blocked = std::mem::take(&mut inner.blocked);
        let mut out = std::mem::take(&mut inner.out);
        let mut written_any = false;
        while !out.is_empty() || inner.session.poll_transmit(&mut out) {
            drop(inner);
            let result = self.writer.write(cx.as_deref_mut(), &out);
            inner = self.lock();
            written_any |= result.is_ok();
            inner.written += *result.as_ref().unwrap_or(&0) as u64;
            match result {
                Ok(written) if written == out.len() => out.clear(),
                Ok(written) => out.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    inner.blocked = true;
                    break;
                }
                Err(error) => {
                    inner.write_error = Some(error.to_string());
                    out.clear();
                    break;
                }
            }
        }
        // A transport that took something is not stalled, though it is full again.
        if written_any && was_blocked {
            inner.session.handle_written(now, false);
        }
        if inner.blocked || was_blocked {
            let is_blocked = inner.blocked;
            inner.session.handle_written(now, is_blocked);
        }
        inner.out = out;
        inner.writing = false;
        inner
    }

    /// As the driver: goes on where the transport was full, and ends the session where it failed.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) {
        let now = clock::now();
        let mut inner = self.flush(self.lock(), now, Some(cx));
        if self.writer.buffers() && !inner.blocked {
            drop(inner);
            let flushed = self.writer.poll_flush(cx);
            inner = self.lock();
            if let Poll::Ready(Err(error)) = flushed {
                inner.write_error = Some(error.to_string());
            }
        }
        if let Some(error) = inner.write_error.clone()
            && !inner.session.is_closed()
        {
            inner.session.close(now, CloseReason::Transport(error));
            self.take_events(inner, &mut VecDeque::new());
        }
    }

    /// Ready when everything is written, or cannot be.
    pub(super) fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx);
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
    pub(super) fn hand_out_events(&self) {
        self.take_events(self.lock(), &mut VecDeque::new());
    }

    pub(super) fn handle_bytes(
        &self,
        now: Time,
        buf: &mut BytesMut,
        arrived: &mut VecDeque<Arrived>,
    ) {
        let mut inner = self.lock();
        inner.session.handle_bytes(now, buf);
        inner.paused |= !inner.session.wants_read();
        self.take_events(inner, arrived);
    }

    pub(super) fn handle_end(&self, now: Time, buf: &BytesMut, error: Option<String>) {
        let mut inner = self.lock();
        inner.session.handle_end(now, buf, error);
        self.take_events(inner, &mut VecDeque::new());
    }

    pub(super) fn handle_timeout(&self, now: Time) {
        let mut inner = self.lock();
        inner.session.handle_timeout(now);
        self.take_events(inner, &mut VecDeque::new());
    }

    /// When the session wants to be woken; remembers when the driver will be, which is rung at
    /// `armed` now. Whoever makes that too late wakes the driver.
    pub(super) fn next_timeout(&self, armed: Time) -> Option<Time> {
        let mut inner = self.lock();
        let due = inner
            .session
            .poll_timeout()
            .filter(|due| *due != Time::NEVER);
        inner.armed = due.map_or(armed, |due| due.min(armed));
        due
    }

    /// Bytes that the transport has taken.
    pub(super) fn written(&self) -> u64 {
        self.lock().written
    }

    pub(super) fn has_room(&self) -> bool {
        let mut inner = self.lock();
        let has_room = inner.session.has_room();
        // Whoever makes room wakes the driver.
        inner.paused |= !has_room;
        has_room
    }

    /// Whether to read; remembers that it was not, because then bytes may wait in the buffer.
    pub(super) fn wants_read(&self) -> bool {
        let mut inner = self.lock();
        let wants = inner.session.wants_read();
        inner.paused |= !wants;
        wants
    }

    pub(super) fn was_paused(&self) -> bool {
        std::mem::take(&mut self.lock().paused)
    }

    /// Hands out what has happened: answers to their callers, requests into `arrived`.
    fn take_events(&self, mut inner: MutexGuard<'_, Inner>, arrived: &mut VecDeque<Arrived>) {
        let (mut link, mut cancelled) = (None, HashSet::new());
        while let Some(event) = inner.session.poll_event() {
            match event {
                Event::Finished(id, answer) => {
                    let waker = inner.waiters.finish(id, answer);
                    inner.wakers.extend(waker);
                }
                Event::Request(request) => {
                    let route = match &request.route {
                        RouteRef::Number(number) => inner.session.route_name(*number).cloned(),
                        RouteRef::Name(name) => Some(Arc::clone(name)),
                        RouteRef::Code(_) | RouteRef::Unsaid => None,
                    };
                    let protocol = inner.session.protocol();
                    arrived.push_back(Arrived {
                        request,
                        route,
                        protocol,
                    });
                }
                Event::Cancelled(id, _) => {
                    cancelled.insert(id);
                    if let Some(task) = inner.tasks.remove(&id) {
                        task.abort();
                    }
                }
                Event::Opened {
                    protocol,
                    version,
                    agent,
                } => {
                    tracing::debug!(
                        target: "postroad::connection", peer = %self.peer, protocol, version, agent,
                        "open"
                    );
                    link = Some(Link::Open);
                }
                Event::Draining => link = Some(Link::Draining),
                Event::RoundTrip(round_trip) => {
                    tracing::trace!(
                        target: "postroad::connection", peer = %self.peer, ?round_trip, "heartbeat"
                    );
                }
                Event::Closed(reason) => {
                    inner.closed = Some(reason.clone());
                    link = Some(Link::Closed(reason));
                }
                _ => {}
            }
        }
        if !cancelled.is_empty() {
            let is_wanted = |id: &CallId| !cancelled.contains(id);
            arrived.retain(|arrived| arrived.request.id.as_ref().is_none_or(is_wanted));
        }
        let mut wakers = std::mem::take(&mut inner.wakers);
        drop(inner);
        if let Some(link) = link {
            self.link.send_replace(link);
        }
        wakers.drain(..).for_each(Waker::wake);
        // The list keeps its memory for the next batch.
        if wakers.capacity() > 0 {
            self.lock().wakers = wakers;
        }
    }

    /// Answers those that were done at once; the driver flushes.
    pub(super) fn respond_all(&self, now: Time, answers: Vec<(CallId, Result<Reply, ErrorBody>)>) {
        let mut inner = self.lock();
        for (id, answer) in answers {
            inner.session.respond(now, id, answer);
        }
        self.take_events(inner, &mut VecDeque::new());
    }

    /// Runs a handler that was not done at once; it is aborted when its call is called off.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        id: Option<CallId>,
        handler: impl Future<Output = Result<Reply, ErrorBody>> + Send + 'static,
    ) {
        let connection = Arc::clone(self);
        // The lock is held so that the handler cannot be done before it is entered.
        let mut inner = self.lock();
        if inner.session.is_closed() {
            return;
        }
        let task = tokio::spawn(async move {
            let answer = handler.await;
            if let Some(id) = id {
                connection.respond(id, answer);
            }
        });
        if let Some(id) = id {
            inner.tasks.insert(id, task.abort_handle());
        }
    }

    /// Answers a request.
    fn respond(&self, id: CallId, answer: Result<Reply, ErrorBody>) {
        let now = clock::now();
        let mut inner = self.lock();
        inner.tasks.remove(&id);
        inner.session.respond(now, id, answer);
        let must_look = inner.session.is_closed() || inner.paused;
        let is_lone = inner.session.requests_in_flight() == 0 && !must_look;
        self.push_out(inner, now, is_lone);
        if must_look {
            self.take_events(self.lock(), &mut VecDeque::new());
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
    fn wake_driver(&self, inner: MutexGuard<'_, Inner>) {
        let driver = inner.driver.clone();
        self.take_events(inner, &mut VecDeque::new());
        driver.into_iter().for_each(Waker::wake);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().session.is_closed()
    }

    pub(super) fn close_reason(&self) -> CloseReason {
        self.lock().closed.clone().unwrap_or(CloseReason::Local)
    }

    /// `native` or the dialect, once it is known.
    pub(crate) fn protocol(&self) -> &'static str {
        self.lock().session.protocol()
    }
}
