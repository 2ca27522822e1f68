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
mod tests {
    use super::*;
    use bytes::BytesMut;

    use crate::frame::{Frame, FrameDecoder};

    fn request(priority: u8, id: u32) -> Head {
        Head::new(Kind::Request).with_class(priority).with_id(id)
    }

    fn next_frames(outbox: &mut Outbox) -> Vec<Frame> {
        next_frames_of(outbox, false)
    }

    fn next_frames_of(outbox: &mut Outbox, checksum: bool) -> Vec<Frame> {
        let (mut out, mut frames) = (Vec::new(), Vec::new());
        outbox.transmit(&mut out);
        let mut out = BytesMut::from(&out[..]);
        let decoder = FrameDecoder {
            max_body: 1 << 20,
            checksum,
        };
        while let Some(frame) = decoder.decode(&mut out).unwrap() {
            frames.push(frame);
        }
        assert!(out.is_empty(), "a transmit ends at a frame's end");
        frames
    }

    #[test]
    fn an_urgent_message_waits_for_at_most_one_fragment_m_026() {
        let mut outbox = Outbox::new(false);
        outbox.push(request(1, 1), &[], &Bytes::from(vec![0; 1 << 20]));
        assert_eq!(next_frames(&mut outbox).len(), 2);
        outbox.push(request(7, 2), &[], &Bytes::from_static(b"urgent"));
        assert_eq!(next_frames(&mut outbox)[0].head.id(), 2);
    }

    #[test]
    fn what_is_less_urgent_is_not_waited_for() {
        let mut outbox = Outbox::new(true);
        let (small, large) = (Bytes::from_static(b"small"), Bytes::from(vec![0; 100_000]));
        for (priority, payload) in [(2, &large), (2, &small), (5, &small), (5, &large)] {
            outbox.push(request(priority, u32::from(priority)), &[], payload);
        }
        let all = outbox.len();
        assert_eq!((outbox.len_before(6), outbox.len_before(0)), (0, all));
        let urgent = outbox.len_before(3);
        assert!(
            (100_000..all - 100_000).contains(&urgent),
            "{urgent} of {all}"
        );
        outbox.forget_answer(5);
        assert_eq!(outbox.len_before(3), urgent - 100_000);
        outbox.push_control(Head::new(Kind::Ping), b"");
        assert!(outbox.len_before(7) > 0, "control goes before everything");
        while outbox.transmit(&mut Vec::new()) {}
        assert_eq!((outbox.len_before(0), outbox.len()), (0, 0));
    }

    #[test]
    fn the_least_urgent_moves_although_the_most_urgent_never_ends() {
        let mut outbox = Outbox::new(false);
        outbox.push(request(0, 1), &[], &Bytes::from_static(b"patient"));
        let urgent = Bytes::from(vec![0; FRAGMENT_BYTES]);
        for turn in 0..=2 * STARVATION_TURNS {
            for id in 2..5 {
                outbox.push(request(7, id), &[], &urgent);
            }
            if next_frames(&mut outbox)
                .iter()
                .any(|frame| frame.head.id() == 1)
            {
                assert!(turn <= STARVATION_TURNS + 1);
                return;
            }
        }
        panic!("class 0 starved");
    }

    /// How many less urgent bytes leave before each of the frames of priority 7, at most.
    fn worst_wait(outbox: &mut Outbox, urgent: usize) -> usize {
        let (mut worst, mut since, mut left) = (0, 0, urgent);
        while left > 0 {
            for frame in next_frames(outbox) {
                if frame.head.priority() == 7 {
                    (worst, since, left) = (worst.max(since), 0, left - 1);
                } else {
                    since += frame.body.len() + 16;
                }
            }
        }
        worst
    }

