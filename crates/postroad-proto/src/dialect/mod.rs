//! The six dialects as pure codecs: bytes in, frames out. Layouts: `docs/dialects.md`.
//!
//! Multi-byte integers are big-endian. Any split of the input into chunks decodes the same: magic
//! and version are judged at their first wrong byte, everything else when the whole header is
//! there.

mod compact;
mod envelope;
mod line;
pub(crate) mod metadata;
mod opcode;
mod priority;
pub mod routes;
mod sequence;
mod session;

use bytes::{Buf, Bytes, BytesMut};

pub use envelope::{Envelope, EnvelopeError, Opened, Packet, ReplyFrame, Target};
pub use metadata::Metadata;

use crate::limits::MAX_DIALECT_PAYLOAD;
use crate::wire_error::{WireError, WireFault};

/// Which of the published designs a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// A: command, session id, CRC-16.
    Session,
    /// B: magic `AB CD`, sequence id.
    Sequence,
    /// C: magic `4D 43 50 01`, opcode.
    Opcode,
    /// D: sequence id and priority.
    Priority,
    /// E: magic `4D 43`.
    Compact,
    /// L: lines of text.
    Line,
}

/// Whether an answer finds its question by an id or by its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correlation {
    /// By an id in the frame; answers may overtake each other.
    Id,
    /// Answers leave in the order in which the questions came.
    Fifo,
}

impl Dialect {
    /// All of them, in the order of the sources.
    pub const ALL: [Self; 6] = [
        Self::Session,
        Self::Sequence,
        Self::Opcode,
        Self::Priority,
        Self::Compact,
        Self::Line,
    ];

    /// The word in URLs, configuration and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Sequence => "sequence",
            Self::Opcode => "opcode",
            Self::Priority => "priority",
            Self::Compact => "compact",
            Self::Line => "line",
        }
    }

    /// The dialect of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }

    /// What a frame of this dialect is for whose type, command or code this byte is; `None` if
    /// nothing is. In `session` and `opcode` code 0 is a heartbeat only if nothing follows it.
    pub(crate) fn kind_of(self, byte: u8, reader: Reader) -> Option<FrameKind> {
        match self {
            Self::Session | Self::Opcode => Some(kind_of_code(byte, true, reader)),
            Self::Sequence | Self::Priority | Self::Compact => kind_of(byte),
            Self::Line => None,
        }
    }

    /// How answers find their questions.
    #[must_use]
    pub fn correlation(self) -> Correlation {
        match self {
            Self::Session | Self::Sequence | Self::Priority => Correlation::Id,
            Self::Opcode | Self::Compact | Self::Line => Correlation::Fifo,
        }
    }

    /// The dialect that begins with these bytes; `None` while they could still become one.
    ///
    /// # Errors
    /// If no dialect with a magic begins like this.
    pub fn detect(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        const MAGICS: [(&[u8], Dialect); 3] = [
            (&sequence::MAGIC, Dialect::Sequence),
            (&[0x4D, 0x43, 0x50], Dialect::Opcode),
            (&[0x4D, 0x43, 0x01], Dialect::Compact),
        ];
        let mut longest = 0;
        for (magic, dialect) in MAGICS {
            let same = bytes.iter().zip(magic).take_while(|(a, b)| a == b).count();
            if same == magic.len() {
                return Ok(Some(dialect));
            }
            if same == bytes.len() {
                return Ok(None);
            }
            longest = longest.max(same);
        }
        let detail = format!(
            "0x{:02x} begins no protocol that can be detected",
            bytes[longest]
        );
        Err(WireError::new(WireFault::Magic, longest, detail))
    }
}

/// What a dialect's frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Wants an answer.
    Request,
    /// Is one.
    Response,
    /// A heartbeat that wants one back.
    Ping,
    /// The heartbeat that was wanted.
    Pong,
    /// The answer that something failed; the payload is `CODE message`.
    Error,
    /// Wants no answer.
    OneWay,
}

impl FrameKind {
    /// The word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
            Self::Ping => "ping",
            Self::Pong => "pong",
            Self::Error => "error",
            Self::OneWay => "one-way message",
        }
    }
}

/// A frame of any dialect. Fields that a dialect does not have are 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialectFrame {
    /// What it is for.
    pub kind: FrameKind,
    /// Command or opcode.
    pub code: u8,
    /// Session id or sequence id.
    pub id: u32,
    /// 0 to 7, higher first.
    pub priority: u8,
    /// A slice of the read buffer.
    pub payload: Bytes,
}

impl DialectFrame {
    /// A frame of this kind, everything else 0.
    #[must_use]
    pub fn new(kind: FrameKind, payload: Bytes) -> Self {
        Self {
            kind,
            code: 0,
            id: 0,
            priority: 0,
            payload,
        }
    }
}

