//! Tables of the calls in flight, one for the end that calls and one for the end that is called.
//!
//! A call takes a slot, and its id is the slot's index with the slot's generation. Slots are used
//! again, so that the tables stay small and an id is found without hashing. The generation changes
//! each time, so that an answer which comes late does not end the call that has the slot now.

use super::CallId;
use super::outbox::Position;
use crate::Time;

/// When to look for calls whose time is up.
///
/// One moment stands for the deadlines of all calls, so a call needs neither a timer nor an entry
/// in a heap. A call that finishes leaves the moment as it is, because finding the next deadline
/// would cost more than waking once for nothing. When the moment comes, all calls are looked at and
/// the next one is set; that happens at most once in [`GRAIN_NANOS`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    next: Time,
}

/// How late a deadline may be noticed, nanoseconds: deadlines within this time share one wakeup.
const GRAIN_NANOS: u64 = 1_000_000;

impl Deadlines {
    /// Without any deadline.
    pub(super) fn new() -> Self {
        Self { next: Time::NEVER }
    }

    #[inline]
    pub(super) fn add(&mut self, deadline: Time) {
        if deadline < self.next {
            // It is rounded up, so that deadlines which are close to each other share a wakeup. It
            // is never moved back: a steady stream of calls would postpone it again and again.
            self.next = self.next.min(Time(deadline.0.saturating_add(GRAIN_NANOS)));
        }
    }

    /// When to look at the calls; never, if none has a deadline.
    pub(super) fn next(&self) -> Time {
        self.next
    }

    /// Adds to `due` the ids of those `slots` whose deadlines have passed, and sets the next moment
    /// by the others.
    fn expire<'a, T: 'a>(
        &mut self,
        now: Time,
        slots: impl Iterator<Item = (u32, &'a T)>,
        deadline_of: impl Fn(&T) -> Time,
        due: &mut Vec<u32>,
    ) {
        if now < self.next {
            return;
        }
        self.next = Time::NEVER;
        for (id, slot) in slots {
            let deadline = deadline_of(slot);
            if deadline <= now {
                due.push(id);
            } else {
                self.add(deadline);
            }
        }
    }
}

/// A call that this end has made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outgoing {
    /// When its time is up.
    pub(super) deadline: Time,
    /// Where it was queued, to find out whether it was sent.
    pub(super) position: Position,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    generation: u16,
    is_live: bool,
    call: Outgoing,
}

impl Slot {
    fn live(&self) -> Option<&Outgoing> {
        self.is_live.then_some(&self.call)
    }
}

/// The table of the end that calls. It gives out ids, and recognises answers that come late
/// (M-016).
#[derive(Debug)]
pub(super) struct CallerSlots {
    slots: Vec<Slot>,
    free: Vec<u16>,
    max: usize,
    deadlines: Deadlines,
    /// Answers that came for a call that was over.
    pub(super) late: u64,
}

/// Bits of a generation: what an id of a call has left beside the slot and the bit of messages.
const GENERATION_MASK: u16 = 0x7FFF;

impl CallerSlots {
    pub(super) fn new(max: usize) -> Self {
        let (slots, free) = (Vec::new(), Vec::new());
        Self {
            slots,
            free,
            max,
            deadlines: Deadlines::new(),
            late: 0,
        }
    }

    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// When [`Self::expire`] may find something; never, if nothing is in flight that has a
    /// deadline.
    pub(super) fn deadline(&self) -> Time {
        self.deadlines.next()
    }

