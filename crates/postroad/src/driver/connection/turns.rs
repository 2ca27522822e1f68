//! What the driver does with a connection. Each step takes the lock once and gives back how things
//! stand.

use std::io;
use std::sync::MutexGuard;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use postroad_proto::Time;
use postroad_proto::session::CloseReason;

use super::super::batch::{Answers, Batch, BatchSink};
use super::super::go_behind_others;
use super::super::inbox::Leftover;
use super::super::request_queue::{Forget, Unfinished};
use super::super::status::Status;
use super::{Connection, Fanout, Inner};
use crate::clock;
use crate::error::Error;

impl Connection {
    /// The driver runs in a task that this wakes. Events before found nobody to wake, so how things
    /// stand has to be asked afterwards.
    pub(in super::super) fn register(&self, waker: &Waker) {
        self.lock().wakeups.register(waker);
    }

    /// How things stand, for a driver that has not used the session just now.
    pub(in super::super) fn status(&self, armed: Time) -> Status {
        self.lock().status(armed)
    }

    /// Takes what was read, and says what was left of it.
    pub(in super::super) fn handle_bytes(
        &self,
        now: Time,
        buf: &mut BytesMut,
        batch: &mut Batch,
        armed: Time,
    ) -> (Status, Leftover) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.read_at = now;
        batch.answers = 0;
        let mut sink = BatchSink {
            waiters: inner.waiters.as_deref_mut(),
            batch,
        };
        inner.session.handle_bytes(now, buf, &mut sink);
        inner.unread = buf.len();
        // The session stops before the end where it is paused or the batch is full.
        let leftover = if !inner.session.wants_read() || batch.room() == 0 {
            Leftover::Frames
        } else {
            Leftover::Beginning
        };
        inner.fanout = if batch.wakers.len() > 1 {
            Fanout::Several
        } else {
            Fanout::One
        };
        (self.finish_step(guard, batch, armed), leftover)
    }

    /// The stream has ended, or reading has failed; `buf` is what was left unread.
    pub(in super::super) fn handle_end(
        &self,
        now: Time,
        buf: &BytesMut,
        error: Option<String>,
    ) -> Status {
        let mut inner = self.lock();
        inner.session.handle_end(now, buf, error);
        self.finish_step(inner, &mut Batch::default(), Time::NEVER)
    }

    /// The driver's timer has rung.
    pub(in super::super) fn handle_timeout(&self, now: Time, batch: &mut Batch) -> Status {
        let mut inner = self.lock();
        inner.session.handle_timeout(now);
        self.finish_step(inner, batch, Time::NEVER)
    }

    /// Encodes the answers that were made at once and writes what there is. Goes on where the
    /// transport was full, and ends the session where it has failed.
    pub(in super::super) fn poll_transmit(
        &self,
        cx: &mut Context<'_>,
        answers: &mut Answers,
        batch: &mut Batch,
        armed: Time,
    ) -> Status {
        // Answers say how long they took, and what has become late meanwhile is not written.
        let now = clock::now();
        let mut inner = self.lock();
        // What was queued until now is written here. What comes later needs another wake-up.
        inner.wakeups.clear();
        answers.drain(|id, answer| {
            let answer = answer.map_err(Error::body);
            inner.session.respond_with(now, id, answer);
        });
        // Takes back what is late. A transport that was full is not judged here but by the timer,
        // after it was asked once more: perhaps it was this thread that was held up.
        if inner.is_due(now) {
            inner.session.expire(now);
        }
        let mut inner = self.transmit(inner, Some(cx));
        if self.writer.buffers() && !inner.line.is_full() {
            drop(inner);
            let flushed = self.writer.poll_flush(cx);
            inner = self.lock();
            if let Poll::Ready(Err(error)) = flushed {
                inner.line.fail(error);
            }
        }
        if let Some(error) = inner.line.error()
            && !inner.session.is_closed()
        {
            let reason = CloseReason::Transport(error.to_string());
            inner.session.close(now, reason);
        }
        self.finish_step(inner, batch, armed)
    }

    /// Ready when everything is written, or cannot be.
    pub(in super::super) fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut batch = Batch::default();
        self.poll_transmit(cx, &mut Answers::default(), &mut batch, Time::NEVER);
        let inner = self.lock();
        if inner.line.error().is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // A caller that still writes wakes the driver afterwards, since the session is over.
        if inner.line.is_full() || inner.line.is_writing() {
            return Poll::Pending;
        }
        if inner.line.is_cut() {
            drop(inner);
            go_behind_others(cx);
            return Poll::Pending;
        }
        drop(inner);
        self.writer.poll_flush(cx)
    }

    /// Says the end to the other side.
    pub(in super::super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_shutdown(cx)
    }

    /// Hands out what has happened without bytes: a dialect is open from the start.
    pub(in super::super) fn hand_out_first(&self) -> Status {
        self.finish_step(self.lock(), &mut Batch::default(), Time::NEVER)
    }

    /// The driver is dropped before the end: callers must not wait for ever, and nobody starts what
    /// is queued.
    pub(in super::super) fn leave(&self) {
        let mut inner = self.lock();
        if inner.session.is_closed() {
            return;
        }
        self.forget_queued(&inner, Forget::All);
        let reason = CloseReason::Transport("the runtime of the connection has ended".to_owned());
        inner.session.close(clock::now(), reason);
        self.finish_command(inner);
    }

    /// Takes out what has happened, gives the lock back and hands it out.
    fn finish_step(
        &self,
        mut inner: MutexGuard<'_, Inner>,
        batch: &mut Batch,
        armed: Time,
    ) -> Status {
        self.collect(&mut inner, batch);
        self.tell_held(&mut inner);
        let status = inner.status(armed);
        let is_room_wanted = inner.wakeups.take_room();
        drop(inner);
        self.hand_out(batch);
        if is_room_wanted {
            self.tell_emptied();
        }
        status
    }

    /// Keeps no memory for requests while there are none; whether that is so.
    pub(in super::super) fn release_memory(&self) -> bool {
        let mut inner = self.lock();
        let is_idle = inner.session.requests_in_flight() == 0;
        // One-way messages are not in flight, and may still be queued.
        let has_queue = |all: &Unfinished| all.queue.is_some();
        if is_idle && !inner.unfinished.as_deref().is_some_and(has_queue) {
            inner.unfinished = None;
        }
        is_idle
    }

    /// Whether the driver was woken by somebody who may queue more before it writes.
    pub(in super::super) fn expects_more(&self) -> bool {
        self.lock().wakeups.is_incomplete()
    }

    /// Whether taken bytes may sit in a buffer of the stream.
    pub(in super::super) fn buffers(&self) -> bool {
        self.writer.buffers()
    }

    /// Bytes that the transport has taken so far.
    pub(in super::super) fn taken(&self) -> u64 {
        self.lock().line.taken()
    }

    /// Why the connection has ended.
    pub(in super::super) fn close_reason(&self) -> CloseReason {
        match &self.lock().closed {
            Some(reason) => CloseReason::clone(reason),
            None => CloseReason::Local,
        }
    }
}
