//! The pipe of a connection: many calls of one task, and their answers.

use std::task::{Poll, Waker};

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::session::{Call, Failure};

use super::super::budget::Budget;
use super::super::waiters::{PipeKey, PipelineAnswers};
use super::Connection;
use crate::clock;

impl Connection {
    /// A place for the answers to many calls of one task.
    pub(crate) fn open_pipe(&self) -> PipeKey {
        self.lock().waiters().open_pipe()
    }

    /// Queues a call whose answer goes into the pipe; it is written when that is polled, or with
    /// what else is written.
    #[inline]
    pub(crate) fn pipe(
        &self,
        call: &mut Call<'_>,
        budget: Budget,
        pipe: PipeKey,
        tag: u64,
    ) -> Result<(), Failure> {
        let now = budget.now();
        let mut inner = self.lock();
        call.deadline = budget.deadline(now);
        let id = inner.session.call(now, call)?;
        inner.waiters().add_piped(id, pipe, tag, budget.timeout);
        Ok(())
    }

    /// The same for calls that are made together, under one lock, in their order: how many were
    /// made before one could not be. Each payload takes its place in `call`.
    pub(crate) fn pipe_all(
        &self,
        call: &Call<'_>,
        calls: &[(u64, &Bytes)],
        budget: Budget,
        pipe: PipeKey,
    ) -> usize {
        let now = budget.now();
        let mut inner = self.lock();
        let deadline = budget.deadline(now);
        for (made, (tag, payload)) in calls.iter().enumerate() {
            let call = Call {
                payload,
                deadline,
                ..*call
            };
            match inner.session.call(now, &call) {
                Ok(id) => {
                    let waiters = inner.waiters();
                    waiters.add_piped(id, pipe, *tag, budget.timeout);
                }
                Err(_) => return made,
            }
        }
        calls.len()
    }

    /// Takes the answers that have come; if there are none, sees that fresh calls are written.
    pub(crate) fn poll_pipe(
        &self,
        pipe: PipeKey,
        into: &mut PipelineAnswers,
        has_fresh: &mut bool,
        waker: &Waker,
    ) -> Poll<()> {
        let mut inner = self.lock();
        let polled = inner.waiters().poll_pipe(pipe, into, waker);
        if polled.is_pending() && std::mem::take(has_fresh) {
            // What is late by now is for the driver to take back.
            let is_lone = inner.session.calls_in_flight() == 1 && !inner.is_due(clock::now());
            inner.is_complete = !is_lone;
            self.push_out(inner, is_lone, Time(0));
        }
        polled
    }

    /// Nobody waits for the pipe's answers any more: the server is told.
    pub(crate) fn close_pipe(&self, pipe: PipeKey) {
        let mut inner = self.lock();
        let (calls, _left) = inner.waiters().close_pipe(pipe);
        if calls.is_empty() {
            // What is left is dropped without the lock: its waker may be the last of a task.
            return drop(inner);
        }
        let now = clock::now();
        calls
            .into_iter()
            .for_each(|id| inner.session.cancel(now, id));
        self.wake_driver(inner);
    }
}
