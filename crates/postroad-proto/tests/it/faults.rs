//! Faults that once were, so that they do not come back.

use std::time::Duration;

use crate::harness::{End, Pair, call, closed, inject, opened, protocol_fault};
use bytes::{Bytes, BytesMut};
use postroad_proto::code::{Code, Retry};
use postroad_proto::frame::{Head, Kind, MORE, PartTag, put_frame, put_part};
use postroad_proto::limits::UNFINISHED_MAX;
use postroad_proto::session::{
    CloseReason, Config, DropReason, Event, Failure, RefusalReason, Reply,
};
use postroad_proto::wire_error::WireFault;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

#[test]
fn a_client_with_much_to_send_still_reads_or_both_would_wait_for_each_other() {
    let mut pair = opened();
    for _ in 0..4 {
        let deadline = pair.now + SECOND;
        let body = Bytes::from(vec![0; 1 << 20]);
        pair.client
            .session
            .call(pair.now, &call("up", &body, deadline))
            .unwrap();
    }
    assert!(pair.client.session.wants_read());
}

#[test]
fn a_call_said_to_be_unsent_never_arrives() {
    let mut pair = opened();
    let id = pair.call(b"x", SECOND).unwrap();
    pair.client
        .session
        .close(pair.now, CloseReason::Transport("cut".into()));
    pair.run_for(10 * MILLI);
    let Some(Err(failure)) = pair.finished(id) else {
        panic!("it has ended")
    };
    assert_eq!(failure.retry(), Retry::Here);
    assert!(pair.request().is_none(), "and the server never saw it");
}

#[test]
fn a_call_that_expired_in_the_queue_is_not_sent_after_all_m_018() {
    let mut pair = opened();
    let id = pair.call(b"x", 10 * MILLI).unwrap();
    pair.now = pair.now + 20 * MILLI;
    pair.client.session.handle_timeout(pair.now);
    pair.run_for(10 * MILLI);
    assert_eq!(
        pair.finished(id),
        Some(Err(Failure::Deadline { sent: false }))
    );
    assert!(pair.request().is_none());
}

#[test]
fn a_slot_used_again_at_a_higher_priority_is_not_hit_by_the_older_call() {
    let mut pair = opened();
    let deadline = pair.now + SECOND;
    let bodies = ["low", "high"].map(Bytes::from);
    let (mut low, mut high) = (
        call("a", &bodies[0], deadline),
        call("a", &bodies[1], deadline),
    );
    (low.priority, high.priority) = (0, 7);
    let first = pair.client.session.call(pair.now, &low).unwrap();
    pair.client.session.cancel(pair.now, first);
    let second = pair.client.session.call(pair.now, &high).unwrap();
    assert_eq!(first.index(), second.index());
    pair.run_for(10 * MILLI);
    assert_eq!(pair.echo_all(), 1);
    pair.run_for(10 * MILLI);
    assert_eq!(pair.finished(second).unwrap().unwrap().payload, "high");
}

#[test]
fn a_request_that_crosses_goaway_is_refused_and_not_lost_m_028() {
    let mut pair = opened();
    pair.conditions.latency = 20 * MILLI;
    pair.server.session.drain(pair.now, 30 * SECOND);
    pair.transmit();
    // Sent before GOAWAY can have been read; the PONG overtakes it in the client's queue.
    pair.run_for(19 * MILLI);
    let id = pair.call(b"crossing", SECOND).unwrap();
    pair.run_for(SECOND);
    match pair.finished(id) {
        Some(Err(Failure::Remote(error))) => {
            assert_eq!(
                (error.code(), error.retry),
                (Code::DRAINING, Retry::Elsewhere)
            );
        }
        None => assert_eq!(pair.echo_all(), 1, "or it is served"),
        other => panic!("{other:?}"),
    }
    pair.run_for(30 * SECOND);
    assert!(matches!(closed(&pair.server), Some(CloseReason::Drained)));
}

#[test]
fn a_peer_with_small_frames_gets_small_fragments_m_009() {
    let mut server = Config::default();
    server.limits.max_frame = 1024;
    let mut pair = Pair::opened(Config::default(), server);
    let body = Bytes::from(vec![5; 20_000]);
    let deadline = pair.now + SECOND;
    pair.client
        .session
        .call(pair.now, &call("x", &body, deadline))
        .unwrap();
    pair.run_for(20 * MILLI);
    assert_eq!(pair.request().unwrap().payload, body);
}

