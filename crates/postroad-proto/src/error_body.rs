//! The error that a call is answered with, and its bytes on the wire.

use std::fmt;

use bytes::{Buf, BufMut, Bytes};

use crate::code::{Code, Retry};
use crate::limits::{CAUSE_MESSAGE_MAX, CAUSES_MAX};
use crate::text::{Printable, cut_at_char};
use crate::trace::Trace;

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
            out.put_u8(cause.code.as_str().len() as u8);
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

#[cfg(test)]
mod tests {
    use super::*;

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
