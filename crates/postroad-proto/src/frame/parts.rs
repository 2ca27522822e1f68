//! Optional parts of a frame or an opening: tag, length, value. `docs/protocol.md`, section 3.

use bytes::BufMut;

use crate::limits::{HEAD_BYTES, PARTS_MAX};
use crate::trace::Trace;
use crate::wire_error::{WireError, WireFault};

/// Known tags of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PartTag {
    /// UTF-8 name of a route without a number.
    RouteName = 1,
    /// W3C trace context.
    Trace = 2,
    /// One key and its value.
    Metadata = 3,
    /// Bytes of the whole message, in its first fragment.
    WholeLength = 4,
    /// The same for every attempt of one piece of work.
    IdempotencyKey = 5,
    /// Sequence number of a QoS 1 or 2 message.
    Sequence = 6,
}

/// Bit of a tag: whoever does not know it must refuse.
pub const CRITICAL: u8 = 1 << 7;

/// One part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Tag, the critical bit included.
    pub tag: u8,
    /// Its value.
    pub value: &'a [u8],
}

/// Walks over parts; `bytes` are those that the u16 counts.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    bytes: &'a [u8],
    left: usize,
    /// Where the next part begins. Faults are reported there.
    at: usize,
}

impl<'a> Parts<'a> {
    /// Over these bytes, at most [`PARTS_MAX`] parts. Places of faults count from the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            left: PARTS_MAX,
            at: 0,
        }
    }

    /// Where the parts of a body end: the u16 and what it counts. Places of faults count from the
    /// first byte of the frame.
    ///
    /// # Errors
    /// M-032: they overrun the body.
    pub fn split(body: &'a [u8]) -> Result<(Self, usize), WireError> {
        let overrun = || WireError::new(WireFault::Parts, HEAD_BYTES, "parts overrun their frame");
        let count = body.first_chunk::<2>().ok_or_else(overrun)?;
        let end = 2 + usize::from(u16::from_le_bytes(*count));
        let bytes = body.get(2..end).ok_or_else(overrun)?;
        let parts = Self {
            at: HEAD_BYTES + 2,
            ..Self::new(bytes)
        };
        Ok((parts, end))
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<Part<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let fail = |this: &mut Self, detail| {
            this.bytes = &[];
            Some(Err(WireError::new(WireFault::Parts, this.at, detail)))
        };
        if self.left == 0 {
            return fail(self, format!("more than {PARTS_MAX} parts"));
        }
        self.left -= 1;
        let Some(&[tag, l0, l1]) = self.bytes.first_chunk::<3>() else {
            return fail(self, "a part overruns the parts".to_owned());
        };
        let end = 3 + usize::from(u16::from_le_bytes([l0, l1]));
        let Some(value) = self.bytes.get(3..end) else {
            return fail(self, format!("part {tag} overruns the parts"));
        };
        self.bytes = &self.bytes[end..];
        self.at += end;
        Some(Ok(Part { tag, value }))
    }
}

/// Appends one part. A value over 65,535 bytes is the caller's mistake and is cut.
pub fn put_part(out: &mut impl BufMut, tag: u8, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    out.put_u8(tag);
    out.put_u16_le(value.len() as u16);
    out.put_slice(value);
}

/// Appends the trace part.
pub fn put_trace(out: &mut impl BufMut, trace: &Trace) {
    put_part(out, PartTag::Trace as u8, &trace.to_wire());
}

/// Appends a key and its value.
///
/// # Errors
/// In words, if they are too long.
pub(crate) fn put_metadata(out: &mut impl BufMut, key: &str, value: &[u8]) -> Result<(), String> {
    let len = 1 + key.len() + value.len();
    if key.len() > 255 || len > usize::from(u16::MAX) {
        return Err(format!("metadata {key:.40} is too long"));
    }
    out.put_u8(PartTag::Metadata as u8);
    out.put_u16_le(len as u16);
    out.put_u8(key.len() as u8);
    out.put_slice(key.as_bytes());
    out.put_slice(value);
    Ok(())
}
