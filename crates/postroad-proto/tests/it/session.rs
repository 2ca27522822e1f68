//! Scenarios of the native session on the two-ended harness; names say the outcome.

use std::time::Duration;

use crate::harness::{End, Pair, call, closed, inject, opened, protocol_fault};
use bytes::{Bytes, BytesMut};
use postroad_proto::code::{Code, Retry};
use postroad_proto::error_body::ErrorBody;
use postroad_proto::frame::{Head, Kind, MORE, PartTag, put_frame, put_part};
use postroad_proto::session::{
    CancelReason, CloseReason, Config, Event, Failure, Reply, RouteRef, features,
};
use postroad_proto::trace::Trace;
use postroad_proto::wire_error::WireFault;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

fn versions(min: u16, max: u16) -> Config {
    Config {
        version_min: min,
        version_max: max,
        ..Config::default()
    }
}

#[test]
fn one_to_three_and_two_to_four_settle_on_three_m_005() {
    let mut pair = Pair::new(versions(1, 3), versions(2, 4));
    pair.run_for(SECOND);
    for end in [&pair.client, &pair.server] {
        assert!(
            matches!(&end.events[0], Event::Opened(peer) if peer.version == 3),
            "{:?}",
            end.events
        );
    }
}

#[test]
fn without_a_common_version_both_ends_name_both_ranges_m_002_m_006() {
    let mut pair = Pair::new(versions(1, 2), versions(3, 4));
    pair.run_for(SECOND);
    for end in [&pair.client, &pair.server] {
        let text = closed(end).unwrap().to_string();
        assert!(
            text.contains("client speaks 1 to 2") && text.contains("3 to 4"),
            "{text}"
        );
    }
}

#[test]
fn a_feature_that_one_end_requires_and_the_other_lacks_is_refused_m_007() {
    let client = Config {
        offered: 0,
        ..Config::default()
    };
    let server = Config {
        required: features::CHECKSUM,
        ..Config::default()
    };
    let mut pair = Pair::new(client, server);
    pair.run_for(SECOND);
    let Some(CloseReason::Refused(refuse)) = closed(&pair.client) else {
        panic!()
    };
    assert_eq!(refuse.features, features::CHECKSUM);
}

#[test]
fn the_larger_heartbeat_is_agreed_m_008() {
    let beat = |heartbeat| Config {
        heartbeat,
        ..Config::default()
    };
    let mut pair = Pair::opened(beat(2 * SECOND), beat(7 * SECOND));
    pair.run_for(6 * SECOND);
    // Whichever end beats first, the other need not.
    let beats = |pair: &Pair| {
        let events = pair.client.events.iter().chain(&pair.server.events);
        events
            .filter(|event| matches!(event, Event::RoundTrip(_)))
            .count()
    };
    assert_eq!(beats(&pair), 0);
    pair.run_for(2 * SECOND);
    assert!(beats(&pair) > 0);
}

#[test]
fn an_opening_that_does_not_come_is_given_up_m_004() {
    let mut pair = Pair::new(Config::default(), Config::default());
    pair.to_server.is_silent = true;
    pair.run_for(6 * SECOND);
    for end in [&pair.client, &pair.server] {
        assert!(
            matches!(closed(end), Some(CloseReason::HandshakeTimeout(_))),
            "{end:?}"
        );
    }
}

#[test]
fn a_call_is_answered_once_and_its_route_is_named_once_m_015_m_020() {
    let mut pair = opened();
    for _ in 0..3 {
        let id = pair.call(b"hello", SECOND).unwrap();
        pair.run_for(5 * MILLI);
        let request = pair.request().unwrap();
        let RouteRef::Number(number) = request.route else {
            panic!("{:?}", request.route)
        };
        assert_eq!(
            pair.server.session.route_name(number).unwrap().as_ref(),
            "echo"
        );
        let reply = Reply {
            codec: 0,
            payload: request.payload,
        };
        assert!(
            pair.server
                .session
                .respond(pair.now, request.id.unwrap(), Ok(reply.clone()))
        );
        assert!(
            !pair
                .server
                .session
                .respond(pair.now, request.id.unwrap(), Ok(reply.clone())),
            "m_015"
        );
        pair.run_for(5 * MILLI);
        assert_eq!(pair.finished(id), Some(Ok(reply)));
    }
    let named = pair
        .to_server
        .recorded
        .windows(4)
        .filter(|bytes| bytes == b"echo")
        .count();
    assert_eq!(named, 1);
}

