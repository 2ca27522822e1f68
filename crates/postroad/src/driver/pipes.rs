//! Pipelines' answers: each goes into a list that the pipeline takes whole.
//!
//! A pipeline has many calls in flight from one task. To wake the task for each answer would cost
//! more than the calls. So answers gather in the connection's list, and the pipeline exchanges its
//! own, which it has emptied, for that one.

use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::session::Failure;

use super::in_place_queue::InPlaceQueue;

/// Why a pipeline's call has no answer, and the time that it had.
#[derive(Debug)]
pub(crate) struct PipedFailure {
    pub(crate) failure: Failure,
    pub(crate) timeout: Duration,
}

/// The answers to a pipeline's calls, with their tags, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct PipelineAnswers(InPlaceQueue<(u64, Result<Bytes, Box<PipedFailure>>)>);

impl PipelineAnswers {
    /// How many answers there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Those that wait: the tag of each, and why there is no answer, if there is none.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Option<&PipedFailure>)> {
        let waiting = self.0.iter();
        waiting.map(|(tag, answer)| (*tag, answer.as_ref().err().map(|failed| &**failed)))
    }

    /// The tag of the next, and why there is no answer, if there is none.
    pub(crate) fn peek(&self) -> Option<(u64, Option<&PipedFailure>)> {
        let (tag, answer) = self.0.next()?;
        Some((*tag, answer.as_ref().err().map(|failed| &**failed)))
    }

    /// Takes the next; `error` says what a caller is told of a failure.
    pub(crate) fn take<E>(
        &mut self,
        error: impl FnOnce(Failure, Duration) -> E,
    ) -> Option<(u64, Result<Bytes, E>)> {
        let (tag, answer) = self.0.next_mut()?;
        let tag = *tag;
        let answer = match answer {
            Ok(payload) => Ok(std::mem::take(payload)),
            Err(_) => std::mem::replace(answer, Ok(Bytes::new()))
                .map_err(|failed| error(failed.failure, failed.timeout)),
        };
        self.0.pass();
        Some((tag, answer))
    }

    /// Exchanges what has come for a list that was taken whole, if anything has.
    fn hand_over(&mut self, into: &mut Self) -> bool {
        if self.0.is_empty() {
            return false;
        }
        into.0.clear();
        std::mem::swap(self, into);
        true
    }
}

/// A pipeline on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PipeKey(u32);

/// What one pipeline has to come for.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    arrivals: PipelineAnswers,
    /// Whom to wake for the next answer; taken when it comes, so that one wake-up serves all that
    /// come before the task runs.
    waker: Option<Waker>,
}

/// The pipelines of a connection.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    pipes: Vec<Option<Pipe>>,
}

impl Pipes {
    /// A place for the answers of one pipeline, until [`Self::close`].
    pub(super) fn open(&mut self) -> PipeKey {
        let pipe = Some(Pipe::default());
        if let Some(at) = self.pipes.iter().position(Option::is_none) {
            self.pipes[at] = pipe;
            return PipeKey(at as u32);
        }
        self.pipes.push(pipe);
        PipeKey(self.pipes.len() as u32 - 1)
    }

    /// Keeps an answer for its pipeline, and says whom to wake.
    #[inline]
    pub(super) fn answer(&mut self, pipe: PipeKey, tag: u64, payload: Bytes) -> Option<Waker> {
        let pipe = self.pipes.get_mut(pipe.0 as usize)?.as_mut()?;
        pipe.arrivals.0.push_with(|| (tag, Ok(payload)));
        pipe.waker.take()
    }

    /// Keeps the reason why there is no answer, and says whom to wake.
    pub(super) fn fail(&mut self, pipe: PipeKey, tag: u64, failed: PipedFailure) -> Option<Waker> {
        let pipe = self.pipes.get_mut(pipe.0 as usize)?.as_mut()?;
        pipe.arrivals.0.push_with(|| (tag, Err(Box::new(failed))));
        pipe.waker.take()
    }

    /// Exchanges what has come for `into`, which was taken whole; where nothing has, `waker` is
    /// woken when something comes.
    pub(super) fn poll(
        &mut self,
        pipe: PipeKey,
        into: &mut PipelineAnswers,
        waker: &Waker,
    ) -> Poll<()> {
        let Some(Some(pipe)) = self.pipes.get_mut(pipe.0 as usize) else {
            return Poll::Pending;
        };
        if pipe.arrivals.hand_over(into) {
            return Poll::Ready(());
        }
        match &mut pipe.waker {
            Some(registered) => registered.clone_from(waker),
            None => pipe.waker = Some(waker.clone()),
        }
        Poll::Pending
    }

    /// Nobody takes answers from the pipe any more. Gives back what was left in it, to be dropped
    /// without the connection's lock: its waker may be the last of a task.
    pub(super) fn close(&mut self, pipe: PipeKey) -> Option<Pipe> {
        self.pipes[pipe.0 as usize].take()
    }
}
