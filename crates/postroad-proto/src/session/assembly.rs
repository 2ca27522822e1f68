//! Messages whose fragments have not all arrived (M-024, M-025).

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};

use crate::error::{WireError, WireFault};
use crate::frame::Head;

/// The first frame of a message, kept until the last has come.
#[derive(Debug)]
struct Partial {
    head: Head,
    parts: Bytes,
    payload: BytesMut,
    whole: usize,
}

#[derive(Debug, Default)]
pub(super) struct Assembly {
    partial: HashMap<u32, Partial>,
    bytes: usize,
}

/// A message that is whole.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) head: Head,
    pub(super) parts: Bytes,
    pub(super) payload: Bytes,
}

/// Why a first fragment was not kept.
#[derive(Debug)]
pub(super) enum Unkept {
    /// The peer broke the protocol.
    Wrong(WireError),
    /// There is no room for it now; the rest of it will be ignored.
    NoRoom,
}

impl Assembly {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a first fragment. Memory is taken as bytes arrive, not as they are announced.
    pub(super) fn begin(
        &mut self,
        head: Head,
        parts: Bytes,
        payload: &Bytes,
        whole: usize,
        room: (usize, usize),
    ) -> Result<(), Unkept> {
        let (bytes_max, count_max) = room;
        if payload.len() >= whole {
            let detail = format!(
                "first of several fragments holds {} of {whole}",
                payload.len()
            );
            return Err(Unkept::Wrong(WireError::new(WireFault::Length, 0, detail)));
        }
        if self.partial.contains_key(&head.id) {
            let detail = format!("message {} has begun already", head.id);
            return Err(Unkept::Wrong(WireError::new(WireFault::Id, 8, detail)));
        }
        let promised: usize = self.partial.values().map(|partial| partial.whole).sum();
        if self.partial.len() >= count_max || promised + whole > bytes_max {
            return Err(Unkept::NoRoom);
        }
        self.bytes += payload.len();
        let payload = BytesMut::from(payload.as_ref());
        self.partial.insert(
            head.id,
            Partial {
                head,
                parts,
                payload,
                whole,
            },
        );
        Ok(())
    }

    /// Adds a further fragment; the whole message if it was the last. Fragments of unknown messages
    /// are ignored.
    pub(super) fn add(&mut self, head: &Head, payload: &Bytes) -> Result<Option<Whole>, WireError> {
        let Some(partial) = self.partial.get_mut(&head.id) else {
            return Ok(None);
        };
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
        self.bytes -= have;
        Ok(self.partial.remove(&head.id).map(|partial| {
            let Partial {
                head,
                parts,
                payload,
                ..
            } = partial;
            Whole {
                head,
                parts,
                payload: payload.freeze(),
            }
        }))
    }

    pub(super) fn forget(&mut self, id: u32) {
        if let Some(partial) = self.partial.remove(&id) {
            self.bytes -= partial.payload.len();
        }
    }
}