#[test]
fn a_route_beyond_the_table_travels_by_its_name() {
    let mut server = Config::default();
    server.limits.max_routes = 1;
    let mut pair = Pair::opened(Config::default(), server);
    for route in ["a", "b", "b"] {
        let deadline = pair.now + SECOND;
        pair.client
            .session
            .call(pair.now, &call(route, &Bytes::new(), deadline))
            .unwrap();
    }
    pair.run_for(5 * MILLI);
    let routes: Vec<_> =
        std::iter::from_fn(|| pair.request().map(|request| request.route)).collect();
    let by_name = RouteRef::Name("b".into());
    assert_eq!(routes, [RouteRef::Number(1), by_name.clone(), by_name]);
}

#[test]
fn a_request_whose_time_is_up_on_arrival_is_never_started_m_018() {
    let mut pair = opened();
    let head = Head::new(Kind::Request).with_arg(0).with_id(5);
    inject(&mut pair, head, &[], b"");
    assert!(pair.request().is_none());
    assert_eq!(
        pair.client.session.late_answers(),
        1,
        "it was answered, to a call we never made"
    );
}

#[test]
fn a_deadline_ends_the_call_at_both_ends_and_a_late_answer_goes_nowhere_m_016() {
    let mut pair = opened();
    let id = pair.call(b"slow", 100 * MILLI).unwrap();
    pair.run_for(5 * MILLI);
    let request = pair.request().unwrap();
    pair.run_for(200 * MILLI);
    let Some(Err(failure)) = pair.finished(id) else {
        panic!()
    };
    assert_eq!(failure, Failure::Deadline { sent: true });
    assert_eq!(failure.retry(), Retry::IfIdempotent);
    let cancelled = |event: &Event| matches!(event, Event::Cancelled(_, CancelReason::Deadline));
    assert!(pair.server.events.iter().any(cancelled));
    assert!(!pair.server.session.respond(
        pair.now,
        request.id.unwrap(),
        Err(ErrorBody::new(Code::INTERNAL, ""))
    ));
}

#[test]
fn a_cancelled_call_reaches_the_server_and_its_slot_is_used_again_safely_m_019() {
    let mut pair = opened();
    let first = pair.call(b"1", SECOND).unwrap();
    pair.run_for(5 * MILLI);
    let request = pair.request().unwrap();
    pair.client.session.cancel(pair.now, first);
    let second = pair.call(b"2", SECOND).unwrap();
    assert_eq!(first.index(), second.index());
    pair.run_for(5 * MILLI);
    let given_up = |event: &Event| match event {
        Event::Cancelled(id, CancelReason::GivenUp) => Some(*id) == request.id,
        _ => false,
    };
    assert!(pair.server.events.iter().any(given_up));
    pair.echo_all();
    pair.run_for(5 * MILLI);
    assert_eq!(pair.finished(second).unwrap().unwrap().payload, "2");
    assert_eq!(pair.finished(first), None);
}

#[test]
fn large_bodies_are_cut_into_fragments_and_do_not_block_small_ones_m_024() {
    let mut pair = opened();
    let large = Bytes::from(vec![7; 1 << 20]);
    let deadline = pair.now + SECOND;
    let first = pair
        .client
        .session
        .call(pair.now, &call("up", &large, deadline))
        .unwrap();
    let payload = Bytes::from_static(b"!");
    let mut urgent = call("urgent", &payload, deadline);
    urgent.priority = 7;
    pair.client.session.call(pair.now, &urgent).unwrap();
    pair.run_for(50 * MILLI);
    assert_eq!(
        pair.request().unwrap().payload,
        "!",
        "the small one came first"
    );
    let request = pair.request().unwrap();
    assert_eq!(request.payload, large);
    let reply = Reply {
        codec: 0,
        payload: large.clone(),
    };
    pair.server
        .session
        .respond(pair.now, request.id.unwrap(), Ok(reply));
    pair.run_for(50 * MILLI);
    assert_eq!(pair.finished(first).unwrap().unwrap().payload, large);
}

