//! Who waits for which call: reused entries, the waker inside, no channel a call.

use std::task::{Poll, Waker};

use postroad_proto::session::{CallId, Failure, Reply};

/// The answer to a call, or why there is none.
pub(crate) type Answer = Result<Reply, Box<Failure>>;

#[derive(Debug)]
enum Entry {
    Free,
    Waiting { call: CallId, waker: Waker },
    Done(Answer),
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
}

impl Waiters {
    pub(super) fn add(&mut self, call: CallId, waker: &Waker) -> WaiterKey {
        let entry = Entry::Waiting {
            call,
            waker: waker.clone(),
        };
        let key = match self.free.pop() {
            Some(key) => {
                self.entries[key as usize] = entry;
                key
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        let slot = usize::from(call.index());
        if slot >= self.by_slot.len() {
            self.by_slot.resize(slot + 1, 0);
        }
        self.by_slot[slot] = key;
        WaiterKey(key)
    }

    /// Keeps the answer for its caller, and says whom to wake. Nobody waits for a call that was
    /// only sent.
    #[inline]
    pub(super) fn finish(&mut self, call: CallId, answer: Answer) -> Option<Waker> {
        let key = *self.by_slot.get(usize::from(call.index()))?;
        let entry = self.entries.get_mut(key as usize)?;
        match entry {
            Entry::Waiting { call: waiting, .. } if *waiting == call => {}
            _ => return None,
        }
        match std::mem::replace(entry, Entry::Done(answer)) {
            Entry::Waiting { waker, .. } => Some(waker),
            _ => None,
        }
    }

    pub(super) fn poll(&mut self, key: WaiterKey, waker: &Waker) -> Poll<Answer> {
        let entry = &mut self.entries[key.0 as usize];
        if let Entry::Waiting {
            waker: registered, ..
        } = entry
        {
            registered.clone_from(waker);
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
