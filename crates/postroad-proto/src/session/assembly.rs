//! Messages whose fragments have not all arrived (M-024, M-025).

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::Time;
use crate::frame::{Head, Kind, OF_RESPONSE};
use crate::limits::{Limits, UNFINISHED_MAX};
use crate::session::parsed_parts::ParsedParts;
use crate::wire_error::{WireError, WireFault};

/// Which way a message goes. Each end numbers its own calls, so an id alone does not tell a request
/// of the peer from the answer to a call of this end.
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

    /// Payload of the whole message, bytes, if its first fragment says so.
    pub(super) fn whole(&self) -> Option<usize> {
        self.parts.as_ref()?.whole
    }

    /// Bytes of its parts.
    fn parts_len(&self) -> usize {
        let parts = self.parts.as_ref();
        parts.map_or(0, |parts| parts.extras.parts.len())
    }
}

/// A message of which some fragments have arrived.
#[derive(Debug)]
struct Partial {
    /// The first fragment, without its payload.
    first: Message,
    /// When the last of its fragments has arrived.
    at: Time,
    /// The payload that has arrived.
    payload: BytesMut,
    /// Payload of the whole message, bytes.
    whole: usize,
}

impl Partial {
    /// Bytes that it holds now.
    fn bytes(&self) -> usize {
        self.payload.len() + self.first.parts_len()
    }

    /// Whether it is a request or a one-way message that will not be whole in time. An answer ends
    /// with its call.
    fn is_expired(&self, now: Time) -> bool {
        let is_over = self.first.deadline <= now || now.since(self.at) >= UNFINISHED_MAX;
        is_over && self.first.of() == Of::Request
    }

    /// Bytes that it will hold when it is whole.
    fn promised(&self) -> usize {
        self.whole + self.first.parts_len()
    }
}

/// All incomplete messages of one connection.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// A tree, because it is smaller than a hash map while it is empty, which it is in most
    /// connections.
    partial: BTreeMap<(Of, u32), Partial>,
    /// Bytes that all of them hold now.
    bytes: usize,
    /// Bytes that all of them will hold when they are whole. It is kept up to date, because adding
    /// it up for each new message would take longer the more messages there are.
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

/// How much memory to take for a message of `whole` bytes of which `have` bytes have arrived: four
/// times as much as has arrived. Growing in such steps copies few bytes twice, and a peer cannot
/// make this end take memory just by announcing a long message.
fn room_for(have: usize, whole: usize) -> usize {
    whole.min(have.saturating_mul(4))
}

impl Assembly {
    /// Bytes of incomplete messages that are held now.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps the first fragment of a message of `whole` bytes.
    ///
    /// # Errors
    /// If the peer broke the protocol, or if there is no room for another message now.
    pub(super) fn begin(
        &mut self,
        now: Time,
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
        // A single message always has room: the caller has checked its length, and its parts fit
        // one frame.
        if self.partial.len() >= limits.assemblies || is_over && !self.partial.is_empty() {
            return Err(BeginError::NoRoom);
        }
        // Payload and parts are copied, because a slice would keep the whole read buffer in memory
        // until the message is complete.
        let begun = std::mem::take(&mut first.payload);
        let mut payload = BytesMut::with_capacity(room_for(len, whole));
        payload.extend_from_slice(&begun);
        if let Some(parts) = &mut first.parts {
            parts.extras.parts = Bytes::copy_from_slice(&parts.extras.parts);
        }
        let partial = Partial {
            first,
            at: now,
            payload,
            whole,
        };
        self.bytes += partial.bytes();
        self.promised = promised;
        self.partial.insert(key, partial);
        Ok(())
    }

    /// Adds a further fragment. Returns the whole message if it was the last one. Fragments of
    /// unknown messages are ignored: their message was refused or given up, and the peer may not
    /// know yet.
    ///
    /// # Errors
    /// If the fragments do not add up to the length that the first one has announced.
    pub(super) fn add(
        &mut self,
        now: Time,
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
        partial.at = now;
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
            // An empty tree that was used keeps a node; a new one has no memory.
            self.partial = BTreeMap::new();
        }
        Some(partial)
    }

    /// Drops an incomplete message. Returns whether there was one.
    #[inline]
    pub(super) fn forget(&mut self, of: Of, id: u32) -> bool {
        !self.partial.is_empty() && self.remove(of, id).is_some()
    }

    /// Drops the requests and one-way messages whose time is up; their ids.
    pub(super) fn expire(&mut self, now: Time) -> Vec<u32> {
        let expired = self
            .partial
            .iter()
            .filter(|(_, partial)| partial.is_expired(now))
            .map(|((_, id), _)| *id)
            .collect::<Vec<_>>();
        for id in &expired {
            self.forget(Of::Request, *id);
        }
        expired
    }
}