#[test]
fn fragments_that_do_not_add_up_end_the_connection_m_025() {
    let first = Head::new(Kind::Request)
        .with_class(MORE)
        .with_id(5)
        .with_arg(u32::MAX);
    let whole = |len: u32| {
        let mut parts = BytesMut::new();
        put_part(&mut parts, PartTag::WholeLength as u8, &len.to_le_bytes());
        parts
    };
    let data = Head::new(Kind::Data).with_id(5);
    let more = data.with_class(MORE);
    let cases: [(&[u8], Head, &[u8]); 4] = [
        (&whole(10), data, b"short"),
        (&whole(10), data, b"much too long for it"),
        (&whole(u32::MAX), data, b""),
        (&[], more, b""),
    ];
    for (parts, next, payload) in cases {
        let mut pair = opened();
        inject(&mut pair, first, parts, b"x");
        inject(&mut pair, next, &[], payload);
        assert_eq!(protocol_fault(&pair), Some(WireFault::Length));
    }
    let mut pair = opened();
    inject(&mut pair, data.with_id(99), &[], b"of nothing");
    assert!(closed(&pair.server).is_none(), "it crossed a CANCEL");
}

#[test]
fn broken_rules_end_the_connection_and_the_peer_is_told_m_023() {
    let request = Head::new(Kind::Request).with_arg(u32::MAX);
    let cases = [
        (request.with_route(9), WireFault::Id),
        (request.with_id(1 << 31), WireFault::Id),
        (request.with_class(0x80), WireFault::Reserved),
        (request.with_kind(0x7f), WireFault::Type),
        (Head::new(Kind::Response), WireFault::State),
        (Head::new(Kind::Publish), WireFault::State),
        (Head::new(Kind::Route).with_id(0), WireFault::Id),
    ];
    for (head, fault) in cases {
        let mut pair = opened();
        let call = pair.call(b"in flight", SECOND).unwrap();
        inject(&mut pair, head, &[], b"");
        assert_eq!(protocol_fault(&pair), Some(fault));
        pair.run_for(SECOND);
        assert!(
            closed(&pair.client).is_some_and(|reason| reason.to_string().contains("NET-E-400"))
        );
        assert!(matches!(
            pair.finished(call),
            Some(Err(Failure::Lost { sent: true, .. }))
        ));
    }
}

#[test]
fn the_same_call_id_twice_in_flight_ends_the_connection_m_017() {
    let mut pair = opened();
    let head = Head::new(Kind::Request).with_id(3).with_arg(u32::MAX);
    inject(&mut pair, head, &[], b"");
    inject(&mut pair, head, &[], b"");
    assert_eq!(protocol_fault(&pair), Some(WireFault::Id));
}

#[test]
fn a_slot_beyond_the_announced_calls_is_refused_unstarted_m_014() {
    let mut server = Config::default();
    server.limits.max_calls = 4;
    let mut pair = Pair::opened(Config::default(), server);
    let ids: Vec<_> = (0..4).map(|_| pair.call(b"x", SECOND).unwrap()).collect();
    assert_eq!(
        pair.call(b"x", SECOND),
        Err(Failure::TooManyCalls(4)),
        "m_009"
    );
    inject(
        &mut pair,
        Head::new(Kind::Request).with_id(4).with_arg(u32::MAX),
        &[],
        b"",
    );
    assert_eq!(pair.echo_all(), 4);
    pair.run_for(5 * MILLI);
    assert!(ids.into_iter().all(|id| pair.finished(id).unwrap().is_ok()));
}

#[test]
fn unknown_parts_are_skipped_and_unknown_critical_ones_refused_m_031() {
    for (tag, is_started) in [(0x7f, true), (0xff, false)] {
        let mut pair = opened();
        let mut parts = BytesMut::new();
        put_part(&mut parts, tag, b"?");
        inject(
            &mut pair,
            Head::new(Kind::Request).with_id(1).with_arg(u32::MAX),
            &parts,
            b"x",
        );
        assert_eq!(pair.request().is_some(), is_started);
        assert!(closed(&pair.server).is_none());
    }
}

