//! Sessions under arbitrary bytes and arbitrary orders of operations: no panic, bounded memory,
//! every call ends once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postroad_proto::Time;
use postroad_proto::code::Code;
use postroad_proto::dialect::{Dialect, DialectCodec, Reader};
use postroad_proto::error_body::ErrorBody;
use postroad_proto::limits::Limits;
use postroad_proto::session::{
    Arrivals, Call, CallId, CloseReason, Config, DialectConfig, Event, Mapping, Reply, SINK_ROOM,
    Session, Sink,
};

fn config() -> Config {
    let limits = Limits {
        max_calls: 8,
        max_routes: 8,
        max_dialect_payload: 1024,
        max_message: 64 * 1024,
        outbox_pause: 32 * 1024,
        outbox_max: 128 * 1024,
        assembly_max: 128 * 1024,
        ..Limits::default()
    };
    Config {
        limits,
        ..Config::default()
    }
}

fn dialect(choice: u8) -> Option<DialectConfig> {
    let dialect = *Dialect::ALL.get(usize::from(choice))?;
    let codec = DialectCodec::new(dialect, Reader::Server);
    Some(DialectConfig {
        codec,
        mapping: Arc::new(Mapping::default()),
    })
}

fn server(choice: u8, now: Time) -> Session {
    match dialect(choice % 8) {
        Some(dialect) => Session::dialect_server(config(), dialect, now),
        None if choice % 8 == 6 => Session::server(config(), [0; 16], now),
        None => Session::detect(config(), Arc::new(Mapping::default()), [0; 16], now),
    }
}

fn client(choice: u8, now: Time) -> Session {
    match dialect(choice % 8) {
        Some(dialect) => Session::dialect_client(config(), dialect, now),
        None => Session::client(config(), now),
    }
}

fn drain(session: &mut Session, wire: &mut BytesMut) {
    let mut out = Vec::new();
    while session.poll_transmit(&mut out) {}
    wire.extend_from_slice(&out);
}

fn check_memory(session: &Session) {
    assert!(session.memory() <= config().limits.memory_max());
}

/// A server that answers what it is asked, fed with bytes in pieces.
pub(crate) fn server_bytes(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let mut now = Time(1_000_000_000);
    let (mut session, mut buf, mut out) = (server(*choice, now), BytesMut::new(), BytesMut::new());
    let mut arrivals = Arrivals::new(room(*choice));
    for piece in data.chunks(1 + usize::from(choice >> 3) * 7) {
        buf.extend_from_slice(piece);
        handle_bytes(
            &mut session,
            now,
            &mut buf,
            &mut arrivals,
            |session, arrivals| {
                for request in arrivals.requests.drain(..) {
                    assert!(request.deadline > now);
                    let reply = Reply {
                        codec: 0,
                        payload: request.payload,
                    };
                    let _ = request.id.map(|id| session.respond(now, id, Ok(reply)));
                }
                while session.poll_event().is_some() {}
            },
        );
        check_memory(&session);
        drain(&mut session, &mut out);
        out.clear();
        now = now + Duration::from_millis(3);
        session.handle_timeout(now);
    }
    session.handle_end(now, &buf, None);
    while session.poll_event().is_some() {}
}

/// A client with calls in flight, fed with a server's bytes.
pub(crate) fn client_bytes(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let now = Time(1_000_000_000);
    let (mut session, mut buf, mut live) = (client(*choice, now), BytesMut::new(), HashSet::new());
    let mut arrivals = Arrivals::new(room(*choice));
    for piece in data.chunks(40) {
        if let Ok(id) = session.call(now, &call(now, &payload(piece))) {
            assert!(live.insert(id));
        }
        buf.extend_from_slice(piece);
        handle_bytes(
            &mut session,
            now,
            &mut buf,
            &mut arrivals,
            |session, arrivals| {
                take(session, arrivals, &mut live);
            },
        );
        check_memory(&session);
        drain(&mut session, &mut BytesMut::new());
    }
    session.close(now, CloseReason::Local);
    take(&mut session, &mut arrivals, &mut live);
    assert!(live.is_empty(), "calls are left hanging");
}

/// Room of the sink: as much as the driver's has, or so little that sessions stop all the time.
fn room(choice: u8) -> usize {
    [SINK_ROOM, 1, 2, 16][usize::from(choice >> 6)]
}

/// Hands bytes to the session and takes out what they have caused, again for as long as the session
/// stopped because its sink was full.
fn handle_bytes(
    session: &mut Session,
    now: Time,
    buf: &mut BytesMut,
    arrivals: &mut Arrivals,
    mut take_out: impl FnMut(&mut Session, &mut Arrivals),
) {
    loop {
        session.handle_bytes(now, buf, arrivals);
        let is_full = arrivals.room() == 0;
        take_out(session, arrivals);
        if !is_full || buf.is_empty() {
            return;
        }
    }
}

