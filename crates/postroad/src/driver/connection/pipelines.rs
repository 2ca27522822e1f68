//! What pipelines do with a connection: many calls of one task, and their answers.

use std::task::{Poll, Waker};

use bytes::Bytes;
use postroad_proto::session::{Call, Failure};

use super::super::budget::Budget;
use super::super::pipes::{PipeKey, PipelineAnswers};
use super::super::wakeups::Change;
use super::{Connection, NextTimeout};
use crate::clock;

impl Connection {
    /// A place for the answers to many calls of one task.
    pub(crate) fn open_pipe(&self) -> PipeKey {
        self.lock().waiters().open_pipe()
    }

    /// Queues a call whose answer goes into the pipe. It is written when the pipe is polled, or
    /// with what else is written.
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

    /// Takes the answers that have come. If there are none, sees that fresh calls are written: the
    /// pipeline is about to wait, so it has queued all that it has.
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
            // Calls may have waited here for long. Those that are late by now are taken back by the
            // driver, before it writes.
            let is_lone = inner.session.calls_in_flight() == 1 && !inner.is_due(clock::now());
            if is_lone {
                // When the call was queued nobody looked at its deadline.
                self.write_now(inner, NextTimeout::Unknown);
            } else {
                self.leave_to_driver(inner, Change::QueuedAll);
            }
        }
        polled
    }

    /// Nobody waits for the pipe's answers any more: the server is told.
    pub(crate) fn close_pipe(&self, pipe: PipeKey) {
        let mut inner = self.lock();
        let (calls, left) = inner.waiters().close_pipe(pipe);
        if calls.is_empty() {
            drop(inner);
        } else {
            let now = clock::now();
            for id in calls {
                inner.session.cancel(now, id);
            }
            self.finish_command(inner);
        }
        // Without the lock: its waker may be the last of a task, whose end may use the connection.
        drop(left);
    }
}
