//! The 16 bytes before every body. Layout: `docs/protocol.md`, section 2.

use std::fmt;

use crate::limits::HEAD_BYTES;

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

/// Bits of class: priority.
const PRIORITY: u8 = 7;
/// Bits of class: QoS.
pub(crate) const QOS: u8 = 3 << QOS_SHIFT;
const QOS_SHIFT: u32 = 3;
/// Bit of class: more fragments follow.
pub const MORE: u8 = 1 << 5;
/// Bit of class: the body begins with parts.
pub const PARTS: u8 = 1 << 6;
/// Bit of class that must be 0.
pub const CLASS_RESERVED: u8 = 1 << 7;
/// Bits of form: the payload codec.
const CODEC: u8 = 15;
/// Bits of form, shifted down: the attempt.
const ATTEMPT: u8 = 7;
const ATTEMPT_SHIFT: u32 = 4;
/// Bit of form: the call must not be sent again.
pub const NO_RETRY: u8 = 1 << 7;
/// Value of arg in a request without a deadline.
pub const NO_DEADLINE: u32 = u32::MAX;
/// Bit of id that tells one-way messages from calls.
pub const MESSAGE_ID: u32 = 1 << 31;
/// Value of arg in a DATA frame that continues an answer; it is 0 in one that continues a request
/// or a message.
pub const OF_RESPONSE: u32 = 1;

/// Where the fields lie in the first word. The second holds the id and, above it, arg.
const LEN_MASK: u64 = 0x00FF_FFFF;
const KIND_SHIFT: u32 = 24;
const CLASS_SHIFT: u32 = 32;
const FORM_SHIFT: u32 = 40;
const ROUTE_SHIFT: u32 = 48;
const ARG_SHIFT: u32 = 32;

/// The 16 bytes before every body.
///
/// They are kept as the two words that they are on the wire, because two words are passed in
/// registers. A struct of small fields would be stored field by field and loaded as a whole at
/// once, and such a load waits for all the stores.
///
/// ```
/// use postroad_proto::frame::{Head, Kind};
///
/// let head = Head::new(Kind::Request).with_class(3).with_id(7);
/// assert_eq!((head.priority(), head.id()), (3, 7));
/// assert_eq!(Head::decode(&head.encode()), head);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Head(u64, u64);

impl Head {
    /// A head of this kind, everything else 0.
    #[must_use]
    #[inline]
    pub const fn new(kind: Kind) -> Self {
        Self((kind as u64) << KIND_SHIFT, 0)
    }

    /// Reads the bytes on the wire.
    #[must_use]
    #[inline]
    pub fn decode(bytes: &[u8; HEAD_BYTES]) -> Self {
        let both = u128::from_le_bytes(*bytes);
        Self(both as u64, (both >> 64) as u64)
    }

    /// The bytes on the wire.
    #[must_use]
    #[inline]
    pub fn encode(self) -> [u8; HEAD_BYTES] {
        (u128::from(self.0) | u128::from(self.1) << 64).to_le_bytes()
    }

    /// Bytes of the body, 24 bits.
    #[must_use]
    #[inline]
    pub const fn len(self) -> usize {
        (self.0 & LEN_MASK) as usize
    }

    /// Whether there is no body.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The byte of [`Kind`]; raw, because frames of unknown kinds may have to be skipped.
    #[must_use]
    #[inline]
    pub const fn kind(self) -> u8 {
        (self.0 >> KIND_SHIFT) as u8
    }

    /// Whether it is of this kind.
    #[must_use]
    #[inline]
    pub const fn is(self, kind: Kind) -> bool {
        self.kind() == kind as u8
    }

    /// Priority, QoS, [`MORE`] and [`PARTS`].
    #[must_use]
    #[inline]
    pub const fn class(self) -> u8 {
        (self.0 >> CLASS_SHIFT) as u8
    }

    /// Codec, attempt and [`NO_RETRY`].
    #[must_use]
    #[inline]
    pub const fn form(self) -> u8 {
        (self.0 >> FORM_SHIFT) as u8
    }

    /// A number that a ROUTE frame has defined, 0 for none; some kinds use it otherwise.
    #[must_use]
    #[inline]
    pub const fn route(self) -> u16 {
        (self.0 >> ROUTE_SHIFT) as u16
    }

