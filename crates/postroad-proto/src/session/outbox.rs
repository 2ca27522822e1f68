//! What waits to be written: one queue for each priority.
//!
//! Small messages are encoded when they are queued. Large ones stay as they are, and are cut into
//! fragments only when it is their turn: an urgent message that is queued in the meantime then
//! waits for one fragment, and not for the whole of them (M-026).

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::Failure;
use super::frames::{Frames, first_bytes};
use crate::frame::{Head, Kind, MORE, OF_RESPONSE, PartTag, frame_bytes, put_frame};
use crate::limits::{CHECKSUM_BYTES, FRAGMENT_BYTES, STARVATION_TURNS, TRANSMIT_EXTRA, TURNS_MAX};

/// Where a message was queued, to find out later whether any of it was handed to the transport. A
/// call whose bytes were never handed over can be tried again without harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// The priority whose queue it is in.
    class: u8,
    /// Whether it needs fragments.
    bulk: bool,
    /// For a small message: bytes that were queued in this class before it.
    at: u64,
}

impl Position {
    /// The priority of the message.
    pub(super) fn priority(self) -> u8 {
        self.class
    }
}

/// A message that needs fragments.
#[derive(Debug)]
struct Bulk {
    head: Head,
    /// Parts that leave with the first fragment; empty afterwards.
    parts: Vec<u8>,
    /// The payload that was not taken yet.
    payload: Bytes,
    /// Whether the first fragment was taken.
    started: bool,
    /// The payload is no slice of a read buffer, or not any more.
    is_own: bool,
}

/// The queue of one priority.
#[derive(Debug, Default)]
struct Class {
    /// Messages that need no fragments. They leave before the fragments of the same class.
    small: Frames,
    /// Calls and answers that need fragments; they take turns.
    bulk: VecDeque<Bulk>,
    /// Ids of those in `bulk`: a peer that cancels what is not here costs no search through all of
    /// them. A client that uses an id again too soon may be missing, and is answered in vain.
    bulk_ids: BTreeSet<u32>,
    /// One-way messages that need fragments, and those behind them: strictly in order (M-027).
    ordered: VecDeque<Bulk>,
    /// Bytes of small messages that were ever queued. Together with `taken` it says whether the
    /// message at a [`Position`] has left.
    enqueued: u64,
    /// Bytes of small messages that were ever taken.
    taken: u64,
    /// Bytes that wait, large messages included.
    bytes: usize,
    /// Transmits that gave this class nothing although it had something.
    passed_over: u32,
}

/// The offset of the byte in a head that says its kind.
const KIND_AT: usize = 3;
/// The bit of a kind that tells an end which does not know this kind to skip the frame (M-013).
const SKIPPABLE: u8 = 1 << 7;

/// Payloads up to this size, bytes, may be slices of a larger buffer that others share: what was
/// read at once, for an answer that repeats what its request has sent.
const SLICE_MAX: usize = 64 * 1024;

/// The queues of an outbox. They are made when the first message is queued, because most of many
/// connections are idle.
#[derive(Debug, Default)]
struct Queues {
    /// By priority; most connections use one or two.
    classes: [Option<Box<Class>>; 8],
    /// Encoded frames that leave when nothing else waits.
    behind: Vec<u8>,
}

#[cold]
fn new_queues() -> Box<Queues> {
    Box::default()
}

#[cold]
fn new_class() -> Box<Class> {
    Box::default()
}

/// Why a payload of `len` bytes cannot be queued. It helps to wait until the queue is shorter,
/// unless the payload alone is larger than everything that may wait.
#[cold]
pub(super) fn cannot_queue(queued: usize, len: usize, max: usize) -> Failure {
    if len > max {
        let text = format!("{len} bytes, and no more than {max} may wait to be sent");
        return Failure::Unsendable(text);
    }
    Failure::Full(queued)
}

/// Everything that one end of a connection has to write.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Encoded frames that leave before everything else.
    control: Vec<u8>,
    queues: Option<Box<Queues>>,
    /// Bit p is set while class p has work. It is looked at for each message, where eight pointers
    /// would have to be followed otherwise.
    busy: u8,
    /// Bytes that wait, as [`Self::len`] tells them.
    bytes: usize,
    /// Whether frames end with a checksum, as the opening has settled.
    pub(super) checksum: bool,
    /// Payload of one fragment, bytes: less than usual if the peer's frames are small (M-009).
    pub(super) fragment: usize,
}