    #[test]
    fn a_frame_that_does_not_fit_is_not_overtaken_by_less_urgent_ones_m_026() {
        let mut outbox = Outbox::new(false);
        for id in 0..50 {
            outbox.push(request(7, id), &[], &Bytes::from(vec![0; 12_000]));
        }
        for id in 0..10_000 {
            outbox.push(request(0, 100 + id), &[], &Bytes::from(vec![0; 100]));
        }
        assert!(worst_wait(&mut outbox, 50) <= 116, "but for a starved one");
    }

    #[test]
    fn an_urgent_frame_waits_for_one_fragment_though_many_classes_starve_m_026() {
        let mut outbox = Outbox::new(false);
        for class in 0..7 {
            for id in 0..40 {
                outbox.push(
                    request(class, id),
                    &[],
                    &Bytes::from(vec![0; FRAGMENT_BYTES]),
                );
            }
        }
        for id in 0..200 {
            outbox.push(request(7, id), &[], &Bytes::from(vec![0; 12_000]));
        }
        assert!(worst_wait(&mut outbox, 200) <= FRAGMENT_BYTES + TRANSMIT_EXTRA);
    }

    #[test]
    fn what_goes_behind_everything_does() {
        let mut outbox = Outbox::new(false);
        outbox.push_behind(Head::new(Kind::Pong), b"");
        outbox.push(request(0, 1), &[], &Bytes::from(vec![0; 100_000]));
        outbox.push(request(7, 2), &[], &Bytes::from_static(b"urgent"));
        let mut kinds = Vec::new();
        while outbox.has_output() {
            kinds.extend(
                next_frames(&mut outbox)
                    .iter()
                    .map(|frame| frame.head.kind()),
            );
        }
        assert_eq!(kinds.last(), Some(&(Kind::Pong as u8)));
        assert_eq!((kinds.len(), outbox.len()), (9, 0));
    }

    #[test]
    fn one_way_messages_of_a_priority_keep_their_order_around_a_large_one_m_027() {
        let mut outbox = Outbox::new(false);
        let one_way = |id| Head::new(Kind::OneWay).with_id(id);
        outbox.push(one_way(1), &[], &Bytes::from(vec![0; 5 * FRAGMENT_BYTES]));
        outbox.push(one_way(2), &[], &Bytes::from_static(b"behind"));
        outbox.push(
            request(0, 3),
            &[],
            &Bytes::from_static(b"a call may overtake"),
        );
        let mut ends = Vec::new();
        for _ in 0..20 {
            let frames = next_frames(&mut outbox);
            ends.extend(
                frames
                    .iter()
                    .filter(|f| !f.head.has_more())
                    .map(|f| f.head.id()),
            );
        }
        assert_eq!(ends, [3, 1, 2]);
        assert_eq!(outbox.len(), 0);
    }

    #[test]
    fn a_queue_that_is_never_empty_does_not_keep_what_was_taken() {
        let mut outbox = Outbox::new(true);
        let held = |outbox: &Outbox| {
            let Some(class) = outbox
                .queues
                .as_ref()
                .and_then(|all| all.classes[3].as_ref())
            else {
                return 0;
            };
            let small = &class.small;
            let chunks = small.full.iter().chain([&small.last, &small.spare]);
            chunks.map(Vec::capacity).sum::<usize>()
        };
        let body = Bytes::from(vec![0; 1000]);
        let mut place = Place::default();
        for id in 0..20_000 {
            place = outbox.push(request(3, id), &[], &body);
            if outbox.len() > 100_000 {
                outbox.transmit(&mut Vec::new());
                assert!(outbox.len() > 0, "it is never empty");
            }
        }
        assert!(held(&outbox) <= 300_000, "{}", held(&outbox));
        assert!(
            outbox.withdraw(place, 19_999),
            "and still knows where its frames are"
        );
        while outbox.transmit(&mut Vec::new()) {}
        assert!(
            held(&outbox) <= 4 * (FRAGMENT_BYTES + TRANSMIT_EXTRA),
            "{}",
            held(&outbox)
        );
        outbox.release_memory();
        assert_eq!(held(&outbox), 0);
        assert!(!outbox.withdraw(place, 19_999), "it is gone");
    }