    /// The call, the message, or what the kind says.
    #[must_use]
    #[inline]
    pub const fn id(self) -> u32 {
        self.1 as u32
    }

    /// What the kind says; in a request the time left in microseconds.
    #[must_use]
    #[inline]
    pub const fn arg(self) -> u32 {
        (self.1 >> ARG_SHIFT) as u32
    }

    /// 0 to 7, 7 most urgent.
    #[must_use]
    #[inline]
    pub const fn priority(self) -> u8 {
        self.class() & PRIORITY
    }

    /// 0 to 3; 3 is refused when it is read (M-012).
    #[must_use]
    #[inline]
    pub const fn qos(self) -> u8 {
        (self.class() & QOS) >> QOS_SHIFT
    }

    /// Whether fragments follow.
    #[must_use]
    #[inline]
    pub const fn has_more(self) -> bool {
        self.class() & MORE != 0
    }

    /// Whether the body begins with parts.
    #[must_use]
    #[inline]
    pub const fn has_parts(self) -> bool {
        self.class() & PARTS != 0
    }

    /// The payload codec, 0 to 15.
    #[must_use]
    #[inline]
    pub const fn codec(self) -> u8 {
        self.form() & CODEC
    }

    /// 0 is the first.
    #[must_use]
    #[inline]
    pub const fn attempt(self) -> u8 {
        self.form() >> ATTEMPT_SHIFT & ATTEMPT
    }

    /// Whether nobody may send the call again.
    #[must_use]
    pub const fn is_no_retry(self) -> bool {
        self.form() & NO_RETRY != 0
    }

    /// With a body of so many bytes; what does not fit 24 bits is cut.
    #[must_use]
    #[inline]
    pub const fn with_len(self, len: usize) -> Self {
        Self(self.0 & !LEN_MASK | len as u64 & LEN_MASK, self.1)
    }

    /// With this byte for its kind, whatever it means.
    #[must_use]
    pub const fn with_kind(self, kind: u8) -> Self {
        let others = self.0 & !(0xFF << KIND_SHIFT);
        Self(others | (kind as u64) << KIND_SHIFT, self.1)
    }

    /// With this class.
    #[must_use]
    #[inline]
    pub const fn with_class(self, class: u8) -> Self {
        let others = self.0 & !(0xFF << CLASS_SHIFT);
        Self(others | (class as u64) << CLASS_SHIFT, self.1)
    }

    /// With this form.
    #[must_use]
    #[inline]
    pub const fn with_form(self, form: u8) -> Self {
        let others = self.0 & !(0xFF << FORM_SHIFT);
        Self(others | (form as u64) << FORM_SHIFT, self.1)
    }

    /// With a form made of its fields, of each as many bits as it has.
    #[must_use]
    #[inline]
    pub const fn with_codec(self, codec: u8, attempt: u8, no_retry: bool) -> Self {
        let no_retry = if no_retry { NO_RETRY } else { 0 };
        self.with_form(codec & CODEC | (attempt & ATTEMPT) << ATTEMPT_SHIFT | no_retry)
    }

    /// With this priority, of which three bits are taken, and no other bit of class.
    #[must_use]
    #[inline]
    pub const fn with_priority(self, priority: u8) -> Self {
        self.with_class(priority & PRIORITY)
    }

    /// With this route.
    #[must_use]
    #[inline]
    pub const fn with_route(self, route: u16) -> Self {
        let others = self.0 & !(0xFFFF << ROUTE_SHIFT);
        Self(others | (route as u64) << ROUTE_SHIFT, self.1)
    }

    /// With this id.
    #[must_use]
    #[inline]
    pub const fn with_id(self, id: u32) -> Self {
        Self(self.0, self.1 >> ARG_SHIFT << ARG_SHIFT | id as u64)
    }

    /// With this arg.
    #[must_use]
    #[inline]
    pub const fn with_arg(self, arg: u32) -> Self {
        Self(self.0, self.1 as u32 as u64 | (arg as u64) << ARG_SHIFT)
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("len", &self.len())
            .field("kind", &self.kind())
            .field("class", &self.class())
            .field("form", &self.form())
            .field("route", &self.route())
            .field("id", &self.id())
            .field("arg", &self.arg())
            .finish()
    }
}
