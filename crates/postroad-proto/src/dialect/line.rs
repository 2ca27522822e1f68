//! L `line`: UTF-8 text ended by a line feed.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{DialectCodec, DialectFrame, FrameKind, Reader};
use crate::wire_error::{WireError, WireFault};

const PING: &[u8] = b"PING";
const PONG: &[u8] = b"PONG";
const ACK: &[u8] = b"ACK: ";
const ERR: &[u8] = b"ERR: ";

pub(super) fn decode(
    codec: &mut DialectCodec,
    buf: &mut BytesMut,
) -> Result<Option<DialectFrame>, WireError> {
    // Prefixes of answers are not payload.
    let max = codec.payload_max()
        + if codec.reader == Reader::Client {
            ACK.len()
        } else {
            0
        };
    let from = codec.scanned.min(buf.len());
    let found = buf[from..].iter().position(|&byte| byte == b'\n');
    let Some(end) = found.map(|at| from + at) else {
        codec.scanned = buf.len();
        // A carriage return may yet turn out not to belong to the text.
        let len = buf.len() - usize::from(buf.last() == Some(&b'\r'));
        return if len > max {
            Err(too_long(max))
        } else {
            Ok(None)
        };
    };
    codec.scanned = 0;
    let mut text = buf.split_to(end).freeze();
    buf.advance(1);
    if text.last() == Some(&b'\r') {
        text.truncate(text.len() - 1);
    }
    if text.len() > max {
        return Err(too_long(max));
    }
    if let Err(error) = std::str::from_utf8(&text) {
        let at = error.valid_up_to();
        let detail = format!("0x{:02x} is not UTF-8", text[at]);
        return Err(WireError::new(WireFault::Utf8, at, detail));
    }
    match codec.reader {
        Reader::Server if text == PING => {
            Ok(Some(DialectFrame::new(FrameKind::Ping, Bytes::new())))
        }
        Reader::Server if is_http(&text) => Err(http()),
        Reader::Server => Ok(Some(DialectFrame::new(FrameKind::Request, text))),
        Reader::Client => answer(text).map(Some),
    }
}

fn answer(text: Bytes) -> Result<DialectFrame, WireError> {
    if text == PONG {
        return Ok(DialectFrame::new(FrameKind::Pong, Bytes::new()));
    }
    for (prefix, kind) in [(ACK, FrameKind::Response), (ERR, FrameKind::Error)] {
        if text.starts_with(prefix) {
            return Ok(DialectFrame::new(kind, text.slice(prefix.len()..)));
        }
    }
    Err(WireError::new(
        WireFault::Type,
        0,
        "an answer begins with `ACK: `, `ERR: ` or is `PONG`",
    ))
}

/// Whether this is the first line of an HTTP request. Any page can have a browser send one to a
/// port of its own machine, and each header and line of its body would be a request here.
fn is_http(text: &[u8]) -> bool {
    [&b" HTTP/1.0"[..], b" HTTP/1.1"]
        .iter()
        .any(|end| text.ends_with(end))
}

fn http() -> WireError {
    WireError::new(
        WireFault::Type,
        0,
        "a line of HTTP, which is not spoken here",
    )
}

fn too_long(max: usize) -> WireError {
    let detail = format!("length of the line is over {max} bytes");
    WireError::new(WireFault::Length, max, detail)
}

pub(super) fn encode(
    _codec: &DialectCodec,
    frame: &DialectFrame,
    out: &mut BytesMut,
) -> Option<()> {
    let text = &frame.payload;
    let prefix: &[u8] = match frame.kind {
        FrameKind::Ping => PING,
        FrameKind::Pong => PONG,
        FrameKind::Response => ACK,
        FrameKind::Error => ERR,
        FrameKind::Request | FrameKind::OneWay => b"",
    };
    if text.contains(&b'\n') || std::str::from_utf8(text).is_err() {
        return None;
    }
    // As a question, the text of a heartbeat, a line of HTTP or a trailing carriage return would
    // not arrive as it was meant.
    if prefix.is_empty() && (text == PING || is_http(text) || text.last() == Some(&b'\r')) {
        return None;
    }
    out.put_slice(prefix);
    out.put_slice(text);
    out.put_u8(b'\n');
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;

    #[test]
    fn a_browser_that_was_made_to_send_http_reaches_no_handler() {
        let mut server = DialectCodec::new(Dialect::Line, Reader::Server);
        for line in ["POST /x HTTP/1.1\r\nHost: a\r\n", "GET / HTTP/1.0\n"] {
            let error = server.decode(&mut BytesMut::from(line)).unwrap_err();
            assert_eq!(error.fault, WireFault::Type);
            assert!(error.to_string().contains("HTTP"), "{error}");
        }
        let mut text = BytesMut::from("we speak HTTP/1.1 here\n");
        assert!(server.decode(&mut text).unwrap().is_some());
        let client = DialectCodec::new(Dialect::Line, Reader::Client);
        let get = Bytes::from_static(b"GET / HTTP/1.1");
        let get = DialectFrame::new(FrameKind::Request, get);
        assert!(client.encode(&get, &mut BytesMut::new()).is_err());
    }
}
