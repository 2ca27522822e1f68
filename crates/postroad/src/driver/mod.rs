//! Joins a session to a runtime: one future a connection, no task, timer or allocation a call.
//!
//! Whoever has something to say encodes it under the lock. A lone caller then writes to the socket
//! itself; a caller that is not alone leaves its frame to the driver, which runs after all callers
//! that can run, and so writes many frames at once. Bytes are read without the lock, parsed under
//! it, and handlers run without it.

mod connection;
mod waiters;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use postroad_proto::Time;
use postroad_proto::session::{CloseReason, Session};
use tokio::sync::watch;
use tokio::time::Sleep;

use crate::clock;
use crate::transport::{Reader, Stream};

pub(crate) use connection::{Arrived, Connection, Link, Service};
pub(crate) use waiters::WaiterKey;

/// Bytes of the first read; doubled while reads fill it.
const READ_MIN: usize = 8 * 1024;
/// Bytes of the largest read.
const READ_MAX: usize = 256 * 1024;
/// Bytes of answers that are encoded at a time; before more are made, it is asked whether they find
/// room.
const ANSWERS_AT_ONCE: usize = 256 * 1024;
/// Rounds of reading and writing before other tasks have their turn.
const ROUNDS: usize = 16;
/// How long a closed connection may take none of its last bytes.
const FLUSH_STALL: Duration = Duration::from_secs(10);
/// How long a closed connection is read on, so that its last words are not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// The session is over; its last bytes are being written.
    Flushing,
    /// The end was said; what still comes is thrown away.
    Lingering,
}

/// What came of trying to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Bytes; there may be more.
    Read,
    /// Nothing now.
    Idle,
    /// The session wants no more now.
    Paused,
}

/// Drives one connection to its end, which is its output.
#[must_use = "a connection does nothing unless its driver is polled"]
pub(crate) struct ConnectionDriver {
    connection: Arc<Connection>,
    reader: Reader,
    buf: BytesMut,
    read_size: usize,
    timer: Pin<Box<Sleep>>,
    armed: Time,
    stage: Stage,
    service: Option<Arc<dyn Service>>,
    /// Requests whose handlers were not started yet, because answers wait to be read.
    arrived: VecDeque<Arrived>,
}

