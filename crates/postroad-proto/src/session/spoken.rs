//! What a stranger's first bytes look like, so that an error can say which URL would have taken
//! them.

use crate::dialect::Dialect;
use crate::frame::MAGIC;
use crate::wire_error::WireError;

/// Bytes that are looked at.
const LOOKED_AT: usize = 16;

const NATIVE: &str = "native";
const TLS: &str = "TLS";
const HTTP: &str = "HTTP";

/// The same error of a connection's first bytes; where they look like something else than what is
/// spoken here, it says so.
pub(super) fn with_guess(mut error: WireError, bytes: &[u8], spoken_here: &str) -> WireError {
    let Some(guess) = guess(bytes).filter(|guess| *guess != spoken_here) else {
        return error;
    };
    let words = match guess {
        NATIVE => {
            "it looks like the native protocol, which URLs such as tcp://HOST:PORT speak".into()
        }
        TLS => "it looks like TLS, which URLs such as tls://HOST:PORT speak".to_owned(),
        HTTP => "it looks like HTTP, which is not spoken here".to_owned(),
        dialect => format!(
            "it looks like the dialect {dialect}, which URLs such as \
             tcp+{dialect}://HOST:PORT speak"
        ),
    };
    error.detail = format!("{}; {words}", error.detail);
    error
}

/// What probably speaks like this; nothing where any answer would be as good.
fn guess(bytes: &[u8]) -> Option<&'static str> {
    let bytes = &bytes[..bytes.len().min(LOOKED_AT)];
    match bytes {
        [first, second, ..] if [*first, *second] == MAGIC[..2] => Some(NATIVE),
        // A record of a handshake or an alert, of any version.
        [0x16 | 0x15, 0x03, ..] => Some(TLS),
        // Version, type and, behind id and length, a priority.
        [1, 1, _, _, _, _, _, _, 0..=7, ..] => Some(Dialect::Priority.name()),
        _ if is_http(bytes) => Some(HTTP),
        _ => match Dialect::detect(bytes) {
            Ok(Some(dialect)) => Some(dialect.name()),
            _ if is_text(bytes) => Some(Dialect::Line.name()),
            _ => None,
        },
    }
}

/// Requests by their method, answers by their version.
fn is_http(bytes: &[u8]) -> bool {
    [
        "GET /",
        "POST /",
        "PUT /",
        "HEAD /",
        "OPTIONS ",
        "PRI * HTTP/2",
        "HTTP/1.",
    ]
    .iter()
    .any(|start| bytes.starts_with(start.as_bytes()))
}

/// Printable ASCII, of some length or with an end: two printable bytes may be anything.
fn is_text(bytes: &[u8]) -> bool {
    (bytes.len() >= 4 || bytes.ends_with(b"\n"))
        && bytes
            .iter()
            .all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n' | b'\t'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire_error::WireFault;

    fn said(bytes: &[u8], here: &str) -> String {
        let error = WireError::new(WireFault::Magic, 0, "found something");
        with_guess(error, bytes, here).detail
    }

    #[test]
    fn what_speaks_with_a_magic_or_in_text_is_recognized_and_nothing_else_is() {
        for (bytes, expected) in [
            (&b"\xf7PRD\x01"[..], Some("native protocol")),
            (b"\xf7P", Some("tcp://")),
            (b"\x16\x03\x01\x02\x00", Some("tls://")),
            (b"\x15\x03\x03\x00\x02", Some("tls://")),
            (b"\xab\xcd\x01\x01", Some("tcp+sequence://")),
            (b"MCP\x01\x01", Some("tcp+opcode://")),
            (b"MC\x01\x01", Some("tcp+compact://")),
            (
                b"\x01\x01\x00\x07\x00\x00\x00\x02\x03hi",
                Some("tcp+priority://"),
            ),
            (b"hello\n", Some("tcp+line://")),
            (b"1\n", Some("tcp+line://")),
            (b"GET / HTTP/1.1\r\n", Some("HTTP")),
            (b"", None),
            (b"\xf7", None),
            (b"MC", None),
            (b"\x01\x01\x00\x07\x00\x00\x00\x02\x09hi", None),
            (b"\x17\x00\x00\x00\x07\x00\x05hello", None),
        ] {
            let said = said(bytes, "session");
            match expected {
                Some(word) => assert!(said.contains(word), "{bytes:?}: {said}"),
                None => assert_eq!(said, "found something", "{bytes:?}"),
            }
        }
    }

    #[test]
    fn what_is_spoken_here_is_not_guessed() {
        assert_eq!(said(b"\xab\xcd\x09", "sequence"), "found something");
    }
}
