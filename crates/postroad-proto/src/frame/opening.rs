//! HELLO, WELCOME and REFUSE: the same shape in every version. `docs/protocol.md`, section 1.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::parts::{Parts, put_part};
use crate::code::Retry;
use crate::limits::{
    CALLS_MAX, CHECKSUM_BYTES, FRAME_BODY_MAX, FRAME_BODY_MIN, OPENING_BODY_MAX, OPENING_HEAD_BYTES,
};
use crate::wire_error::{WireError, WireFault};

/// The first four bytes of every native connection.
pub const MAGIC: [u8; 4] = [0xF7, b'P', b'R', b'D'];

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSE: u8 = 3;
const HELLO_FIXED: usize = 32;
const WELCOME_FIXED: usize = 48;
const REFUSE_FIXED: usize = 16;

/// Parts of an opening as they came: tag and value.
pub type OpeningParts = Vec<(u8, Bytes)>;

/// What the client proposes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest version spoken.
    pub version_min: u16,
    /// Highest version spoken.
    pub version_max: u16,
    /// Features offered, bits.
    pub offered: u32,
    /// Features required, bits.
    pub required: u32,
    /// Largest frame body accepted, bytes.
    pub max_frame: u32,
    /// Largest message accepted, bytes.
    pub max_message: u32,
    /// Calls in flight accepted.
    pub max_calls: u32,
    /// Heartbeat interval proposed, milliseconds.
    pub heartbeat_ms: u32,
    /// Route numbers kept.
    pub max_routes: u16,
    /// Optional parts.
    pub parts: OpeningParts,
}

/// What the server has settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version chosen.
    pub version: u16,
    /// Features agreed, bits.
    pub features: u32,
    /// Largest frame body accepted by the server, bytes.
    pub max_frame: u32,
    /// Largest message accepted by the server, bytes.
    pub max_message: u32,
    /// Calls in flight accepted by the server.
    pub max_calls: u32,
    /// Heartbeat interval agreed, milliseconds.
    pub heartbeat_ms: u32,
    /// Route numbers kept by the server.
    pub max_routes: u16,
    /// Names the session, for resuming it.
    pub session_id: [u8; 16],
    /// 1 for a new session.
    pub epoch: u32,
    /// Optional parts.
    pub parts: OpeningParts,
}

/// Why an opening was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum RefuseReason {
    /// No version in common.
    Version = 1,
    /// A required feature is missing.
    Features = 2,
    /// Too many connections.
    Capacity = 3,
    /// The opening itself was wrong.
    Malformed = 4,
    /// The server is shutting down.
    Draining = 5,
    /// The credentials do not suffice.
    Authentication = 6,
    /// The session cannot be resumed.
    ResumeFailed = 7,
}

impl RefuseReason {
    /// The word in messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Features => "features",
            Self::Capacity => "capacity",
            Self::Malformed => "malformed",
            Self::Draining => "draining",
            Self::Authentication => "authentication",
            Self::ResumeFailed => "resume failed",
        }
    }

    fn from_wire(wire: u16) -> Option<Self> {
        Some(match wire {
            1 => Self::Version,
            2 => Self::Features,
            3 => Self::Capacity,
            4 => Self::Malformed,
            5 => Self::Draining,
            6 => Self::Authentication,
            7 => Self::ResumeFailed,
            _ => return None,
        })
    }
}

/// The server's no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// Lowest version the refuser speaks.
    pub version_min: u16,
    /// Highest version the refuser speaks.
    pub version_max: u16,
    /// Why.
    pub reason: RefuseReason,
    /// Whether and where to try again; never [`Retry::IfIdempotent`].
    pub retry: Retry,
    /// Not sooner than this, milliseconds.
    pub retry_after_ms: u32,
    /// Features that are required and were missing, bits.
    pub features: u32,
    /// For a person.
    pub text: String,
}

/// Any of the three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// From the client.
    Hello(Hello),
    /// From the server: yes.
    Welcome(Welcome),
    /// From the server: no.
    Refuse(Refuse),
}

