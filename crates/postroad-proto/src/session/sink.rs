//! Where requests and answers go when they arrive.

use std::collections::VecDeque;

use super::{CallId, Event, Failure, Reply, Request};

/// Where the commonest events go; see
/// [`Session::handle_bytes_into`](super::Session::handle_bytes_into).
pub trait Sink {
    /// A request or one-way message to handle: `fill` writes it where it is to lie, so that it is
    /// not moved.
    fn request(&mut self, events: &mut VecDeque<Event>, fill: impl FnOnce(&mut Request));
    /// A call of this end has its answer.
    fn replied(&mut self, events: &mut VecDeque<Event>, id: CallId, reply: Reply);
    /// A call of this end has failed.
    fn failed(&mut self, events: &mut VecDeque<Event>, id: CallId, failure: Failure);
    /// How many more may come before what came is taken.
    fn room(&self) -> usize;
}

/// Queues them with the others.
pub(super) struct Queue;

impl Sink for Queue {
    #[inline]
    fn request(&mut self, events: &mut VecDeque<Event>, fill: impl FnOnce(&mut Request)) {
        let mut request = Request::default();
        fill(&mut request);
        events.push_back(Event::Request(request));
    }

    #[inline]
    fn replied(&mut self, events: &mut VecDeque<Event>, id: CallId, reply: Reply) {
        events.push_back(Event::Finished(id, Ok(reply)));
    }

    fn failed(&mut self, events: &mut VecDeque<Event>, id: CallId, failure: Failure) {
        events.push_back(Event::Finished(id, Err(failure)));
    }

    fn room(&self) -> usize {
        usize::MAX
    }
}
