//! The W3C trace context that a call carries.

use std::fmt;
use std::str::FromStr;

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

    /// The value of an HTTP header `traceparent`, to hand the trace on to what speaks HTTP.
    ///
    /// ```
    /// # use postroad_proto::trace::Trace;
    /// let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// let trace: Trace = header.parse().unwrap();
    /// assert_eq!(trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    /// assert_eq!(trace.traceparent(), header);
    /// ```
    #[must_use]
    pub fn traceparent(&self) -> String {
        let hex = |bytes: &[u8]| -> String {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            digits.collect()
        };
        format!(
            "00-{}-{}-{:02x}",
            hex(&self.id),
            hex(&self.span),
            self.flags
        )
    }
}

/// A text that is not the value of a header `traceparent`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no traceparent: expected 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, in lower case"
)]
pub struct TraceError;

impl FromStr for Trace {
    type Err = TraceError;

    /// Reads the value of a W3C header `traceparent`. A version after 00 may have more fields
    /// behind the four, which are left out, as W3C asks; ids of zeroes are invalid.
    fn from_str(text: &str) -> Result<Self, TraceError> {
        let mut fields = text.split('-');
        let mut field = || fields.next().unwrap_or("");
        let [version] = bytes_of_hex(field())?;
        let (id, span) = (bytes_of_hex(field())?, bytes_of_hex(field())?);
        let [flags] = bytes_of_hex(field())?;
        let has_more = fields.next().is_some();
        let is_invalid = id == [0; 16] || span == [0; 8] || version == 0xff;
        if is_invalid || (version == 0 && has_more) {
            return Err(TraceError);
        }
        Ok(Self { id, span, flags })
    }
}

/// The bytes that exactly so many lower-case hexadecimal digits stand for.
fn bytes_of_hex<const N: usize>(text: &str) -> Result<[u8; N], TraceError> {
    let is_lower = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 2 * N || !text.bytes().all(is_lower) {
        return Err(TraceError);
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        let digits = &text[2 * at..2 * at + 2];
        *byte = u8::from_str_radix(digits, 16).map_err(|_| TraceError)?;
    }
    Ok(bytes)
}

impl fmt::Display for Trace {
    /// The trace id alone, in hexadecimal, as logs show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_it_is_printed_and_a_wrong_one_refused() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace: Trace = good.parse().expect("the example of the standard");
        assert_eq!((trace.flags, trace.traceparent().as_str()), (1, good));
        let later = format!("01{}-more", &good[2..]);
        assert_eq!(later.parse(), Ok(trace));
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-\u{e9}bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert_eq!(wrong.parse::<Trace>(), Err(TraceError), "{wrong}");
        }
    }
}
