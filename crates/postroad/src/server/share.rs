//! What the requests of one connection hold while their handlers wait for something.
//!
//! Calls in flight are bounded by the protocol, but not what they bring along: a thousand calls of
//! 16 MiB would be 16 GiB. And one-way messages have no place among calls at all, so a single
//! connection could take every place that the server has. Each connection therefore has a share: so
//! many bytes, and so many one-way messages. What comes beyond is refused and may be sent again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::driver::Connection;
use crate::observe::counters::Counters;

/// The bounds of a connection's share.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShareMax {
    /// Bytes of payloads.
    pub(super) bytes: usize,
    /// One-way messages.
    pub(super) messages: usize,
}

/// What is held now.
#[derive(Debug, Default)]
pub(super) struct Share {
    bytes: Arc<AtomicUsize>,
    messages: AtomicUsize,
    /// Where what all connections hold is counted.
    counters: Arc<Counters>,
}

impl Share {
    /// Of this connection, which tells how much it holds.
    pub(super) fn of(connection: &Connection, counters: &Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            bytes: Arc::clone(connection.waiting()),
            messages: AtomicUsize::new(0),
            counters: Arc::clone(counters),
        })
    }

    /// Whether no more is taken. One request may go beyond the bytes, since its size is not known
    /// to be too much before it has come.
    pub(super) fn is_full(&self, is_message: bool, max: ShareMax) -> bool {
        self.bytes.load(Ordering::Relaxed) >= max.bytes
            || is_message && self.messages.load(Ordering::Relaxed) >= max.messages
    }

    /// Notes a request that has to wait.
    pub(super) fn hold(self: &Arc<Self>, bytes: usize, is_message: bool) -> Holding {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counters.held.change(0, bytes);
        self.messages
            .fetch_add(usize::from(is_message), Ordering::Relaxed);
        Holding {
            share: Arc::clone(self),
            bytes,
            is_message,
        }
    }
}

/// A request's part of the share, which it gives back when it is dropped.
#[derive(Debug)]
pub(super) struct Holding {
    share: Arc<Share>,
    bytes: usize,
    is_message: bool,
}

impl Drop for Holding {
    fn drop(&mut self) {
        let share = &self.share;
        share.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        share.counters.held.change(self.bytes, 0);
        share
            .messages
            .fetch_sub(usize::from(self.is_message), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_full_by_bytes_for_all_and_by_number_for_messages() {
        let (share, max) = (
            Arc::new(Share::default()),
            ShareMax {
                bytes: 100,
                messages: 2,
            },
        );
        let first = share.hold(10, true);
        let second = share.hold(10, true);
        assert!(share.is_full(true, max) && !share.is_full(false, max));
        drop(first);
        assert!(!share.is_full(true, max));
        let large = share.hold(95, false);
        assert!(share.is_full(true, max) && share.is_full(false, max));
        assert_eq!(share.counters.held.bytes(), 105);
        drop((second, large));
        assert_eq!(share.counters.held.bytes(), 0);
        assert_eq!(share.bytes.load(Ordering::Relaxed), 0);
        assert_eq!(share.messages.load(Ordering::Relaxed), 0);
    }
}
