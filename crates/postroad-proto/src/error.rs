//! What can go wrong on the wire, whose fault it was, and whether trying again is safe.

use std::fmt;

use bytes::{Buf, BufMut, Bytes};

use crate::limits::{CAUSE_MESSAGE_MAX, CAUSES_MAX};

/// Who has to change something for this to go away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The code that called: a wrong argument, a wrong state.
    Caller,
    /// The other end of the connection.
    Peer,
    /// What lies between: the network, a full queue, time.
    Environment,
}

/// Whether the same call may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// It ran, or it can never succeed.
    Never,
    /// It was not started; the same endpoint may take it.
    Here,
    /// It was not started; another endpoint may take it.
    Elsewhere,
    /// Nobody knows whether it ran: only a call that may run twice may be sent again.
    IfIdempotent,
}

impl Retry {
    /// The number on the wire.
    #[must_use]
    pub fn to_wire(self) -> u8 {
        match self {
            Self::Never => 0,
            Self::Here => 1,
            Self::Elsewhere => 2,
            Self::IfIdempotent => 3,
        }
    }

    /// Reads the number on the wire.
    #[must_use]
    pub fn from_wire(wire: u8) -> Option<Self> {
        Some(match wire {
            0 => Self::Never,
            1 => Self::Here,
            2 => Self::Elsewhere,
            3 => Self::IfIdempotent,
            _ => return None,
        })
    }

    /// Whether the call certainly was not started.
    #[must_use]
    pub fn was_not_started(self) -> bool {
        matches!(self, Self::Here | Self::Elsewhere)
    }
}

/// An error code `DOMAIN-LEVEL-NUMBER`, such as `SRV-E-404`.
///
/// A domain of 2 to 8 capitals, a level (`E` error, `W` warning, `F` fatal), three digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code {
    bytes: [u8; 14],
    len: u8,
}

/// A text that is not a [`Code`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an error code: expected DOMAIN-LEVEL-NUMBER such as SRV-E-404")]
pub struct CodeError(pub String);

impl Code {
    /// The request is not well formed.
    pub const BAD_REQUEST: Self = Self::literal("SRV-E-400");
    /// No such route.
    pub const NOT_FOUND: Self = Self::literal("SRV-E-404");
    /// The caller has cancelled.
    pub const CANCELLED: Self = Self::literal("SRV-E-499");
    /// Too much at once: not started.
    pub const OVERLOADED: Self = Self::literal("SRV-E-429");
    /// The handler failed in a way that it did not name.
    pub const INTERNAL: Self = Self::literal("SRV-E-500");
    /// Something critical in the request is not understood.
    pub const UNSUPPORTED: Self = Self::literal("SRV-E-501");
    /// The server is shutting down: not started.
    pub const DRAINING: Self = Self::literal("SRV-E-503");
    /// The deadline passed.
    pub const DEADLINE: Self = Self::literal("SRV-E-504");
    /// The peer broke the protocol.
    pub const PROTOCOL: Self = Self::literal("NET-E-400");
    /// The answer cannot be sent: it is larger than the peer accepts.
    pub const TOO_LARGE: Self = Self::literal("SRV-E-413");

    /// A code from a literal, checked when it is compiled if used in a `const`.
    ///
    /// # Panics
    /// If the text is not a code.
    #[must_use]
    pub const fn literal(text: &'static str) -> Self {
        match Self::from_bytes(text.as_bytes()) {
            Some(code) => code,
            None => panic!("not an error code of the form SRV-E-404"),
        }
    }

    const fn from_bytes(text: &[u8]) -> Option<Self> {
        let len = text.len();
        if len < 8 || len > 14 {
            return None;
        }
        let domain = len - 6;
        let mut bytes = [0; 14];
        let mut at = 0;
        while at < len {
            let byte = text[at];
            let fits = if at < domain {
                byte.is_ascii_uppercase()
            } else if at == domain || at == domain + 2 {
                byte == b'-'
            } else if at == domain + 1 {
                byte == b'E' || byte == b'W' || byte == b'F'
            } else {
                byte.is_ascii_digit()
            };
            if !fits {
                return None;
            }
            bytes[at] = byte;
            at += 1;
        }
        Some(Self {
            bytes,
            len: len as u8,
        })
    }

