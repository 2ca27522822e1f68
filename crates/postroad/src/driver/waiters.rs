//! Who waits for which call. There is no channel a call: a caller has an entry, which holds its
//! waker first and the answer later, and which is used again by the next caller.
//!
//! ```text
//!      Free --- add --------> Waiting --- finish ---> Done --- poll ---> Free
//!      Free --- add_piped --> Piped ----- finish ---> Free      the answer goes into the pipe
//!                             Waiting, Done --- abandon ---> Free
//! ```

use std::task::{Poll, Waker};
use std::time::Duration;

use postroad_proto::session::{CallId, Failure, Reply};

use super::pipes::{Pipe, PipeKey, PipedFailure, PipelineAnswers, Pipes};

/// The answer to a call, or why there is none.
pub(crate) type Answer = Result<Reply, Box<Failure>>;

/// A caller's place. See the module's drawing.
#[derive(Debug)]
enum Entry {
    Free,
    Waiting {
        call: CallId,
        /// A field of its own, so that it can be taken out when the answer replaces the entry
        /// without moving the rest of the entry.
        waker: Option<Waker>,
    },
    /// A pipeline's call: nobody has to come for the answer.
    Piped {
        call: CallId,
        pipe: PipeKey,
        tag: u64,
        timeout: Duration,
    },
    Done(Answer),
}

/// The key of a caller's entry. It is valid from the call until the caller has taken the answer,
/// which may be after the session has given the call's slot to another call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaiterKey(u32);

/// All who wait for answers on one connection.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    entries: Vec<Entry>,
    /// Keys of the free entries.
    free: Vec<u32>,
    /// Keys by the slots of their calls.
    by_slot: Vec<u32>,
    pipes: Pipes,
}

impl Waiters {
    /// A caller waits for this call, and is woken when it has ended.
    #[inline]
    pub(super) fn add(&mut self, call: CallId, waker: &Waker) -> WaiterKey {
        let (key, entry) = self.place(call);
        let waker = Some(waker.clone());
        entry.fill(Entry::Waiting { call, waker });
        WaiterKey(key)
    }

    /// A call whose answer goes into the pipe.
    #[inline]
    pub(super) fn add_piped(&mut self, call: CallId, pipe: PipeKey, tag: u64, timeout: Duration) {
        let (_, entry) = self.place(call);
        entry.fill(Entry::Piped {
            call,
            pipe,
            tag,
            timeout,
        });
    }

