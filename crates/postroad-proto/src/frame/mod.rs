//! Native frames: the 16-byte head, its body and its checksum. Layouts: `docs/protocol.md`, section
//! 2.

mod decoder;
mod opening;
mod parts;

pub use decoder::{Frame, FrameDecoder, Frames, Run};
pub use opening::{Hello, MAGIC, Opening, OpeningParts, Refuse, RefuseReason, Welcome};
pub use parts::{CRITICAL, Part, PartTag, Parts, put_part, put_trace};

use crate::limits::{CHECKSUM_BYTES, FRAME_BODY_MAX, HEAD_BYTES};

/// What a frame is, as its fourth byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// A call's question.
    Request = 0x10,
    /// A call's answer.
    Response = 0x11,
    /// A call's failure.
    Error = 0x12,
    /// A message without an answer.
    OneWay = 0x13,
    /// A message for subscribers.
    Publish = 0x14,
    /// A further fragment.
    Data = 0x15,
    /// Messages up to a sequence have reached a level.
    Ack = 0x16,
    /// The caller no longer wants the answer.
    Cancel = 0x17,
    /// The peer may send that many bytes more.
    Credit = 0x18,
    /// A number for a route's name.
    Route = 0x20,
    /// A sign of life that wants one back.
    Ping = 0x21,
    /// The sign of life that was wanted.
    Pong = 0x22,
    /// The server is about to close.
    GoAway = 0x23,
    /// Messages that the subscriber will not get.
    Gap = 0x24,
    /// Why the connection is closed.
    Fault = 0x2F,
}

impl Kind {
    /// Reads the byte.
    #[must_use]
    pub const fn from_wire(wire: u8) -> Option<Self> {
        Some(match wire {
            0x10 => Self::Request,
            0x11 => Self::Response,
            0x12 => Self::Error,
            0x13 => Self::OneWay,
            0x14 => Self::Publish,
            0x15 => Self::Data,
            0x16 => Self::Ack,
            0x17 => Self::Cancel,
            0x18 => Self::Credit,
            0x20 => Self::Route,
            0x21 => Self::Ping,
            0x22 => Self::Pong,
            0x23 => Self::GoAway,
            0x24 => Self::Gap,
            0x2F => Self::Fault,
            _ => return None,
        })
    }

    /// The name in the protocol's document.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "REQUEST",
            Self::Response => "RESPONSE",
            Self::Error => "ERROR",
            Self::OneWay => "ONEWAY",
            Self::Publish => "PUBLISH",
            Self::Data => "DATA",
            Self::Ack => "ACK",
            Self::Cancel => "CANCEL",
            Self::Credit => "CREDIT",
            Self::Route => "ROUTE",
            Self::Ping => "PING",
            Self::Pong => "PONG",
            Self::GoAway => "GOAWAY",
            Self::Gap => "GAP",
            Self::Fault => "FAULT",
        }
    }
}

/// Bits of class: QoS.
const QOS: u8 = 3 << 3;
/// Bit of class: more fragments follow.
pub const MORE: u8 = 1 << 5;
/// Bit of class: the body begins with parts.
pub const PARTS: u8 = 1 << 6;
/// Bit of class that must be 0.
pub const CLASS_RESERVED: u8 = 1 << 7;
/// Bit of form: the call must not be sent again.
pub const NO_RETRY: u8 = 1 << 7;
/// Value of arg in a request without a deadline.
pub const NO_DEADLINE: u32 = u32::MAX;
/// Bit of id that tells one-way messages from calls.
pub const MESSAGE_ID: u32 = 1 << 31;

/// The 16 bytes before every body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the body, 24 bits.
    pub len: u32,
    /// See [`Kind`]; kept raw, because unknown kinds may have to be skipped.
    pub kind: u8,
    /// Priority, QoS and flags.
    pub class: u8,
    /// DialectCodec, attempt, no-retry.
    pub form: u8,
    /// A number defined by a ROUTE frame, 0 for none; some kinds use it otherwise.
    pub route: u16,
    /// The call, the message, or what the kind says.
    pub id: u32,
    /// What the kind says; in a request the time left in microseconds.
    pub arg: u32,
}

impl Head {
    /// A head of this kind, everything else 0.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind: kind as u8,
            ..Self::default()
        }
    }

    /// Two loads, no branch.
    #[must_use]
    #[inline]
    pub fn decode(bytes: &[u8; HEAD_BYTES]) -> Self {
        HeadWords::load(bytes).head()
    }

    /// The bytes on the wire: two stores.
    #[must_use]
    #[inline]
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let low = u64::from(self.len & 0x00FF_FFFF)
            | u64::from(self.kind) << 24
            | u64::from(self.class) << 32
            | u64::from(self.form) << 40
            | u64::from(self.route) << 48;
        let high = u64::from(self.id) | u64::from(self.arg) << 32;
        (u128::from(low) | u128::from(high) << 64).to_le_bytes()
    }

    /// 0 to 7, 7 most urgent.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.class & 7
    }

    /// 0 to 3; 3 is refused when it is read.
    #[must_use]
    pub fn qos(&self) -> u8 {
        self.class >> 3 & 3
    }

    /// Whether fragments follow.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.class & MORE != 0
    }

    /// Whether the body begins with parts.
    #[must_use]
    pub fn has_parts(&self) -> bool {
        self.class & PARTS != 0
    }

    /// 0 to 15.
    #[must_use]
    pub fn codec(&self) -> u8 {
        self.form & 15
    }

    /// 0 is the first.
    #[must_use]
    pub fn attempt(&self) -> u8 {
        self.form >> 4 & 7
    }
}

