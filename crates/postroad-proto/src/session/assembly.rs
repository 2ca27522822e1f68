//! Messages whose fragments have not all arrived (M-024, M-025).

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::Time;
use crate::frame::{Head, Kind, OF_RESPONSE};
use crate::limits::Limits;
use crate::session::parsed_parts::ParsedParts;
use crate::wire_error::{WireError, WireFault};

/// Which way a message goes. Both ends may call, so an id alone does not say which message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Of {
    /// A request or a one-way message.
    Request,
    /// An answer.
    Response,
}

/// A message, whole or in its first fragment.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) head: Head,
    pub(super) parts: Option<Box<ParsedParts>>,
    pub(super) deadline: Time,
    pub(super) payload: Bytes,
}

impl Message {
    pub(super) fn of(&self) -> Of {
        if self.head.is(Kind::Response) {
            Of::Response
        } else {
            Of::Request
        }
    }

    /// Bytes of the whole message, if it says so.
    pub(super) fn whole(&self) -> Option<usize> {
        self.parts.as_ref()?.whole
    }

    /// Bytes of its parts.
    fn parts_len(&self) -> usize {
        let parts = self.parts.as_ref();
        parts.map_or(0, |parts| parts.extras.parts.len())
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

    /// Bytes when it is whole.
    fn promised(&self) -> usize {
        self.whole + self.first.parts_len()
    }
}

#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// Smaller than a hash map while it is empty, as it is in most connections.
    partial: BTreeMap<(Of, u32), Partial>,
    /// Bytes that have come.
    bytes: usize,
    /// Bytes that all of them will have when they are whole. Kept, because adding it up for each
    /// new message would cost as much as there are messages.
    promised: usize,
}

/// Why a message was not begun.
#[derive(Debug)]
pub(super) enum BeginError {
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
        limits: &Limits,
    ) -> Result<(), BeginError> {
        let id = first.head.id();
        let key = (first.of(), id);
        let len = first.payload.len();
        if len >= whole {
            let detail = format!("first of several fragments holds {len} of {whole}");
            return Err(BeginError::Wrong(WireError::new(
                WireFault::Length,
                0,
                detail,
            )));
        }
        if self.partial.contains_key(&key) {
            let detail = format!("message {id} has begun already");
            return Err(BeginError::Wrong(WireError::new(WireFault::Id, 8, detail)));
        }
        let promised = self.promised + whole + first.parts_len();
        let is_over = promised > limits.assembly_max;
        // One message always has room: its length was checked, and its parts are one frame's.
        if self.partial.len() >= limits.assemblies || is_over && !self.partial.is_empty() {
            return Err(BeginError::NoRoom);
        }
        // Copies, because a slice would keep the whole read buffer.
        let begun = std::mem::take(&mut first.payload);
        let mut payload = BytesMut::with_capacity(room_for(len, whole));
        payload.extend_from_slice(&begun);
        if let Some(parts) = &mut first.parts {
            parts.extras.parts = Bytes::copy_from_slice(&parts.extras.parts);
        }
        let partial = Partial {
            first,
            payload,
            whole,
        };
        self.bytes += partial.bytes();
        self.promised = promised;
        self.partial.insert(key, partial);
        Ok(())
    }

    /// Adds a further fragment; the whole message if it was the last. Fragments of unknown messages
    /// are ignored.
    pub(super) fn add(
        &mut self,
        head: Head,
        payload: &Bytes,
    ) -> Result<Option<Message>, WireError> {
        let of = match head.arg() {
            OF_RESPONSE => Of::Response,
            _ => Of::Request,
        };
        let Some(partial) = self.partial.get_mut(&(of, head.id())) else {
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
            .remove(of, head.id())
            .map(|Partial { first, payload, .. }| Message {
                payload: payload.freeze(),
                ..first
            }))
    }

    fn remove(&mut self, of: Of, id: u32) -> Option<Partial> {
        let partial = self.partial.remove(&(of, id))?;
        self.bytes -= partial.bytes();
        self.promised -= partial.promised();
        if self.partial.is_empty() {
            // An empty map would keep a node.
            self.partial = BTreeMap::new();
        }
        Some(partial)
    }

    /// Forgets a message; whether it was there.
    #[inline]
    pub(super) fn forget(&mut self, of: Of, id: u32) -> bool {
        !self.partial.is_empty() && self.remove(of, id).is_some()
    }
}