impl ConnectionDriver {
    /// Joins a stream and a session; `service` handles requests, if this is the server's end.
    pub(crate) fn new(
        stream: Stream,
        session: Session,
        peer: String,
        service: Option<Arc<dyn Service>>,
    ) -> (Self, watch::Receiver<Link>) {
        let (reader, writer) = stream.split();
        let (connection, link) = Connection::new(session, writer, peer);
        connection.hand_out_events();
        let driver = Self {
            connection: Arc::new(connection),
            reader,
            buf: BytesMut::new(),
            read_size: READ_MIN,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: Time::NEVER,
            stage: Stage::Running,
            service,
            arrived: VecDeque::new(),
        };
        (driver, link)
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Reads once and lets the session take it.
    fn read(&mut self, cx: &mut Context<'_>) -> Progress {
        if !self.arrived.is_empty() {
            if !self.connection.has_room() {
                return Progress::Paused;
            }
            self.start_arrived();
            return Progress::Read;
        }
        if !self.connection.wants_read() {
            return Progress::Paused;
        }
        if self.connection.was_paused() && !self.buf.is_empty() {
            // What was left in the buffer while reading was paused comes before anything new.
            self.handle(clock::now());
            return Progress::Read;
        }
        let spare = self.buf.capacity() - self.buf.len();
        if spare < self.read_size / 2 {
            self.buf.reserve(self.read_size);
        }
        let room = self.buf.capacity() - self.buf.len();
        let result = match self.reader.poll_read(cx, &mut self.buf) {
            Poll::Pending => {
                self.rest();
                return Progress::Idle;
            }
            Poll::Ready(result) => result,
        };
        let now = clock::now();
        match result {
            Ok(0) => {
                self.connection.handle_end(now, &self.buf, None);
                return Progress::Idle;
            }
            Ok(read) if read == room => self.read_size = (self.read_size * 2).min(READ_MAX),
            Ok(_) => {}
            Err(error) => {
                self.connection
                    .handle_end(now, &self.buf, Some(error.to_string()));
                return Progress::Idle;
            }
        }
        self.handle(now);
        Progress::Read
    }

    /// Gives the read buffer back while nothing comes.
    fn rest(&mut self) {
        if self.buf.is_empty() && self.buf.capacity() > READ_MIN {
            self.buf = BytesMut::new();
            self.read_size = READ_MIN;
        }
    }

    /// Lets the session take what was read, and starts handlers.
    fn handle(&mut self, now: Time) {
        self.connection
            .handle_bytes(now, &mut self.buf, &mut self.arrived);
        self.start_arrived();
    }

    /// Starts handlers in the order of arrival, as long as their answers find room, and answers
    /// with those that were done at once.
    fn start_arrived(&mut self) {
        let Some(service) = &self.service else {
            return self.arrived.clear();
        };
        while !self.arrived.is_empty() && self.connection.has_room() {
            let (mut answers, mut bytes) = (Vec::new(), 0);
            while bytes < ANSWERS_AT_ONCE
                && let Some(arrived) = self.arrived.pop_front()
            {
                let id = arrived.request.id;
                let answer = service.start(&self.connection, arrived);
                if let Some((id, answer)) = id.zip(answer) {
                    bytes += answer.as_ref().map_or(0, |reply| reply.payload.len());
                    answers.push((id, answer));
                }
            }
            self.connection.respond_all(clock::now(), answers);
        }
    }

    /// Runs the session's timers and arms the one wakeup for all of them.
    fn poll_timer(&mut self, cx: &mut Context<'_>) {
        while let Some(due) = self.connection.next_timeout(self.armed) {
            if due < self.armed {
                self.armed = due;
                self.timer.as_mut().reset(clock::instant(due));
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.armed = Time::NEVER;
            self.connection.handle_timeout(clock::now());
        }
    }

    fn poll_running(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.connection.register(cx.waker());
        for _ in 0..ROUNDS {
            let progress = self.read(cx);
            self.connection.poll_flush(cx);
            if progress == Progress::Idle {
                self.poll_timer(cx);
                self.connection.poll_flush(cx);
            }
            if self.connection.is_closed() {
                return Poll::Ready(());
            }
            // What paused the reading may have been written just now; if not, whoever ends it wakes
            // this task.
            let goes_on = match progress {
                Progress::Read => true,
                Progress::Idle => false,
                Progress::Paused if self.arrived.is_empty() => self.connection.wants_read(),
                Progress::Paused => self.connection.has_room(),
            };
            if !goes_on {
                if progress == Progress::Paused {
                    self.poll_timer(cx);
                }
                return if self.connection.is_closed() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                };
            }
        }
        // Time passes also while bytes keep coming.
        self.poll_timer(cx);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes the last bytes and says the end. A peer that takes nothing of them for a while is
    /// given up.
    fn poll_flushing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.connection.written();
        if let Poll::Ready(drained) = self.connection.poll_drained(cx) {
            drained?;
            return self.connection.poll_shutdown(cx);
        }
        if self.connection.written() > before {
            self.ring_in(FLUSH_STALL);
        }
        self.timer
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn ring_in(&mut self, time: Duration) {
        self.timer
            .as_mut()
            .reset(clock::instant(clock::now() + time));
    }

    fn poll_lingering(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            self.buf.clear();
            self.buf.reserve(READ_MIN);
            match ready!(self.reader.poll_read(cx, &mut self.buf)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }
}

/// Whether nobody will take the last words.
fn is_deaf(reason: &CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::WriteStall(_) | CloseReason::HeartbeatTimeout(_) | CloseReason::Transport(_)
    )
}

impl Future for ConnectionDriver {
    type Output = CloseReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let this = self.get_mut();
        loop {
            match this.stage {
                Stage::Running => {
                    ready!(this.poll_running(cx));
                    let reason = this.connection.close_reason();
                    if is_deaf(&reason) {
                        return Poll::Ready(reason);
                    }
                    this.stage = Stage::Flushing;
                    this.ring_in(FLUSH_STALL);
                }
                Stage::Flushing => {
                    let flushed = ready!(this.poll_flushing(cx));
                    // A client has said all it wanted; a server's last words must survive what is
                    // still on its way.
                    if flushed.is_err() || this.service.is_none() {
                        return Poll::Ready(this.connection.close_reason());
                    }
                    this.stage = Stage::Lingering;
                    this.ring_in(LINGER);
                }
                Stage::Lingering => {
                    ready!(this.poll_lingering(cx));
                    return Poll::Ready(this.connection.close_reason());
                }
            }
        }
    }
}

impl Drop for ConnectionDriver {
    /// A runtime that is torn down takes the driver with it: callers must not wait for ever.
    fn drop(&mut self) {
        let reason = CloseReason::Transport("the runtime of the connection has ended".to_owned());
        self.connection.close(reason);
    }
}
