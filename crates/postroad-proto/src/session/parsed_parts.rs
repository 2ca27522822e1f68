//! What the parts of a frame say. Layout: `docs/protocol.md`, section 3.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::Extras;
use crate::frame::{CRITICAL, Head, Part, PartTag, Parts};
use crate::limits::{HEAD_BYTES, ROUTE_NAME_MAX};
use crate::trace::Trace;
use crate::wire_error::{WireError, WireFault};

/// Tag and length of a part.
const PART_HEAD_BYTES: usize = 3;
/// Largest idempotency key, bytes.
const KEY_MAX: usize = 64;

/// What the parts of one frame say that the session itself needs.
#[derive(Debug, Default)]
pub(super) struct ParsedParts {
    pub(super) route: Option<Arc<str>>,
    pub(super) extras: Extras,
    /// Bytes of the whole message, if the frame says so.
    pub(super) whole: Option<usize>,
    /// A critical part that is not understood (M-031).
    pub(super) refused: Option<u8>,
}

impl ParsedParts {
    /// Takes the parts off the body and reads them. Most frames have none, and few messages have
    /// parts, so what they say is boxed: it is moved with the message.
    #[inline]
    pub(super) fn split(head: Head, body: &mut Bytes) -> Result<Option<Box<Self>>, WireError> {
        if head.has_parts() {
            let parts = Self::read(body).map_err(|error| error.with_id(head.id()))?;
            return Ok(Some(Box::new(parts)));
        }
        Ok(None)
    }

    fn read(body: &mut Bytes) -> Result<Self, WireError> {
        let mut parsed = Self::default();
        let (parts, end) = Parts::split(body)?;
        let mut at = HEAD_BYTES + 2;
        for part in parts {
            let Part { tag, value } = part?;
            parsed.take(tag, value, at)?;
            at += PART_HEAD_BYTES + value.len();
        }
        parsed.extras.parts = body.slice(2..end);
        body.advance(end);
        Ok(parsed)
    }

    /// Reads a part that begins at this byte of its frame.
    fn take(&mut self, tag: u8, value: &[u8], at: usize) -> Result<(), WireError> {
        let wrong = |what: &str| WireError::new(WireFault::Parts, at, what.to_owned());
        match tag & !CRITICAL {
            known if known == PartTag::RouteName as u8 => {
                if self.route.is_some() {
                    return Err(wrong("two route names"));
                }
                self.route = Some(route_name(value, at + PART_HEAD_BYTES)?);
            }
            known if known == PartTag::Trace as u8 => {
                let trace = Trace::from_wire(value);
                let trace = trace.ok_or_else(|| wrong("trace context is not 25 bytes"))?;
                self.extras.trace = Some(trace);
            }
            known if known == PartTag::WholeLength as u8 => {
                let bytes = value
                    .try_into()
                    .map_err(|_| wrong("whole length is not 4 bytes"))?;
                self.whole = Some(u32::from_le_bytes(bytes) as usize);
            }
            // Metadata is handed to whoever handles the request, so it may be critical. Nobody
            // reads idempotency keys and sequences yet, so a peer that insists on them is refused.
            known if known == PartTag::Metadata as u8 => {
                let key = value.first().map(|len| usize::from(*len));
                if key.is_none_or(|key| key >= value.len()) {
                    return Err(wrong("a key of metadata overruns its part"));
                }
            }
            known if known == PartTag::IdempotencyKey as u8 && value.len() > KEY_MAX => {
                return Err(wrong("an idempotency key of more than 64 bytes"));
            }
            known if known == PartTag::Sequence as u8 && value.len() != 8 => {
                return Err(wrong("a sequence is not 8 bytes"));
            }
            _ if tag & CRITICAL != 0 => self.refused = Some(tag),
            _ => {}
        }
        Ok(())
    }
}

/// The name of a route, which begins at this byte of its frame: 1 to 255 bytes of UTF-8.
pub(super) fn route_name(value: &[u8], at: usize) -> Result<Arc<str>, WireError> {
    if value.is_empty() || value.len() > ROUTE_NAME_MAX {
        let detail = format!(
            "route name of {} bytes, 1 to {ROUTE_NAME_MAX} are allowed",
            value.len()
        );
        return Err(WireError::new(WireFault::Length, at, detail));
    }
    let name = std::str::from_utf8(value)
        .map_err(|error| WireError::new(WireFault::Utf8, at + error.valid_up_to(), "route name"))?;
    Ok(name.into())
}

/// A message that comes in one frame is as long as it says, if it says so (M-025).
#[inline]
pub(super) fn check_whole(
    head: Head,
    parts: Option<&ParsedParts>,
    len: usize,
) -> Result<(), WireError> {
    match parts.and_then(|parts| parts.whole) {
        Some(whole) if whole != len => {
            let detail = format!("the whole length is {whole}, the message has {len} bytes");
            Err(WireError::new(WireFault::Length, HEAD_BYTES, detail).with_id(head.id()))
        }
        _ => Ok(()),
    }
}

/// A request or message names its route once: by a number or by a name (M-033).
#[inline]
pub(super) fn check_route(head: Head, parts: Option<&ParsedParts>) -> Result<(), WireError> {
    if head.route() != 0 && parts.is_some_and(|parts| parts.route.is_some()) {
        let detail = format!("a route name beside route number {}", head.route());
        return Err(WireError::new(WireFault::Parts, HEAD_BYTES, detail).with_id(head.id()));
    }
    Ok(())
}

/// Refuses a critical part that is not understood where nobody can be answered, which ends the
/// connection (M-031). A call is answered instead.
#[inline]
pub(super) fn refuse_critical(head: Head, parts: Option<&ParsedParts>) -> Result<(), WireError> {
    let Some(tag) = parts.and_then(|parts| parts.refused) else {
        return Ok(());
    };
    let detail = format!("critical part 0x{tag:02x} is not understood");
    Err(WireError::new(WireFault::Parts, HEAD_BYTES, detail).with_id(head.id()))
}