impl Outbox {
    pub(super) fn new(checksum: bool) -> Self {
        Self {
            control: Vec::new(),
            queues: None,
            busy: 0,
            bytes: 0,
            checksum,
            fragment: FRAGMENT_BYTES,
        }
    }

    /// Sets the payload of one fragment, bytes: once the opening has said how large the peer's
    /// frames may be.
    pub(super) fn set_fragment(&mut self, fragment: usize) {
        self.fragment = fragment;
    }

    /// About how many bytes one transmit hands over. Queued frames are kept in chunks of the same
    /// size, so that a chunk can leave as it is.
    #[inline]
    fn chunk(&self) -> usize {
        self.fragment.max(FRAGMENT_BYTES) + TRANSMIT_EXTRA
    }

    #[inline]
    fn class(&mut self, index: usize) -> Option<&mut Box<Class>> {
        self.queues.as_mut()?.classes[index].as_mut()
    }

    /// Bytes that wait, with those of large messages that are not cut into fragments yet.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Bytes that leave before a message of this priority which is queued now.
    pub(super) fn len_before(&self, priority: u8) -> usize {
        let classes = self.queues.iter().flat_map(|queues| &queues.classes);
        let before = classes.skip(priority.min(7).into()).flatten();
        self.control.len() + before.map(|class| class.bytes).sum::<usize>()
    }

    /// Whether anything waits.
    #[inline]
    pub(super) fn has_output(&self) -> bool {
        self.busy != 0 || !self.control.is_empty() || self.behind_len() > 0
    }

    fn behind_len(&self) -> usize {
        self.queues.as_ref().map_or(0, |queues| queues.behind.len())
    }

    /// Drops everything that waits.
    pub(super) fn clear(&mut self) {
        let (checksum, fragment) = (self.checksum, self.fragment);
        *self = Self {
            fragment,
            ..Self::new(checksum)
        };
    }

    /// Gives the queues' memory back if nothing waits. The counts that a [`Position`] refers to are
    /// lost with them, so the caller makes sure that no call is in flight.
    pub(super) fn release_memory(&mut self) {
        if self.busy == 0 && self.behind_len() == 0 {
            self.queues = None;
        }
    }

    /// Bytes that wait because the peer has asked for them, such as answers to its pings. A peer
    /// that asks and does not read makes them grow, so reading stops at a bound.
    pub(super) fn control_len(&self) -> usize {
        self.control.len() + self.behind_len()
    }

    /// Queues a frame that leaves before everything else.
    pub(super) fn push_control(&mut self, head: Head, payload: &[u8]) {
        let before = self.control.len();
        put_frame(&mut self.control, head, &[], payload, self.checksum);
        self.bytes += self.control.len() - before;
    }

    /// Queues a frame that leaves when nothing else waits.
    #[cold]
    pub(super) fn push_behind(&mut self, head: Head, payload: &[u8]) {
        let behind = &mut self.queues.get_or_insert_with(new_queues).behind;
        let before = behind.len();
        put_frame(behind, head, &[], payload, self.checksum);
        self.bytes += behind.len() - before;
    }

    /// Lets `write` append an opening, which is not a frame, to what leaves first.
    pub(super) fn control_mut(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.control.len();
        write(&mut self.control);
        self.bytes += self.control.len() - before;
    }

    /// Queues a message, whole or to be cut into fragments. Inlined into calling and answering,
    /// which queue nearly all messages without parts.
    #[inline(always)]
    pub(super) fn push(&mut self, head: Head, parts: &[u8], payload: &Bytes) -> Position {
        let (index, chunk) = (head.priority(), self.chunk());
        let queues = self.queues.get_or_insert_with(new_queues);
        let class = queues.classes[usize::from(index)].get_or_insert_with(new_class);
        self.busy |= 1 << index;
        let is_message = head.is(Kind::OneWay) || head.is(Kind::Publish);
        let behind = is_message && !class.ordered.is_empty();
        if parts.len() + payload.len() <= self.fragment && !behind {
            let most = frame_bytes(2 + parts.len() + payload.len(), true);
            let small = class.small.room(most, chunk);
            let (before, at) = (small.len(), class.enqueued);
            put_frame(small, head, parts, payload, self.checksum);
            let len = small.len() - before;
            class.enqueued += len as u64;
            class.bytes += len;
            self.bytes += len;
            return Position {
                class: index,
                bulk: false,
                at,
            };
        }
        class.bytes += parts.len() + payload.len();
        self.bytes += parts.len() + payload.len();
        let bulk = Bulk {
            head,
            parts: parts.to_vec(),
            payload: payload.clone(),
            started: false,
            is_own: payload.len() > SLICE_MAX,
        };
        let queue = if is_message {
            &mut class.ordered
        } else {
            class.bulk_ids.insert(head.id());
            &mut class.bulk
        };
        queue.push_back(bulk);
        Position {
            class: index,
            bulk: true,
            at: 0,
        }
    }

