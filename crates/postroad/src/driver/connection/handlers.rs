//! What handlers that are not done at once do with a connection.

use std::future::Future;
use std::sync::Arc;

use postroad_proto::session::CallId;

use super::super::batch::Answered;
use super::super::wakeups::Change;
use super::{Connection, NextTimeout};
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
            let tasks = inner.tasks.get_or_insert_default();
            tasks.insert(id, task.abort_handle());
        }
    }

    /// Answers a request.
    fn respond(&self, id: CallId, answer: Answered) {
        let now = clock::now();
        let mut inner = self.lock();
        if let Some(tasks) = &mut inner.tasks {
            tasks.remove(&id);
        }
        let answer = answer.as_ref().map_err(Error::body);
        inner.session.respond_with(now, id, answer);
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
}