    /// A free entry for a call, to be filled where it lies.
    #[inline]
    fn place(&mut self, call: CallId) -> (u32, &mut Entry) {
        let key = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::Free);
            self.entries.len() as u32 - 1
        });
        let slot = usize::from(call.index());
        if slot >= self.by_slot.len() {
            self.by_slot.resize(slot + 1, 0);
        }
        self.by_slot[slot] = key;
        (key, &mut self.entries[key as usize])
    }

    /// Keeps the answer for its caller, and says whom to wake. Nobody waits for a call that was
    /// abandoned; its answer is dropped. Inlined into the decoding of answers, as
    /// [`super::batch::BatchSink`] is.
    #[inline(always)]
    pub(super) fn finish(&mut self, call: CallId, answer: Answer) -> Option<Waker> {
        let key = *self.by_slot.get(usize::from(call.index()))?;
        let entry = self.entries.get_mut(key as usize)?;
        if let Entry::Waiting {
            call: waiting,
            waker,
        } = entry
        {
            // The entry may belong to a later call already.
            if *waiting != call {
                return None;
            }
            let waker = waker.take();
            *entry = Entry::Done(answer);
            return waker;
        }
        self.finish_piped(key, call, answer)
    }

    fn finish_piped(&mut self, key: u32, call: CallId, answer: Answer) -> Option<Waker> {
        let entry = &mut self.entries[key as usize];
        let Entry::Piped {
            call: waiting,
            pipe,
            tag,
            timeout,
        } = *entry
        else {
            return None;
        };
        if waiting != call {
            return None;
        }
        *entry = Entry::Free;
        self.free.push(key);
        match answer {
            Ok(reply) => self.pipes.answer(pipe, tag, reply.payload),
            Err(failure) => {
                let failure = *failure;
                self.pipes
                    .fail(pipe, tag, PipedFailure { failure, timeout })
            }
        }
    }

    /// The answer, once it is there; until then `waker` is the one to be woken.
    pub(super) fn poll(&mut self, key: WaiterKey, waker: &Waker) -> Poll<Answer> {
        let entry = &mut self.entries[key.0 as usize];
        if let Entry::Waiting {
            waker: registered, ..
        } = entry
        {
            if let Some(registered) = registered {
                registered.clone_from(waker);
            }
            return Poll::Pending;
        }
        // Only an entry whose answer is taken becomes free: a free one that is asked again must not
        // be given to two callers.
        match std::mem::replace(entry, Entry::Free) {
            Entry::Done(answer) => {
                self.free.push(key.0);
                Poll::Ready(answer)
            }
            other => {
                *entry = other;
                Poll::Ready(Err(Box::new(Failure::NotOpen)))
            }
        }
    }

    /// How to wake all callers, who are not woken by an answer then: they look how late it is.
    pub(super) fn wakers(&self) -> Vec<Waker> {
        let waker = |entry: &Entry| match entry {
            Entry::Waiting { waker, .. } => waker.clone(),
            Entry::Free | Entry::Piped { .. } | Entry::Done(_) => None,
        };
        self.entries.iter().filter_map(waker).collect()
    }

    /// The caller is gone; its call, if it still is in flight.
    pub(super) fn abandon(&mut self, key: WaiterKey) -> Option<CallId> {
        let call = match self.entries[key.0 as usize] {
            Entry::Waiting { call, .. } => Some(call),
            Entry::Done(_) => None,
            // It is not the caller's any more.
            Entry::Free | Entry::Piped { .. } => return None,
        };
        self.entries[key.0 as usize] = Entry::Free;
        self.free.push(key.0);
        call
    }

    /// A place for the answers of one pipeline.
    pub(super) fn open_pipe(&mut self) -> PipeKey {
        self.pipes.open()
    }

    /// See [`Pipes::poll`].
    pub(super) fn poll_pipe(
        &mut self,
        pipe: PipeKey,
        into: &mut PipelineAnswers,
        waker: &Waker,
    ) -> Poll<()> {
        self.pipes.poll(pipe, into, waker)
    }

    /// Nobody takes answers from the pipe any more: the calls of it that still are in flight, and
    /// what was left in it.
    pub(super) fn close_pipe(&mut self, closed: PipeKey) -> (Vec<CallId>, Option<Pipe>) {
        let left = self.pipes.close(closed);
        let mut calls = Vec::new();
        for (key, entry) in self.entries.iter_mut().enumerate() {
            if let Entry::Piped { call, pipe, .. } = *entry
                && pipe == closed
            {
                *entry = Entry::Free;
                self.free.push(key as u32);
                calls.push(call);
            }
        }
        (calls, left)
    }
}

impl Entry {
    /// Takes a free place. The check tells the compiler that there is nothing to be dropped, which
    /// it would otherwise find out at run time by the old entry's kind.
    fn fill(&mut self, entry: Self) {
        debug_assert!(matches!(self, Self::Free), "the place is taken");
        if let Self::Free = self {
            *self = entry;
        }
    }
}

#[cfg(test)]
mod tests {
    use postroad_proto::Time;
    use postroad_proto::session::{Call, Config, Session};

    use super::*;
    use crate::endpoint::Endpoint;

    /// The id of a call, which only a session can give; that of a dialect is open at once.
    fn call_id() -> Option<CallId> {
        let endpoint: Endpoint = "tcp+line://127.0.0.1:1".parse().ok()?;
        let config = Config::default();
        let dialect = endpoint.dialect(config.limits.max_dialect_payload)?;
        let mut session = Session::dialect_client(config, dialect, Time(0));
        let call = Call {
            route: "",
            payload: &bytes::Bytes::from_static(b"hello"),
            codec: 0,
            priority: 3,
            deadline: Time::NEVER,
            attempt: 0,
            no_retry: false,
            trace: None,
            metadata: &[],
        };
        session.call(Time(0), &call).ok()
    }

    #[test]
    fn an_entry_whose_answer_was_taken_is_given_to_one_caller_only() {
        let mut waiters = Waiters::default();
        let call = call_id().expect("a session makes a call");
        let key = waiters.add(call, Waker::noop());
        waiters.finish(call, Err(Box::new(Failure::NotOpen)));
        for _ in 0..2 {
            assert!(waiters.poll(key, Waker::noop()).is_ready());
        }
        assert_eq!(waiters.abandon(key), None);
        assert_eq!(waiters.free, [key.0]);
    }
}
