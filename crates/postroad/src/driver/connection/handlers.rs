//! What handlers that are not done at once do with a connection.

use std::future::Future;
use std::sync::{Arc, MutexGuard};

use postroad_proto::session::{CallId, Denial};

use super::super::batch::{Answered, Answers};
use super::super::request_queue::RequestQueue;
use super::super::wakeups::Change;
use super::{Connection, Inner, NextTimeout};
use crate::clock;
use crate::error::Error;

impl Connection {
    /// Runs a handler that was not done at once; it is aborted when its call is called off. Without
    /// an `id` nobody waits for the answer.
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
            let unfinished = inner.unfinished.get_or_insert_default();
            unfinished.tasks.insert(id, task.abort_handle());
        }
    }

    /// Answers a request whose handler was a task.
    fn respond(&self, id: CallId, answer: Answered) {
        let now = clock::now();
        let mut inner = self.lock();
        if let Some(unfinished) = &mut inner.unfinished {
            unfinished.tasks.remove(&id);
        }
        let answer = answer.as_ref().map_err(Error::body);
        inner.session.respond_with(now, id, answer);
        self.send_answers(inner);
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
        self.send_answers(inner);
    }

    /// Sees to it that answers which were queued are written.
    fn send_answers(&self, mut inner: MutexGuard<'_, Inner>) {
        self.tell_held(&mut inner);
        // The driver has to read on, or to end the connection, so it may as well write.
        let is_for_driver = inner.session.is_closed() || inner.wakeups.is_paused();
        if is_for_driver {
            self.leave_to_driver(inner, Change::Queued);
            self.hand_out_events(self.lock());
        } else if inner.session.requests_in_flight() == 0 {
            // The answer may have been the last that a drain has waited for, which moves the end of
            // the drain.
            self.write_now(inner, NextTimeout::Unknown);
        } else {
            self.leave_to_driver(inner, Change::Queued);
        }
    }

    /// The credentials that the client has brought suffice.
    pub(crate) fn admit(&self) {
        let mut inner = self.lock();
        inner.session.admit(clock::now());
        self.finish_command(inner);
    }

    /// They do not, and the connection ends.
    pub(crate) fn deny(&self, denial: Denial) {
        let mut inner = self.lock();
        inner.session.deny(clock::now(), denial);
        self.finish_command(inner);
    }

    /// Names the queue that has to hear of requests that are called off.
    pub(crate) fn queue_requests_in(&self, queue: Arc<dyn RequestQueue>) {
        self.lock().unfinished.get_or_insert_default().queue = Some(queue);
    }

    /// Whether requests may be started: their answers find room, or nobody waits for any.
    pub(crate) fn has_room_for_answers(&self) -> bool {
        let inner = self.lock();
        let session = &inner.session;
        session.is_closed() || session.has_room() && !inner.is_paused
    }
}
