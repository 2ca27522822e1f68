//! Bytes that were made without this code: the dialects' vectors and the native protocol's.

use bytes::{Bytes, BytesMut};
use postroad_proto::dialect::{Dialect, DialectCodec, DialectFrame, FrameKind, Reader};
use postroad_proto::error_body::ErrorBody;
use postroad_proto::frame::{FrameDecoder, Head, Opening, Parts, put_frame};
use postroad_proto::limits::MAX_FRAME;
use postroad_proto::wire_error::WireError;
use serde_json::Value;

/// The native protocol's vectors. They lie in this crate, so that its package can be tested alone.
const NATIVE: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/vectors/native.json"
));

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().collect();
    let pair = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("hexadecimal is text");
        u8::from_str_radix(pair, 16).expect("the vectors are hexadecimal")
    };
    digits.chunks(2).map(pair).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn load(text: &str) -> Vec<Value> {
    let mut whole: Value = serde_json::from_str(text).expect("the vectors are JSON");
    let Value::Array(vectors) = whole["vectors"].take() else {
        panic!("no vectors")
    };
    assert!(vectors.len() > 50);
    vectors
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

/// Feeds `bytes` in pieces of `step` and collects the results.
fn feed(codec: &DialectCodec, bytes: &[u8], step: usize) -> Result<Vec<DialectFrame>, WireError> {
    let (mut codec, mut buf, mut frames) = (codec.clone(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step) {
        buf.extend_from_slice(piece);
        while let Some(frame) = codec.decode(&mut buf)? {
            frames.push(frame);
        }
    }
    assert!(buf.is_empty(), "bytes are left: {}", to_hex(&buf));
    Ok(frames)
}

/// The frame that a vector's fields describe, as this reader sees it.
fn described(codec: &DialectCodec, fields: &Value) -> DialectFrame {
    let wire_type = number(fields, "cmd") + number(fields, "type");
    let opcode = number(fields, "opcode") + number(fields, "command");
    let payload = match fields["text"].as_str() {
        Some(text) => Bytes::copy_from_slice(text.as_bytes()),
        None => hex(fields["payload"].as_str().expect("a payload")).into(),
    };
    let question = if codec.reader == Reader::Server {
        FrameKind::Request
    } else {
        FrameKind::Response
    };
    let kind = match (codec.dialect, wire_type, opcode) {
        (Dialect::Session, _, 0) if payload.is_empty() => FrameKind::Ping,
        (Dialect::Opcode, _, 0) => FrameKind::Ping,
        (Dialect::Session | Dialect::Opcode, _, 0xFF) => FrameKind::Error,
        (Dialect::Session | Dialect::Opcode | Dialect::Line, ..) => question,
        (Dialect::Priority, 4, _) => FrameKind::Error,
        (_, 1, _) => FrameKind::Request,
        (_, 2, _) => FrameKind::Response,
        (_, 3, _) => FrameKind::Ping,
        (_, 4, _) => FrameKind::Pong,
        (_, 5, _) => FrameKind::Error,
        (_, 6, _) => FrameKind::OneWay,
        other => panic!("{other:?}"),
    };
    DialectFrame {
        kind,
        code: opcode as u8,
        id: (number(fields, "sequence_id") + number(fields, "session_id")) as u32,
        priority: number(fields, "priority") as u8,
        payload,
    }
}

#[test]
fn every_dialect_vector_decodes_the_same_in_any_pieces_and_encodes_back() {
    for vector in load(include_str!("../vectors/dialects.json")) {
        let Some(fields) = vector["frame"].as_object() else {
            continue;
        };
        let dialect = Dialect::from_name(vector["dialect"].as_str().unwrap_or_default());
        let codec = DialectCodec::new(dialect.expect("a known dialect"), Reader::Server);
        let (text, fields) = (
            vector["hex"].as_str().unwrap_or_default(),
            Value::from(fields.clone()),
        );
        let (bytes, expected) = (hex(text), described(&codec, &fields));
        for step in [1, 2, 3, 7, bytes.len()] {
            let frames = feed(&codec, &bytes, step).expect(text);
            assert_eq!(
                frames,
                std::slice::from_ref(&expected),
                "{text} in pieces of {step}"
            );
        }
        let twice = [bytes.clone(), bytes.clone()].concat();
        assert_eq!(feed(&codec, &twice, 5).expect(text).len(), 2);
        let mut out = BytesMut::new();
        codec.encode(&expected, &mut out).expect(text);
        assert_eq!(to_hex(&out), text);
    }
}

#[test]
fn every_malformed_dialect_vector_fails_as_stated_in_any_pieces() {
    for vector in load(include_str!("../vectors/dialects.json")) {
        let Some(word) = vector["error"].as_str() else {
            continue;
        };
        let dialect = Dialect::from_name(vector["dialect"].as_str().unwrap_or_default());
        let codec = DialectCodec::new(dialect.expect("a known dialect"), Reader::Server);
        let text = vector["hex"].as_str().unwrap_or_default();
        let bytes = hex(text);
        let whole = feed(&codec, &bytes, bytes.len()).expect_err(text);
        assert_eq!(whole.fault.word(), word, "{text}");
        for step in 1..bytes.len() {
            assert_eq!(
                feed(&codec, &bytes, step).expect_err(text),
                whole,
                "{text} by {step}"
            );
        }
    }
}

fn parts_of(fields: &Value) -> Vec<(u8, Bytes)> {
    let part = |part: &Value| {
        let tag = part[0].as_u64().unwrap_or_default() as u8;
        (tag, Bytes::from(hex(part[1].as_str().unwrap_or_default())))
    };
    fields["parts"]
        .as_array()
        .map(|parts| parts.iter().map(part).collect())
        .unwrap_or_default()
}

fn check_opening(name: &str, opening: &Opening, fields: &Value) {
    let found = |key: &str| number(fields, key) as u32;
    match opening {
        Opening::Hello(hello) => {
            let versions = (u32::from(hello.version_min), u32::from(hello.version_max));
            assert_eq!(
                versions,
                (found("version_min"), found("version_max")),
                "{name}"
            );
            assert_eq!(
                (hello.offered, hello.required),
                (found("offered"), found("required"))
            );
            assert_eq!(
                (hello.max_frame, hello.max_message),
                (found("max_frame"), found("max_message"))
            );
            assert_eq!(
                (hello.max_calls, hello.heartbeat_ms),
                (found("max_calls"), found("heartbeat_ms"))
            );
            assert_eq!(u32::from(hello.max_routes), found("max_routes"), "{name}");
            assert_eq!(hello.parts, parts_of(fields), "{name}");
        }
        Opening::Welcome(welcome) => {
            assert_eq!(
                (u32::from(welcome.version), welcome.features),
                (found("version"), found("features"))
            );
            assert_eq!(
                (welcome.max_calls, welcome.epoch),
                (found("max_calls"), found("epoch"))
            );
            assert_eq!(
                to_hex(&welcome.session_id),
                fields["session_id"].as_str().unwrap_or_default()
            );
            assert_eq!(welcome.parts, parts_of(fields), "{name}");
        }
        Opening::Refuse(refuse) => {
            assert_eq!(
                (refuse.reason as u32, u32::from(refuse.retry.to_wire())),
                (found("reason"), found("retry"))
            );
            assert_eq!(
                (refuse.retry_after_ms, refuse.features),
                (found("retry_after_ms"), found("features"))
            );
            assert_eq!(
                refuse.text,
                fields["text"].as_str().unwrap_or_default(),
                "{name}"
            );
        }
    }
}

#[test]
fn every_native_opening_vector_decodes_and_encodes_back_m_001_m_009() {
    for vector in load(NATIVE) {
        let (name, text) = (
            vector["name"].as_str().unwrap_or_default(),
            vector["hex"].as_str(),
        );
        if vector["kind"] != "opening" || !vector["error"].is_null() {
            continue;
        }
        let bytes = hex(text.unwrap_or_default());
        let opening = Opening::decode(&mut BytesMut::from(&bytes[..]))
            .expect(name)
            .expect(name);
        check_opening(name, &opening, &vector["fields"]);
        let mut out = Vec::new();
        opening.encode(&mut out);
        if !name.contains("reserved") {
            assert_eq!(to_hex(&out), to_hex(&bytes), "{name}");
        }
        for end in 0..bytes.len() {
            let torn = Opening::decode(&mut BytesMut::from(&bytes[..end]));
            assert_eq!(torn, Ok(None), "{name} cut at {end}");
        }
    }
}

/// The head's fields as the vector has them.
fn check_head(name: &str, head: &Head, fields: &Value) {
    let is = |key: &str| fields[key].as_bool().unwrap_or_default();
    assert_eq!(
        (head.has_more(), head.has_parts()),
        (is("more"), is("has_parts")),
        "{name}"
    );
    let found = [
        head.kind(),
        head.priority(),
        head.qos(),
        head.codec(),
        head.attempt(),
    ];
    let keys = ["kind", "priority", "qos", "codec", "attempt"];
    assert_eq!(
        found.map(u64::from),
        keys.map(|key| number(fields, key)),
        "{name}"
    );
    let found = [u64::from(head.route()), head.id().into(), head.arg().into()];
    assert_eq!(
        found,
        ["route", "id", "arg"].map(|key| number(fields, key)),
        "{name}"
    );
}

fn check_error(name: &str, payload: &Bytes, fields: &Value) {
    if let Some(error) = fields["error_body"].as_object() {
        let body = ErrorBody::decode(payload.clone()).expect(name);
        assert_eq!(
            body.causes.len(),
            error["causes"].as_array().expect(name).len()
        );
        assert_eq!(
            u64::from(body.retry.to_wire()),
            error["retry"].as_u64().expect(name)
        );
    }
}

#[test]
fn every_native_frame_vector_decodes_and_encodes_back() {
    for vector in load(NATIVE) {
        let name = vector["name"].as_str().unwrap_or_default();
        if vector["kind"] != "frame" || !vector["error"].is_null() {
            continue;
        }
        let (bytes, fields) = (
            hex(vector["hex"].as_str().unwrap_or_default()),
            &vector["fields"],
        );
        let checksum = vector["checksum"].as_bool().unwrap_or_default();
        let decoder = FrameDecoder {
            max_body: MAX_FRAME,
            checksum,
        };
        let frame = decoder
            .decode(&mut BytesMut::from(&bytes[..]))
            .expect(name)
            .expect(name);
        let head: Head = frame.head;
        check_head(name, &head, fields);
        let (parts, end) = match head.has_parts() {
            true => Parts::split(&frame.body).expect(name),
            false => (Parts::new(&[]), 0),
        };
        let parts = parts.map(|part| part.expect(name));
        let pairs: Vec<_> = parts
            .map(|part| (part.tag, Bytes::copy_from_slice(part.value)))
            .collect();
        assert_eq!(pairs, parts_of(fields), "{name}");
        let payload = frame.body.slice(end..);
        assert_eq!(
            to_hex(&payload),
            fields["payload"].as_str().unwrap_or_default(),
            "{name}"
        );
        check_error(name, &payload, fields);
        let mut out = Vec::new();
        put_frame(
            &mut out,
            head,
            &frame.body[2.min(end)..end],
            &payload,
            checksum,
        );
        if end != 2 {
            assert_eq!(to_hex(&out), to_hex(&bytes), "{name}");
        }
    }
}

/// Decodes as a receiver would, down to the last layer that can find a fault.
fn refuse(bytes: &[u8], is_opening: bool, checksum: bool) -> Result<(), WireError> {
    let mut buf = BytesMut::from(bytes);
    if is_opening {
        return Opening::decode(&mut buf)
            .map(|opening| assert!(opening.is_none(), "accepted {opening:?}"));
    }
    let explained = postroad_proto::explain::explain_native(bytes, Some(checksum));
    match explained.error {
        Some(error) => Err(error),
        None => {
            let decoder = FrameDecoder {
                max_body: MAX_FRAME,
                checksum,
            };
            let frame = decoder
                .decode(&mut buf)?
                .expect("the malformed vectors are whole");
            std::str::from_utf8(&frame.body).map(drop).map_err(|_| {
                WireError::new(postroad_proto::wire_error::WireFault::Utf8, 16, "name")
            })
        }
    }
}

#[test]
fn every_malformed_native_vector_fails_as_stated_m_003_m_030_m_032() {
    for vector in load(NATIVE) {
        let Some(word) = vector["error"].as_str() else {
            continue;
        };
        let name = vector["name"].as_str().unwrap_or_default();
        let bytes = hex(vector["hex"].as_str().unwrap_or_default());
        let checksum = vector["checksum"].as_bool().unwrap_or_default();
        let error = refuse(&bytes, vector["kind"] == "opening", checksum).expect_err(name);
        let words: &[&str] = match word {
            "kind" => &["type"],
            "qos" | "error body" => &["reserved"],
            // Invalid text within an error body is found by the error body's reader.
            "utf-8" => &["utf-8", "reserved"],
            other => &[other],
        };
        assert!(
            words.contains(&error.fault.word()),
            "{name}: {error} is not {word}"
        );
    }
}
