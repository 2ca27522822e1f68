//! Where requests and answers go when they arrive.

use std::collections::VecDeque;

use super::{CallId, Failure, Reply, Request};

/// Requests, and as many answers, that a driver takes over at a time: few enough to stay in the
/// nearest cache. A sink with this bound is what sessions are simulated, tested and fuzzed with.
pub const SINK_ROOM: usize = 128;

/// Takes what arrives most: requests, and the ends of calls.
///
/// [`Session::handle_bytes`](super::Session::handle_bytes) hands them over while it decodes, so
/// that a driver finds them where it needs them and they are not queued in between. Everything
/// rarer is an [`Event`](super::Event), to be polled afterwards.
///
/// A sink is bounded: the session asks for [`Self::room`] before it decodes further, and leaves
/// the bytes that find no room in the buffer. The driver then works off what it has and calls
/// [`Session::handle_bytes`](super::Session::handle_bytes) again, with the same buffer.
pub trait Sink {
    /// A request or one-way message to handle. `fill` overwrites every field of the request that
    /// it is given, which may be one that was used before: filling it where it is to lie saves
    /// moving it.
    fn request(&mut self, fill: impl FnOnce(&mut Request));
    /// A call of this end has its answer.
    fn replied(&mut self, id: CallId, reply: Reply);
    /// A call of this end was answered with an error.
    fn failed(&mut self, id: CallId, failure: Failure);
    /// How many more requests or answers may be handed over now.
    fn room(&self) -> usize;
}

/// A [`Sink`] of plain lists, with the bound that a driver's sink has: for tests, and for whoever
/// uses a session without a driver.
#[derive(Debug)]
pub struct Arrivals {
    /// Requests and one-way messages, in their order.
    pub requests: VecDeque<Request>,
    /// Calls of this end that were answered, in the order of their answers.
    pub finished: VecDeque<(CallId, Result<Reply, Failure>)>,
    max: usize,
}

impl Arrivals {
    /// Takes at most `max` requests, and as many answers, until they are taken out.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            requests: VecDeque::new(),
            finished: VecDeque::new(),
            max,
        }
    }

    /// Drops a request that was called off before it was taken out
    /// ([`Event::Cancelled`](super::Event::Cancelled)); whether it was there.
    pub fn forget(&mut self, id: CallId) -> bool {
        let before = self.requests.len();
        self.requests.retain(|request| request.id != Some(id));
        self.requests.len() < before
    }
}

impl Sink for Arrivals {
    fn request(&mut self, fill: impl FnOnce(&mut Request)) {
        let mut request = Request::default();
        fill(&mut request);
        self.requests.push_back(request);
    }

    fn replied(&mut self, id: CallId, reply: Reply) {
        self.finished.push_back((id, Ok(reply)));
    }

    fn failed(&mut self, id: CallId, failure: Failure) {
        self.finished.push_back((id, Err(failure)));
    }

    fn room(&self) -> usize {
        let waiting = self.requests.len().max(self.finished.len());
        self.max.saturating_sub(waiting)
    }
}
