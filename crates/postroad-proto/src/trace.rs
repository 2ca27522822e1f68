//! The W3C trace context that a call carries.

use std::fmt;

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