    /// The id that the next call will have; `None` at the bound.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<CallId> {
        if self.free.is_empty() {
            if self.slots.len() >= self.max {
                return None;
            }
            self.free.push(u16::try_from(self.slots.len()).ok()?);
            self.slots.push(Slot::default());
        }
        let index = *self.free.last()?;
        Some(CallId::new(
            index,
            self.slots[usize::from(index)].generation,
        ))
    }

    /// Occupies the slot that [`Self::peek`] has shown.
    #[inline]
    pub(super) fn occupy(&mut self, call: Outgoing) {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[usize::from(index)];
            slot.call = call;
            slot.is_live = true;
            self.deadlines.add(call.deadline);
        }
    }

    /// Makes [`Self::peek`] show another slot: a new one, or else the one that was freed before the
    /// one shown.
    pub(super) fn skip(&mut self) {
        if self.slots.len() < self.max
            && let Ok(index) = u16::try_from(self.slots.len())
        {
            self.free.push(index);
            self.slots.push(Slot::default());
        } else {
            self.free.rotate_right(1);
        }
    }

    /// The live call in this slot, whatever its generation.
    pub(super) fn live_at(&self, index: u16) -> Option<CallId> {
        let slot = self.slots.get(usize::from(index))?;
        slot.live().map(|_| CallId::new(index, slot.generation))
    }

    /// Frees the slot of a call. An id whose call is over counts as a late answer.
    #[inline]
    pub(super) fn finish(&mut self, id: CallId) -> Option<Outgoing> {
        let index = id.index();
        if let Some(slot) = self.slots.get_mut(usize::from(index))
            && slot.generation == id.generation()
            && slot.is_live
        {
            slot.is_live = false;
            let call = slot.call;
            slot.generation = slot.generation.wrapping_add(1) & GENERATION_MASK;
            self.free.push(index);
            return Some(call);
        }
        self.late += 1;
        None
    }

    pub(super) fn is_live(&self, id: CallId) -> bool {
        self.slots
            .get(usize::from(id.index()))
            .is_some_and(|slot| slot.generation == id.generation() && slot.is_live)
    }

    fn live(&self) -> impl Iterator<Item = (u32, &Outgoing)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let id = CallId::new(index as u16, slot.generation);
            slot.live().map(|call| (id.0, call))
        })
    }

    /// The calls whose time is up.
    pub(super) fn expire(&mut self, now: Time) -> Vec<CallId> {
        let (mut due, mut deadlines) = (Vec::new(), self.deadlines);
        deadlines.expire(now, self.live(), |call| call.deadline, &mut due);
        self.deadlines = deadlines;
        due.into_iter().map(CallId).collect()
    }

    /// All calls that are in flight.
    pub(super) fn ids(&self) -> Vec<CallId> {
        self.live().map(|(id, _)| CallId(id)).collect()
    }
}

/// What became of a request's id at the callee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// A free slot was taken.
    New,
    /// The slot's older call was given up by its caller (M-017).
    Replaced(CallId),
    /// The same id is in flight already (M-017).
    Duplicate,
    /// The slot is beyond what was announced (M-014).
    Beyond,
}

/// A call that this end serves, or has served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming {
    pub(super) id: CallId,
    pub(super) priority: u8,
    is_live: bool,
    pub(super) deadline: Time,
    pub(super) since: Time,
}

impl Incoming {
    const NONE: Self = Self {
        id: CallId(0),
        priority: 0,
        is_live: false,
        deadline: Time::NEVER,
        since: Time::NEVER,
    };
}

/// The table of the end that is called. The caller has chosen the slots.
#[derive(Debug)]
pub(super) struct CalleeSlots {
    slots: Vec<Incoming>,
    in_flight: usize,
    max: usize,
    deadlines: Deadlines,
}