#[test]
fn silence_is_death_after_three_heartbeats_and_calls_end_with_an_error_m_022() {
    let mut pair = opened();
    let id = pair.call(b"x", 1000 * SECOND).unwrap();
    pair.to_client.is_silent = true;
    pair.run_for(100 * SECOND);
    assert!(matches!(
        closed(&pair.client),
        Some(CloseReason::HeartbeatTimeout(_))
    ));
    let Some(Err(failure)) = pair.finished(id) else {
        panic!()
    };
    assert_eq!(failure.retry(), Retry::IfIdempotent);
}

#[test]
fn heartbeats_measure_the_round_trip_m_021() {
    let mut pair = opened();
    pair.conditions.latency = 25 * MILLI;
    pair.run_for(40 * SECOND);
    let round_trip = pair.client.events.iter().find_map(|event| match event {
        Event::RoundTrip(round_trip) => Some(*round_trip),
        _ => None,
    });
    assert_eq!(round_trip, Some(50 * MILLI));
}

#[test]
fn a_drain_finishes_what_was_accepted_and_refuses_what_comes_too_late_m_028_m_029() {
    let mut pair = opened();
    let early = pair.call(b"early", 60 * SECOND).unwrap();
    pair.run_for(5 * MILLI);
    let request = pair.request().unwrap();
    pair.server.session.drain(pair.now, 30 * SECOND);
    pair.run_for(5 * MILLI);
    assert!(matches!(pair.client.events.back(), Some(Event::Draining)));
    assert_eq!(pair.call(b"new", SECOND), Err(Failure::NotOpen));
    // A client that did not hear it in time: the request arrives after phase 2.
    inject(
        &mut pair,
        Head::new(Kind::Request).with_id(7).with_arg(u32::MAX),
        &[],
        b"late",
    );
    assert!(pair.request().is_none(), "refused, unstarted");
    assert!(closed(&pair.server).is_none());
    let reply = Reply {
        codec: 0,
        payload: request.payload,
    };
    pair.server
        .session
        .respond(pair.now, request.id.unwrap(), Ok(reply));
    pair.run_for(5 * MILLI);
    assert!(pair.finished(early).unwrap().is_ok());
    assert!(matches!(closed(&pair.server), Some(CloseReason::Drained)));
    assert!(matches!(closed(&pair.client), Some(CloseReason::Drained)));
}

#[test]
fn a_drain_ends_at_its_grace_although_a_handler_never_does() {
    let mut pair = opened();
    let id = pair.call(b"stuck", 600 * SECOND).unwrap();
    pair.run_for(5 * MILLI);
    pair.server.session.drain(pair.now, 10 * SECOND);
    pair.run_for(11 * SECOND);
    assert!(matches!(closed(&pair.server), Some(CloseReason::Drained)));
    assert!(matches!(
        pair.finished(id),
        Some(Err(Failure::Lost { sent: true, .. }))
    ));
}

#[test]
fn a_call_that_never_left_may_be_sent_again_anywhere() {
    let mut pair = opened();
    let id = pair.call(b"x", SECOND).unwrap();
    pair.client
        .session
        .close(pair.now, CloseReason::Transport("cut".into()));
    pair.run_for(MILLI);
    let Some(Err(failure)) = pair.finished(id) else {
        panic!()
    };
    assert!(matches!(failure, Failure::Lost { sent: false, .. }));
    assert_eq!(failure.retry(), Retry::Here);
}

#[test]
fn a_peer_that_does_not_read_stalls_and_is_given_up() {
    let mut pair = opened();
    pair.server.session.handle_written(pair.now, true);
    pair.run_for(11 * SECOND);
    assert!(matches!(
        closed(&pair.server),
        Some(CloseReason::WriteStall(_))
    ));
}

#[test]
fn a_frame_of_a_byte_a_second_is_given_up_at_its_deadline() {
    let mut pair = opened();
    let mut out = Vec::new();
    put_frame(&mut out, Head::new(Kind::Request), &[], &[0; 100], true);
    for byte in out {
        pair.server.buf.extend_from_slice(&[byte]);
        pair.server.take_bytes(pair.now);
        pair.run_for(SECOND);
        if closed(&pair.server).is_some() {
            break;
        }
    }
    assert!(matches!(
        closed(&pair.server),
        Some(CloseReason::ReadStall(_))
    ));
}

