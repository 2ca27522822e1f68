//! A queue whose items are put together where they stay.

/// Items that are made, read and replaced in the same places again and again.
///
/// Why not `Vec::push` and `VecDeque::pop_front`: both copy the item. An item that was just stored
/// field by field and is then copied by wide loads waits until the small stores are done, some
/// fifteen cycles each time (store forwarding; see `docs/performance.md`, "What was learned"). Most
/// of what the driver hands on is stored and taken within the same few nanoseconds, so it would
/// wait each time.
///
/// Items leave in the order in which they came. A place that was passed stays as it is until the
/// queue is cleared or the place is filled anew, so what the item held should be taken out of it.
#[derive(Debug)]
pub(super) struct InPlaceQueue<T> {
    places: Vec<T>,
    /// How many of the places hold an item, from the first on.
    filled: usize,
    /// How many of those were taken.
    taken: usize,
}

impl<T> Default for InPlaceQueue<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            filled: 0,
            taken: 0,
        }
    }
}

impl<T> InPlaceQueue<T> {
    /// How many items wait.
    pub(super) fn len(&self) -> usize {
        self.filled - self.taken
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next item, which stays until [`Self::pass`] is called.
    pub(super) fn next(&self) -> Option<&T> {
        self.places[..self.filled].get(self.taken)
    }

    /// The items that wait, from the next on.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.places[self.taken..self.filled].iter()
    }

    /// The next item, for whoever takes its parts where they lie.
    pub(super) fn next_mut(&mut self) -> Option<&mut T> {
        self.places[..self.filled].get_mut(self.taken)
    }

    /// Passes the next item, of which there has to be one.
    pub(super) fn pass(&mut self) {
        self.taken += 1;
    }

    /// If nothing waits, begins again at the first place, which [`Self::fill`] then fills anew.
    pub(super) fn reuse(&mut self) {
        if self.taken == self.filled {
            self.filled = 0;
            self.taken = 0;
        }
    }

    /// Adds an item. If `make` is inlined, the item is put together in its place. Not for a queue
    /// that is filled by [`Self::fill`]: it costs too much to ask whether an old item lies there.
    #[inline]
    pub(super) fn push_with(&mut self, make: impl FnOnce() -> T) {
        debug_assert_eq!(
            self.filled,
            self.places.len(),
            "the queue has places to fill"
        );
        // `extend` makes room first and calls `make` afterwards; `push` does it the other way
        // round, and so has to keep the item elsewhere meanwhile.
        self.places.extend(std::iter::once_with(make));
        self.filled += 1;
    }

    /// Adds an item by changing what lies in its place: an older item or the default one.
    // Not a hint alone: as a call it would be handed every field of the item in memory.
    #[inline(always)]
    pub(super) fn fill(&mut self, fill: impl FnOnce(&mut T))
    where
        T: Default,
    {
        if self.filled == self.places.len() {
            self.places.push(T::default());
        }
        fill(&mut self.places[self.filled]);
        self.filled += 1;
    }

    /// Removes the first waiting item for which `is_meant` says so; whether there was one.
    pub(super) fn remove(&mut self, is_meant: impl FnMut(&T) -> bool) -> bool
    where
        T: Default,
    {
        let waiting = &mut self.places[self.taken..self.filled];
        let Some(at) = waiting.iter().position(is_meant) else {
            return false;
        };
        // The place is kept for later, behind those that are filled.
        waiting[at] = T::default();
        waiting[at..].rotate_left(1);
        self.filled -= 1;
        self.reuse();
        true
    }

    /// Shows all items where they lie, and then drops them.
    pub(super) fn drain(&mut self, each: impl FnMut(&T)) {
        self.places[self.taken..self.filled].iter().for_each(each);
        self.clear();
    }

    /// Drops all items, also those that were taken; the memory of the queue itself is kept.
    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.filled = 0;
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(slots: &mut InPlaceQueue<u8>) -> Vec<u8> {
        let mut seen = Vec::new();
        slots.drain(|item| seen.push(*item));
        seen
    }

    #[test]
    fn items_leave_in_the_order_in_which_they_came() {
        let mut slots = InPlaceQueue::default();
        for item in 1..=3 {
            slots.push_with(|| item);
        }
        assert_eq!((slots.next(), slots.len()), (Some(&1), 3));
        slots.pass();
        slots.push_with(|| 4);
        assert_eq!(drained(&mut slots), [2, 3, 4]);
        assert!(slots.is_empty() && slots.next().is_none());
    }

    #[test]
    fn a_place_is_filled_again_after_all_were_passed() {
        let mut slots = InPlaceQueue::<u8>::default();
        slots.fill(|place| *place += 1);
        slots.pass();
        slots.reuse();
        slots.fill(|place| *place += 1);
        assert_eq!(slots.next_mut(), Some(&mut 2), "the place still held 1");
        slots.fill(|place| *place = 9);
        slots.pass();
        slots.reuse();
        assert_eq!(drained(&mut slots), [9], "there was one left");
    }

    #[test]
    fn what_is_removed_is_passed_over_and_the_others_keep_their_order() {
        let mut slots = InPlaceQueue::<u8>::default();
        for item in 1..=4 {
            slots.fill(|place| *place = item);
        }
        slots.pass();
        assert!(!slots.remove(|item| *item == 1), "it was taken already");
        assert!(slots.remove(|item| *item == 3));
        slots.fill(|place| *place = 5);
        assert_eq!(drained(&mut slots), [2, 4, 5]);
        slots.fill(|place| *place = 6);
        assert!(slots.remove(|item| *item == 6) && slots.is_empty());
    }
}
