//! Memory that comes back, dead paths that are noticed, answers that come late.

use super::*;
use crate::session::{Arrivals, Call, Reply};

/// Both ends, without heartbeats that would wake them.
fn pair(begin: Time) -> (DialectSession, DialectSession) {
    let config = Arc::new(Config {
        has_heartbeat: false,
        ..Config::default()
    });
    let dialect = DialectConfig {
        codec: DialectCodec::new(Dialect::Sequence, Reader::Server),
        mapping: Arc::default(),
    };
    let client = DialectSession::client(Arc::clone(&config), dialect.clone(), begin);
    (client, DialectSession::server(config, dialect, begin))
}

fn call(payload: &Bytes) -> Call<'_> {
    Call {
        route: "command/1",
        payload,
        codec: 0,
        priority: 3,
        deadline: Time::NEVER,
        attempt: 0,
        no_retry: false,
        trace: None,
        metadata: &[],
    }
}

const BEAT: Duration = Duration::from_secs(30);

/// A client whose heartbeats go unanswered, and the time.
fn client_of(dialect: Dialect) -> DialectSession {
    let config = Arc::new(Config {
        heartbeat: BEAT,
        has_heartbeat: true,
        ..Config::default()
    });
    let dialect = DialectConfig {
        codec: DialectCodec::new(dialect, Reader::Client),
        mapping: Arc::default(),
    };
    DialectSession::client(config, dialect, Time(1_000))
}

fn route_of(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Line => "line",
        Dialect::Opcode => "opcode/1",
        _ => "command/1",
    }
}

/// Makes ten calls a second of one second each, whose answers never come; after how long the
/// client notices.
fn silence_until_noticed(dialect: Dialect) -> Duration {
    let begin = Time(1_000);
    let mut client = client_of(dialect);
    let payload = Bytes::from_static(b"x");
    let mut sent = Vec::new();
    for tick in 0..2_000 {
        let now = begin + tick * Duration::from_millis(100);
        client.handle_timeout(now);
        client.poll_transmit(&mut sent);
        while client.poll_event().is_some() {}
        if client.is_closed() {
            return now.since(begin);
        }
        let call = Call {
            route: route_of(dialect),
            deadline: now + Duration::from_secs(1),
            ..call(&payload)
        };
        // A FIFO dialect takes no more than its bound when no answer comes.
        let _ = client.call(now, &call);
    }
    panic!("{dialect:?}: the client has not noticed");
}

#[test]
fn a_busy_client_of_each_dialect_notices_a_dead_path_after_three_heartbeats() {
    for dialect in Dialect::ALL {
        let silence = silence_until_noticed(dialect);
        assert!(
            silence >= 3 * BEAT && silence < 4 * BEAT,
            "{dialect:?}: {silence:?}"
        );
    }
}

#[test]
fn a_call_that_takes_long_where_answers_come_in_turn_is_no_dead_path() {
    let mut client = client_of(Dialect::Line);
    let payload = Bytes::from_static(b"x");
    let call = Call {
        route: "line",
        ..call(&payload)
    };
    client.call(Time(1_000), &call).expect("there is room");
    for beat in 1..20 {
        client.handle_timeout(Time(1_000) + beat * BEAT);
    }
    assert!(!client.is_closed(), "its deadline has not passed");
}

#[test]
fn a_late_answer_never_reaches_another_call_however_often_ids_come_round() {
    for dialect in [Dialect::Session, Dialect::Sequence, Dialect::Priority] {
        let now = Time(1_000);
        let mut client = client_of(dialect);
        let payload = Bytes::from_static(b"x");
        let first = client.call(now, &call(&payload)).expect("there is room");
        let late = client.wire_id(first);
        client.cancel(now, first);
        for _ in 0..200_000 {
            let id = client.call(now, &call(&payload)).expect("there is room");
            assert_ne!(client.wire_id(id), late, "{dialect:?}");
            client.caller.finish(id);
            client.poll_transmit(&mut Vec::new());
        }
        assert_eq!(client.answered(late), None, "{dialect:?}");
        assert!(client.given_up.is_empty(), "it may be used again now");
    }
}

fn held(session: &DialectSession) -> usize {
    session.out.capacity() + session.pending.len() + session.order.capacity()
}

#[test]
fn what_a_burst_has_made_grow_is_given_back_when_it_is_over() {
    let begin = Time(1_000);
    let (mut client, mut server) = pair(begin);
    let payload = Bytes::from(vec![0; 1000]);
    for _ in 0..500 {
        client.call(begin, &call(&payload)).expect("there is room");
    }
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    client.poll_transmit(&mut asked);
    let mut arrivals = Arrivals::new(500);
    server.handle_bytes(begin, &mut BytesMut::from(&asked[..]), &mut arrivals);
    let arrived = arrivals.requests.drain(..);
    let mut requests: Vec<_> = arrived.filter_map(|request| request.id).collect();
    while server.poll_event().is_some() {}
    assert_eq!(requests.len(), 500);
    let rest = server.poll_timeout().expect("it was busy");
    let last = requests.pop().expect("there are many");
    let reply = || {
        Ok(Reply {
            payload: payload.clone(),
            codec: 0,
        })
    };
    for id in requests {
        assert!(server.respond(begin, id, reply()));
    }
    server.poll_transmit(&mut answered);
    server.handle_timeout(rest);
    assert!(held(&server) > 500_000, "a call is in flight");
    assert!(server.respond(rest, last, reply()));
    server.poll_transmit(&mut answered);
    client.handle_bytes(rest, &mut BytesMut::from(&answered[..]), &mut arrivals);
    while client.poll_event().is_some() {}
    for session in [&mut client, &mut server] {
        let rest = session.poll_timeout().expect("it was busy");
        session.handle_timeout(rest);
        session.poll_transmit(&mut Vec::new());
        assert!(held(session) < 100, "{}", held(session));
    }
    assert_eq!(server.poll_timeout(), None, "who is idle has no timer");
}

#[test]
fn who_only_sends_gives_memory_back_too() {
    let begin = Time(1_000);
    let (mut client, _) = pair(begin);
    let payload = Bytes::from(vec![0; 1000]);
    for _ in 0..500 {
        client.send(begin, &call(&payload)).expect("there is room");
    }
    client.poll_transmit(&mut Vec::new());
    assert!(held(&client) > 500_000);
    let rest = client.poll_timeout().expect("it has sent");
    client.handle_timeout(rest);
    assert!(held(&client) < 100, "{}", held(&client));
    assert_eq!(client.poll_timeout(), None, "who is idle has no timer");
}