fn take(session: &mut Session, arrivals: &mut Arrivals, live: &mut HashSet<CallId>) {
    for (id, _) in arrivals.finished.drain(..) {
        assert!(live.remove(&id), "a call ended that was not in flight");
    }
    while let Some(event) = session.poll_event() {
        if let Event::Failed(id, _) = event {
            assert!(live.remove(&id), "a call ended that was not in flight");
        }
    }
}

/// Longer the larger its first byte is.
fn payload(bytes: &[u8]) -> Bytes {
    let first = bytes.first().copied().unwrap_or(0);
    bytes.repeat(1 + usize::from(first) * 4).into()
}

fn call(now: Time, payload: &Bytes) -> Call<'_> {
    let routes = ["a", "b", "a/rather/long/name/of/a/route"];
    let first = payload.first().copied().unwrap_or(0);
    Call {
        route: routes[usize::from(first) % 3],
        payload,
        codec: first & 15,
        priority: first & 7,
        deadline: now + Duration::from_millis(u64::from(first)),
        attempt: 0,
        no_retry: false,
        trace: None,
        metadata: &[],
    }
}

/// Two sessions and a script of what callers, handlers, wires and clocks do.
pub(crate) fn operations(data: &[u8]) {
    let Some((choice, script)) = data.split_first() else {
        return;
    };
    let mut now = Time(1_000_000_000);
    let room = room(*choice);
    let choice = if choice % 8 == 7 { 6 } else { *choice };
    let (mut client, mut server) = (client(choice, now), server(choice, now));
    let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
    let (mut at_server, mut at_client) = (BytesMut::new(), BytesMut::new());
    let (mut live, mut working) = (HashSet::new(), Vec::new());
    // What finds no room stays in `at_server` and `at_client` until more is carried.
    let (mut asked, mut answered) = (Arrivals::new(room), Arrivals::new(room));
    for pair in script.chunks(2) {
        let (operation, argument) = (pair[0], pair.last().copied().unwrap_or(0));
        let amount = 1 + usize::from(argument) * 16;
        match operation % 12 {
            0 => live.extend(client.call(now, &call(now, &payload(&[argument; 20])))),
            1 => drop(client.send(now, &call(now, &payload(&[argument; 3])))),
            2 => {
                if let Some(id) = live.iter().next().copied() {
                    client.cancel(now, id);
                    live.remove(&id);
                }
            }
            3 => {
                at_server.unsplit(take_from(&mut to_server, amount));
                server.handle_bytes(now, &mut at_server, &mut asked);
            }
            4 => {
                at_client.unsplit(take_from(&mut to_client, amount));
                client.handle_bytes(now, &mut at_client, &mut answered);
            }
            5 => {
                if let Some(id) = working.pop() {
                    let reply = Reply {
                        codec: 0,
                        payload: vec![argument; amount].into(),
                    };
                    server.respond(now, id, Ok(reply));
                }
            }
            6 => {
                if let Some(id) = working.pop() {
                    server.respond(now, id, Err(ErrorBody::new(Code::INTERNAL, "scripted")));
                }
            }
            7 => now = now + Duration::from_millis(u64::from(argument) * 10),
            8 => server.drain(now, Duration::from_millis(u64::from(argument))),
            9 => client.drain(now, Duration::from_millis(u64::from(argument))),
            10 => server.handle_written(now, argument & 1 == 1),
            _ => to_server.extend_from_slice(&[argument]),
        }
        client.handle_timeout(now);
        server.handle_timeout(now);
        drain(&mut client, &mut to_server);
        drain(&mut server, &mut to_client);
        take_requests(&mut server, &mut asked, &mut working);
        take(&mut client, &mut answered, &mut live);
        check_memory(&client);
        check_memory(&server);
    }
    client.handle_end(now, &at_client, None);
    take(&mut client, &mut answered, &mut live);
    client.close(now, CloseReason::Local);
    take(&mut client, &mut answered, &mut live);
    assert!(live.is_empty(), "calls are left hanging");
}

/// Starts what has arrived, and stops what was called off.
fn take_requests(session: &mut Session, arrivals: &mut Arrivals, working: &mut Vec<CallId>) {
    let started = arrivals.requests.drain(..);
    working.extend(started.filter_map(|request| request.id));
    while let Some(event) = session.poll_event() {
        if let Event::Cancelled(id, _) = event {
            working.retain(|other| *other != id);
        }
    }
}

fn take_from(wire: &mut BytesMut, amount: usize) -> BytesMut {
    wire.split_to(amount.min(wire.len()))
}
