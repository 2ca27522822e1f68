//! One connection's calls in flight: what has to be known of each when it ends.

use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use super::{Thread, sent};
use crate::record::Sent;
use crate::targets::{Call, Connection, Pipeline};

/// Makes calls without waiting for their answers, which come by [`Self::poll_ended`].
pub(crate) struct Line<C: Connection> {
    pipeline: C::Pipeline,
    calls: Calls,
    /// When the last answers came: one look at the clock for all that came together.
    at: u64,
    /// Who waits for answers while there is no call in flight.
    idle: Option<Waker>,
}

/// What has to be known of the calls in flight.
enum Calls {
    /// All carry the same: their tags say when they were due.
    Same(Sent),
    /// Their tags are places.
    Mixed {
        made: Vec<(u64, Sent)>,
        free: Vec<u64>,
    },
}

impl<C: Connection> Line<C> {
    pub(crate) fn new(connection: &C, thread: &Thread<C>) -> Self {
        let mut pipeline = connection.pipeline();
        let calls = match thread.always {
            Some((priority, timeout)) => {
                pipeline.set(priority, timeout);
                Calls::Same(sent(&thread.next_call()))
            }
            None => Calls::Mixed {
                made: Vec::new(),
                free: Vec::new(),
            },
        };
        Self {
            pipeline,
            calls,
            at: 0,
            idle: None,
        }
    }

    /// Makes a call, if there is a connection that takes it now. It leaves when answers are waited
    /// for, or by [`Self::flush`].
    #[inline]
    pub(crate) fn call(&mut self, call: &Call<'_>, due: u64) -> Result<(), Box<C::Failure>> {
        let tag = match &mut self.calls {
            Calls::Same(_) => due,
            Calls::Mixed { made, free } => {
                self.pipeline.set(call.priority, call.timeout);
                let tag = free.pop().unwrap_or(made.len() as u64);
                match made.get_mut(tag as usize) {
                    Some(place) => *place = (due, sent(call)),
                    None => made.push((due, sent(call))),
                }
                tag
            }
        };
        match self.pipeline.try_call(tag, call.body) {
            Ok(()) => {
                if let Some(idle) = self.idle.take() {
                    idle.wake();
                }
                Ok(())
            }
            Err(error) => {
                if let Calls::Mixed { free, .. } = &mut self.calls {
                    free.push(tag);
                }
                Err(Box::new(error))
            }
        }
    }

    /// Makes so many calls that are due together, if all carry the same; how many were made before
    /// one was not.
    pub(crate) fn call_alike(&mut self, thread: &Thread<C>, due: u64, calls: u64) -> u64 {
        let Calls::Same(_) = self.calls else { return 0 };
        let body = thread.next_call().body;
        let made = self.pipeline.try_calls(due, body, calls);
        if made > 0
            && let Some(idle) = self.idle.take()
        {
            idle.wake();
        }
        made
    }

    /// The same for a call that was due a while ago and has so much of its time left.
    pub(crate) fn call_late(
        &mut self,
        call: &Call<'_>,
        due: u64,
        left: Duration,
    ) -> Result<(), Box<C::Failure>> {
        self.pipeline.set(call.priority, left);
        let late = Call {
            timeout: left,
            ..*call
        };
        let made = self.call(&late, due);
        self.pipeline.set(call.priority, call.timeout);
        made
    }

    pub(crate) fn flush(&mut self) {
        self.pipeline.flush();
    }

    /// Answers that [`Self::poll_ended`] will not wait for.
    pub(crate) fn ready(&self) -> usize {
        self.pipeline.ready()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.pipeline.in_flight()
    }

    /// Records the next call that ends, and says when that was. Pending while none is in flight.
    #[inline]
    pub(crate) fn poll_ended(
        &mut self,
        thread: &Thread<C>,
        context: &mut Context<'_>,
    ) -> Poll<u64> {
        let is_first = self.pipeline.ready() == 0;
        let Some((tag, result)) = ready!(self.pipeline.poll_next(context)) else {
            self.idle = Some(context.waker().clone());
            return Poll::Pending;
        };
        if is_first {
            self.at = thread.now();
        }
        let (due, sent) = match &mut self.calls {
            Calls::Same(sent) => (tag, *sent),
            Calls::Mixed { made, free } => {
                free.push(tag);
                made[tag as usize]
            }
        };
        // At once: a result is large, and what is moved right after it was stored has to wait.
        match result {
            Ok(answer) => thread.recorder.answered(due, self.at, sent, answer.len()),
            Err(error) => thread.recorder.failed(due, self.at, sent, &error),
        }
        Poll::Ready(self.at)
    }
}
