//! What those who make calls and send messages do with a connection.

use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::session::{Call, CloseReason, Failure};

use super::super::budget::Budget;
use super::super::waiters::{Answer, WaiterKey};
use super::super::wakeups::Change;
use super::{Connection, Fanout, Inner, NextTimeout};
use crate::clock;

impl Inner {
    /// A reading of the clock for a message that nobody waits for. All that counts is how much of
    /// its time the server is told, so the moment when the driver has read last will do. A dialect
    /// does not tell the server, but takes back what is late, and a message with a limit may have
    /// little time left: both need the clock itself.
    fn time_of_message(&self, budget: Budget) -> Time {
        match (self.session.is_native(), budget.limit) {
            (true, Time::NEVER) => self.read_at,
            _ => clock::now(),
        }
    }

    /// Bytes that go before a message of this priority.
    fn unsent_before(&self, priority: u8) -> usize {
        self.line.unsent() + self.session.unsent_before(priority)
    }
}

impl Connection {
    /// Makes a call, sets its deadline, and keeps the caller's waker.
    #[inline]
    pub(crate) fn call(
        &self,
        call: &mut Call<'_>,
        budget: Budget,
        waker: &Waker,
    ) -> Result<WaiterKey, Failure> {
        let now = budget.now();
        let mut inner = self.lock();
        call.deadline = budget.deadline(now);
        let id = inner.session.call(now, call)?;
        let key = inner.waiters().add(id, waker);
        // Those who were answered together will call together, so the first of them leaves its
        // frame to the driver although nobody else has called yet.
        let is_lone = inner.session.calls_in_flight() == 1 && inner.fanout == Fanout::One;
        let next = NextTimeout::Deadline(call.deadline);
        if is_lone {
            self.write_now(inner, next);
        } else {
            self.leave_to_driver(inner, Change::Queued);
        }
        Ok(key)
    }

    /// Sends a message that nobody answers.
    pub(crate) fn send(&self, call: &mut Call<'_>, budget: Budget) -> Result<(), Failure> {
        let now = budget.now();
        let mut inner = self.lock();
        call.deadline = budget.deadline(now);
        inner.session.send(now, call)?;
        self.leave_to_driver(inner, Change::Queued);
        Ok(())
    }

    /// Queues a message that nobody answers. The driver writes it soon if it is `hasty`, else with
    /// what is written next or after [`Self::wake_now`].
    #[inline]
    pub(crate) fn queue(
        &self,
        call: &mut Call<'_>,
        budget: Budget,
        is_hasty: bool,
    ) -> Result<(), Failure> {
        let mut inner = self.lock();
        let now = inner.time_of_message(budget);
        call.deadline = budget.deadline(now);
        inner.session.send(now, call)?;
        if is_hasty {
            self.leave_to_driver(inner, Change::Queued);
        }
        Ok(())
    }

    /// The same for messages that are sent together, in their order: how many were queued before
    /// one could not be. Each takes its place in `call`.
    pub(crate) fn queue_all(
        &self,
        call: &Call<'_>,
        messages: &[Bytes],
        budget: Budget,
        is_hasty: bool,
    ) -> usize {
        let mut inner = self.lock();
        let now = inner.time_of_message(budget);
        let deadline = budget.deadline(now);
        let sent = messages.iter().take_while(|payload| {
            let call = Call {
                payload,
                deadline,
                ..*call
            };
            inner.session.send(now, &call).is_ok()
        });
        let queued = sent.count();
        if is_hasty && queued > 0 {
            self.leave_to_driver(inner, Change::Queued);
        }
        queued
    }

    /// Has the driver write what is queued.
    pub(crate) fn wake_now(&self) {
        self.leave_to_driver(self.lock(), Change::Queued);
    }

    /// Waits until no more than so many bytes are unsent that go before a message of this priority;
    /// false if the connection ended before. Cancellation safe.
    pub(crate) async fn room(&self, window: usize, priority: u8) -> bool {
        let Some(watched) = &self.watched else {
            return false;
        };
        loop {
            // Made before the lock is taken, so that a write after it is not missed.
            let emptied = watched.emptied.notified();
            {
                let mut inner = self.lock();
                if inner.line.error().is_some() {
                    return false;
                }
                // Whoever asks for no unsent bytes at all also waits for those that are being
                // written right now, which are in nobody's queue.
                let is_written = window > 0 || !inner.line.is_writing();
                if inner.unsent_before(priority) <= window && is_written {
                    return true;
                }
                if inner.session.is_closed() {
                    return false;
                }
                inner.wakeups.want_room();
            }
            emptied.await;
        }
    }

    /// Whether [`Self::room`] would be ready at once, whatever the priority.
    pub(crate) fn has_room(&self, window: usize) -> bool {
        self.lock().unsent_before(0) <= window
    }

    /// The answer, once it is there.
    pub(crate) fn poll_answer(&self, key: WaiterKey, waker: &Waker) -> Poll<Answer> {
        self.lock().waiters().poll(key, waker)
    }

    /// Wakes all who wait for the answer to a lone call, without an answer.
    pub(crate) fn wake_callers(&self) {
        // Waking is the callers' code, and so not done under the lock.
        let wakers = self.lock().waiters().wakers();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The caller is gone: the server is told.
    pub(crate) fn abandon(&self, key: WaiterKey) {
        let mut inner = self.lock();
        if let Some(id) = inner.waiters().abandon(key) {
            inner.session.cancel(clock::now(), id);
            self.finish_command(inner);
        }
    }

    /// Begins to end the connection without losing anything.
    pub(crate) fn drain(&self, grace: Duration) {
        let mut inner = self.lock();
        inner.session.drain(clock::now(), grace);
        self.finish_command(inner);
    }

    /// Asks a client to leave that can be told so without losing anything; others are served on.
    pub(crate) fn ask_to_leave(&self, grace: Duration) {
        let mut inner = self.lock();
        if inner.session.can_ask_to_leave() {
            inner.session.drain(clock::now(), grace);
            self.finish_command(inner);
        }
    }

    /// Ends the connection; calls in flight end with an error.
    pub(crate) fn close(&self, reason: CloseReason) {
        let mut inner = self.lock();
        inner.session.close(clock::now(), reason);
        self.finish_command(inner);
    }

    /// Whether the driver was woken for something that it has not done yet.
    pub(crate) fn has_left(&self) -> bool {
        self.lock().wakeups.is_sent()
    }

    /// Whether the other end has said anything since the connection was opened.
    pub(crate) fn has_heard(&self) -> bool {
        self.lock().session.has_heard()
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().session.is_closed()
    }

    /// The name behind a route's number.
    pub(crate) fn route_name(&self, number: u16) -> Option<Arc<str>> {
        self.lock().session.route_name(number).cloned()
    }

    /// Whether every request has to name its route. A dialect has ways to say nothing.
    pub(crate) fn names_routes(&self) -> bool {
        self.lock().session.is_native()
    }

    /// `native` or the dialect, once it is known.
    pub(crate) fn protocol(&self) -> &'static str {
        self.lock().session.protocol()
    }
}
