//! A count of what happened lately, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Time;

/// Slices that a window is divided into. The present one has only begun, so that what is counted
/// is that of the last nine to ten tenths of its length.
const SLICES: u64 = 10;

/// A total that only grows, and what it was at the beginning of each of the last slices of time.
///
/// Adding is one atomic addition and, in a new slice, one store. What several threads add at the
/// very beginning of a slice may be counted for the slice before.
#[derive(Debug)]
pub(super) struct Window {
    slice: u64,
    total: AtomicU64,
    /// The slice that was begun last.
    last: AtomicU64,
    /// The total at the beginning of each slice, by its number modulo [`SLICES`].
    marks: [AtomicU64; SLICES as usize],
}

impl Window {
    /// A window of about this length, at least 10 ns.
    pub(super) fn new(length: Duration) -> Self {
        let slice = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX) / SLICES;
        Self {
            slice: slice.max(1),
            total: AtomicU64::new(0),
            last: AtomicU64::new(0),
            marks: [const { AtomicU64::new(0) }; SLICES as usize],
        }
    }

    /// Adds to the total.
    #[inline]
    pub(super) fn add(&self, many: u64, now: Time) {
        self.roll(now);
        self.total.fetch_add(many, Ordering::Relaxed);
    }

    /// Adds one if no more than `most` have been added lately, exactly: of several threads that ask
    /// at once, no more are told yes than there is room for.
    pub(super) fn try_add(&self, most: u64, now: Time) -> bool {
        self.roll(now);
        let mut total = self.total.load(Ordering::Relaxed);
        loop {
            if total.saturating_sub(self.begin(now)) >= most {
                return false;
            }
            let (before, after) = (total, total + 1);
            match self.total.compare_exchange_weak(
                before,
                after,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(other) => total = other,
            }
        }
    }

    /// What was added lately.
    #[inline]
    pub(super) fn count(&self, now: Time) -> u64 {
        self.roll(now);
        let total = self.total.load(Ordering::Relaxed);
        total.saturating_sub(self.begin(now))
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let total = self.total.load(Ordering::Relaxed);
        self.marks
            .iter()
            .for_each(|mark| mark.store(total, Ordering::Relaxed));
    }

    /// The total at the beginning of the oldest slice that counts.
    fn begin(&self, now: Time) -> u64 {
        let oldest = (now.0 / self.slice + 1) % SLICES;
        self.marks[oldest as usize].load(Ordering::Relaxed)
    }

    /// Begins the slice of now. A clock that has gone back begins none: what was counted stays.
    #[inline]
    fn roll(&self, now: Time) {
        let slice = now.0 / self.slice;
        let last = self.last.load(Ordering::Relaxed);
        if slice > last {
            self.roll_from(last, slice);
        }
    }

    #[cold]
    fn roll_from(&self, last: u64, slice: u64) {
        let exchanged =
            self.last
                .compare_exchange(last, slice, Ordering::Relaxed, Ordering::Relaxed);
        if exchanged.is_err() {
            // Another thread has begun it.
            return;
        }
        let total = self.total.load(Ordering::Relaxed);
        let first = (last + 1).max(slice.saturating_sub(SLICES - 1));
        for begun in first..=slice {
            self.marks[(begun % SLICES) as usize].store(total, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time(1_000_000_000 + millis * 1_000_000)
    }

    #[test]
    fn what_is_older_than_the_window_no_longer_counts() {
        let window = Window::new(Duration::from_secs(1));
        for millis in 0..2_000 {
            window.add(1, at(millis));
            let count = window.count(at(millis));
            assert!(count <= 1_000, "{count} at {millis}");
            assert!(millis < 1_000 || count >= 900, "{count} at {millis}");
        }
        assert!(window.count(at(2_500)) <= 500);
        assert_eq!(window.count(at(3_100)), 0);
        window.add(3, at(90_000));
        assert_eq!(window.count(at(90_000)), 3);
        window.clear();
        assert_eq!(window.count(at(90_000)), 0);
    }

    #[test]
    fn a_clock_that_goes_back_loses_nothing_and_panics_nowhere() {
        let window = Window::new(Duration::from_secs(1));
        window.add(5, at(5_000));
        window.add(5, at(10));
        assert_eq!(window.count(at(5_000)), 10);
        assert_eq!(window.count(Time(0)), 10);
        window.add(1, Time::NEVER);
    }

    #[test]
    fn many_threads_are_told_yes_no_more_often_than_there_is_room() {
        let window = Window::new(Duration::from_secs(1));
        let told = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1_000).filter(|_| window.try_add(100, at(0))).count()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum::<usize>()
        });
        assert_eq!(told, 100);
    }
}