    #[test]
    fn a_starved_class_gives_one_frame_though_it_has_no_other() {
        let mut outbox = Outbox::new(true);
        outbox.push(request(0, 1), &[], &Bytes::from_static(b"alone"));
        outbox.push(request(7, 2), &[], &Bytes::from(vec![0; 1 << 20]));
        let mut transmits = 0;
        while outbox.busy & 1 != 0 {
            assert!(outbox.transmit(&mut Vec::new()));
            transmits += 1;
        }
        assert!((STARVATION_TURNS..=STARVATION_TURNS + 1).contains(&transmits));
    }

    #[test]
    fn frames_leave_in_their_order_whatever_the_room() {
        let mut outbox = Outbox::new(false);
        let (mut pushed, mut taken) = (0, 0);
        for turn in 0..200 {
            for size in [0, 7, 5_000, 100, FRAGMENT_BYTES - 100] {
                outbox.push(request(2, pushed), &[], &Bytes::from(vec![0; size]));
                pushed += 1;
            }
            if turn % 3 == 0 {
                // Something more urgent takes part of the room, so that chunks are cut.
                let urgent = Bytes::from(vec![0; 300 * (turn % 7 + 1)]);
                outbox.push(request(6, u32::MAX), &[], &urgent);
            }
            for _ in 0..=turn % 4 {
                for frame in next_frames(&mut outbox) {
                    if frame.head.id() != u32::MAX {
                        assert_eq!(frame.head.id(), taken);
                        taken += 1;
                    }
                }
            }
        }
        while outbox.has_output() {
            taken += next_frames(&mut outbox).len() as u32;
        }
        assert_eq!((taken, outbox.len()), (pushed, 0));
    }

    #[test]
    fn queues_are_given_back_when_they_are_empty_and_only_then() {
        let mut outbox = Outbox::new(true);
        outbox.push(request(3, 1), &[], &Bytes::from_static(b"waits"));
        outbox.release_memory();
        assert_eq!(next_frames_of(&mut outbox, true).len(), 1);
        outbox.release_memory();
        assert!(outbox.queues.is_none());
    }

    #[test]
    fn a_call_can_be_taken_back_until_its_first_byte_is_taken() {
        for checksum in [false, true] {
            let mut outbox = Outbox::new(checksum);
            let first = outbox.push(request(3, 1), &[], &Bytes::from_static(b"x"));
            let large = outbox.push(request(3, 2), &[], &Bytes::from(vec![0; 1 << 20]));
            outbox.transmit(&mut Vec::new());
            outbox.push(request(3, 3), &[], &Bytes::from_static(b"before"));
            let small = outbox.push(request(3, 4), &[], &Bytes::from_static(b"taken back"));
            outbox.push(request(3, 5), &[], &Bytes::from_static(b"behind"));
            let whole = outbox.push(request(3, 6), &[], &Bytes::from(vec![0; 1 << 20]));
            assert!(!outbox.withdraw(first, 1) && !outbox.withdraw(large, 2));
            assert!(outbox.withdraw(small, 4) && outbox.withdraw(whole, 6));
            let mut out = Vec::new();
            outbox.transmit(&mut out);
            let mut out = BytesMut::from(&out[..]);
            let decoder = FrameDecoder {
                max_body: 1 << 20,
                checksum,
            };
            let mut kinds = Vec::new();
            while let Some(frame) = decoder.decode(&mut out).unwrap() {
                kinds.push((frame.head.kind(), frame.head.id()));
            }
            assert_eq!(
                kinds,
                [(0x10, 3), (0x90, 4), (0x10, 5)],
                "the middle one is skipped"
            );
            assert_eq!(outbox.len(), 0);
        }
    }
}