#[test]
fn more_metadata_than_a_frame_may_have_is_refused_to_the_caller_alone_m_032() {
    let mut pair = opened();
    let metadata: Vec<_> = (0..65)
        .map(|n| (n.to_string(), Bytes::from_static(b"v")))
        .collect();
    let deadline = pair.now + SECOND;
    let payload = Bytes::new();
    let spec = postroad_proto::session::Call {
        metadata: &metadata,
        ..call("x", &payload, deadline)
    };
    let failure = pair.client.session.call(pair.now, &spec).unwrap_err();
    assert!(matches!(failure, Failure::Unsendable(_)));
    assert!(pair.call(b"fine", SECOND).is_ok());
}

#[test]
fn a_fragmented_message_is_held_to_its_deadline_and_its_critical_parts_m_018_m_031() {
    let whole = |more: &[(u8, &[u8])]| {
        let mut parts = BytesMut::new();
        put_part(&mut parts, PartTag::WholeLength as u8, &2_u32.to_le_bytes());
        more.iter()
            .for_each(|(tag, value)| put_part(&mut parts, *tag, value));
        parts
    };
    let first = Head::new(Kind::OneWay)
        .with_class(MORE)
        .with_id(1 << 31)
        .with_arg(10_000);
    let rest = Head::new(Kind::Data).with_id(1 << 31);
    let mut pair = opened();
    inject(&mut pair, first, &whole(&[]), b"a");
    pair.run_for(SECOND);
    inject(&mut pair, rest, &[], b"b");
    assert!(pair.request().is_none(), "its time was up");
    assert!(closed(&pair.server).is_none());
    inject(&mut pair, first, &whole(&[(0xff, b"?")]), b"a");
    assert_eq!(protocol_fault(&pair), Some(WireFault::Parts));
}

/// The one-way messages that the server has dropped since it was asked last, and why.
fn dropped(pair: &mut Pair) -> Vec<DropReason> {
    let events = std::mem::take(&mut pair.server.events);
    let reasons = events.into_iter().filter_map(|event| match event {
        Event::Dropped(reason) => Some(reason),
        _ => None,
    });
    reasons.collect()
}

/// The calls that the server has refused since it was asked last, and why.
fn refused(pair: &mut Pair) -> Vec<RefusalReason> {
    let events = std::mem::take(&mut pair.server.events);
    let reasons = events.into_iter().filter_map(|event| match event {
        Event::Refused(reason) => Some(reason),
        _ => None,
    });
    reasons.collect()
}

/// Sends the first of two fragments of a call.
fn begin_call(pair: &mut Pair, id: u32, micros: u32) {
    let mut parts = BytesMut::new();
    put_part(&mut parts, PartTag::WholeLength as u8, &2_u32.to_le_bytes());
    let first = Head::new(Kind::Request)
        .with_class(MORE)
        .with_id(id)
        .with_arg(micros);
    inject(pair, first, &parts, b"a");
}

#[test]
fn a_call_whose_rest_never_comes_is_refused_and_gives_its_place_back() {
    let mut server = Config::default();
    server.limits.assemblies = 1;
    let mut pair = Pair::opened(Config::default(), server);
    begin_call(&mut pair, 1, u32::MAX);
    pair.run_for(UNFINISHED_MAX - SECOND);
    assert!(refused(&mut pair).is_empty(), "it is waited for");
    pair.run_for(61 * SECOND);
    assert_eq!(refused(&mut pair), [RefusalReason::Unfinished], "its age");
    assert_eq!(pair.server.session.requests_in_flight(), 0);
    begin_call(&mut pair, 2, u32::MAX);
    assert!(refused(&mut pair).is_empty(), "there is room again");
    let now = pair.now;
    pair.server.session.close(now, CloseReason::Local);
    pair.run_for(SECOND);
    let events = &pair.server.events;
    assert!(matches!(events.back(), Some(Event::Closed(_))));
    assert!(refused(&mut pair).is_empty(), "it was called off");
}

