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
    Call, CallId, CloseReason, Config, DialectConfig, Event, Mapping, Reply, Session,
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
    for piece in data.chunks(1 + usize::from(choice >> 3) * 7) {
        buf.extend_from_slice(piece);
        session.handle_bytes(now, &mut buf);
        while let Some(event) = session.poll_event() {
            if let Event::Request(request) = event {
                assert!(request.deadline > now);
                let reply = Reply {
                    codec: 0,
                    payload: request.payload,
                };
                let _ = request.id.map(|id| session.respond(now, id, Ok(reply)));
            }
        }
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
    for piece in data.chunks(40) {
        if let Ok(id) = session.call(now, &call(now, &payload(piece))) {
            assert!(live.insert(id));
        }
        buf.extend_from_slice(piece);
        session.handle_bytes(now, &mut buf);
        take(&mut session, &mut live);
        check_memory(&session);
        drain(&mut session, &mut BytesMut::new());
    }
    session.close(now, CloseReason::Local);
    take(&mut session, &mut live);
    assert!(live.is_empty(), "calls are left hanging");
}

fn take(session: &mut Session, live: &mut HashSet<CallId>) {
    while let Some(event) = session.poll_event() {
        if let Event::Finished(id, _) = event {
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
    let choice = if choice % 8 == 7 { 6 } else { *choice };
    let (mut client, mut server) = (client(choice, now), server(choice, now));
    let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
    let (mut at_server, mut at_client) = (BytesMut::new(), BytesMut::new());
    let (mut live, mut working) = (HashSet::new(), Vec::new());
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
            3 => carry(&mut to_server, &mut at_server, &mut server, now, amount),
            4 => carry(&mut to_client, &mut at_client, &mut client, now, amount),
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
        while let Some(event) = server.poll_event() {
            match event {
                Event::Request(request) => working.extend(request.id),
                Event::Cancelled(id, _) => working.retain(|other| *other != id),
                _ => {}
            }
        }
        take(&mut client, &mut live);
        check_memory(&client);
        check_memory(&server);
    }
    client.handle_end(now, &at_client, None);
    take(&mut client, &mut live);
    client.close(now, CloseReason::Local);
    take(&mut client, &mut live);
    assert!(live.is_empty(), "calls are left hanging");
}

fn carry(wire: &mut BytesMut, at: &mut BytesMut, to: &mut Session, now: Time, amount: usize) {
    let amount = amount.min(wire.len());
    at.unsplit(wire.split_to(amount));
    to.handle_bytes(now, at);
}
