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
            explanation.title = format!("{} frame: {:?}", codec.dialect.name(), frame.kind);
            let len = frame.payload.len();
            explanation.field(payload_at, len, "payload", show(&frame.payload));
            if codec.dialect == Dialect::Session {
                explanation.number(bytes, payload_at + len, 2, "CRC-16", true);
            }
            explanation.consumed = bytes.len() - rest.len();
        }
        Ok(None) => explanation.is_incomplete = true,
        Err(error) => explanation.error = Some(error),
    }
    explanation
}

/// Adds the header's fields as far as they are there; where the payload begins.
fn dialect_fields(to: &mut Explanation, codec: &DialectCodec, bytes: &[u8]) -> usize {
    let magic = |to: &mut Explanation, len: usize| {
        if let Some(magic) = bytes.get(..len) {
            to.field(
                0,
                len,
                "magic",
                magic
                    .iter()
                    .map(|b| format!("{b:02X} "))
                    .collect::<String>(),
            );
        }
    };
    let fields: &[(usize, usize, &str)] = match codec.dialect {
        Dialect::Session => &[
            (0, 1, "command"),
            (1, 4, "session id"),
            (5, 2, "payload length"),
        ],
        Dialect::Sequence => &[
            (2, 1, "version"),
            (3, 1, "cmd"),
            (4, 4, "payload length"),
            (8, 4, "sequence id"),
        ],
        Dialect::Opcode => &[
            (4, 1, "version"),
            (5, 1, "opcode"),
            (6, 2, "payload length"),
        ],
        Dialect::Priority => &[
            (0, 1, "version"),
            (1, 1, "type"),
            (2, 2, "sequence id"),
            (4, 4, "payload length"),
            (8, 1, "priority"),
        ],
        Dialect::Compact => &[(2, 1, "version"), (3, 1, "type"), (4, 4, "payload length")],
        Dialect::Line => &[],
    };
    match codec.dialect {
        Dialect::Sequence | Dialect::Compact => magic(to, 2),
        Dialect::Opcode => magic(to, 4),
        _ => {}
    }
    for &(offset, len, name) in fields {
        to.number(bytes, offset, len, name, true);
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
            to.title = match &opening {
                Opening::Hello(_) => "native HELLO",
                Opening::Welcome(_) => "native WELCOME",
                Opening::Refuse(_) => "native REFUSE",
            }
            .to_owned();
            to.consumed = bytes.len() - rest.len();
            opening_tail(&mut to, &opening, bytes);
        }
        Ok(None) => to.is_incomplete = true,
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
        to.is_incomplete = true;
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
        Ok(None) => to.is_incomplete = true,
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