#[test]
fn a_call_that_the_session_refuses_is_told_with_the_reason() {
    let mut server = Config::default();
    (server.limits.assemblies, server.limits.max_calls) = (1, 8);
    server.limits.outbox_max = 64;
    let mut pair = Pair::opened(Config::default(), server);
    let call = Head::new(Kind::Request).with_arg(u32::MAX);
    inject(&mut pair, call.with_id(1).with_arg(0), &[], b"");
    assert_eq!(refused(&mut pair), [RefusalReason::Late]);
    inject(&mut pair, call.with_id(9), &[], b"");
    assert_eq!(refused(&mut pair), [RefusalReason::TooManyCalls]);
    inject(&mut pair, call.with_id(1).with_class(1 << 3), &[], b"");
    assert_eq!(refused(&mut pair), [RefusalReason::Unsupported]);
    begin_call(&mut pair, 1, 10_000);
    begin_call(&mut pair, 2, u32::MAX);
    assert_eq!(refused(&mut pair), [RefusalReason::NoRoom]);
    pair.run_for(SECOND);
    assert_eq!(refused(&mut pair), [RefusalReason::Late], "not whole");
    inject(&mut pair, call.with_id(3), &[], b"");
    let id = pair.request().and_then(|request| request.id).unwrap();
    let reply = Reply {
        codec: 0,
        payload: Bytes::from_static(&[0; 65]),
    };
    pair.server.session.respond(pair.now, id, Ok(reply));
    pair.run_for(MILLI);
    assert_eq!(refused(&mut pair), [RefusalReason::NoRoomForAnswer]);
}

#[test]
fn a_request_that_a_dialects_session_refuses_is_told_with_the_reason() {
    use postroad_proto::Time;
    use postroad_proto::dialect::{Dialect, DialectCodec, Envelope, Reader};
    use postroad_proto::session::{Arrivals, DialectConfig, Mapping, Session};
    let mapping = Mapping {
        envelope: Some(Envelope::Json),
        ..Mapping::default()
    };
    let dialect = DialectConfig {
        codec: DialectCodec::new(Dialect::Line, Reader::Server),
        mapping: mapping.into(),
    };
    let now = Time(1_000_000_000);
    let mut server = Session::dialect_server(Config::default(), dialect, now);
    let mut wire = BytesMut::from(&b"not json\n"[..]);
    server.handle_bytes(now, &mut wire, &mut Arrivals::new(1));
    let last = std::iter::from_fn(|| server.poll_event()).last();
    assert!(
        matches!(last, Some(Event::Refused(RefusalReason::BadRequest))),
        "{last:?}"
    );
}

/// Sends the first of two fragments of a one-way message.
fn begin_message(pair: &mut Pair, number: u32, micros: u32) {
    let mut parts = BytesMut::new();
    put_part(&mut parts, PartTag::WholeLength as u8, &2_u32.to_le_bytes());
    let first = Head::new(Kind::OneWay)
        .with_class(MORE)
        .with_id(1 << 31 | number)
        .with_arg(micros);
    inject(pair, first, &parts, b"a");
}

fn end_message(pair: &mut Pair, number: u32) {
    let rest = Head::new(Kind::Data).with_id(1 << 31 | number);
    inject(pair, rest, &[], b"b");
}

#[test]
fn a_one_way_message_that_is_dropped_is_told_with_the_reason() {
    let mut server = Config::default();
    server.limits.assemblies = 1;
    let mut pair = Pair::opened(Config::default(), server);
    let late = Head::new(Kind::OneWay).with_id(1 << 31).with_arg(0);
    inject(&mut pair, late, &[], b"whole");
    assert_eq!(dropped(&mut pair), [DropReason::Late]);
    begin_message(&mut pair, 1, 10_000);
    begin_message(&mut pair, 2, u32::MAX);
    assert_eq!(dropped(&mut pair), [DropReason::NoRoom]);
    end_message(&mut pair, 2);
    pair.run_for(SECOND);
    end_message(&mut pair, 1);
    assert_eq!(dropped(&mut pair), [DropReason::Late]);
    assert!(pair.request().is_none() && closed(&pair.server).is_none());
}

