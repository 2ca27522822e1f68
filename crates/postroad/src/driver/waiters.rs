//! Who waits for which call: reused entries, the waker inside, no channel a call.

use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::session::{CallId, Failure, Reply};

use super::batch::push_made;

/// The answer to a call, or why there is none.
pub(crate) type Answer = Result<Reply, Box<Failure>>;

/// The answers to a pipeline's calls, with their tags, in the order in which they came. They are
/// taken where they lie: what is moved right after it was stored has to wait.
#[derive(Debug, Default)]
pub(crate) struct PipelineAnswers {
    list: Vec<PipedAnswer>,
    taken: usize,
}

/// The answer to one of a pipeline's calls.
#[derive(Debug)]
struct PipedAnswer {
    tag: u64,
    answer: Result<Bytes, Box<PipedFailure>>,
}

/// Why a pipeline's call has no answer, and the time that it had.
#[derive(Debug)]
pub(crate) struct PipedFailure {
    pub(crate) failure: Failure,
    pub(crate) timeout: Duration,
}

impl PipelineAnswers {
    pub(crate) fn len(&self) -> usize {
        self.list.len() - self.taken
    }

    /// The tag of the next answer, and why there is none, if there is none.
    pub(crate) fn peek(&self) -> Option<(u64, Option<&PipedFailure>)> {
        let next = self.list.get(self.taken)?;
        Some((next.tag, next.answer.as_ref().err().map(|failed| &**failed)))
    }

    /// Takes the next answer; `error` says what a caller is told of a failure.
    #[inline]
    pub(crate) fn take<E>(
        &mut self,
        error: impl FnOnce(Failure, Duration) -> E,
    ) -> Option<(u64, Result<Bytes, E>)> {
        let PipedAnswer { tag, answer } = self.list.get_mut(self.taken)?;
        self.taken += 1;
        let nothing = Ok(Bytes::new());
        Some(match answer {
            Ok(payload) => (*tag, Ok(std::mem::take(payload))),
            Err(_) => (
                *tag,
                std::mem::replace(answer, nothing)
                    .map_err(|failed| error(failed.failure, failed.timeout)),
            ),
        })
    }

    #[cold]
    fn fail(&mut self, tag: u64, failure: Failure, timeout: Duration) {
        let answer = Err(Box::new(PipedFailure { failure, timeout }));
        self.list.push(PipedAnswer { tag, answer });
    }

    /// Exchanges what has come for a list that was taken whole, if any has.
    fn hand_over(&mut self, into: &mut Self) -> bool {
        if self.list.is_empty() {
            return false;
        }
        into.list.clear();
        into.taken = 0;
        std::mem::swap(self, into);
        true
    }
}

#[derive(Debug)]
enum Entry {
    Free,
    Waiting {
        call: CallId,
        /// Taken when the answer is there.
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

impl Entry {
    /// Takes a free place, which holds nothing to be dropped.
    #[inline]
    fn fill(&mut self, entry: Self) {
        debug_assert!(matches!(self, Self::Free), "the place is taken");
        if let Self::Free = self {
            *self = entry;
        }
    }
}

/// A pipeline on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PipeKey(u32);

#[derive(Debug, Default)]
pub(super) struct Pipe {
    arrivals: PipelineAnswers,
    waker: Option<Waker>,
}

/// A caller's place. It lives from the call until the caller has taken the answer, which may be
/// after the session has given the call's slot to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaiterKey(u32);

#[derive(Debug, Default)]
pub(super) struct Waiters {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// By the slot of the call.
    by_slot: Vec<u32>,
    pipes: Vec<Option<Pipe>>,
}

impl Waiters {
    #[inline]
    pub(super) fn add(&mut self, call: CallId, waker: &Waker) -> WaiterKey {
        let (key, entry) = self.place(call);
        let waker = Some(waker.clone());
        entry.fill(Entry::Waiting { call, waker });
        WaiterKey(key)
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
    /// only sent.
    #[inline]
    pub(super) fn finish(&mut self, call: CallId, answer: Answer) -> Option<Waker> {
        let key = *self.by_slot.get(usize::from(call.index()))?;
        let entry = self.entries.get_mut(key as usize)?;
        if let Entry::Waiting {
            call: waiting,
            waker,
        } = entry
        {
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
        let pipe = self.pipes.get_mut(pipe.0 as usize)?.as_mut()?;
        match answer {
            Ok(reply) => push_made(&mut pipe.arrivals.list, || PipedAnswer {
                tag,
                answer: Ok(reply.payload),
            }),
            Err(failure) => pipe.arrivals.fail(tag, *failure, timeout),
        }
        pipe.waker.take()
    }

    pub(super) fn open_pipe(&mut self) -> PipeKey {
        let pipe = Some(Pipe::default());
        if let Some(at) = self.pipes.iter().position(Option::is_none) {
            self.pipes[at] = pipe;
            return PipeKey(at as u32);
        }
        self.pipes.push(pipe);
        PipeKey(self.pipes.len() as u32 - 1)
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

    /// Takes what has come, by exchanging it for the empty list; or will wake.
    pub(super) fn poll_pipe(
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

    /// Nobody takes answers from the pipe any more; the calls of it that still are in flight, and
    /// what was left in it.
    pub(super) fn close_pipe(&mut self, closed: PipeKey) -> (Vec<CallId>, Option<Pipe>) {
        let left = self.pipes[closed.0 as usize].take();
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
        self.free.push(key.0);
        match std::mem::replace(entry, Entry::Free) {
            Entry::Done(answer) => Poll::Ready(answer),
            _ => Poll::Ready(Err(Box::new(Failure::NotOpen))),
        }
    }

    /// The caller is gone; its call, if it still is in flight.
    pub(super) fn abandon(&mut self, key: WaiterKey) -> Option<CallId> {
        self.free.push(key.0);
        match std::mem::replace(&mut self.entries[key.0 as usize], Entry::Free) {
            Entry::Waiting { call, .. } => Some(call),
            _ => None,
        }
    }
}
