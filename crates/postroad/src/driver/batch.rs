//! What a driver gathers in one turn: requests that have arrived, answers that were made at once,
//! callers to wake.

use std::cell::Cell;
use std::task::Waker;

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::session::{CallId, Credentials, Failure, Reply, Request, Sink};

use super::link::LinkState;
use super::slots::Slots;
use super::waiters::Waiters;
use crate::error::Error;

/// Bytes of answers that are encoded at a time; before more are made, it is asked whether they find
/// room.
const ANSWERS_AT_ONCE: usize = 256 * 1024;
/// Requests that are taken over at a time: few enough to stay in the nearest cache.
const BATCH_MAX: usize = 128;

/// An answer to a request.
pub(crate) type Answered = Result<Reply, Error>;

/// Answers that were made at once, to be encoded together.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    list: Slots<(CallId, Answered)>,
    /// Bytes of their payloads.
    bytes: usize,
}

impl Answers {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Shows all of them where they lie, and forgets them; there is room again.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(CallId, Result<&Reply, &Error>)) {
        self.list.drain(|(id, answer)| each(*id, answer.as_ref()));
        self.bytes = 0;
    }

    /// Whether what was made has to be encoded before more is made, so that it can be asked whether
    /// more finds room.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= ANSWERS_AT_ONCE
    }

    /// Adds an answer.
    #[inline]
    pub(crate) fn reply(&mut self, id: CallId, reply: Reply) {
        self.bytes += reply.payload.len();
        self.list.push_with(|| (id, Ok(reply)));
    }

    /// Adds an error as the answer.
    pub(crate) fn fail(&mut self, id: CallId, error: Error) {
        self.list.push_with(|| (id, Err(error)));
    }
}

/// Requests in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct RequestBatch(Slots<Request>);

impl RequestBatch {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next to start; it stays until [`Self::pass`] is called.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<&mut Request> {
        self.0.next_mut()
    }

    /// Passes the next, which was started or refused; there has to be one.
    #[inline]
    pub(crate) fn pass(&mut self) {
        // The payload is a slice of the read buffer, which must not be held by a request that was
        // refused. One that was started has taken it out.
        if let Some(request) = self.0.next_mut()
            && (!request.payload.is_empty() || request.extras.is_some())
        {
            request.payload = Bytes::new();
            request.extras = None;
        }
        self.0.pass();
        self.0.reuse();
    }

    /// Adds a request, which `fill` writes over an older one.
    #[inline]
    pub(super) fn add(&mut self, fill: impl FnOnce(&mut Request)) {
        self.0.fill(fill);
    }

    /// Forgets all; how many one-way messages were among them.
    pub(super) fn clear(&mut self) -> usize {
        let mut messages = 0;
        self.0
            .drain(|request| messages += usize::from(request.id.is_none()));
        messages
    }

    /// Forgets a request that was called off before it was started.
    pub(super) fn forget(&mut self, id: CallId) {
        self.0.remove(|request| request.id == Some(id));
    }
}

/// What has happened, taken out under the lock and handed out without it.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) arrived: RequestBatch,
    /// Of callers whose answers have come.
    pub(super) wakers: Vec<Waker>,
    /// What the client has brought to prove who it is, and waits for.
    pub(super) presented: Option<Credentials>,
    /// Where the connection stands now, if that has changed.
    pub(super) link: Option<LinkState>,
}

impl Batch {
    /// How many more requests or answers may come before those that came are taken.
    pub(super) fn room(&self) -> usize {
        BATCH_MAX.saturating_sub(self.arrived.0.len().max(self.wakers.len()))
    }
}

/// Takes what arrives most, without the detour over the session's events.
pub(super) struct BatchSink<'a> {
    /// Of a client.
    pub(super) waiters: Option<&'a mut Waiters>,
    pub(super) batch: &'a mut Batch,
}

impl Sink for BatchSink<'_> {
    // The closure writes each field where it will lie; a call would pass all of them in memory.
    #[inline(always)]
    fn request(&mut self, fill: impl FnOnce(&mut Request)) {
        self.batch.arrived.add(fill);
    }

    // Called from two places, and 2 % of a call's instructions dearer where it is not inlined.
    #[inline(always)]
    fn replied(&mut self, id: CallId, reply: Reply) {
        if let Some(waiters) = &mut self.waiters
            && let Some(waker) = waiters.finish(id, Ok(reply))
        {
            self.batch.wakers.push(waker);
        }
    }

    fn failed(&mut self, id: CallId, failure: Failure) {
        if let Some(waiters) = &mut self.waiters {
            let waker = waiters.finish(id, Err(Box::new(failure)));
            self.batch.wakers.extend(waker);
        }
    }

    fn room(&self) -> usize {
        self.batch.room()
    }
}

thread_local! {
    /// The lists of the thread: every turn of a driver uses them, and finds them in the cache.
    static GATHERED: Cell<Option<Box<Gathered>>> = const { Cell::new(None) };
}

/// What one turn of a driver gathers, in memory that the next one uses again.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) batch: Batch,
    pub(super) answers: Answers,
    /// The last reading of the clock.
    pub(super) now: Time,
    /// Bytes that this turn has read.
    pub(super) bytes_read: usize,
}

impl Gathered {
    /// The thread's, which is empty. A driver that runs inside of another's turn gets a new one.
    pub(super) fn take() -> Box<Self> {
        GATHERED.take().unwrap_or_default()
    }

    /// Gives the thread's memory back, empty, for the next turn on this thread.
    pub(super) fn give_back(self: Box<Self>) {
        GATHERED.set(Some(self));
    }
}