#[test]
fn what_can_never_be_queued_is_not_told_to_come_again() {
    let mut client = Config::default();
    client.limits.outbox_max = 100 << 10;
    let mut pair = Pair::opened(client, Config::default());
    let deadline = pair.now + SECOND;
    let mut call_with = |bytes: usize| {
        let payload = Bytes::from(vec![0; bytes << 10]);
        let End { session, .. } = &mut pair.client;
        session.call(pair.now, &call("echo", &payload, deadline))
    };
    assert!(matches!(call_with(101), Err(Failure::Unsendable(_))));
    call_with(60).unwrap();
    let full = call_with(60).unwrap_err();
    assert!(matches!(full, Failure::Full(queued) if queued >= 60 << 10));
    assert_eq!(full.retry(), Retry::Here);
}

#[test]
fn unread_answers_stop_the_reading_of_requests_and_are_bounded() {
    let mut server = Config::default();
    server.limits.outbox_max = 20 << 20;
    let mut pair = Pair::opened(Config::default(), server);
    for _ in 0..100 {
        pair.call(b"x", 60 * SECOND).unwrap();
    }
    pair.run_for(5 * MILLI);
    let body = Bytes::from(vec![0; 1 << 20]);
    while let Some(request) = pair.request() {
        let reply = Reply {
            codec: 0,
            payload: body.clone(),
        };
        assert!(
            pair.server
                .session
                .respond(pair.now, request.id.unwrap(), Ok(reply))
        );
        assert!(!pair.server.session.wants_read(), "reading pauses at 1 MiB");
    }
    assert!(pair.server.session.memory() < 22 << 20);
    pair.run_for(SECOND);
    let answers = pair.client.finished.iter().map(|(_, answer)| answer);
    let (answered, refused): (Vec<_>, Vec<_>) = answers.partition(|answer| answer.is_ok());
    assert_eq!(
        (answered.len(), refused.len()),
        (20, 80),
        "none is left without an answer"
    );
    assert!(closed(&pair.server).is_none());
}

#[test]
fn metadata_and_trace_arrive_and_errors_bring_the_chain_and_the_trace_back() {
    let mut pair = opened();
    let trace = Trace {
        id: [1; 16],
        span: [2; 8],
        flags: 1,
    };
    let metadata = [("tenant".to_owned(), Bytes::from_static(b"7"))];
    let deadline = pair.now + SECOND;
    let payload = Bytes::new();
    let call = postroad_proto::session::Call {
        trace: Some(&trace),
        metadata: &metadata,
        ..call("echo", &payload, deadline)
    };
    let id = pair.client.session.call(pair.now, &call).unwrap();
    pair.run_for(5 * MILLI);
    let request = pair.request().unwrap();
    assert_eq!(request.trace(), Some(trace));
    let parts = request
        .extras
        .map(|extras| extras.parts)
        .unwrap_or_default();
    assert!(parts.windows(7).any(|bytes| bytes == b"tenant7"));
    let mut error = ErrorBody::new(Code::literal("ORD-E-102"), "no stock");
    error
        .causes
        .extend(ErrorBody::new(Code::literal("INV-E-003"), "empty shelf").causes);
    error.trace = Some(trace);
    pair.server
        .session
        .respond(pair.now, request.id.unwrap(), Err(error.clone()));
    pair.run_for(5 * MILLI);
    assert_eq!(
        pair.finished(id),
        Some(Err(Failure::Remote(Box::new(error))))
    );
}

#[test]
fn the_client_speaks_only_after_welcome_m_001_and_frames_before_it_are_refused() {
    let mut pair = Pair::new(Config::default(), Config::default());
    assert_eq!(pair.call(b"x", SECOND), Err(Failure::NotOpen));
    let conditions = pair.conditions;
    pair.to_server.send(
        pair.now,
        b"\xf7PRD\x01\0\x88\x13",
        conditions,
        &mut pair.random,
    );
    pair.client.session.close(pair.now, CloseReason::Local);
    pair.run_for(SECOND);
    assert_eq!(protocol_fault(&pair), Some(WireFault::Length));
    assert!(pair.to_client.recorded.len() > 20, "a REFUSE was sent");
}