impl Opening {
    /// Takes an opening from the beginning of `buf`; `None` if it is not complete yet.
    ///
    /// # Errors
    /// M-003: magic, kind, length, checksum or body are wrong.
    pub fn decode(buf: &mut BytesMut) -> Result<Option<Self>, WireError> {
        check_head(buf)?;
        let Some(head) = buf.first_chunk::<OPENING_HEAD_BYTES>() else {
            return Ok(None);
        };
        let kind = head[4];
        let len = usize::from(u16::from_le_bytes([head[6], head[7]]));
        let end = OPENING_HEAD_BYTES + len;
        if buf.len() < end + CHECKSUM_BYTES {
            return Ok(None);
        }
        let mut whole = buf.split_to(end + CHECKSUM_BYTES).freeze();
        super::decoder::check_sum(&whole)?;
        let mut body = whole.split_to(end).slice(OPENING_HEAD_BYTES..);
        let fixed = match kind {
            HELLO => HELLO_FIXED,
            WELCOME => WELCOME_FIXED,
            _ => REFUSE_FIXED,
        };
        if len < fixed {
            let detail = format!("body of {len} bytes, this kind has at least {fixed}");
            return Err(WireError::new(WireFault::Length, 6, detail));
        }
        match kind {
            HELLO => Hello::decode(&mut body).map(Self::Hello),
            WELCOME => Welcome::decode(&mut body).map(Self::Welcome),
            _ => Refuse::decode(&mut body).map(Self::Refuse),
        }
        .map(Some)
    }

    /// What an opening of this kind is called; `None` if there is no such kind.
    #[must_use]
    pub fn name(kind: u8) -> Option<&'static str> {
        match kind {
            HELLO => Some("HELLO"),
            WELCOME => Some("WELCOME"),
            REFUSE => Some("REFUSE"),
            _ => None,
        }
    }

    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_slice(&MAGIC);
        let kind = match self {
            Self::Hello(_) => HELLO,
            Self::Welcome(_) => WELCOME,
            Self::Refuse(_) => REFUSE,
        };
        out.put_slice(&[kind, 0, 0, 0]);
        match self {
            Self::Hello(hello) => hello.encode(out),
            Self::Welcome(welcome) => welcome.encode(out),
            Self::Refuse(refuse) => refuse.encode(out),
        }
        let len = (out.len() - start - OPENING_HEAD_BYTES).min(OPENING_BODY_MAX);
        out.truncate(start + OPENING_HEAD_BYTES + len);
        out[start + 6..start + 8].copy_from_slice(&(len as u16).to_le_bytes());
        let sum = crate::frame::checksum(&out[start..]);
        out.put_u32_le(sum);
    }
}

/// Checks as much of the head as has arrived, so that a stranger is seen at its first wrong byte.
fn check_head(buf: &[u8]) -> Result<(), WireError> {
    for (at, (&found, expected)) in buf.iter().zip(MAGIC).enumerate() {
        if found != expected {
            let detail = format!("found 0x{found:02x}, expected 0x{expected:02x}");
            return Err(WireError::new(WireFault::Magic, at, detail));
        }
    }
    if let Some(&kind) = buf.get(4)
        && !(HELLO..=REFUSE).contains(&kind)
    {
        return Err(WireError::new(
            WireFault::Type,
            4,
            format!("opening of unknown kind {kind}"),
        ));
    }
    if let Some(&[l0, l1]) = buf.get(6..).and_then(|rest| rest.first_chunk::<2>()) {
        let len = usize::from(u16::from_le_bytes([l0, l1]));
        if len > OPENING_BODY_MAX {
            let detail = format!("opening of {len} bytes, at most {OPENING_BODY_MAX}");
            return Err(WireError::new(WireFault::Length, 6, detail));
        }
    }
    Ok(())
}

fn decode_parts(body: &Bytes, fixed: usize) -> Result<OpeningParts, WireError> {
    let at = (OPENING_HEAD_BYTES + fixed) as u64;
    Parts::new(body)
        .map(|part| {
            let part = part.map_err(|error| WireError {
                at: at + error.at,
                ..error
            })?;
            Ok((part.tag, body.slice_ref(part.value)))
        })
        .collect()
}

fn check_max_calls(max_calls: u32, at: usize) -> Result<u32, WireError> {
    if max_calls as usize <= CALLS_MAX {
        return Ok(max_calls);
    }
    let detail = format!("{max_calls} calls in flight, a slot has room for {CALLS_MAX}");
    Err(WireError::new(
        WireFault::Reserved,
        OPENING_HEAD_BYTES + at,
        detail,
    ))
}

fn check_max_frame(max_frame: u32, at: usize) -> Result<u32, WireError> {
    if (FRAME_BODY_MIN..=FRAME_BODY_MAX).contains(&(max_frame as usize)) {
        return Ok(max_frame);
    }
    let detail = format!("largest frame body of {max_frame} bytes is out of bounds");
    Err(WireError::new(
        WireFault::Reserved,
        OPENING_HEAD_BYTES + at,
        detail,
    ))
}

