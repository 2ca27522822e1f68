//! What a peer insists on and nobody here does is refused, never accepted and ignored.

use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Pair, closed, inject, opened, protocol_fault};
use bytes::{Bytes, BytesMut};
use postroad_proto::Time;
use postroad_proto::code::{Code, Retry};
use postroad_proto::dialect::{Dialect, DialectCodec, Reader};
use postroad_proto::error_body::ErrorBody;
use postroad_proto::frame::{
    CRITICAL, FrameDecoder, Head, Hello, Kind, MESSAGE_ID, Opening, PartTag, RefuseReason,
    put_frame, put_part,
};
use postroad_proto::session::{
    Arrivals, CloseReason, Config, Denial, DialectConfig, Event, RefusalReason, Session, Shortage,
};
use postroad_proto::wire_error::WireFault;

const NOW: Time = Time(1_000_000_000);

fn hello(parts: &[(u8, &'static [u8])]) -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        offered: 0,
        required: 0,
        max_frame: 64 * 1024,
        max_message: 1 << 20,
        max_calls: 0,
        heartbeat_ms: 30_000,
        max_routes: 16,
        parts: parts
            .iter()
            .map(|(tag, value)| (*tag, Bytes::from_static(value)))
            .collect(),
    }
}

/// What a server makes of this HELLO: its last event, and its answer.
fn greet(config: Config, hello: &Hello) -> (Event, Option<Opening>) {
    let now = Time(1_000_000_000);
    let mut session = Session::server(config, [7; 16], now);
    let (mut wire, mut out) = (Vec::new(), Vec::new());
    Opening::Hello(hello.clone()).encode(&mut wire);
    let mut buf = BytesMut::from(&wire[..]);
    session.handle_bytes(now, &mut buf, &mut Arrivals::new(1));
    while session.poll_transmit(&mut out) {}
    let last = std::iter::from_fn(|| session.poll_event()).last();
    let answer = Opening::decode(&mut BytesMut::from(&out[..])).expect("an opening is the answer");
    (last.expect("it has opened or closed"), answer)
}

fn refusal(hello: &Hello) -> (RefuseReason, String) {
    match greet(Config::default(), hello) {
        (Event::Closed(_), Some(Opening::Refuse(refuse))) => (refuse.reason, refuse.text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_critical_part_of_hello_that_nobody_reads_is_refused_m_031() {
    // Credentials, authority, resume; token and resumed are parts of WELCOME only; 9 is unknown.
    for tag in [2, 3, 4, 5, 6, 9] {
        let (reason, text) = refusal(&hello(&[(tag | CRITICAL, b"secret")]));
        assert_eq!(reason, RefuseReason::Features);
        let part = format!("critical part 0x{:02x}", tag | CRITICAL);
        assert!(text.contains(&part), "{text}");
        let (event, _) = greet(Config::default(), &hello(&[(tag, b"secret")]));
        let Event::Opened(peer) = event else {
            panic!("{event:?}")
        };
        assert!(peer.credentials.is_none(), "nobody asked for them");
    }
}

#[test]
fn credentials_that_are_accepted_are_handed_out_and_never_shown() {
    let config = Config {
        accepts_credentials: true,
        ..Config::default()
    };
    for tag in [2, 2 | CRITICAL] {
        let (event, _) = greet(config.clone(), &hello(&[(1, b"me"), (tag, b"secret")]));
        assert!(!format!("{event:?}").contains("secret"), "{event:?}");
        let Event::Opened(peer) = event else {
            panic!("{event:?}")
        };
        let credentials = peer.credentials.expect("they were brought");
        assert_eq!((&credentials.0[..], &*peer.agent), (&b"secret"[..], "me"));
    }
}

/// A server's session that has read this HELLO and judges credentials.
fn judging(hello: &Hello) -> Session {
    let config = Config {
        accepts_credentials: true,
        judges_credentials: true,
        ..Config::default()
    };
    let mut session = Session::server(config, [7; 16], NOW);
    let mut wire = Vec::new();
    Opening::Hello(hello.clone()).encode(&mut wire);
    let mut buf = BytesMut::from(&wire[..]);
    session.handle_bytes(NOW, &mut buf, &mut Arrivals::new(1));
    session
}

fn said(session: &mut Session) -> Option<Opening> {
    let mut out = Vec::new();
    while session.poll_transmit(&mut out) {}
    Opening::decode(&mut BytesMut::from(&out[..])).expect("an opening is the answer")
}

#[test]
fn a_client_whose_credentials_are_judged_is_answered_when_they_were_m_002() {
    let bearer = hello(&[(1, b"me"), (2 | CRITICAL, b"secret")]);
    let mut session = judging(&bearer);
    assert!(!format!("{session:?}").contains("secret"));
    assert!(said(&mut session).is_none(), "nothing is said before");
    let Some(Event::Presented(credentials)) = session.poll_event() else {
        panic!("they are handed out");
    };
    assert_eq!(&credentials.0[..], b"secret");
    session.admit(NOW);
    assert!(matches!(said(&mut session), Some(Opening::Welcome(_))));
    let Some(Event::Opened(peer)) = session.poll_event() else {
        panic!("it is open");
    };
    assert_eq!((peer.agent.as_str(), peer.credentials), ("me", None));

    let mut session = judging(&bearer);
    let denial = Denial {
        text: "AUT-E-401 the token has expired".to_owned(),
        retry: Retry::Never,
        after: Duration::from_secs(2),
    };
    session.deny(NOW, denial.clone());
    let Some(Opening::Refuse(refuse)) = said(&mut session) else {
        panic!("it is refused");
    };
    assert_eq!(refuse.reason, RefuseReason::Authentication);
    assert_eq!((&refuse.text, refuse.retry_after_ms), (&denial.text, 2000));
    assert!(session.is_closed());
    // Whoever brings nothing is welcome at once, and a verdict that comes too late does nothing.
    let mut session = judging(&hello(&[]));
    assert!(matches!(said(&mut session), Some(Opening::Welcome(_))));
    session.deny(NOW, denial);
    assert!(!session.is_closed());
}

#[test]
fn who_talks_on_or_waits_too_long_while_it_is_judged_is_refused_m_001_m_004() {
    let bearer = hello(&[(2, b"secret")]);
    let mut session = judging(&bearer);
    let mut more = BytesMut::from(&b"x"[..]);
    session.handle_bytes(NOW, &mut more, &mut Arrivals::new(1));
    assert!(session.is_closed());
    let mut session = judging(&bearer);
    let due = session.poll_timeout().expect("the opening has a time");
    assert_eq!(due, NOW + Duration::from_secs(5));
    session.handle_timeout(due);
    assert!(session.is_closed());
}

#[test]
fn the_agreed_heartbeat_is_ten_minutes_at_most_whatever_is_proposed_m_008() {
    let patient = Hello {
        heartbeat_ms: u32::MAX,
        ..hello(&[])
    };
    let (_, answer) = greet(Config::default(), &patient);
    let Some(Opening::Welcome(mut welcome)) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(welcome.heartbeat_ms, 600_000);
    for (agreed, is_right) in [(600_000, true), (600_001, false)] {
        welcome.heartbeat_ms = agreed;
        let now = Time(1_000_000_000);
        let mut client = Session::client(Config::default(), now);
        let mut wire = Vec::new();
        Opening::Welcome(welcome.clone()).encode(&mut wire);
        let mut buf = BytesMut::from(&wire[..]);
        client.handle_bytes(now, &mut buf, &mut Arrivals::new(1));
        assert_eq!(client.is_closed(), !is_right, "{agreed} ms");
    }
}

#[test]
fn an_opening_that_accepts_more_calls_than_slots_can_number_is_malformed_m_008() {
    let hello = |max_calls| Hello {
        max_calls,
        ..hello(&[])
    };
    assert_eq!(refusal(&hello(65_537)).0, RefuseReason::Malformed);
    let (event, _) = greet(Config::default(), &hello(65_536));
    assert!(matches!(event, Event::Opened(_)), "{event:?}");
}

/// The error that the server has answered last.
fn answered(pair: &Pair) -> ErrorBody {
    let wire = &pair.to_client.recorded;
    let mut buf = BytesMut::from(&wire[..]);
    Opening::decode(&mut buf).expect("WELCOME came first");
    let decoder = FrameDecoder {
        max_body: 64 * 1024,
        checksum: true,
    };
    let frames = std::iter::from_fn(|| decoder.decode(&mut buf).expect("frames are whole"));
    let last = frames.filter(|frame| frame.head.is(Kind::Error)).last();
    ErrorBody::decode(last.expect("there is an error").body).expect("it is an error")
}

#[test]
fn a_call_that_insists_on_what_nobody_does_is_told_so_m_031_m_034() {
    let name = |parts: &mut Vec<u8>| put_part(parts, PartTag::RouteName as u8, b"echo");
    let call = Head::new(Kind::Request).with_arg(u32::MAX);
    for tag in [PartTag::IdempotencyKey, PartTag::Sequence] {
        let mut pair = opened();
        let mut parts = Vec::new();
        name(&mut parts);
        put_part(&mut parts, tag as u8 | CRITICAL, &[0; 8]);
        inject(&mut pair, call.with_id(1), &parts, b"");
        let error = answered(&pair);
        assert_eq!(
            (error.code(), error.retry),
            (Code::UNSUPPORTED, Retry::Never)
        );
        let mut parts = Vec::new();
        name(&mut parts);
        put_part(&mut parts, tag as u8, &[0; 8]);
        inject(&mut pair, call.with_id(2), &parts, b"");
        assert_eq!(pair.server.requests.len(), 1, "one that does not insist");
    }
    for qos in 1..3 {
        let mut pair = opened();
        inject(&mut pair, call.with_id(1).with_class(qos << 3), &[], b"");
        assert_eq!(answered(&pair).code(), Code::UNSUPPORTED);
        assert!(closed(&pair.server).is_none() && pair.server.requests.is_empty());
        let message = Head::new(Kind::OneWay)
            .with_arg(u32::MAX)
            .with_id(MESSAGE_ID);
        inject(&mut pair, message.with_class(qos << 3), &[], b"");
        assert_eq!(protocol_fault(&pair), Some(WireFault::State));
        assert!(pair.server.requests.is_empty());
    }
}

#[test]
fn a_route_is_named_once_m_033() {
    let call = Head::new(Kind::Request).with_arg(u32::MAX);
    let mut parts = Vec::new();
    put_part(&mut parts, PartTag::RouteName as u8, b"echo");
    let mut pair = opened();
    inject(&mut pair, Head::new(Kind::Route).with_id(1), &[], b"echo");
    inject(&mut pair, call.with_route(1), &parts, b"");
    assert_eq!(protocol_fault(&pair), Some(WireFault::Parts));
    put_part(&mut parts, PartTag::RouteName as u8, b"other");
    let mut pair = opened();
    inject(&mut pair, call, &parts, b"");
    assert_eq!(protocol_fault(&pair), Some(WireFault::Parts));
    assert!(matches!(
        closed(&pair.client),
        Some(CloseReason::Fault(text)) if text.contains("two route names")
    ));
}

/// Where the first wrong byte is, counted from the frame that was injected.
fn place(pair: &mut Pair, head: Head, parts: &[u8]) -> (WireFault, u64) {
    let before = pair.to_server.recorded.len() as u64;
    inject(pair, head, parts, b"");
    match closed(&pair.server) {
        Some(CloseReason::Protocol(error)) => (error.fault, error.at - before),
        other => panic!("{other:?}"),
    }
}

#[test]
fn parts_that_cannot_be_read_end_the_connection_and_their_place_is_told_m_032() {
    let call = Head::new(Kind::Request).with_arg(u32::MAX);
    // Behind a head, the length of the parts and the part with the name.
    let second = 16 + 2 + 3 + 4;
    for (tag, value) in [
        (PartTag::Metadata, &b""[..]),
        (PartTag::Metadata, b"\x05key"),
        (PartTag::Trace, b"short"),
        (PartTag::WholeLength, b"abc"),
        (PartTag::IdempotencyKey, &[7; 65]),
        (PartTag::Sequence, b"abc"),
    ] {
        let mut parts = Vec::new();
        put_part(&mut parts, PartTag::RouteName as u8, b"echo");
        put_part(&mut parts, tag as u8, value);
        let found = place(&mut opened(), call, &parts);
        assert_eq!(found, (WireFault::Parts, second), "{tag:?}");
    }
    let mut parts = Vec::new();
    put_part(&mut parts, PartTag::RouteName as u8, b"echo");
    parts.extend_from_slice(&[PartTag::Trace as u8, 25, 0, 1]);
    assert_eq!(
        place(&mut opened(), call, &parts),
        (WireFault::Parts, second)
    );
    let mut parts = Vec::new();
    put_part(&mut parts, PartTag::RouteName as u8, b"ec\xffo");
    let letter = 16 + 2 + 3 + 2;
    assert_eq!(
        place(&mut opened(), call, &parts),
        (WireFault::Utf8, letter)
    );
}

#[test]
fn a_ping_that_its_sender_could_not_take_back_ends_the_connection_m_009() {
    let small = Hello {
        max_frame: 1024,
        ..hello(&[])
    };
    for (len, is_right) in [(1024, true), (1025, false)] {
        let now = Time(1_000_000_000);
        let mut server = Session::server(Config::default(), [7; 16], now);
        let mut buf = BytesMut::new();
        let mut wire = Vec::new();
        Opening::Hello(small.clone()).encode(&mut wire);
        put_frame(&mut wire, Head::new(Kind::Ping), &[], &vec![0; len], true);
        buf.extend_from_slice(&wire);
        server.handle_bytes(now, &mut buf, &mut Arrivals::new(1));
        assert_eq!(server.is_closed(), !is_right, "{len}");
    }
}

#[test]
fn what_looks_like_another_protocol_is_told_with_the_url_that_would_take_it() {
    let now = Time(1_000_000_000);
    let said = |mut session: Session, bytes: &[u8]| {
        let mut buf = BytesMut::from(bytes);
        session.handle_bytes(now, &mut buf, &mut Arrivals::new(1));
        let last = std::iter::from_fn(|| session.poll_event()).last();
        match last {
            Some(Event::Closed(reason)) => reason.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let server = || Session::server(Config::default(), [7; 16], now);
    let text = said(server(), b"\xab\xcd\x01\x01\x00\x00\x00\x00");
    assert!(text.contains("tcp+sequence://HOST:PORT"), "{text}");
    let dialect = |dialect, reader| DialectConfig {
        codec: DialectCodec::new(dialect, reader),
        mapping: Arc::default(),
    };
    let opcode = dialect(Dialect::Opcode, Reader::Server);
    let text = said(
        Session::dialect_server(Config::default(), opcode, now),
        b"\xf7PRD\x01",
    );
    assert!(text.contains("the native protocol"), "{text}");
    let priority = dialect(Dialect::Priority, Reader::Client);
    let text = said(
        Session::dialect_client(Config::default(), priority, now),
        b"ERR: what?\n",
    );
    assert!(text.contains("tcp+line://HOST:PORT"), "{text}");
}

#[test]
fn a_peer_that_speaks_what_its_first_bytes_say_is_turned_away_in_that() {
    let now = Time(1_000_000_000);
    let mut hello = Vec::new();
    Opening::Hello(self::hello(&[])).encode(&mut hello);
    let sequence = b"\xab\xcd\x01\x01\x00\x00\x00\x00\x00\x00\x00\x01";
    for (first, word) in [
        (&hello[..], "too many connections"),
        (sequence, "SRV-E-429"),
    ] {
        let mapping = Arc::default();
        let mut session = Session::detect(Arc::new(Config::default()), mapping, [7; 16], now);
        session.turn_away(now, Shortage::Connections);
        assert!(!session.is_closed(), "it has said nothing yet");
        session.handle_bytes(now, &mut BytesMut::from(first), &mut Arrivals::new(1));
        let mut out = Vec::new();
        while session.poll_transmit(&mut out) {}
        assert!(String::from_utf8_lossy(&out).contains(word), "{out:02x?}");
        let last = std::iter::from_fn(|| session.poll_event()).last();
        assert!(
            matches!(last, Some(Event::Closed(CloseReason::TurnedAway(_)))),
            "{last:?}"
        );
    }
}

#[test]
fn the_byte_at_which_no_protocol_goes_on_is_told() {
    let now = Time(1_000_000_000);
    for (bytes, at) in [(&b"\xf7PX"[..], 2), (b"\xab\xce", 1), (b"\x00", 0)] {
        let mut session = Session::detect(Arc::default(), Arc::default(), [7; 16], now);
        session.handle_bytes(now, &mut BytesMut::from(bytes), &mut Arrivals::new(1));
        let last = std::iter::from_fn(|| session.poll_event()).last();
        let Some(Event::Closed(CloseReason::Protocol(error))) = last else {
            panic!("{last:?}")
        };
        assert_eq!((error.fault, error.at), (WireFault::Magic, at), "{error}");
    }
}

#[test]
fn a_call_that_the_session_answers_itself_is_told_with_its_reason() {
    let mut config = Config::default();
    config.limits.max_calls = 4;
    let mut pair = Pair::opened(Config::default(), config);
    let call = Head::new(Kind::Request);
    inject(&mut pair, call.with_id(1), &[], b"late");
    inject(
        &mut pair,
        call.with_id(4).with_arg(u32::MAX),
        &[],
        b"beyond",
    );
    inject(
        &mut pair,
        call.with_id(2).with_arg(u32::MAX).with_class(1 << 3),
        &[],
        b"acknowledged",
    );
    inject(&mut pair, call.with_id(3).with_arg(u32::MAX), &[], b"good");
    let refused = pair.server.events.iter().filter_map(|event| match event {
        Event::Refused(reason) => Some(*reason),
        _ => None,
    });
    let expected = [
        RefusalReason::Late,
        RefusalReason::TooManyCalls,
        RefusalReason::Unsupported,
    ];
    assert_eq!(refused.collect::<Vec<_>>(), expected);
    assert_eq!(pair.server.requests.len(), 1);
}
