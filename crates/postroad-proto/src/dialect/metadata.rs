//! What the map `metadata` of an envelope says about a call: its time, its trace, and keys of the
//! caller's own. `docs/dialects.md` has the keys.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::frame::put_metadata;
use crate::limits::PARTS_MAX;
use crate::trace::Trace;

/// Keys and values, in the order in which they are written.
pub type Metadata = BTreeMap<String, String>;

/// Milliseconds until the answer is of no use any more.
const TIMEOUT: &str = "timeout_ms";
/// W3C trace context, as in the HTTP header of that name.
const TRACEPARENT: &str = "traceparent";

/// What a request's metadata says, as a session hands it on.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Time until the answer is of no use any more.
    pub(crate) timeout: Option<Duration>,
    /// The trace that it belongs to.
    pub(crate) trace: Option<Trace>,
    /// All other keys, as parts of a native frame.
    pub(crate) parts: Bytes,
}

/// Reads a request's metadata.
///
/// # Errors
/// In words, if a value is not what its key promises or if there is too much.
pub(crate) fn read(metadata: Metadata) -> Result<Said, String> {
    if metadata.len() > PARTS_MAX {
        let len = metadata.len();
        return Err(format!("{len} keys of metadata, at most {PARTS_MAX}"));
    }
    let mut said = Said::default();
    let mut parts = Vec::new();
    for (key, value) in metadata {
        match key.as_str() {
            TIMEOUT => {
                let millis = value.parse::<u32>().ok().filter(|millis| *millis > 0);
                let millis = millis.ok_or_else(|| {
                    let max = u32::MAX;
                    format!("metadata {TIMEOUT} {value:?}: expected milliseconds, 1 to {max}")
                })?;
                said.timeout = Some(Duration::from_millis(millis.into()));
            }
            // W3C asks to go on without a trace if its header cannot be read.
            TRACEPARENT => said.trace = value.parse().ok(),
            _ => put_metadata(&mut parts, &key, value.as_bytes())?,
        }
    }
    said.parts = parts.into();
    Ok(said)
}

/// The metadata of a call that has these pairs, this trace, and so much time left. A pair of the
/// caller's own wins over what would be said for it.
///
/// # Errors
/// In words, if a value is not text.
pub(crate) fn write(
    pairs: &[(String, Bytes)],
    trace: Option<&Trace>,
    left: Option<Duration>,
) -> Result<Metadata, String> {
    let mut metadata = Metadata::new();
    if let Some(left) = left {
        // Rounded up, so that the caller, which knows the time exactly, gives up first.
        let millis = left.as_nanos().div_ceil(1_000_000);
        let millis = millis.clamp(1, u32::MAX.into());
        metadata.insert(TIMEOUT.to_owned(), millis.to_string());
    }
    if let Some(trace) = trace {
        metadata.insert(TRACEPARENT.to_owned(), trace.traceparent());
    }
    for (key, value) in pairs {
        let text = std::str::from_utf8(value);
        let text = text.map_err(|_| format!("metadata {key:?}: an envelope holds UTF-8 only"))?;
        metadata.insert(key.clone(), text.to_owned());
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let trace = Trace {
            id: [1; 16],
            span: [2; 8],
            flags: 1,
        };
        let pairs = [("tenant".to_owned(), Bytes::from_static(b"acme"))];
        let left = Duration::from_millis(1_500);
        let said = read(write(&pairs, Some(&trace), Some(left)).unwrap()).unwrap();
        assert_eq!((said.timeout, said.trace), (Some(left), Some(trace)));
        assert_eq!(said.parts, &b"\x03\x0b\x00\x06tenantacme"[..]);
        let soon = write(&[], None, Some(Duration::from_nanos(1))).unwrap();
        assert_eq!(soon[TIMEOUT], "1", "no call leaves with its time up");
    }

    #[test]
    fn metadata_that_cannot_be_is_refused_and_a_wrong_trace_is_left_out() {
        let one = |key: &str, value: &str| Metadata::from([(key.to_owned(), value.to_owned())]);
        for value in ["0", "-1", "soon", "4294967296", ""] {
            let error = read(one(TIMEOUT, value)).unwrap_err();
            assert!(error.contains("expected milliseconds"), "{error}");
        }
        assert_eq!(read(one(TRACEPARENT, "00-abc")).unwrap().trace, None);
        assert!(read(one(&"k".repeat(256), "")).is_err());
        let many = (0..=PARTS_MAX).map(|number| (number.to_string(), String::new()));
        assert!(read(many.collect()).is_err());
        let binary = [("key".to_owned(), Bytes::from_static(b"\xff"))];
        assert!(write(&binary, None, None).is_err());
    }
}
