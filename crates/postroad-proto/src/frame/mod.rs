//! Native frames: the 16-byte head, its body and its checksum. Layouts: `docs/protocol.md`, section
//! 2.

mod opening;
mod parts;

use bytes::{Buf, Bytes, BytesMut};

pub use opening::{Hello, MAGIC, Opening, OpeningParts, Refuse, RefuseReason, Welcome};
pub use parts::{CRITICAL, Part, PartTag, Parts, put_part, put_trace};

use crate::error::{WireError, WireFault};
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
    /// Codec, attempt, no-retry.
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

/// A frame and its body, parts included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The head.
    pub head: Head,
    /// What stands between head and checksum: a slice of the read buffer.
    pub body: Bytes,
}

/// A frame where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef<'a> {
    /// The head.
    pub head: Head,
    /// What stands between head and checksum.
    pub body: &'a [u8],
    /// Bytes of the whole frame, head and checksum included.
    pub whole: usize,
}

/// Cuts frames out of a stream of bytes.
#[derive(Clone, Copy, Debug)]
pub struct FrameDecoder {
    /// Largest body, bytes, as announced to the peer.
    pub max_body: usize,
    /// Whether a checksum follows the body.
    pub checksum: bool,
}

impl FrameDecoder {
    /// Looks at the frame at the beginning of `buf`; `None` if it is not complete yet.
    ///
    /// # Errors
    /// M-010, M-011, M-012 and M-013: length, checksum, reserved bits and kind, each with its byte.
    #[inline]
    pub fn peek<'a>(&self, buf: &'a [u8]) -> Result<Option<FrameRef<'a>>, WireError> {
        let Some((bytes, rest)) = buf.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let words = HeadWords::load(bytes);
        let head = words.head();
        if !self.is_right(words) {
            return Err(self.what_is_wrong(head));
        }
        let whole = self.whole(words.len());
        let Some(frame) = buf.get(..whole) else {
            return Ok(None);
        };
        if self.checksum {
            check_sum(frame).map_err(|error| error.with_id(head.id))?;
        }
        Ok(Some(FrameRef {
            head,
            body: &rest[..head.len as usize],
            whole,
        }))
    }

    /// Takes one frame from the beginning of `buf`; `None` if it is not complete yet.
    ///
    /// # Errors
    /// As [`Self::peek`].
    #[inline]
    pub fn decode(&self, buf: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        let Some(FrameRef { head, whole, .. }) = self.peek(buf)? else {
            return Ok(None);
        };
        let body = take_body(buf, &head, whole);
        Ok(Some(Frame { head, body }))
    }

    /// How many bytes of the next frame are missing, or `None` if its head is not there yet.
    #[must_use]
    pub fn missing(&self, buf: &[u8]) -> Option<usize> {
        let words = HeadWords::load(buf.first_chunk::<HEAD_BYTES>()?);
        Some(self.whole(words.len()).saturating_sub(buf.len()))
    }

    /// Cuts the whole frames off the beginning of `buf`, at most `max`; their bodies will share one
    /// buffer. It ends before a frame that is wrong, whose error [`Self::peek`] tells.
    #[inline]
    pub fn take_run(&self, buf: &mut BytesMut, max: usize) -> Run {
        let (mut end, mut left) = (0, max);
        while let Some(bytes) = buf[end..].first_chunk::<HEAD_BYTES>()
            && left > 0
        {
            let words = HeadWords::load(bytes);
            let whole = self.whole(words.len());
            if !self.is_right(words) || buf.len() - end < whole {
                break;
            }
            (end, left) = (end + whole, left - 1);
        }
        let bytes = match end {
            0 => Bytes::new(),
            end => buf.split_to(end).freeze(),
        };
        let (at, checksum) = (0, self.checksum);
        Run {
            bytes,
            at,
            checksum,
        }
    }

    /// Bytes of the whole frame, head and checksum included.
    #[inline]
    fn whole(&self, len: usize) -> usize {
        frame_bytes(len, self.checksum)
    }

    /// Few tests for the common case; which rule was broken is found out only when one was.
    #[inline]
    fn is_right(&self, words: HeadWords) -> bool {
        let is_class_right = words.class() & CLASS_RESERVED == 0 && words.class() & QOS != QOS;
        words.len() <= self.max_body && is_class_right && known_or_skippable(words.kind())
    }

    #[cold]
    #[inline(never)]
    fn what_is_wrong(&self, head: Head) -> WireError {
        let error = if head.len as usize > self.max_body {
            let detail = format!(
                "body of {} bytes, at most {} are accepted",
                head.len, self.max_body
            );
            WireError::new(WireFault::Length, 0, detail)
        } else if !known_or_skippable(head.kind) {
            WireError::new(
                WireFault::Type,
                3,
                format!("unknown kind 0x{:02x}", head.kind),
            )
        } else if head.qos() == 3 {
            WireError::new(WireFault::Reserved, 4, "QoS 3 does not exist")
        } else {
            WireError::new(WireFault::Reserved, 4, "reserved bit 7 of class is set")
        };
        error.with_id(head.id)
    }
}

