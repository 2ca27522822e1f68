//! What a driver gathers in one turn: requests that have arrived, answers that were made at once,
//! callers to wake.

use std::cell::Cell;
use std::task::Waker;

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::session::{CallId, Credentials, Failure, Reply, Request, SINK_ROOM, Sink};

use super::in_place_queue::InPlaceQueue;
use super::link::LinkState;
use super::waiters::Waiters;
use crate::error::Error;

/// Bytes of answers that are encoded at a time; before more are made, it is asked whether they find
/// room.
const ANSWERS_AT_ONCE: usize = 256 * 1024;

/// An answer to a request.
pub(crate) type Answered = Result<Reply, Error>;

/// Answers that were made at once, to be encoded together.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    list: InPlaceQueue<(CallId, Answered)>,
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
pub(crate) struct RequestBatch(InPlaceQueue<Request>);

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
    /// Of callers whose answers have come. Not every answer wakes somebody: a pipeline is woken
    /// once for many.
    pub(super) wakers: Vec<Waker>,
    /// Answers that came in this step.
    pub(super) answers: usize,
    /// What the client has brought to prove who it is, and waits for.
    pub(super) presented: Option<Credentials>,
    /// Where the connection stands now, if that has changed.
    pub(super) link: Option<LinkState>,
}

impl Batch {
    /// How many more requests or answers may come before those that came are taken.
    pub(super) fn room(&self) -> usize {
        SINK_ROOM.saturating_sub(self.arrived.0.len().max(self.answers))
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
        self.batch.answers += 1;
        if let Some(waiters) = &mut self.waiters
            && let Some(waker) = waiters.finish(id, Ok(reply))
        {
            self.batch.wakers.push(waker);
        }
    }

    fn failed(&mut self, id: CallId, failure: Failure) {
        self.batch.answers += 1;
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

#[cfg(test)]
mod tests {
    use postroad_proto::dialect::{Dialect, DialectCodec, Reader};
    use postroad_proto::session::{Call, Config, DialectConfig, Mapping, Session};

    use super::*;

    /// An id of a call that is in flight somewhere.
    fn id() -> CallId {
        let dialect = DialectConfig {
            codec: DialectCodec::new(Dialect::Sequence, Reader::Client),
            mapping: Mapping::default().into(),
        };
        let mut session = Session::dialect_client(Config::default(), dialect, Time(0));
        let payload = Bytes::new();
        let call = Call {
            route: "command/1",
            payload: &payload,
            codec: 0,
            priority: 0,
            deadline: Time::NEVER,
            attempt: 0,
            no_retry: false,
            trace: None,
            metadata: &[],
        };
        session.call(Time(0), &call).expect("it is open")
    }

    #[test]
    fn answers_take_room_also_where_they_wake_nobody() {
        let (id, mut waiters, mut batch) = (id(), Waiters::default(), Batch::default());
        let pipe = waiters.open_pipe();
        waiters.add_piped(id, pipe, 7, std::time::Duration::ZERO);
        let mut sink = BatchSink {
            waiters: Some(&mut waiters),
            batch: &mut batch,
        };
        let reply = Reply {
            codec: 0,
            payload: Bytes::new(),
        };
        sink.replied(id, reply);
        assert_eq!(sink.room(), SINK_ROOM - 1);
        assert!(batch.wakers.is_empty(), "nobody waits for the pipe");
    }
}