impl CalleeSlots {
    pub(super) fn new(max: usize) -> Self {
        Self {
            slots: Vec::new(),
            in_flight: 0,
            max,
            deadlines: Deadlines::new(),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// When [`Self::expire`] may find something; never, if nothing is in flight that has a
    /// deadline.
    pub(super) fn deadline(&self) -> Time {
        self.deadlines.next()
    }

    /// Gives memory back if nothing is in flight.
    pub(super) fn release_memory(&mut self) {
        if self.in_flight == 0 {
            self.slots = Vec::new();
        }
    }

    #[inline]
    pub(super) fn accept(
        &mut self,
        id: CallId,
        deadline: Time,
        priority: u8,
        since: Time,
    ) -> Accepted {
        let index = usize::from(id.index());
        if index >= self.max {
            return Accepted::Beyond;
        }
        if index >= self.slots.len() {
            self.slots.resize(index + 1, Incoming::NONE);
        }
        let slot = &mut self.slots[index];
        let older = slot.is_live.then_some(slot.id);
        if older == Some(id) {
            return Accepted::Duplicate;
        }
        // The fields are written one by one. A struct that is put together on the stack and then
        // copied makes the copy wait for the stores: docs/performance.md, "Moves".
        slot.id = id;
        slot.priority = priority;
        slot.is_live = true;
        slot.deadline = deadline;
        slot.since = since;
        self.deadlines.add(deadline);
        match older {
            Some(older) => Accepted::Replaced(older),
            None => {
                self.in_flight += 1;
                Accepted::New
            }
        }
    }

    #[inline]
    pub(super) fn finish(&mut self, id: CallId) -> Option<Incoming> {
        let slot = self.slots.get_mut(usize::from(id.index()))?;
        if slot.is_live && slot.id == id {
            self.in_flight -= 1;
            slot.is_live = false;
            return Some(*slot);
        }
        None
    }

    pub(super) fn expire(&mut self, now: Time) -> Vec<CallId> {
        let (mut due, mut deadlines) = (Vec::new(), self.deadlines);
        let live = self.slots.iter().filter(|call| call.is_live);
        let live = live.map(|call| (call.id.0, call));
        deadlines.expire(now, live, |call| call.deadline, &mut due);
        self.deadlines = deadlines;
        due.into_iter().map(CallId).collect()
    }

    pub(super) fn ids(&self) -> Vec<CallId> {
        let live = self.slots.iter().filter(|call| call.is_live);
        live.map(|call| call.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(deadline: u64) -> Outgoing {
        Outgoing {
            deadline: Time(deadline),
            position: Position::default(),
        }
    }

    #[test]
    fn a_late_answer_never_ends_the_call_that_has_its_slot_now_m_016() {
        let mut slots = CallerSlots::new(1);
        let first = slots.peek().unwrap();
        slots.occupy(call(5));
        assert_eq!(slots.peek(), None, "at the bound");
        assert!(slots.finish(first).is_some());
        let second = slots.peek().unwrap();
        slots.occupy(call(5));
        assert_eq!(first.index(), second.index());
        assert!(slots.finish(first).is_none());
        assert_eq!((slots.late, slots.in_flight()), (1, 1));
    }

    #[test]
    fn calls_expire_at_their_deadlines_though_they_share_one_wakeup() {
        let mut slots = CallerSlots::new(100);
        for millis in [30, 10, 20] {
            slots.peek().unwrap();
            slots.occupy(call(millis * GRAIN_NANOS));
        }
        let mut expired = Vec::new();
        while slots.deadline() != Time::NEVER {
            let next = slots.deadline();
            for id in slots.expire(next) {
                assert!(slots.finish(id).unwrap().deadline <= next);
                expired.push(id.index());
            }
        }
        assert_eq!(expired, [1, 2, 0]);
    }

    #[test]
    fn a_steady_stream_of_calls_does_not_keep_the_oldest_from_expiring() {
        let mut slots = CallerSlots::new(20_000);
        for n in 0..10_000_u64 {
            slots.peek().unwrap();
            slots.occupy(call(10 * GRAIN_NANOS + n * 100_000));
            assert!(slots.deadline() <= Time(11 * GRAIN_NANOS));
        }
    }

    #[test]
    fn the_same_slot_with_a_new_generation_replaces_and_with_the_same_is_a_fault_m_017() {
        let mut slots = CalleeSlots::new(4);
        let mut accept = |index, generation| {
            let id = CallId::new(index, generation);
            slots.accept(id, Time::NEVER, 0, Time(0))
        };
        assert_eq!(accept(3, 0), Accepted::New);
        assert_eq!(accept(3, 0), Accepted::Duplicate);
        assert_eq!(accept(3, 1), Accepted::Replaced(CallId::new(3, 0)));
        assert_eq!(accept(4, 0), Accepted::Beyond);
        assert!(slots.finish(CallId::new(3, 0)).is_none());
        assert_eq!(slots.in_flight(), 1);
    }
}
