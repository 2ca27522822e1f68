//! Any frame, field by field, for a person: what `postroad decode` shows.

use bytes::{Bytes, BytesMut};

use crate::dialect::{Dialect, DialectCodec, Reader};
use crate::error_body::ErrorBody;
use crate::frame::{CRITICAL, FrameDecoder, Head, Kind, MAGIC, Opening, Parts};
use crate::limits::{CHECKSUM_BYTES, FRAME_BODY_MAX, HEAD_BYTES, OPENING_HEAD_BYTES};
use crate::wire_error::WireError;

/// One field of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its first byte, counted from the frame's.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
    /// Its name in the document.
    pub name: String,
    /// What it says.
    pub value: String,
}

/// A frame, explained as far as it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// What it is.
    pub title: String,
    /// Its fields in order.
    pub fields: Vec<Field>,
    /// Where it goes wrong; `None` if it does not.
    pub error: Option<WireError>,
    /// Bytes that it takes; 0 if it is incomplete or wrong.
    pub consumed: usize,
    /// It is right as far as it goes, but bytes are missing.
    pub is_incomplete: bool,
    /// How many are missing, if it is incomplete and says so. Of a native frame without a checksum,
    /// where it is not known whether it has one.
    pub missing: Option<usize>,
}

impl Explanation {
    fn field(&mut self, offset: usize, len: usize, name: &str, value: impl Into<String>) {
        let (name, value) = (name.to_owned(), value.into());
        self.fields.push(Field {
            offset,
            len,
            name,
            value,
        });
    }

    /// Adds a number if its bytes are there.
    fn number(&mut self, bytes: &[u8], offset: usize, len: usize, name: &str, big_endian: bool) {
        if let Some(field) = bytes.get(offset..offset + len) {
            let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
            let value = if big_endian {
                field.iter().fold(0, fold)
            } else {
                field.iter().rev().fold(0, fold)
            };
            self.field(offset, len, name, format!("{value} (0x{value:x})"));
        }
    }

    /// Adds what the last field stands for.
    fn meaning(&mut self, word: &str) {
        if let Some(field) = self.fields.last_mut() {
            field.value = format!("{} {word}", field.value);
        }
    }

    /// Of a frame that should have so many bytes, these are all there are.
    fn incomplete(&mut self, bytes: &[u8], whole: Option<usize>) {
        self.is_incomplete = true;
        self.missing = whole.and_then(|whole| whole.checked_sub(bytes.len()));
    }
}

/// Bytes as text if they are, else as hexadecimal; long ones are cut.
fn show(bytes: &[u8]) -> String {
    const SHOWN: usize = 64;
    let more = if bytes.len() > SHOWN {
        format!("... ({} bytes)", bytes.len())
    } else {
        String::new()
    };
    let shown = &bytes[..bytes.len().min(SHOWN)];
    match std::str::from_utf8(shown) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{text:?}{more}"),
        _ => {
            let hex: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hex}{more}")
        }
    }
}

/// Explains the frame of a dialect at the beginning of `bytes`.
#[must_use]
pub fn explain_dialect(codec: &DialectCodec, bytes: &[u8]) -> Explanation {
    let mut explanation = Explanation {
        title: format!("{} frame", codec.dialect.name()),
        ..Explanation::default()
    };
    let payload_at = dialect_fields(&mut explanation, codec, bytes);
    let mut rest = BytesMut::from(bytes);
    match codec.clone().decode(&mut rest) {
        Ok(Some(frame)) => {
            explanation.title = format!("{} frame: {}", codec.dialect.name(), frame.kind.word());
            let len = frame.payload.len();
            explanation.field(payload_at, len, "payload", show(&frame.payload));
            if codec.dialect == Dialect::Session {
                explanation.number(bytes, payload_at + len, 2, "CRC-16", true);
            }
            explanation.consumed = bytes.len() - rest.len();
        }
        Ok(None) => {
            let whole = explanation.fields.iter().find(|field| field.name == LENGTH);
            let len = whole.and_then(|field| bytes.get(field.offset..field.offset + field.len));
            let len = len.map(|len| {
                len.iter()
                    .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
            });
            let trailer = match codec.dialect {
                Dialect::Session => 2,
                _ => 0,
            };
            explanation.incomplete(bytes, len.map(|len| payload_at + len + trailer));
        }
        Err(error) => explanation.error = Some(error),
    }
    explanation
}

/// Name of the field that says how long a dialect's payload is.
const LENGTH: &str = "payload length";