#[test]
fn a_one_way_message_whose_rest_never_comes_gives_its_place_back() {
    let mut server = Config::default();
    server.limits.assemblies = 2;
    let mut pair = Pair::opened(Config::default(), server);
    begin_message(&mut pair, 1, 10_000);
    begin_message(&mut pair, 2, u32::MAX);
    pair.run_for(61 * SECOND);
    assert_eq!(dropped(&mut pair), [DropReason::Unfinished], "its deadline");
    pair.run_for(UNFINISHED_MAX);
    assert_eq!(dropped(&mut pair), [DropReason::Unfinished], "its age");
    begin_message(&mut pair, 3, u32::MAX);
    begin_message(&mut pair, 4, u32::MAX);
    end_message(&mut pair, 4);
    assert!(pair.request().is_some() && dropped(&mut pair).is_empty());
    let now = pair.now;
    pair.server.session.close(now, CloseReason::Local);
    pair.run_for(SECOND);
    assert_eq!(dropped(&mut pair), [DropReason::Unfinished], "its end");
}

#[test]
fn an_answer_for_which_the_client_has_no_room_may_have_been_worked_for() {
    let mut client = Config::default();
    client.limits.assemblies = 1;
    let mut pair = Pair::opened(client, Config::default());
    let ids = [0, 1].map(|_| pair.call(b"x", SECOND).unwrap());
    pair.run_for(5 * MILLI);
    while let Some(request) = pair.request() {
        let reply = Reply {
            codec: 0,
            payload: Bytes::from(vec![0; 100_000]),
        };
        pair.server
            .session
            .respond(pair.now, request.id.unwrap(), Ok(reply));
    }
    pair.run_for(50 * MILLI);
    let results = ids.map(|id| pair.finished(id).unwrap());
    let failed: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].retry(), Retry::IfIdempotent);
}

#[test]
fn an_id_of_sixteen_bits_is_not_used_again_while_its_answer_may_come() {
    use postroad_proto::Time;
    use postroad_proto::dialect::{Dialect, DialectCodec, Reader};
    use postroad_proto::session::{DialectConfig, Mapping, Session};
    let codec = DialectCodec::new(Dialect::Priority, Reader::Client);
    let dialect = DialectConfig {
        codec,
        mapping: Mapping::default().into(),
    };
    let now = Time(1_000_000_000);
    let client = Session::dialect_client(Config::default(), dialect.clone(), now);
    let server = Session::dialect_server(Config::default(), dialect, now);
    let mut pair = Pair::of(client, server, now, 1);
    let slow = pair.call(b"slow", 10 * MILLI).unwrap();
    pair.run_for(50 * MILLI);
    let late = pair.request().unwrap();
    assert!(pair.finished(slow).unwrap().is_err());
    for n in 0..200 {
        let id = pair.call(b"quick", SECOND).unwrap();
        pair.run_for(5 * MILLI);
        if n == 100 {
            let reply = Reply {
                codec: 0,
                payload: "late".into(),
            };
            pair.server
                .session
                .respond(pair.now, late.id.unwrap(), Ok(reply));
        }
        assert_eq!(pair.echo_all(), 1);
        pair.run_for(5 * MILLI);
        assert_eq!(pair.finished(id).unwrap().unwrap().payload, "quick");
    }
}

#[test]
fn an_error_with_a_long_chain_is_one_frame_for_a_peer_with_small_frames() {
    use postroad_proto::error_body::{Cause, ErrorBody};
    use postroad_proto::trace::Trace;
    let mut client = Config::default();
    client.limits.max_frame = 1024;
    let mut pair = Pair::opened(client, Config::default());
    let id = pair.call(b"x", SECOND).unwrap();
    pair.run_for(5 * MILLI);
    let request = pair.request().unwrap();
    let mut error = ErrorBody::new(Code::literal("ORD-E-102"), "m".repeat(600));
    error.causes.push(Cause {
        code: Code::INTERNAL,
        message: "n".repeat(600),
    });
    error.trace = Some(Trace {
        id: [1; 16],
        span: [2; 8],
        flags: 1,
    });
    pair.server
        .session
        .respond(pair.now, request.id.unwrap(), Err(error));
    pair.run_for(5 * MILLI);
    let Some(Err(Failure::Remote(error))) = pair.finished(id) else {
        panic!("it has failed")
    };
    assert_eq!(error.code(), Code::literal("ORD-E-102"));
    assert!(closed(&pair.client).is_none());
}

#[test]
fn the_largest_message_has_room_although_there_is_no_more_than_that() {
    let mut server = Config::default();
    server.limits.max_message = 1 << 20;
    server.limits.assembly_max = 1 << 20;
    server.limits.check().unwrap();
    let mut pair = Pair::opened(Config::default(), server);
    let deadline = pair.now + SECOND;
    let body = Bytes::from(vec![1; 1 << 20]);
    pair.client
        .session
        .call(pair.now, &call("x", &body, deadline))
        .unwrap();
    pair.run_for(100 * MILLI);
    assert_eq!(pair.request().unwrap().payload, body);
}

