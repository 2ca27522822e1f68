//! Envelopes that were made without this code, and what a server finds in them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postroad_proto::Time;
use postroad_proto::dialect::{Dialect, DialectCodec, DialectFrame, Envelope, FrameKind, Reader};
use postroad_proto::frame::{PartTag, Parts};
use postroad_proto::session::{Arrivals, Config, DialectConfig, Mapping, RouteRef, Session};
use serde_json::Value;

const NOW: Time = Time(1_000_000_000);

fn vectors() -> Vec<Value> {
    let whole: Value = serde_json::from_str(include_str!("../vectors/envelopes.json"))
        .expect("the vectors are JSON");
    let vectors = whole["vectors"].as_array().expect("a list").clone();
    assert!(vectors.len() > 40);
    vectors
}

fn hex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().expect("it is hexadecimal").as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits
        .chunks(2)
        .map(|pair| byte(pair).expect("two digits"))
        .collect()
}

fn envelope(vector: &Value) -> Envelope {
    Envelope::from_name(vector["envelope"].as_str().unwrap_or_default()).expect("a known envelope")
}

/// A server that has been sent this vector, what it was given, and what it says.
fn serve(vector: &Value) -> (Arrivals, Vec<u8>) {
    let mapping = Mapping {
        envelope: Some(envelope(vector)),
        ..Mapping::default()
    };
    let codec = DialectCodec::new(Dialect::Sequence, Reader::Server);
    let client = DialectCodec::new(Dialect::Sequence, Reader::Client);
    let mut buf = BytesMut::new();
    let frame = DialectFrame::new(FrameKind::Request, hex(&vector["hex"]).into());
    client.encode(&frame, &mut buf).expect("it fits");
    let dialect = DialectConfig {
        codec,
        mapping: Arc::new(mapping),
    };
    let mut session = Session::dialect_server(Config::default(), dialect, NOW);
    let mut arrivals = Arrivals::new(1);
    session.handle_bytes(NOW, &mut buf, &mut arrivals);
    let mut out = Vec::new();
    while session.poll_transmit(&mut out) {}
    (arrivals, out)
}

#[test]
fn metadata_deadline_and_trace_are_found_in_envelopes_of_others() {
    for vector in vectors() {
        let name = &vector["name"];
        let (mut arrivals, out) = serve(&vector);
        if let Some(code) = vector["error"].as_str() {
            let said = String::from_utf8_lossy(&out);
            assert!(said.contains(code), "{name}: {said}");
            assert!(arrivals.requests.is_empty(), "{name}");
            continue;
        }
        let request = arrivals.requests.pop_front().expect("a request");
        assert_eq!(&request.payload[..], hex(&vector["payload"]), "{name}");
        let RouteRef::Name(route) = &request.route else {
            panic!("{name}: {:?}", request.route)
        };
        assert_eq!(Some(&**route), vector["route"].as_str(), "{name}");
        let timeout = vector["timeout_ms"].as_u64().map(Duration::from_millis);
        let deadline = timeout.map_or(Time::NEVER, |timeout| NOW + timeout);
        assert_eq!(request.deadline, deadline, "{name}");
        let extras = request.extras.unwrap_or_default();
        let trace = extras.trace.map(|trace| trace.to_string());
        assert_eq!(trace.as_deref(), vector["trace"].as_str(), "{name}");
        let pairs = Parts::new(&extras.parts).map(|part| {
            let part = part.expect("parts are whole");
            assert_eq!(part.tag, PartTag::Metadata as u8);
            let (key, value) = part.value[1..].split_at(usize::from(part.value[0]));
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it is text");
            (text(key), Value::from(text(value)))
        });
        let pairs: serde_json::Map<_, _> = pairs.collect();
        assert_eq!(Value::from(pairs), vector["metadata"], "{name}");
    }
}

#[test]
fn what_others_write_is_written_here_byte_by_byte() {
    let mut many = 0;
    for vector in vectors() {
        if vector["canonical"] != Value::Bool(true) {
            continue;
        }
        many += 1;
        let mut metadata = BTreeMap::new();
        for (key, value) in vector["metadata"].as_object().into_iter().flatten() {
            metadata.insert(key.clone(), value.as_str().expect("it is text").to_owned());
        }
        if let Some(millis) = vector["timeout_ms"].as_u64() {
            metadata.insert("timeout_ms".to_owned(), millis.to_string());
        }
        if let Some(trace) = vector["trace"].as_str() {
            metadata.insert(
                "traceparent".to_owned(),
                format!("00-{trace}-00f067aa0ba902b7-01"),
            );
        }
        let route = vector["route"].as_str().expect("a route");
        let payload = Bytes::from(hex(&vector["payload"]));
        let wrapped = envelope(&vector).wrap(route, 0, metadata, payload);
        assert_eq!(
            wrapped.expect("it fits"),
            hex(&vector["hex"]),
            "{}",
            vector["name"]
        );
    }
    assert!(many >= 20);
}