    /// Takes a call back. Returns false if the transport may have some of its bytes already.
    ///
    /// A frame that is queued between others is not cut out, which would move all the bytes behind
    /// it. It is marked as one that the peer skips (M-013).
    pub(super) fn withdraw(&mut self, position: Position, id: u32) -> bool {
        let checksum = self.checksum;
        let Some(class) = self.class(usize::from(position.class)) else {
            return false;
        };
        if position.bulk {
            let Some(at) = class.bulk.iter().position(|bulk| bulk.head.id() == id) else {
                return false;
            };
            let Some(bulk) = class.bulk.remove(at) else {
                return false;
            };
            class.bulk_ids.remove(&id);
            class.bytes -= bulk.len();
            self.bytes -= bulk.len();
            return !bulk.started;
        }
        if class.taken > position.at {
            return false;
        }
        let Some(rest) = class.small.behind((position.at - class.taken) as usize) else {
            return false;
        };
        let end = first_bytes(rest, checksum);
        let frame = &mut rest[..end];
        frame[KIND_AT] |= SKIPPABLE;
        if checksum {
            let (covered, sum) = frame.split_at_mut(end - CHECKSUM_BYTES);
            sum.copy_from_slice(&crate::frame::checksum(covered).to_le_bytes());
        }
        true
    }

    /// Drops the fragments of an answer whose caller has given up.
    pub(super) fn forget_answer(&mut self, id: u32) {
        let queues = self.queues.iter_mut();
        for class in queues.flat_map(|queues| &mut queues.classes).flatten() {
            if class.bulk_ids.remove(&id)
                && let Some(at) = class.bulk.iter().position(|bulk| bulk.head.id() == id)
            {
                let forgotten = class.bulk.remove(at).map_or(0, |bulk| bulk.len());
                class.bytes -= forgotten;
                self.bytes -= forgotten;
            }
        }
    }

    /// Copies what was queued as a slice of a larger buffer. Called when the peer takes nothing
    /// more: until then queueing costs no copy, and from then on an answer of a few hundred bytes
    /// would keep a read buffer that is hundreds of times as large.
    #[cold]
    pub(super) fn detach(&mut self) {
        let classes = self.queues.iter_mut().flat_map(|all| &mut all.classes);
        for class in classes.flatten() {
            // Those in front were copied before.
            let slices = class.bulk.iter_mut().rev().take_while(|bulk| !bulk.is_own);
            slices.for_each(Bulk::detach);
            let slices = class
                .ordered
                .iter_mut()
                .rev()
                .take_while(|bulk| !bulk.is_own);
            slices.for_each(Bulk::detach);
        }
    }

    /// Moves the next bytes to write into `out`: control frames first, then the most urgent ones.
    /// Returns false if there was nothing.
    ///
    /// It moves about one fragment at most, since a message that is queued while the transport
    /// writes has to wait for all of it (M-026).
    #[inline]
    pub(super) fn transmit(&mut self, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        if !self.control.is_empty() {
            self.bytes -= self.control.len();
            // Control frames are rare, so no connection keeps memory for them.
            out.extend_from_slice(&std::mem::take(&mut self.control));
        }
        if self.busy != 0 {
            self.transmit_classes(out, before + self.chunk());
        }
        if self.busy == 0
            && let Some(queues) = &mut self.queues
            && !queues.behind.is_empty()
        {
            self.bytes -= queues.behind.len();
            out.extend_from_slice(&std::mem::take(&mut queues.behind));
        }
        out.len() > before
    }

    fn transmit_classes(&mut self, out: &mut Vec<u8>, until: usize) {
        let starved = self.starved();
        if let Some(index) = starved {
            self.take(index, out, out.len());
            // The starved class got one frame or fragment. The most urgent class gets one at once,
            // so that it never waits for two of them.
            if let Some(most_urgent) = self.busy.checked_ilog2() {
                self.take(most_urgent as usize, out, out.len());
            }
        }
        let mut is_full = false;
        for index in (0..8).rev() {
            if self.busy & 1 << index == 0 {
                continue;
            }
            is_full |= out.len() >= until;
            if is_full {
                if let Some(class) = self.class(index) {
                    class.passed_over += u32::from(starved != Some(index));
                }
                continue;
            }
            while out.len() < until && self.take(index, out, until) {}
            // A frame that does not fit must not be overtaken by less urgent frames that do, or it
            // could wait for ever.
            is_full = self.busy & 1 << index != 0;
        }
    }