/// Checksum of the `session` dialect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Crc {
    /// CRC-16/IBM-3740, the default.
    #[default]
    Ibm3740,
    /// CRC-16/MODBUS.
    Modbus,
    /// CRC-16/XMODEM.
    Xmodem,
    /// CRC-16/ARC.
    Arc,
    /// CRC-16/KERMIT.
    Kermit,
}

impl Crc {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Ibm3740,
        Self::Modbus,
        Self::Xmodem,
        Self::Arc,
        Self::Kermit,
    ];

    /// The word in URLs and configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ibm3740 => "ibm-3740",
            Self::Modbus => "modbus",
            Self::Xmodem => "xmodem",
            Self::Arc => "arc",
            Self::Kermit => "kermit",
        }
    }

    /// The checksum of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|crc| crc.name() == name)
    }
}

/// Bytes of the `priority` dialect's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PriorityHeader {
    /// No reserved byte.
    Nine,
    /// One reserved byte, the default.
    #[default]
    Ten,
    /// Three bytes of padding, as a C compiler lays the struct out.
    Twelve,
}

impl PriorityHeader {
    /// 9, 10 or 12.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Nine => 9,
            Self::Ten => 10,
            Self::Twelve => 12,
        }
    }

    /// The header of this many bytes.
    #[must_use]
    pub fn from_bytes(bytes: usize) -> Option<Self> {
        [Self::Nine, Self::Ten, Self::Twelve]
            .into_iter()
            .find(|header| header.bytes() == bytes)
    }
}

/// Which end reads with a codec: some dialects tell questions from answers only by the direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Reads requests.
    Server,
    /// Reads responses.
    Client,
}

/// A dialect and its settings: encodes, and decodes with what little memory of the past that needs.
#[derive(Clone, Debug)]
pub struct DialectCodec {
    /// Which one.
    pub dialect: Dialect,
    /// Which end this is.
    pub reader: Reader,
    /// Checksum of `session`.
    pub crc: Crc,
    /// Header of `priority`.
    pub header: PriorityHeader,
    /// Largest payload, bytes, where the dialect's own length field allows it.
    pub max_payload: usize,
    /// Bytes of the `line` dialect in which no line end was found yet.
    scanned: usize,
}

/// A frame that its dialect cannot say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The payload is longer than the dialect or the limit allows.
    #[error("payload of {len} bytes, at most {max} fit")]
    TooLarge {
        /// Bytes of the payload.
        len: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// The dialect has no frame of that kind.
    #[error("the dialect has no such frame")]
    NoSuchFrame,
    /// Text of the `line` dialect that is not one line of UTF-8.
    #[error("not one line of UTF-8 text")]
    NotALine,
}

impl DialectCodec {
    /// A codec with the dialect's defaults.
    #[must_use]
    pub fn new(dialect: Dialect, reader: Reader) -> Self {
        let (crc, header) = (Crc::default(), PriorityHeader::default());
        Self {
            dialect,
            reader,
            crc,
            header,
            max_payload: MAX_DIALECT_PAYLOAD,
            scanned: 0,
        }
    }

    /// Largest payload that a frame may have, bytes.
    #[must_use]
    pub fn payload_max(&self) -> usize {
        match self.dialect {
            Dialect::Session | Dialect::Opcode => self.max_payload.min(usize::from(u16::MAX)),
            Dialect::Line => self.max_payload.min(crate::limits::MAX_LINE),
            _ => self.max_payload,
        }
    }

