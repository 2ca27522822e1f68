//! Messages whose fragments have not all arrived (M-024, M-025).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::Time;
use crate::frame::Head;
use crate::session::Extras;
use crate::wire_error::{WireError, WireFault};

/// What the parts of a frame say that the session itself needs.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) route: Option<Arc<str>>,
    pub(super) extras: Extras,
    pub(super) whole: Option<usize>,
    /// A critical part that is not understood (M-031).
    pub(super) refused: Option<u8>,
}

/// A message, whole or in its first fragment.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) head: Head,
    /// Boxed, because few messages have parts, and all are moved.
    pub(super) known: Option<Box<Known>>,
    pub(super) deadline: Time,
    pub(super) payload: Bytes,
}

impl Message {
    /// Bytes of the whole message, if it says so.
    pub(super) fn whole(&self) -> Option<usize> {
        self.known.as_ref()?.whole
    }

    /// Bytes of its parts.
    fn parts_len(&self) -> usize {
        self.known
            .as_ref()
            .map_or(0, |known| known.extras.parts.len())
    }
}

/// The first fragment of a message, kept until the last has come.
#[derive(Debug)]
struct Partial {
    first: Message,
    payload: BytesMut,
    whole: usize,
}

impl Partial {
    fn bytes(&self) -> usize {
        self.payload.len() + self.first.parts_len()
    }
}

#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// Smaller than a hash map while it is empty, as it is in most connections.
    partial: BTreeMap<u32, Partial>,
    bytes: usize,
}

/// Why a first fragment was not kept.
#[derive(Debug)]
pub(super) enum Unkept {
    /// The peer broke the protocol.
    Wrong(WireError),
    /// There is no room for it now; the rest of it will be ignored.
    NoRoom,
}

/// Memory for a message of `whole` bytes of which so many have come: four times as much, so that
/// few are moved to a larger place, and a peer cannot take memory by announcing.
fn room_for(have: usize, whole: usize) -> usize {
    whole.min(have.saturating_mul(4))
}

impl Assembly {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a first fragment. Memory is taken as bytes arrive, not as they are announced.
    pub(super) fn begin(
        &mut self,
        mut first: Message,
        whole: usize,
        (bytes_max, count_max): (usize, usize),
    ) -> Result<(), Unkept> {
        let (id, len) = (first.head.id, first.payload.len());
        if len >= whole {
            let detail = format!("first of several fragments holds {len} of {whole}");
            return Err(Unkept::Wrong(WireError::new(WireFault::Length, 0, detail)));
        }
        if self.partial.contains_key(&id) {
            let detail = format!("message {id} has begun already");
            return Err(Unkept::Wrong(WireError::new(WireFault::Id, 8, detail)));
        }
        let promised = |partial: &Partial| partial.whole + partial.first.parts_len();
        let promised: usize = self.partial.values().map(promised).sum();
        let is_over = promised + whole + first.parts_len() > bytes_max;
        // One message always has room: its length was checked, and its parts are one frame's.
        if self.partial.len() >= count_max || is_over && !self.partial.is_empty() {
            return Err(Unkept::NoRoom);
        }
        // Copies, because a slice would keep the whole read buffer.
        let begun = std::mem::take(&mut first.payload);
        let mut payload = BytesMut::with_capacity(room_for(len, whole));
        payload.extend_from_slice(&begun);
        if let Some(known) = &mut first.known {
            known.extras.parts = Bytes::copy_from_slice(&known.extras.parts);
        }
        let partial = Partial {
            first,
            payload,
            whole,
        };
        self.bytes += partial.bytes();
        self.partial.insert(id, partial);
        Ok(())
    }

    /// Adds a further fragment; the whole message if it was the last. Fragments of unknown messages
    /// are ignored.
    pub(super) fn add(
        &mut self,
        head: &Head,
        payload: &Bytes,
    ) -> Result<Option<Message>, WireError> {
        let Some(partial) = self.partial.get_mut(&head.id) else {
            return Ok(None);
        };
        let have = partial.payload.len() + payload.len();
        if have > partial.payload.capacity() {
            let more = room_for(have, partial.whole).saturating_sub(partial.payload.len());
            partial.payload.reserve(more);
        }
        partial.payload.extend_from_slice(payload);
        self.bytes += payload.len();
        let (have, whole) = (partial.payload.len(), partial.whole);
        if have > whole || (have == whole) == head.has_more() {
            let detail = format!("fragments hold {have} of {whole} bytes");
            return Err(WireError::new(WireFault::Length, 0, detail));
        }
        if head.has_more() {
            return Ok(None);
        }
        Ok(self
            .remove(head.id)
            .map(|Partial { first, payload, .. }| Message {
                payload: payload.freeze(),
                ..first
            }))
    }

    fn remove(&mut self, id: u32) -> Option<Partial> {
        let partial = self.partial.remove(&id)?;
        self.bytes -= partial.bytes();
        if self.partial.is_empty() {
            // An empty map would keep a node.
            self.partial = BTreeMap::new();
        }
        Some(partial)
    }

    /// Forgets a message; whether it was there.
    #[inline]
    pub(super) fn forget(&mut self, id: u32) -> bool {
        !self.partial.is_empty() && self.remove(id).is_some()
    }
}