    /// Takes from one class until `out` has `until` bytes, or one frame if it has them already.
    /// Returns whether something was taken and the class has more.
    fn take(&mut self, index: usize, out: &mut Vec<u8>, until: usize) -> bool {
        let cut = (self.fragment, self.checksum);
        let Some(class) = self.class(index) else {
            return false;
        };
        let Some(taken) = class.take(out, until, cut) else {
            return false;
        };
        class.passed_over = 0;
        class.bytes -= taken;
        let is_empty = class.is_empty();
        self.bytes -= taken;
        if is_empty {
            self.busy &= !(1 << index);
        }
        self.busy & 1 << index != 0
    }

    /// The class that was passed over most often, if it reached the bound. Without this, a constant
    /// stream of urgent messages would keep less urgent ones from ever leaving.
    fn starved(&self) -> Option<usize> {
        // While only one class has work, none is passed over.
        if self.busy.is_power_of_two() {
            return None;
        }
        let passed_over = |index: usize| {
            let class = self
                .queues
                .as_ref()
                .and_then(|all| all.classes[index].as_ref());
            class.map_or(0, |class| class.passed_over)
        };
        (0..8)
            .filter(|index| self.busy & 1 << index != 0)
            .filter(|&index| passed_over(index) >= STARVATION_TURNS)
            .max_by_key(|&index| passed_over(index))
    }
}

impl Class {
    fn is_empty(&self) -> bool {
        self.small.is_empty() && self.bulk.is_empty() && self.ordered.is_empty()
    }

    /// Moves small frames until `out` has `until` bytes, or one frame if it has them already; if
    /// there are no small frames, a fragment. `cut` is the payload of a fragment, and whether
    /// frames have a checksum. Returns how many queued bytes were moved, or `None` if the next
    /// frame does not fit.
    fn take(&mut self, out: &mut Vec<u8>, until: usize, cut: (usize, bool)) -> Option<usize> {
        if !self.small.is_empty() {
            let len = self.small.take(out, until.saturating_sub(out.len()), cut.1);
            self.taken += len as u64;
            return (len > 0).then_some(len);
        }
        let mut taken = 0;
        if let Some(mut bulk) = self.bulk.pop_front() {
            taken += bulk.put_fragment(out, cut);
            if bulk.is_done() {
                self.bulk_ids.remove(&bulk.head.id());
            } else {
                // Only a few messages take turns. If all did, each would be incomplete for long,
                // and both ends would have to hold all of them in memory.
                self.bulk.insert(self.bulk.len().min(TURNS_MAX - 1), bulk);
            }
        }
        // Calls and one-way messages take turns, a fragment each.
        if taken == 0 || out.len() < until {
            if let Some(bulk) = self.ordered.front_mut() {
                taken += bulk.put_fragment(out, cut);
            }
            if self.ordered.front().is_some_and(Bulk::is_done) {
                self.ordered.pop_front();
            }
        }
        Some(taken)
    }
}

impl Bulk {
    fn is_done(&self) -> bool {
        self.started && self.payload.is_empty()
    }

    fn len(&self) -> usize {
        self.parts.len() + self.payload.len()
    }

    fn detach(&mut self) {
        self.payload = Bytes::copy_from_slice(&self.payload);
        self.is_own = true;
    }

    /// Appends the next fragment to `out`, and returns how many queued bytes that was.
    fn put_fragment(&mut self, out: &mut Vec<u8>, (fragment, checksum): (usize, bool)) -> usize {
        let queued = self.len();
        let len = self.payload.len().min(fragment);
        let last = len == self.payload.len();
        let mut head = self.head;
        if self.started {
            let is_response = head.is(Kind::Response);
            head = Head::new(Kind::Data)
                .with_class(head.class())
                .with_id(head.id())
                .with_arg(if is_response { OF_RESPONSE } else { 0 });
        } else if !last {
            let whole = (self.payload.len() as u32).to_le_bytes();
            crate::frame::put_part(&mut self.parts, PartTag::WholeLength as u8, &whole);
        }
        self.started = true;
        if !last {
            head = head.with_class(head.class() | MORE);
        }
        put_frame(
            out,
            head,
            &self.parts,
            &self.payload.split_to(len),
            checksum,
        );
        self.parts.clear();
        queued - self.len()
    }
}

#[cfg(test)]
mod tests;