/// The fields of a dialect's header behind its magic: first byte, bytes, name.
fn layout(dialect: Dialect) -> &'static [(usize, usize, &'static str)] {
    match dialect {
        Dialect::Session => &[(0, 1, "command"), (1, 4, "session id"), (5, 2, LENGTH)],
        Dialect::Sequence => &[
            (2, 1, "version"),
            (3, 1, "cmd"),
            (4, 4, LENGTH),
            (8, 4, "sequence id"),
        ],
        Dialect::Opcode => &[(4, 1, "version"), (5, 1, "opcode"), (6, 2, LENGTH)],
        Dialect::Priority => &[
            (0, 1, "version"),
            (1, 1, "type"),
            (2, 2, "sequence id"),
            (4, 4, LENGTH),
            (8, 1, "priority"),
        ],
        Dialect::Compact => &[(2, 1, "version"), (3, 1, "type"), (4, 4, LENGTH)],
        Dialect::Line => &[],
    }
}

/// Adds the header's fields as far as they are there; where the payload begins.
fn dialect_fields(to: &mut Explanation, codec: &DialectCodec, bytes: &[u8]) -> usize {
    let magic = match codec.dialect {
        Dialect::Sequence | Dialect::Compact => 2,
        Dialect::Opcode => 4,
        Dialect::Session | Dialect::Priority | Dialect::Line => 0,
    };
    if let Some(bytes) = bytes.get(..magic).filter(|bytes| !bytes.is_empty()) {
        let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
        to.field(0, magic, "magic", bytes.join(" "));
    }
    for &(offset, len, name) in layout(codec.dialect) {
        to.number(bytes, offset, len, name, true);
        if let ("command" | "cmd" | "opcode" | "type", Some(byte)) = (name, bytes.get(offset))
            && let Some(kind) = codec.dialect.kind_of(*byte, codec.reader)
        {
            to.meaning(kind.word());
        }
    }
    if codec.dialect == Dialect::Priority && codec.header.bytes() > 9 {
        let len = codec.header.bytes() - 9;
        to.number(bytes, 9, len, "reserved", true);
    }
    match codec.dialect {
        Dialect::Session => 7,
        Dialect::Sequence => 12,
        Dialect::Opcode | Dialect::Compact => 8,
        Dialect::Priority => codec.header.bytes(),
        // `ACK: ` and `ERR: ` before an answer's text.
        Dialect::Line if codec.reader == Reader::Client && !bytes.starts_with(b"PONG") => 5,
        Dialect::Line => 0,
    }
}

/// Explains the opening or frame of the native protocol at the beginning of `bytes`.
///
/// Whether frames end with a checksum was agreed in the opening; with `None` it is guessed: a
/// checksum that is right is one.
#[must_use]
pub fn explain_native(bytes: &[u8], checksum: Option<bool>) -> Explanation {
    let shared = bytes
        .iter()
        .zip(MAGIC)
        .take_while(|(a, b)| **a == *b)
        .count();
    if shared > 0 && shared == bytes.len().min(MAGIC.len()) {
        return explain_opening(bytes);
    }
    explain_frame(bytes, checksum)
}

fn explain_opening(bytes: &[u8]) -> Explanation {
    let mut to = Explanation {
        title: "native opening".to_owned(),
        ..Explanation::default()
    };
    if bytes.len() >= MAGIC.len() {
        to.field(0, 4, "magic", "F7 50 52 44");
    }
    to.number(bytes, 4, 1, "kind", false);
    if let Some(name) = bytes.get(4).and_then(|kind| Opening::name(*kind)) {
        to.meaning(name);
    }
    to.number(bytes, 6, 2, "body length", false);
    let fixed: &[(usize, usize, &str)] = match bytes.get(4) {
        Some(1) => &[
            (0, 2, "lowest version"),
            (2, 2, "highest version"),
            (4, 4, "features offered"),
            (8, 4, "features required"),
            (12, 4, "largest frame body"),
            (16, 4, "largest message"),
            (20, 4, "calls in flight"),
            (24, 4, "heartbeat, ms"),
            (28, 2, "route numbers"),
        ],
        Some(2) => &[
            (0, 2, "version"),
            (4, 4, "features agreed"),
            (8, 4, "largest frame body"),
            (12, 4, "largest message"),
            (16, 4, "calls in flight"),
            (20, 4, "heartbeat, ms"),
            (24, 2, "route numbers"),
            (44, 4, "epoch"),
        ],
        None | Some(0 | 4..) => &[],
        Some(3) => &[
            (0, 2, "lowest version"),
            (2, 2, "highest version"),
            (4, 2, "reason"),
            (6, 1, "retry"),
            (8, 4, "retry after, ms"),
            (12, 4, "features"),
        ],
    };
    for &(offset, len, name) in fixed {
        to.number(bytes, OPENING_HEAD_BYTES + offset, len, name, false);
    }
    let mut rest = BytesMut::from(bytes);
    match Opening::decode(&mut rest) {
        Ok(Some(opening)) => {
            let name = Opening::name(bytes[4]).unwrap_or("opening");
            to.title = format!("native {name}");
            to.consumed = bytes.len() - rest.len();
            opening_tail(&mut to, &opening, bytes);
        }
        Ok(None) => {
            let len = bytes
                .get(6..8)
                .map(|len| usize::from(u16::from_le_bytes([len[0], len[1]])));
            to.incomplete(
                bytes,
                len.map(|len| OPENING_HEAD_BYTES + len + CHECKSUM_BYTES),
            );
        }
        Err(error) => to.error = Some(error),
    }
    to
}

