//! What a driver gathers in one run: requests that have arrived, answers that were made at once,
//! callers to wake.

use std::task::Waker;

use bytes::Bytes;
use postroad_proto::session::{CallId, Failure, Reply, Request, Sink};

use super::connection::{Answered, LinkState};
use super::waiters::Waiters;
use super::{ANSWERS_AT_ONCE, BATCH_MAX};
use crate::error::Error;

/// Puts a value together where it will lie. `Vec::push` takes one that lies elsewhere, and copies
/// it before what was stored last can be loaded again.
#[inline]
pub(super) fn push_made<T>(list: &mut Vec<T>, make: impl FnOnce() -> T) {
    list.extend(std::iter::once_with(make));
}

/// Answers that were made at once, to be encoded together.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    list: Vec<(CallId, Answered)>,
    bytes: usize,
}

impl Answers {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Looks at all of them where they lie, and forgets them; there is room again.
    #[inline]
    pub(crate) fn drain(&mut self, mut each: impl FnMut(CallId, Result<&Reply, &Error>)) {
        for (id, answer) in &self.list {
            each(*id, answer.as_ref());
        }
        self.list.clear();
        self.bytes = 0;
    }

    /// Before more are made, it is asked whether they find room.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= ANSWERS_AT_ONCE
    }

    #[inline]
    pub(crate) fn reply(&mut self, id: CallId, reply: Reply) {
        self.bytes += reply.payload.len();
        push_made(&mut self.list, || (id, Ok(reply)));
    }

    pub(crate) fn fail(&mut self, id: CallId, error: Error) {
        self.list.push((id, Err(error)));
    }
}

/// Requests in the order in which they came, in places that are filled again and again.
#[derive(Debug, Default)]
pub(crate) struct RequestBatch {
    places: Vec<Request>,
    /// How many of the places are filled.
    len: usize,
    /// How many of those were started.
    started: usize,
}

impl RequestBatch {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The next to start; it is passed when [`Self::pass`] is called.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<&mut Request> {
        self.places[..self.len].get_mut(self.started)
    }

    #[inline]
    pub(crate) fn pass(&mut self) {
        // What was refused must not hold the read buffer.
        let place = &mut self.places[self.started];
        if !place.payload.is_empty() || place.extras.is_some() {
            (place.payload, place.extras) = (Bytes::new(), None);
        }
        self.started += 1;
        if self.started == self.len {
            (self.len, self.started) = (0, 0);
        }
    }

    #[inline]
    pub(super) fn add(&mut self, fill: impl FnOnce(&mut Request)) {
        if self.len == self.places.len() {
            self.places.push(Request::default());
        }
        fill(&mut self.places[self.len]);
        self.len += 1;
    }

    pub(super) fn clear(&mut self) {
        self.places.clear();
        (self.len, self.started) = (0, 0);
    }

    /// Forgets a request that was called off before it was started.
    pub(super) fn forget(&mut self, id: CallId) {
        let waiting = &mut self.places[self.started..self.len];
        let Some(at) = waiting.iter().position(|request| request.id == Some(id)) else {
            return;
        };
        waiting[at] = Request::default();
        waiting[at..].rotate_left(1);
        self.len -= 1;
        if self.started == self.len {
            (self.len, self.started) = (0, 0);
        }
    }
}

/// What has happened, taken out under the lock and handed out without it.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) arrived: RequestBatch,
    pub(super) wakers: Vec<Waker>,
    pub(super) link: Option<LinkState>,
}

impl Batch {
    pub(super) fn room(&self) -> usize {
        BATCH_MAX.saturating_sub(self.arrived.len.max(self.wakers.len()))
    }
}

/// Takes what arrives most without the detour over the session's events.
pub(super) struct BatchSink<'a> {
    /// Of a client.
    pub(super) waiters: Option<&'a mut Waiters>,
    pub(super) batch: &'a mut Batch,
}

impl Sink for BatchSink<'_> {
    #[inline]
    fn request(&mut self, fill: impl FnOnce(&mut Request)) {
        self.batch.arrived.add(fill);
    }

    #[inline]
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

    #[inline]
    fn room(&self) -> usize {
        self.batch.room()
    }
}