/// A head as it came, in two words.
///
/// A struct of small fields that is put together and passed on at once has to wait, at the next
/// wide load, until all of them are stored; words are passed in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadWords {
    low: u64,
    high: u64,
}

impl HeadWords {
    #[inline]
    fn load(bytes: &[u8; HEAD_BYTES]) -> Self {
        let both = u128::from_le_bytes(*bytes);
        let (low, high) = (both as u64, (both >> 64) as u64);
        Self { low, high }
    }

    /// All fields.
    #[must_use]
    #[inline]
    pub fn head(self) -> Head {
        Head {
            len: self.len() as u32,
            kind: self.kind(),
            class: self.class(),
            form: self.form(),
            route: self.route(),
            id: self.id(),
            arg: self.arg(),
        }
    }

    #[inline]
    fn len(self) -> usize {
        (self.low & 0x00FF_FFFF) as usize
    }

    /// As [`Head::kind`].
    #[must_use]
    #[inline]
    pub fn kind(self) -> u8 {
        (self.low >> 24) as u8
    }

    /// As [`Head::class`].
    #[must_use]
    #[inline]
    pub fn class(self) -> u8 {
        (self.low >> 32) as u8
    }

    /// As [`Head::form`].
    #[must_use]
    #[inline]
    pub fn form(self) -> u8 {
        (self.low >> 40) as u8
    }

    /// As [`Head::route`].
    #[must_use]
    #[inline]
    pub fn route(self) -> u16 {
        (self.low >> 48) as u16
    }

    /// As [`Head::id`].
    #[must_use]
    #[inline]
    pub fn id(self) -> u32 {
        self.high as u32
    }

    /// As [`Head::arg`].
    #[must_use]
    #[inline]
    pub fn arg(self) -> u32 {
        (self.high >> 32) as u32
    }
}

/// Bytes of a whole frame with so long a body.
#[inline]
pub(crate) fn frame_bytes(len: usize, checksum: bool) -> usize {
    HEAD_BYTES + len + if checksum { CHECKSUM_BYTES } else { 0 }
}

/// CRC-32C, the checksum of every frame and opening.
#[inline]
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Appends one frame whose body is `parts` followed by `payload`.
///
/// `head.len` and the PARTS bit are filled in here. The caller keeps the body within the peer's
/// limit (M-009).
#[inline]
pub fn put_frame(out: &mut Vec<u8>, mut head: Head, parts: &[u8], payload: &[u8], checksum: bool) {
    let parts_bytes = if parts.is_empty() { 0 } else { 2 + parts.len() };
    let len = parts_bytes + payload.len();
    debug_assert!(len <= FRAME_BODY_MAX, "the caller splits into fragments");
    head.len = len as u32;
    let start = out.len();
    out.reserve(HEAD_BYTES + len + CHECKSUM_BYTES);
    if parts.is_empty() {
        out.extend_from_slice(&head.encode());
    } else {
        head.class |= PARTS;
        out.extend_from_slice(&head.encode());
        out.extend_from_slice(&(parts.len() as u16).to_le_bytes());
        out.extend_from_slice(parts);
    }
    out.extend_from_slice(payload);
    if checksum {
        let sum = self::checksum(&out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::wire_error::WireFault;

    const DECODER: FrameDecoder = FrameDecoder {
        max_body: 64 * 1024,
        checksum: true,
    };

    fn frame(checksum: bool) -> BytesMut {
        let head = Head {
            id: 7,
            arg: 9,
            class: 5 | 1 << 3,
            form: 1,
            route: 3,
            ..Head::new(Kind::Request)
        };
        let mut out = Vec::new();
        put_frame(&mut out, head, b"", b"payload", checksum);
        BytesMut::from(&out[..])
    }

    #[test]
    fn a_small_request_costs_twenty_bytes_with_its_checksum_and_sixteen_without() {
        assert_eq!(frame(true).len() - 7, 20);
        assert_eq!(frame(false).len() - 7, 16);
    }

    #[test]
    fn a_body_over_the_limit_is_refused_before_it_has_arrived_m_010() {
        let head = Head {
            len: 64 * 1024 + 1,
            ..Head::new(Kind::Request)
        };
        let error = DECODER
            .decode(&mut BytesMut::from(&head.encode()[..]))
            .unwrap_err();
        assert_eq!((error.fault, error.at), (WireFault::Length, 0));
    }

    #[test]
    fn every_flipped_bit_is_caught_by_a_check_or_leaves_the_frame_incomplete_m_011() {
        let good = frame(true);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let result = DECODER.decode(&mut bad);
            assert!(
                !matches!(result, Ok(Some(_))),
                "bit {bit} went unseen: {result:?}"
            );
        }
    }

    #[test]
    fn reserved_bits_and_unknown_kinds_are_refused_m_012_m_013() {
        let refuse = |head: Head| {
            DECODER
                .decode(&mut BytesMut::from(&head.encode()[..]))
                .unwrap_err()
        };
        let request = Head::new(Kind::Request);
        assert_eq!(
            refuse(Head {
                class: 0x80,
                ..request
            })
            .fault,
            WireFault::Reserved
        );
        assert_eq!(
            refuse(Head {
                class: 3 << 3,
                ..request
            })
            .fault,
            WireFault::Reserved
        );
        assert_eq!(
            refuse(Head {
                kind: 0x7f,
                ..request
            })
            .fault,
            WireFault::Type
        );
        let skippable = Head {
            kind: 0x80,
            ..request
        };
        assert!(
            DECODER
                .decode(&mut BytesMut::from(&skippable.encode()[..]))
                .unwrap()
                .is_none()
        );
    }
}