fn opening_tail(to: &mut Explanation, opening: &Opening, bytes: &[u8]) {
    let (parts, mut at) = match opening {
        Opening::Hello(hello) => (&hello.parts[..], OPENING_HEAD_BYTES + 32),
        Opening::Welcome(welcome) => (&welcome.parts[..], OPENING_HEAD_BYTES + 48),
        Opening::Refuse(refuse) => {
            to.field(
                OPENING_HEAD_BYTES + 16,
                refuse.text.len(),
                "text",
                format!("{:?}", refuse.text),
            );
            (&[][..], 0)
        }
    };
    for (tag, value) in parts {
        to.field(at, 3 + value.len(), &part_name(*tag, true), show(value));
        at += 3 + value.len();
    }
    to.number(
        bytes,
        to.consumed - CHECKSUM_BYTES,
        CHECKSUM_BYTES,
        "CRC32C",
        false,
    );
}

fn part_name(tag: u8, is_opening: bool) -> String {
    let known = tag & !CRITICAL;
    let frame = [
        "route name",
        "trace context",
        "metadata",
        "whole length",
        "idempotency key",
        "sequence",
    ];
    let opening = [
        "agent",
        "credentials",
        "authority",
        "resume",
        "resume token",
        "resumed",
    ];
    let names = if is_opening { opening } else { frame };
    let name = usize::from(known)
        .checked_sub(1)
        .and_then(|at| names.get(at).copied());
    let critical = if tag & CRITICAL != 0 {
        ", critical"
    } else {
        ""
    };
    format!("part {known} ({}{critical})", name.unwrap_or("unknown"))
}

fn has_checksum(bytes: &[u8], head: &Head) -> bool {
    let end = HEAD_BYTES + head.len();
    let found = bytes
        .get(end..)
        .and_then(|rest| rest.first_chunk::<CHECKSUM_BYTES>());
    found.is_some_and(|found| u32::from_le_bytes(*found) == crate::frame::checksum(&bytes[..end]))
}

fn explain_frame(bytes: &[u8], checksum: Option<bool>) -> Explanation {
    let mut to = Explanation {
        title: "native frame".to_owned(),
        ..Explanation::default()
    };
    to.number(bytes, 0, 3, "body length", false);
    let Some(head) = bytes.first_chunk::<HEAD_BYTES>().map(Head::decode) else {
        to.incomplete(bytes, None);
        return to;
    };
    let name = Kind::from_wire(head.kind()).map_or("unknown", Kind::name);
    to.title = format!("native {name}");
    to.field(3, 1, "kind", format!("0x{:02x} {name}", head.kind()));
    let flags = [(head.has_more(), " MORE"), (head.has_parts(), " PARTS")];
    let flags: String = flags
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| *name)
        .collect();
    let class = format!("priority {}, QoS {}{flags}", head.priority(), head.qos());
    to.field(4, 1, "class", class);
    let no_retry = if head.form() & crate::frame::NO_RETRY != 0 {
        ", no retry"
    } else {
        ""
    };
    let form = format!(
        "codec {}, attempt {}{no_retry}",
        head.codec(),
        head.attempt()
    );
    to.field(5, 1, "form", form);
    to.number(bytes, 6, 2, "route", false);
    to.number(bytes, 8, 4, "id", false);
    to.number(bytes, 12, 4, "arg", false);
    let checksum = checksum.unwrap_or_else(|| has_checksum(bytes, &head));
    let decoder = FrameDecoder {
        max_body: FRAME_BODY_MAX,
        checksum,
    };
    let mut rest = BytesMut::from(bytes);
    match decoder.decode(&mut rest) {
        Ok(Some(frame)) => {
            to.consumed = bytes.len() - rest.len();
            to.error = explain_body(&mut to, &head, frame.body);
            if checksum {
                to.number(
                    bytes,
                    to.consumed - CHECKSUM_BYTES,
                    CHECKSUM_BYTES,
                    "CRC32C",
                    false,
                );
            }
        }
        Ok(None) => {
            let trailer = if checksum { CHECKSUM_BYTES } else { 0 };
            to.incomplete(bytes, Some(HEAD_BYTES + head.len() + trailer));
        }
        Err(error) => to.error = Some(error),
    }
    to
}