    /// Takes one frame from the beginning of `buf`; `None` if it is not complete yet.
    ///
    /// # Errors
    /// What is wrong, at which byte of the frame, and the frame's id if it could be read.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<DialectFrame>, WireError> {
        match self.dialect {
            Dialect::Session => session::decode(self, buf),
            Dialect::Sequence => sequence::decode(self, buf),
            Dialect::Opcode => opcode::decode(self, buf),
            Dialect::Priority => priority::decode(self, buf),
            Dialect::Compact => compact::decode(self, buf),
            Dialect::Line => line::decode(self, buf),
        }
    }

    /// Appends one frame.
    ///
    /// # Errors
    /// If the dialect cannot say it; nothing is appended then.
    pub fn encode(&self, frame: &DialectFrame, out: &mut BytesMut) -> Result<(), EncodeError> {
        // An error of the session's own is told, however little the application allows itself.
        let least = if frame.kind == FrameKind::Error {
            ERROR_BYTES
        } else {
            0
        };
        let (len, max) = (frame.payload.len(), self.payload_max().max(least));
        if len > max {
            return Err(EncodeError::TooLarge { len, max });
        }
        match self.dialect {
            Dialect::Session => session::encode(self, frame, out),
            Dialect::Sequence => sequence::encode(frame, out),
            Dialect::Opcode => opcode::encode(frame, out),
            Dialect::Priority => priority::encode(self, frame, out),
            Dialect::Compact => compact::encode(frame, out),
            Dialect::Line => line::encode(self, frame, out),
        }
        .ok_or_else(|| self.why_not(frame))
    }

    fn why_not(&self, frame: &DialectFrame) -> EncodeError {
        let text = matches!(
            frame.kind,
            FrameKind::Request | FrameKind::Response | FrameKind::Error
        );
        if self.dialect == Dialect::Line && text {
            EncodeError::NotALine
        } else {
            EncodeError::NoSuchFrame
        }
    }

    /// The id of a frame that is not whole, 0 if it is not there.
    #[must_use]
    pub fn peek_id(&self, buf: &[u8]) -> u32 {
        match self.dialect {
            Dialect::Session if buf.len() >= 5 => be32(buf, 1),
            Dialect::Sequence if buf.len() >= 12 => be32(buf, 8),
            Dialect::Priority if buf.len() >= 4 => be16(buf, 2).into(),
            _ => 0,
        }
    }

    /// Fails if `len` is over the limit; `at` is the byte of the length field.
    fn check_len(&self, len: usize, at: usize, id: u32) -> Result<(), WireError> {
        let max = self.payload_max();
        if len <= max {
            return Ok(());
        }
        let detail = format!("length {len}, at most {max} are accepted");
        Err(WireError::new(WireFault::Length, at, detail).with_id(id))
    }
}

/// Bytes of an error's text that every dialect can say.
pub(crate) const ERROR_BYTES: usize = 2048;

/// Fails at the first byte of `buf` that differs from `magic`.
fn check_magic(buf: &[u8], magic: &[u8]) -> Result<(), WireError> {
    match buf
        .iter()
        .zip(magic)
        .position(|(found, expected)| found != expected)
    {
        None => Ok(()),
        Some(at) => {
            let detail = format!("found 0x{:02x}, expected 0x{:02x}", buf[at], magic[at]);
            Err(WireError::new(WireFault::Magic, at, detail))
        }
    }
}

/// Fails if the version byte at `at` has arrived and is not 1.
fn check_version(buf: &[u8], at: usize) -> Result<(), WireError> {
    match buf.get(at) {
        None | Some(1) => Ok(()),
        Some(found) => {
            let detail = format!("version {found}, only 1 is spoken");
            Err(WireError::new(WireFault::Version, at, detail))
        }
    }
}

fn unknown_type(found: u8, at: usize) -> WireError {
    WireError::new(WireFault::Type, at, format!("unknown type {found}"))
}

/// Takes a frame of `header` bytes and `len` of payload, or `None` if it is not all there.
fn take(buf: &mut BytesMut, header: usize, len: usize) -> Option<Bytes> {
    if buf.len() < header + len {
        return None;
    }
    buf.advance(header);
    Some(buf.split_to(len).freeze())
}

/// The five types of `compact`, which `sequence` extends.
fn type_of(kind: FrameKind) -> Option<u8> {
    Some(match kind {
        FrameKind::Request => 1,
        FrameKind::Response => 2,
        FrameKind::Ping => 3,
        FrameKind::Pong => 4,
        FrameKind::Error => 5,
        FrameKind::OneWay => return None,
    })
}

fn kind_of(wire: u8) -> Option<FrameKind> {
    Some(match wire {
        1 => FrameKind::Request,
        2 => FrameKind::Response,
        3 => FrameKind::Ping,
        4 => FrameKind::Pong,
        5 => FrameKind::Error,
        _ => return None,
    })
}

/// Code of a heartbeat in `session` and `opcode`.
const HEARTBEAT: u8 = 0x00;
/// Code of an error in `session` and `opcode`.
const ERROR: u8 = 0xFF;

/// What a frame of `session` or `opcode` is for: its code and its direction say it.
fn kind_of_code(code: u8, is_heartbeat: bool, reader: Reader) -> FrameKind {
    match (code, reader) {
        (HEARTBEAT, Reader::Server) if is_heartbeat => FrameKind::Ping,
        (HEARTBEAT, Reader::Client) if is_heartbeat => FrameKind::Pong,
        (ERROR, _) => FrameKind::Error,
        (_, Reader::Server) => FrameKind::Request,
        (_, Reader::Client) => FrameKind::Response,
    }
}

/// The code that a frame of `session` or `opcode` is sent with.
fn code_of_frame(frame: &DialectFrame) -> u8 {
    match frame.kind {
        FrameKind::Ping | FrameKind::Pong => HEARTBEAT,
        FrameKind::Error => ERROR,
        FrameKind::Request | FrameKind::Response | FrameKind::OneWay => frame.code,
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
