//! Error codes, whose fault an error is, and whether the same call may be sent again.

use std::fmt;

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
    /// Nobody has said who calls, or with a token that does not prove it.
    pub const UNAUTHENTICATED: Self = Self::literal("AUT-E-401");
    /// Who calls is known, and may not call this.
    pub const FORBIDDEN: Self = Self::literal("AUT-E-403");
    /// What proved who calls has expired: the caller brings a new token.
    pub const EXPIRED: Self = Self::literal("AUT-E-498");
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

    pub(crate) const fn from_bytes(text: &[u8]) -> Option<Self> {
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
}