/// Both ends of the `line` dialect.
fn line_pair() -> Pair {
    use postroad_proto::Time;
    use postroad_proto::dialect::{Dialect, DialectCodec, Reader};
    use postroad_proto::session::{DialectConfig, Mapping, Session};
    let codec = DialectCodec::new(Dialect::Line, Reader::Client);
    let dialect = DialectConfig {
        codec,
        mapping: Mapping::default().into(),
    };
    let now = Time(1_000_000_000);
    let client = Session::dialect_client(Config::default(), dialect.clone(), now);
    Pair::of(
        client,
        Session::dialect_server(Config::default(), dialect, now),
        now,
        1,
    )
}

#[test]
fn a_hung_peer_is_found_though_a_call_was_given_up() {
    let mut pair = line_pair();
    pair.to_client.is_silent = true;
    pair.call(b"x", SECOND).unwrap();
    pair.run_for(200 * SECOND);
    assert!(matches!(
        closed(&pair.client),
        Some(CloseReason::HeartbeatTimeout(_))
    ));
}

#[test]
fn a_draining_dialect_client_leaves_when_its_last_call_is_given_up() {
    let mut pair = line_pair();
    let id = pair.call(b"x", 60 * SECOND).unwrap();
    pair.client.session.drain(pair.now, 25 * SECOND);
    pair.client.session.cancel(pair.now, id);
    pair.run_for(MILLI);
    assert!(matches!(closed(&pair.client), Some(CloseReason::Drained)));
    let mut pair = line_pair();
    pair.call(b"x", SECOND).unwrap();
    pair.client.session.drain(pair.now, 25 * SECOND);
    pair.run_for(2 * SECOND);
    assert!(matches!(closed(&pair.client), Some(CloseReason::Drained)));
}

#[test]
fn a_drain_ends_with_the_last_call_that_is_taken_back_as_late() {
    for mut pair in [opened(), line_pair()] {
        pair.call(b"x", SECOND).unwrap();
        pair.client.session.drain(pair.now, 25 * SECOND);
        assert!(!pair.client.session.is_closed());
        pair.client.session.expire(pair.now + 2 * SECOND);
        assert!(pair.client.session.is_closed());
    }
}

#[test]
fn a_pause_in_the_middle_of_what_was_read_loses_nothing_and_keeps_places() {
    let pings = 2_000;
    let mut wire = Vec::new();
    for id in 0..pings {
        let ping = Head::new(Kind::Ping).with_id(id);
        put_frame(&mut wire, ping, &[], &[0; 8], true);
    }
    let good = wire.len() as u64;
    let wrong = Head::new(Kind::Ping).with_kind(0x7f);
    put_frame(&mut wire, wrong, &[], &[], true);
    let ends = [wire.len(), 1, 1000].map(|step| {
        let mut config = Config::default();
        config.limits.outbox_pause = 16_384;
        let mut pair = Pair::opened(Config::default(), config);
        let End {
            session,
            buf,
            arrivals,
            ..
        } = &mut pair.server;
        let (mut answered, mut pauses, mut out) = (0, 0, Vec::new());
        for piece in wire.chunks(step) {
            buf.extend_from_slice(piece);
            loop {
                session.handle_bytes(pair.now, buf, arrivals);
                let paused = !session.wants_read() && !session.is_closed();
                pauses += u32::from(paused);
                if paused || step > 1 {
                    while session.poll_transmit(&mut out) {}
                    answered += std::mem::take(&mut out).len();
                }
                if !paused {
                    break;
                }
            }
        }
        while session.poll_transmit(&mut out) {}
        let events: Vec<_> = std::iter::from_fn(|| session.poll_event()).collect();
        let Some(Event::Closed(CloseReason::Protocol(error))) = events.last() else {
            panic!("{events:?}");
        };
        assert!(
            step < wire.len() || pauses > 2,
            "it has paused {pauses} times"
        );
        (answered + out.len(), error.fault, error.at)
    });
    assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
    // The opening came before.
    assert!(ends[0].2 > good, "{ends:?}");
}