/// Whole frames that were cut off a stream together, to be taken one after the other.
///
/// Each body costs one reference count and nothing else: the buffer is cut once for all.
#[derive(Clone, Debug)]
pub struct Run {
    bytes: Bytes,
    /// Bytes of the frames that were taken.
    at: usize,
    checksum: bool,
}

impl Run {
    /// Takes the next frame; `None` after the last. What the bytes before it are worth is not
    /// undone by an error.
    ///
    /// # Errors
    /// M-011: the checksum is wrong.
    #[inline]
    pub fn take(&mut self) -> Result<Option<(HeadWords, Bytes)>, WireError> {
        let rest = &self.bytes[self.at..];
        let Some(bytes) = rest.first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let words = HeadWords::load(bytes);
        let end = HEAD_BYTES + words.len();
        let whole = frame_bytes(words.len(), self.checksum);
        if self.checksum {
            check_sum(&rest[..whole]).map_err(|error| error.with_id(words.id()))?;
        }
        let body = self.bytes.slice(self.at + HEAD_BYTES..self.at + end);
        self.at += whole;
        Ok(Some((words, body)))
    }

    /// Bytes of the frames that were taken.
    #[must_use]
    #[inline]
    pub fn taken(&self) -> usize {
        self.at
    }

    /// The frames that were not taken, as they came.
    #[must_use]
    #[inline]
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }
}

/// Bytes of a whole frame with so long a body.
#[inline]
pub(crate) fn frame_bytes(len: usize, checksum: bool) -> usize {
    HEAD_BYTES + len + if checksum { CHECKSUM_BYTES } else { 0 }
}

/// Takes a frame that was looked at, and keeps its body. What is not the body is stepped over, so
/// that a frame costs one reference count.
#[inline]
fn take_body(buf: &mut BytesMut, head: &Head, whole: usize) -> Bytes {
    let len = head.len as usize;
    buf.advance(HEAD_BYTES);
    let body = match len {
        0 => Bytes::new(),
        len => buf.split_to(len).freeze(),
    };
    buf.advance(whole - HEAD_BYTES - len);
    body
}

/// One bit for each kind that is known.
const KNOWN: u64 = {
    let (mut known, mut kind) = (0, 0);
    while kind < 64 {
        if Kind::from_wire(kind).is_some() {
            known |= 1 << kind;
        }
        kind += 1;
    }
    known
};

#[inline]
fn known_or_skippable(kind: u8) -> bool {
    kind & 0x80 != 0 || kind < 64 && KNOWN >> kind & 1 != 0
}

#[inline]
fn check_sum(frame: &[u8]) -> Result<(), WireError> {
    let Some((covered, found)) = frame.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Ok(());
    };
    let (found, expected) = (u32::from_le_bytes(*found), checksum(covered));
    if found == expected {
        return Ok(());
    }
    Err(wrong_sum(found, expected, covered.len()))
}

#[cold]
#[inline(never)]
fn wrong_sum(found: u32, expected: u32, at: usize) -> WireError {
    let detail = format!("found {found:08x}, computed {expected:08x}");
    WireError::new(WireFault::Checksum, at, detail)
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
    use super::*;

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
