//! Counts of the last while, in a ring of buckets that many threads add to without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::Time;

/// Two counts that are kept together, so that their ratio is never read half updated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) all: u64,
    pub(super) marked: u64,
}

/// `N` buckets that together hold the last `N` spans of time.
///
/// A bucket is one word: a generation, the number of its span, and both counts. A count that came
/// from another generation or another span is never read, so nothing has to be cleared when time
/// moves on, stands still for hours or jumps. A full bucket halves both counts, which keeps their
/// ratio.
#[derive(Debug)]
pub(super) struct Window<const N: usize> {
    span: u64,
    buckets: [AtomicU64; N],
}

const COUNT_MAX: u64 = 0xFFFF;

fn tag(generation: u8, span: u64) -> u64 {
    u64::from(generation) << 24 | span & 0xFF_FFFF
}

fn pack(tag: u64, sums: Sums) -> u64 {
    tag << 32 | sums.all << 16 | sums.marked
}

fn unpack(bucket: u64) -> (u64, Sums) {
    let sums = Sums {
        all: bucket >> 16 & COUNT_MAX,
        marked: bucket & COUNT_MAX,
    };
    (bucket >> 32, sums)
}

impl<const N: usize> Window<N> {
    /// A window of this length in all.
    pub(super) fn new(length: Duration) -> Self {
        Self {
            span: (nanos(length) / N as u64).max(1),
            buckets: [const { AtomicU64::new(0) }; N],
        }
    }

    /// Adds to both counts. Of more than a bucket holds, as many are counted as halve a full one.
    pub(super) fn add(&self, now: Time, generation: u8, all: u64, marked: u64) {
        let (all, marked) = (all.min(COUNT_MAX / 2), marked.min(COUNT_MAX / 2));
        let span = now.0 / self.span;
        let mine = tag(generation, span);
        let add = |bucket: u64| {
            let (theirs, mut sums) = unpack(bucket);
            if theirs != mine {
                sums = Sums::default();
            }
            if sums.all + all > COUNT_MAX || sums.marked + marked > COUNT_MAX {
                sums.all /= 2;
                sums.marked /= 2;
            }
            sums.all += all;
            sums.marked += marked;
            Some(pack(mine, sums))
        };
        let _ = self.buckets[(span % N as u64) as usize].fetch_update(Relaxed, Relaxed, add);
    }

    /// What was added in this generation during the last `spans` spans, the present one included.
    pub(super) fn recent(&self, now: Time, generation: u8, spans: usize) -> Sums {
        let span = now.0 / self.span;
        let mut sums = Sums::default();
        for back in 0..(spans.min(N) as u64).min(span + 1) {
            let at = span - back;
            let (theirs, bucket) = unpack(self.buckets[(at % N as u64) as usize].load(Relaxed));
            if theirs == tag(generation, at) {
                sums.all += bucket.all;
                sums.marked += bucket.marked;
            }
        }
        sums
    }

    /// What was added in this generation during the whole window.
    pub(super) fn sums(&self, now: Time, generation: u8) -> Sums {
        self.recent(now, generation, N)
    }
}

/// A duration in nanoseconds; one that does not fit is as long as can be said.
pub(super) fn nanos(time: Duration) -> u64 {
    (Time(0) + time).0
}

/// The number below `end` that 64 random bits stand for; 0 if `end` is 0.
pub(super) fn below(bits: u64, end: u64) -> u64 {
    ((u128::from(bits) * u128::from(end)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_is_older_than_the_window_or_of_another_generation_does_not_count() {
        let window = Window::<10>::new(Duration::from_secs(10));
        for second in 0..10 {
            window.add(Time(second * SECOND), 1, 1, second % 2);
        }
        let sums = |second, generation| window.sums(Time(second * SECOND), generation);
        assert_eq!(sums(9, 1), Sums { all: 10, marked: 5 });
        assert_eq!(sums(9, 2), Sums::default());
        assert_eq!(sums(14, 1), Sums { all: 5, marked: 3 });
        assert_eq!(sums(19, 1), Sums::default());
        assert_eq!(window.recent(Time(9 * SECOND), 1, 2).all, 2);
        assert_eq!(sums(2, 1).all, 3, "a clock that went back sees no future");
    }

    #[test]
    fn a_full_bucket_keeps_the_ratio() {
        let window = Window::<10>::new(Duration::from_secs(10));
        for n in 0..1_000_000_u64 {
            window.add(Time(0), 0, 1, u64::from(n % 4 == 0));
        }
        let sums = window.sums(Time(0), 0);
        let ratio = sums.marked as f64 / sums.all as f64;
        assert!(sums.all <= COUNT_MAX && (ratio - 0.25).abs() < 0.001);
    }
}