    /// Reads a code.
    ///
    /// # Errors
    /// If the text is not of the form.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        Self::from_bytes(text.as_bytes()).ok_or_else(|| CodeError(text.chars().take(40).collect()))
    }

    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One link of an error's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// What kind of failure.
    pub code: Code,
    /// What happened, for a person.
    pub message: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, Printable(&self.message))
    }
}

/// The error that one end answers a call with: a chain of causes, the root last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorBody {
    /// Whether the call may be sent again.
    pub retry: Retry,
    /// Not sooner than this, milliseconds; 0 is no hint.
    pub retry_after_ms: u32,
    /// The error itself first, the root cause last; 1 to [`CAUSES_MAX`].
    pub causes: Vec<Cause>,
    /// The trace that the failed call belongs to.
    pub trace: Option<Trace>,
}

impl ErrorBody {
    /// An error without a cause, never to be retried.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let causes = vec![Cause {
            code,
            message: message.into(),
        }];
        Self {
            retry: Retry::Never,
            retry_after_ms: 0,
            causes,
            trace: None,
        }
    }

    /// The same error with another promise about trying again.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Writes the body of a native ERROR frame, cut to what one frame may hold.
    pub fn encode(&self, out: &mut impl BufMut) {
        let causes = &self.causes[..self.causes.len().min(CAUSES_MAX)];
        out.put_u8(self.retry.to_wire());
        out.put_u8(causes.len() as u8);
        for cause in causes {
            let message = cut_at_char(&cause.message, CAUSE_MESSAGE_MAX);
            out.put_u8(cause.code.len);
            out.put_slice(cause.code.as_str().as_bytes());
            out.put_u16_le(message.len() as u16);
            out.put_slice(message.as_bytes());
        }
    }

    /// Reads the body of a native ERROR frame (M-030).
    #[must_use]
    pub fn decode(mut body: Bytes) -> Option<Self> {
        if body.len() < 2 {
            return None;
        }
        let retry = Retry::from_wire(body.get_u8())?;
        let count = usize::from(body.get_u8());
        if count == 0 || count > CAUSES_MAX {
            return None;
        }
        let mut causes = Vec::with_capacity(count);
        for _ in 0..count {
            let len = usize::from(body.try_get_u8().ok()?);
            let code = Code::from_bytes(body.get(..len)?)?;
            body.advance(len);
            let len = usize::from(body.try_get_u16_le().ok()?);
            let message = std::str::from_utf8(body.get(..len)?).ok()?.to_owned();
            body.advance(len);
            causes.push(Cause { code, message });
        }
        body.is_empty().then_some(Self {
            retry,
            retry_after_ms: 0,
            causes,
            trace: None,
        })
    }

    /// The error itself.
    #[must_use]
    pub fn code(&self) -> Code {
        self.causes
            .first()
            .map_or(Code::INTERNAL, |cause| cause.code)
    }
}

impl fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, cause) in self.causes.iter().enumerate() {
            if at > 0 {
                f.write_str(", caused by ")?;
            }
            write!(f, "{cause}")?;
        }
        Ok(())
    }
}

/// Text of a peer as it may stand in a log or on a terminal: control characters are written out, so
/// that nobody can forge a line or move the cursor.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() || is_invisible(c) {
                write!(f, "{}", c.escape_default())?;
            } else {
                fmt::Write::write_char(f, c)?;
            }
        }
        Ok(())
    }
}

/// Line separators, and marks that turn the direction of what follows around.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200E}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// The longest beginning of `text` of at most `max` bytes that ends at a character.
#[must_use]
pub fn cut_at_char(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// W3C trace context: which trace a call belongs to, and whose child it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Trace {
    /// The same for every hop of one piece of work.
    pub id: [u8; 16],
    /// The caller's span.
    pub span: [u8; 8],
    /// W3C trace flags; bit 0 is *sampled*.
    pub flags: u8,
}

impl Trace {
    /// Bytes on the wire.
    pub const WIRE_BYTES: usize = 25;

    /// Reads the value of part 2.
    #[must_use]
    pub fn from_wire(value: &[u8]) -> Option<Self> {
        let id = value.get(..16)?.try_into().ok()?;
        let span = value.get(16..24)?.try_into().ok()?;
        let flags = *value.get(24)?;
        (value.len() == Self::WIRE_BYTES).then_some(Self { id, span, flags })
    }

