//! What all connections of a server hold together, and whether that is too much.
//!
//! Each connection tells when what it holds has changed by a page or more, so a connection whose
//! messages come and go at once tells nothing. What is held is therefore known to within a page a
//! connection.
//!
//! ```text
//!                a connection that holds more than its        the guard
//!                part of the bound grows beyond it       (server/memory_guard.rs)
//!    reads ----------------------------------------> paused ---------------+
//!      ^                                                |                  | too much for a while,
//!      |  less is held again                            |                  | and it holds the most
//!      +------------------------------------------------+                  +----------> closed
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Bytes by which what a connection holds has to change before it tells.
const STEP: usize = 4096;

/// What is held, and the bounds. All numbers are bytes unless they say otherwise.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: AtomicUsize,
    max: AtomicUsize,
    /// Connections that are open.
    open: AtomicUsize,
    /// Told when it is too much.
    pub(crate) too_much: Notify,
}

impl Default for Held {
    fn default() -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            max: AtomicUsize::new(usize::MAX),
            open: AtomicUsize::new(0),
            too_much: Notify::new(),
        }
    }
}

impl Held {
    /// Whether what a connection holds is to be told, though `told` bytes were told the last time.
    #[inline]
    pub(crate) fn is_news(held: usize, told: usize) -> bool {
        held.abs_diff(told) >= STEP
    }

    /// A connection holds other than it did. In steps of its own, `before` is what it has told.
    pub(crate) fn change(&self, before: usize, now: usize) {
        // Wraps where it gets less, which is what the sum has to do then.
        let more = now.wrapping_sub(before);
        self.bytes.fetch_add(more, Ordering::Relaxed);
    }

    /// What all connections hold.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    pub(crate) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
        if self.is_over() {
            self.too_much.notify_one();
        }
    }

    pub(crate) fn set_open(&self, connections: usize) {
        self.open.store(connections, Ordering::Relaxed);
    }

    /// Whether it is too much.
    pub(crate) fn is_over(&self) -> bool {
        self.bytes() > self.max()
    }

    /// A connection has grown, and holds so much now: whether it has to pause, because it is too
    /// much together, and more than its part.
    pub(crate) fn has_to_pause(&self, held: usize) -> bool {
        if !self.is_over() {
            return false;
        }
        self.too_much.notify_one();
        let open = self.open.load(Ordering::Relaxed).max(1);
        held > self.max() / open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_holds_more_than_its_part_pauses_and_only_while_it_is_too_much_together() {
        let held = Held::default();
        held.set_max(1000);
        held.set_open(10);
        held.change(0, 900);
        assert!(!held.has_to_pause(900));
        held.change(900, 990);
        held.change(0, 20);
        assert_eq!(held.bytes(), 1010);
        assert!(held.has_to_pause(990) && held.has_to_pause(101));
        assert!(!held.has_to_pause(100), "its part");
        held.change(990, 0);
        assert_eq!((held.bytes(), held.is_over()), (20, false));
    }
}
