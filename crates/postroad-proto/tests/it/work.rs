//! What a peer can have in flight at most costs no more than its number: a search through all of it
//! for each of them would be a way to keep a server busy.
//!
//! The bounds on time are many times what it takes here.

use std::time::{Duration, Instant};

use crate::harness::{Pair, call, closed};
use bytes::{Bytes, BytesMut};
use postroad_proto::Time;
use postroad_proto::dialect::{Dialect, DialectCodec, DialectFrame, FrameKind, Reader};
use postroad_proto::frame::{Head, Kind, MORE, PartTag, put_frame, put_part};
use postroad_proto::limits::Limits;
use postroad_proto::session::{Arrivals, Config, DialectConfig, Mapping, Reply, Session};

const ENOUGH: Duration = Duration::from_secs(3);
const MANY: usize = 64_000;

fn config() -> Config {
    Config {
        limits: Limits {
            max_calls: 65_536,
            assemblies: 65_536,
            max_message: 1 << 20,
            assembly_max: 1 << 32,
            ..Limits::default()
        },
        ..Config::default()
    }
}

#[test]
fn many_requests_of_a_dialect_answered_in_reverse_are_found_without_a_search() {
    for dialect in [Dialect::Sequence, Dialect::Compact] {
        let now = Time(1_000_000_000);
        let settings = DialectConfig {
            codec: DialectCodec::new(dialect, Reader::Client),
            mapping: Mapping::default().into(),
        };
        let mut session = Session::dialect_server(config(), settings, now);
        let codec = DialectCodec::new(dialect, Reader::Server);
        let mut wire = BytesMut::new();
        for number in 0..MANY {
            let mut frame = DialectFrame::new(FrameKind::Request, Bytes::from_static(b"a"));
            frame.id = number as u32 + 1;
            codec.encode(&frame, &mut wire).expect("it can be said");
        }
        let began = Instant::now();
        let mut arrivals = Arrivals::new(MANY);
        session.handle_bytes(now, &mut wire, &mut arrivals);
        assert_eq!(arrivals.requests.len(), MANY);
        for request in arrivals.requests.drain(..).rev() {
            let id = request.id.expect("it is a call");
            let reply = Reply {
                codec: 0,
                payload: request.payload,
            };
            assert!(session.respond(now, id, Ok(reply)));
        }
        assert_eq!(session.requests_in_flight(), 0);
        let took = began.elapsed();
        assert!(took < ENOUGH, "{dialect:?} took {took:?}");
    }
}

#[test]
fn many_messages_that_have_begun_do_not_slow_each_other_down() {
    let mut pair = Pair::opened(config(), config());
    let mut wire = Vec::new();
    let mut parts = Vec::new();
    put_part(&mut parts, PartTag::RouteName as u8, b"echo");
    put_part(
        &mut parts,
        PartTag::WholeLength as u8,
        &100_u32.to_le_bytes(),
    );
    for id in 0..MANY as u32 {
        let first = Head::new(Kind::Request).with_arg(u32::MAX).with_id(id);
        put_frame(&mut wire, first.with_class(MORE), &parts, b"begun", true);
    }
    let began = Instant::now();
    pair.server.buf.extend_from_slice(&wire);
    pair.server.take_bytes(pair.now);
    assert_eq!(pair.server.session.requests_in_flight(), MANY);
    let took = began.elapsed();
    assert!(took < ENOUGH, "it took {took:?}");
    assert!(closed(&pair.server).is_none());
    // One that is whole is handed out all the same.
    let mut wire = Vec::new();
    let data = Head::new(Kind::Data).with_id(7);
    put_frame(&mut wire, data, &[], &[b'x'; 95], true);
    pair.server.buf.extend_from_slice(&wire);
    pair.server.take_bytes(pair.now);
    assert_eq!(pair.server.requests.len(), 1);
    let deadline = pair.now + ENOUGH;
    let payload = Bytes::from_static(b"after all of them");
    let spec = call("echo", &payload, deadline);
    assert!(pair.client.session.call(pair.now, &spec).is_ok());
}

#[test]
fn cancelling_what_was_answered_long_ago_costs_no_search_through_what_waits() {
    let mut server = config();
    server.limits.outbox_max = 1 << 32;
    server.limits.outbox_pause = 1 << 32;
    let mut pair = Pair::opened(config(), server);
    let mut wire = Vec::new();
    let mut parts = Vec::new();
    put_part(&mut parts, PartTag::RouteName as u8, b"big");
    let waiting = 20_000;
    for id in 0..waiting {
        let head = Head::new(Kind::Request).with_arg(u32::MAX).with_id(id);
        put_frame(&mut wire, head, &parts, b"", true);
    }
    pair.server.buf.extend_from_slice(&wire);
    pair.server.take_bytes(pair.now);
    // More than a fragment each, so that they wait one by one, and nobody takes them.
    let payload = Bytes::from(vec![b'x'; 40_000]);
    for request in std::mem::take(&mut pair.server.requests) {
        let payload = payload.clone();
        let id = request.id.expect("it is a call");
        pair.server
            .session
            .respond(pair.now, id, Ok(Reply { codec: 0, payload }));
    }
    let mut wire = Vec::new();
    let cancels = 1_000_000;
    for number in 0..cancels {
        let head = Head::new(Kind::Cancel).with_id(waiting + number % 60_000);
        put_frame(&mut wire, head, &[], &[], true);
    }
    let began = Instant::now();
    pair.server.buf.extend_from_slice(&wire);
    pair.server.take_bytes(pair.now);
    let took = began.elapsed();
    assert!(pair.server.buf.is_empty(), "all of them were read");
    assert!(took < ENOUGH, "it took {took:?}");
    assert!(closed(&pair.server).is_none());
}