    /// The value of part 2.
    #[must_use]
    pub fn to_wire(&self) -> [u8; Self::WIRE_BYTES] {
        let mut wire = [0; Self::WIRE_BYTES];
        wire[..16].copy_from_slice(&self.id);
        wire[16..24].copy_from_slice(&self.span);
        wire[24] = self.flags;
        wire
    }
}

impl fmt::Display for Trace {
    /// The trace id alone, in hexadecimal, as logs show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What was wrong with bytes from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WireFault {
    /// The first bytes are not this protocol's.
    Magic,
    /// A version that is not spoken here.
    Version,
    /// A type, kind or command that does not exist, or not in this direction.
    Type,
    /// A length over the limit, or one that contradicts another.
    Length,
    /// A priority over 7.
    Priority,
    /// The checksum does not match.
    Checksum,
    /// Text that is not UTF-8.
    Utf8,
    /// A reserved bit is set, or a field has a value that has no meaning.
    Reserved,
    /// Parts that overrun their frame.
    Parts,
    /// The stream ended in the middle of a frame.
    Truncated,
    /// The id is in flight already, or was never defined.
    Id,
    /// A frame that is not allowed in this state.
    State,
}

impl WireFault {
    /// The word used in messages, counters and vectors.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Magic => "magic",
            Self::Version => "version",
            Self::Type => "type",
            Self::Length => "length",
            Self::Priority => "priority",
            Self::Checksum => "checksum",
            Self::Utf8 => "utf-8",
            Self::Reserved => "reserved",
            Self::Parts => "parts",
            Self::Truncated => "truncated",
            Self::Id => "id",
            Self::State => "state",
        }
    }
}

/// Bytes that break the protocol: what, where, and the id to answer with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} at byte {at}: {detail}", fault.word())]
pub struct WireError {
    /// What was wrong.
    pub fault: WireFault,
    /// The byte where it shows. Codecs count from the frame's first byte, sessions from the
    /// connection's.
    pub at: u64,
    /// Found and expected, for a person.
    pub detail: String,
    /// The id of the frame, 0 if none could be read.
    pub id: u32,
}

impl WireError {
    /// An error without an id.
    #[must_use]
    pub fn new(fault: WireFault, at: usize, detail: impl Into<String>) -> Self {
        Self {
            fault,
            at: at as u64,
            detail: detail.into(),
            id: 0,
        }
    }

    /// The same error of the frame with this id.
    #[must_use]
    pub fn with_id(mut self, id: u32) -> Self {
        self.id = id;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_a_domain_a_level_and_a_number() {
        for good in ["SRV-E-404", "AB-W-000", "ABCDEFGH-F-999"] {
            assert_eq!(Code::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "A-E-404",
            "srv-E-404",
            "SRV-X-404",
            "SRV-E-40",
            "ABCDEFGHI-E-404",
            "",
            "SRVE404",
        ] {
            assert!(Code::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_body_survives_the_wire_with_its_chain() {
        let mut error = ErrorBody::new(Code::literal("ORD-E-102"), "no stock");
        error.retry = Retry::IfIdempotent;
        error.causes.push(Cause {
            code: Code::literal("INV-E-003"),
            message: "é".repeat(2000),
        });
        let mut wire = Vec::new();
        error.encode(&mut wire);
        let back = ErrorBody::decode(wire.into()).unwrap();
        assert_eq!(back.causes[0], error.causes[0]);
        assert_eq!(
            back.causes[1].message,
            "é".repeat(512),
            "cut at a character"
        );
        assert_eq!(back.retry, Retry::IfIdempotent);
    }

    #[test]
    fn what_a_peer_says_cannot_forge_a_line() {
        let error = ErrorBody::new(Code::INTERNAL, "x\n2026 INFO all is well\x1b[2J\u{202e}");
        assert_eq!(
            error.to_string(),
            "SRV-E-500 x\\n2026 INFO all is well\\u{1b}[2J\\u{202e}"
        );
    }

    #[test]
    fn a_truncated_error_body_is_refused_at_every_length() {
        let mut wire = Vec::new();
        ErrorBody::new(Code::INTERNAL, "x").encode(&mut wire);
        for end in 0..wire.len() {
            assert!(
                ErrorBody::decode(Bytes::copy_from_slice(&wire[..end])).is_none(),
                "{end}"
            );
        }
    }
}