impl Hello {
    fn decode(body: &mut Bytes) -> Result<Self, WireError> {
        let (version_min, version_max) = (body.get_u16_le(), body.get_u16_le());
        if version_min > version_max {
            let detail = format!("version range {version_min} to {version_max} is empty");
            return Err(WireError::new(
                WireFault::Version,
                OPENING_HEAD_BYTES,
                detail,
            ));
        }
        let (offered, required) = (body.get_u32_le(), body.get_u32_le());
        let max_frame = check_max_frame(body.get_u32_le(), 12)?;
        let max_message = body.get_u32_le();
        let max_calls = check_max_calls(body.get_u32_le(), 20)?;
        let (heartbeat_ms, max_routes) = (body.get_u32_le(), body.get_u16_le());
        body.advance(2);
        let parts = decode_parts(body, HELLO_FIXED)?;
        Ok(Self {
            version_min,
            version_max,
            offered,
            required,
            max_frame,
            max_message,
            max_calls,
            heartbeat_ms,
            max_routes,
            parts,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16_le(self.version_min);
        out.put_u16_le(self.version_max);
        out.put_u32_le(self.offered);
        out.put_u32_le(self.required);
        out.put_u32_le(self.max_frame);
        out.put_u32_le(self.max_message);
        out.put_u32_le(self.max_calls);
        out.put_u32_le(self.heartbeat_ms);
        out.put_u16_le(self.max_routes);
        out.put_u16_le(0);
        self.parts
            .iter()
            .for_each(|(tag, value)| put_part(out, *tag, value));
    }
}

impl Welcome {
    fn decode(body: &mut Bytes) -> Result<Self, WireError> {
        let version = body.get_u16_le();
        body.advance(2);
        let features = body.get_u32_le();
        let max_frame = check_max_frame(body.get_u32_le(), 8)?;
        let max_message = body.get_u32_le();
        let max_calls = check_max_calls(body.get_u32_le(), 16)?;
        let (heartbeat_ms, max_routes) = (body.get_u32_le(), body.get_u16_le());
        body.advance(2);
        let mut session_id = [0; 16];
        body.copy_to_slice(&mut session_id);
        let epoch = body.get_u32_le();
        let parts = decode_parts(body, WELCOME_FIXED)?;
        Ok(Self {
            version,
            features,
            max_frame,
            max_message,
            max_calls,
            heartbeat_ms,
            max_routes,
            session_id,
            epoch,
            parts,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16_le(self.version);
        out.put_u16_le(0);
        out.put_u32_le(self.features);
        out.put_u32_le(self.max_frame);
        out.put_u32_le(self.max_message);
        out.put_u32_le(self.max_calls);
        out.put_u32_le(self.heartbeat_ms);
        out.put_u16_le(self.max_routes);
        out.put_u16_le(0);
        out.put_slice(&self.session_id);
        out.put_u32_le(self.epoch);
        self.parts
            .iter()
            .for_each(|(tag, value)| put_part(out, *tag, value));
    }
}

impl Refuse {
    fn decode(body: &mut Bytes) -> Result<Self, WireError> {
        let (version_min, version_max) = (body.get_u16_le(), body.get_u16_le());
        let bad = |at: usize, what: &str, value: u16| {
            WireError::new(
                WireFault::Reserved,
                OPENING_HEAD_BYTES + at,
                format!("unknown {what} {value}"),
            )
        };
        let reason = body.get_u16_le();
        let reason = RefuseReason::from_wire(reason).ok_or_else(|| bad(4, "reason", reason))?;
        let retry = body.get_u8();
        let retry = Retry::from_wire(retry)
            .filter(|retry| *retry != Retry::IfIdempotent)
            .ok_or_else(|| bad(6, "retry", retry.into()))?;
        body.advance(1);
        let (retry_after_ms, features) = (body.get_u32_le(), body.get_u32_le());
        let text = std::str::from_utf8(body)
            .map_err(|error| {
                let at = OPENING_HEAD_BYTES + REFUSE_FIXED + error.valid_up_to();
                WireError::new(WireFault::Utf8, at, "text is not UTF-8")
            })?
            .to_owned();
        Ok(Self {
            version_min,
            version_max,
            reason,
            retry,
            retry_after_ms,
            features,
            text,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16_le(self.version_min);
        out.put_u16_le(self.version_max);
        out.put_u16_le(self.reason as u16);
        out.put_u8(self.retry.to_wire());
        out.put_u8(0);
        out.put_u32_le(self.retry_after_ms);
        out.put_u32_le(self.features);
        out.put_slice(crate::text::cut_at_char(&self.text, 1024).as_bytes());
    }
}
