//! What waits to be written: one queue a priority, large messages cut into fragments only when it
//! is their turn.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Failure;
use super::frames::{Frames, first_bytes};
use crate::frame::{Head, Kind, MORE, OF_RESPONSE, PartTag, frame_bytes, put_frame};
use crate::limits::{CHECKSUM_BYTES, FRAGMENT_BYTES, STARVATION_TURNS, TRANSMIT_EXTRA, TURNS_MAX};

/// Where a small frame was queued, to find out later whether it was ever handed to the transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    class: u8,
    bulk: bool,
    at: u64,
}

impl Place {
    pub(super) fn priority(self) -> u8 {
        self.class
    }
}

#[derive(Debug)]
struct Bulk {
    head: Head,
    parts: Vec<u8>,
    payload: Bytes,
    started: bool,
    /// The payload is no slice of a read buffer, or not any more.
    is_own: bool,
}

/// The queue of one priority.
#[derive(Debug, Default)]
struct Class {
    small: Frames,
    /// Calls and answers that need fragments; they take turns.
    bulk: VecDeque<Bulk>,
    /// One-way messages that need fragments, and those behind them: strictly in order (M-027).
    ordered: VecDeque<Bulk>,
    enqueued: u64,
    taken: u64,
    /// Bytes that wait, large messages included.
    bytes: usize,
    /// Transmits that gave this class nothing although it had something.
    passed_over: u32,
}

/// The byte of a head that says its kind.
const KIND_AT: usize = 3;
/// Bit of a kind: whoever does not know it skips it.
const SKIPPABLE: u8 = 1 << 7;

/// Payloads up to this size, bytes, may be slices of a larger buffer that others share: what was
/// read at once, for an answer that repeats what its request has sent.
const SLICE_MAX: usize = 64 * 1024;

/// What an outbox has once there was something to queue.
#[derive(Debug, Default)]
struct Queues {
    /// By priority; most connections use one or two.
    classes: [Option<Box<Class>>; 8],
    /// What leaves when nothing else waits.
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

/// Why a payload cannot be queued: waiting helps unless it is larger than all that may wait.
#[cold]
pub(super) fn cannot_queue(queued: usize, len: usize, max: usize) -> Failure {
    if len > max {
        let text = format!("{len} bytes, and no more than {max} may wait to be sent");
        return Failure::Unsendable(text);
    }
    Failure::Full(queued)
}

#[derive(Debug)]
pub(super) struct Outbox {
    control: Vec<u8>,
    queues: Option<Box<Queues>>,
    /// Bit p is set if class p may have work; saves looking at eight empty queues.
    busy: u8,
    bytes: usize,
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

    pub(super) fn set_fragment(&mut self, fragment: usize) {
        self.fragment = fragment;
    }

    /// Bytes of one transmit, about, and of a chunk that leaves as it is.
    #[inline]
    fn chunk(&self) -> usize {
        self.fragment.max(FRAGMENT_BYTES) + TRANSMIT_EXTRA
    }

    #[inline]
    fn class(&mut self, index: usize) -> Option<&mut Box<Class>> {
        self.queues.as_mut()?.classes[index].as_mut()
    }

    /// Bytes that wait, fragments not yet cut included.
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

    /// Keeps no memory while nothing waits. Places of calls in flight mean nothing after that.
    pub(super) fn release_memory(&mut self) {
        if self.busy == 0 && self.behind_len() == 0 {
            self.queues = None;
        }
    }

    /// Bytes of control that wait: what a peer makes grow by asking.
    pub(super) fn control_len(&self) -> usize {
        self.control.len() + self.behind_len()
    }

    /// A frame that goes before everything else.
    pub(super) fn push_control(&mut self, head: Head, payload: &[u8]) {
        let before = self.control.len();
        put_frame(&mut self.control, head, &[], payload, self.checksum);
        self.bytes += self.control.len() - before;
    }

    /// A frame that goes behind everything else.
    #[cold]
    pub(super) fn push_behind(&mut self, head: Head, payload: &[u8]) {
        let behind = &mut self.queues.get_or_insert_with(new_queues).behind;
        let before = behind.len();
        put_frame(behind, head, &[], payload, self.checksum);
        self.bytes += behind.len() - before;
    }

    /// An opening, which is no frame.
    pub(super) fn control_mut(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.control.len();
        write(&mut self.control);
        self.bytes += self.control.len() - before;
    }

    /// Queues a message, whole or to be cut into fragments.
    #[inline]
    pub(super) fn push(&mut self, head: Head, parts: &[u8], payload: &Bytes) -> Place {
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
            return Place {
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
            &mut class.bulk
        };
        queue.push_back(bulk);
        Place {
            class: index,
            bulk: true,
            at: 0,
        }
    }

    /// Takes a call back; false if it may have been handed to the transport, if only in part.
    ///
    /// A frame that is queued between others is marked as one to be skipped (M-013) instead of
    /// being cut out.
    pub(super) fn withdraw(&mut self, place: Place, id: u32) -> bool {
        let checksum = self.checksum;
        let Some(class) = self.class(usize::from(place.class)) else {
            return false;
        };
        if place.bulk {
            let Some(at) = class.bulk.iter().position(|bulk| bulk.head.id() == id) else {
                return false;
            };
            let Some(bulk) = class.bulk.remove(at) else {
                return false;
            };
            class.bytes -= bulk.len();
            self.bytes -= bulk.len();
            return !bulk.started;
        }
        if class.taken > place.at {
            return false;
        }
        let Some(rest) = class.small.behind((place.at - class.taken) as usize) else {
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

    /// Forgets the fragments of an answer that nobody waits for any more.
    pub(super) fn forget_answer(&mut self, id: u32) {
        let queues = self.queues.iter_mut();
        for class in queues.flat_map(|queues| &mut queues.classes).flatten() {
            if let Some(at) = class.bulk.iter().position(|bulk| bulk.head.id() == id) {
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

    /// Moves the next bytes to write into `out`: control first, then the most urgent, at most about
    /// one fragment, so that what becomes urgent meanwhile need not wait for more (M-026).
    #[inline]
    pub(super) fn transmit(&mut self, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        if !self.control.is_empty() {
            self.bytes -= self.control.len();
            // Control is rare: nobody keeps memory for it.
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
            // What is urgent waits for this one only.
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
            // What does not fit is not overtaken by what is less urgent.
            is_full = self.busy & 1 << index != 0;
        }
    }

    /// Takes from one class, one frame where `out` is full; whether something was taken and more is
    /// there.
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

    /// The class that was passed over longest, if that was too long: the least urgent still moves.
    fn starved(&self) -> Option<usize> {
        // Nobody is passed over while one class alone has work.
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

    /// Moves small frames up to `until`, or one if that is reached already, or else a fragment; how
    /// many queued bytes that was, `None` if the next frame does not fit.
    fn take(&mut self, out: &mut Vec<u8>, until: usize, cut: (usize, bool)) -> Option<usize> {
        if !self.small.is_empty() {
            let len = self.small.take(out, until.saturating_sub(out.len()), cut.1);
            self.taken += len as u64;
            return (len > 0).then_some(len);
        }
        let mut taken = 0;
        if let Some(mut bulk) = self.bulk.pop_front() {
            taken += bulk.put_fragment(out, cut);
            if !bulk.is_done() {
                // A few take turns; if all did, none would be whole for long, here and at the peer.
                self.bulk.insert(self.bulk.len().min(TURNS_MAX - 1), bulk);
            }
        }
        // Calls and ordered messages take turns.
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

    /// Appends the next fragment; how many queued bytes that was.
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