/// Adds parts and payload; what is wrong with them.
fn explain_body(to: &mut Explanation, head: &Head, mut body: Bytes) -> Option<WireError> {
    let mut at = HEAD_BYTES;
    if head.has_parts() {
        let (parts, end) = match Parts::split(&body) {
            Ok(split) => split,
            Err(error) => return Some(error),
        };
        at += 2;
        for part in parts {
            match part {
                Ok(part) => {
                    to.field(
                        at,
                        3 + part.value.len(),
                        &part_name(part.tag, false),
                        show(part.value),
                    );
                    at += 3 + part.value.len();
                }
                Err(error) => return Some(error),
            }
        }
        body = body.slice(end..);
        at = HEAD_BYTES + end;
    }
    if head.kind() == Kind::Error as u8 {
        match ErrorBody::decode(body.clone()) {
            Some(error) => {
                let text = format!("{error} (retry: {:?})", error.retry);
                to.field(at, body.len(), "error", text);
            }
            None => {
                let fault = crate::wire_error::WireFault::Reserved;
                return Some(WireError::new(fault, at, "error body does not parse"));
            }
        }
    } else if !body.is_empty() {
        let name = if head.kind() == Kind::Route as u8 {
            "name"
        } else {
            "payload"
        };
        to.field(at, body.len(), name, show(&body));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(explanation: &'a Explanation, name: &str) -> &'a str {
        let field = explanation.fields.iter().find(|field| field.name == name);
        &field.expect(name).value
    }

    #[test]
    fn types_and_commands_are_named() {
        let sequence = DialectCodec::new(Dialect::Sequence, Reader::Server);
        let explained = explain_dialect(&sequence, b"\xab\xcd\x01\x01\0\0\0\x01\0\0\0\x07x");
        assert_eq!(explained.title, "sequence frame: request");
        assert_eq!(value(&explained, "cmd"), "1 (0x1) request");
        assert_eq!(value(&explained, "magic"), "AB CD");
        let session = DialectCodec::new(Dialect::Session, Reader::Client);
        let explained = explain_dialect(&session, b"\xff\0\0\0\x01\0\x01");
        assert_eq!(value(&explained, "command"), "255 (0xff) error");
        let compact = DialectCodec::new(Dialect::Compact, Reader::Server);
        let unknown = explain_dialect(&compact, b"MC\x01\x09\0\0\0\0");
        assert_eq!(value(&unknown, "type"), "9 (0x9)");
        let opening = explain_native(b"\xf7PRD\x02\0\x10\0", None);
        assert_eq!(value(&opening, "kind"), "2 (0x2) WELCOME");
    }

    #[test]
    fn what_is_missing_is_counted_as_soon_as_the_length_is_there() {
        let session = DialectCodec::new(Dialect::Session, Reader::Server);
        let missing = |bytes: &[u8]| explain_dialect(&session, bytes).missing;
        assert_eq!(missing(b"\x17\0\0\0\x07\0\x05he"), Some(5));
        assert_eq!(missing(b"\x17\0\0\0\x07\0"), None);
        let priority = DialectCodec::new(Dialect::Priority, Reader::Server);
        let begun = explain_dialect(&priority, b"\x01\x01\0\x07\0\0\0\x02\x03");
        let whole = priority.header.bytes() + 2;
        assert_eq!(begun.missing, Some(whole - 9));
        let opening = explain_native(b"\xf7PRD\x03\0\x10\0ab", None);
        assert!(opening.is_incomplete);
        assert_eq!(opening.missing, Some(16 - 2 + 4));
        let head = Head::new(Kind::Ping).with_len(8).encode();
        assert_eq!(explain_native(&head, Some(true)).missing, Some(12));
        assert_eq!(explain_native(&head, None).missing, Some(8));
        assert_eq!(explain_native(&head[..9], None).missing, None);
    }
}
