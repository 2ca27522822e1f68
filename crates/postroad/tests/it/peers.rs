//! Bounds on what all peers together may take: connections of one address, memory, idle time.

use std::future::pending;
use std::time::Duration;

use postroad::{Bytes, Client, Router, RunningServer, ServerConfig};
use postroad_proto::frame::{Head, Hello, Kind, MORE, Opening, PartTag, put_frame, put_part};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, Tested, connect, serve_with, tcp};

/// Connects without a client, and says hello.
pub(crate) async fn raw(server: &RunningServer) -> Tested<TcpStream> {
    let mut raw = TcpStream::connect(&server.addresses()[0]).await?;
    let mut hello = Vec::new();
    Opening::Hello(Hello {
        version_min: 1,
        version_max: 1,
        offered: 0,
        required: 0,
        max_frame: 65_536,
        max_message: 16 << 20,
        max_calls: 0,
        heartbeat_ms: 30_000,
        max_routes: 10,
        parts: Vec::new(),
    })
    .encode(&mut hello);
    raw.write_all(&hello).await?;
    let mut head = [0; 8];
    raw.read_exact(&mut head).await?;
    assert_eq!(head[4], 2, "WELCOME");
    let body = usize::from(u16::from_le_bytes([head[6], head[7]]));
    raw.read_exact(&mut vec![0; body + 4]).await?;
    Ok(raw)
}

/// The beginning of a request of `whole` bytes, of which `have` are there.
fn begun(id: u32, whole: u32, have: usize) -> Vec<u8> {
    const PIECE: usize = 32 * 1024;
    let (mut parts, mut out) = (Vec::new(), Vec::new());
    put_part(&mut parts, PartTag::RouteName as u8, b"postroad/echo");
    put_part(&mut parts, PartTag::WholeLength as u8, &whole.to_le_bytes());
    let head = Head::new(Kind::Request).with_id(id).with_arg(u32::MAX);
    put_frame(&mut out, head.with_class(MORE), &parts, &[1; PIECE], false);
    for _ in 1..have / PIECE {
        let more = Head::new(Kind::Data).with_id(id).with_class(MORE);
        put_frame(&mut out, more, &[], &[1; PIECE], false);
    }
    out
}

pub(crate) async fn is_served(client: &Client) -> Tested {
    let call = client.request("postroad/echo").timeout(PATIENCE);
    assert_eq!(call.call_raw("fine").await?, "fine");
    Ok(())
}

/// Lets so much time pass.
async fn pause(time: Duration) {
    let _ = tokio::time::timeout(time, pending::<()>()).await;
}

/// Waits for something that happens soon.
pub(crate) async fn wait_until(what: impl Fn() -> bool) -> Tested {
    let waiting = async {
        while !what() {
            pause(Duration::from_millis(1)).await;
        }
    };
    Ok(tokio::time::timeout(PATIENCE, waiting).await?)
}

pub(crate) fn ended(server: &RunningServer, reason: &str) -> u64 {
    let closed = server.stats().closed;
    let of_reason = closed.iter().filter(|((_, word), _)| *word == reason);
    of_reason.map(|(_, count)| count).sum()
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_another_is_served() -> Tested {
    let mut config = ServerConfig::default();
    config.max_connections_per_address = Some(2);
    let server = serve_with("tcp://0.0.0.0:0", Router::new(), config.clone()).await?;
    let port = server.addresses()[0]
        .rsplit(':')
        .next()
        .unwrap_or_default()
        .to_owned();
    let from = async |host: &str| Client::connect(&format!("tcp://{host}:{port}")).await;
    let first = from("127.0.0.1").await?;
    let second = from("127.0.0.1").await?;
    let refused = from("127.0.0.1")
        .await
        .expect_err("there are two")
        .to_string();
    let words = "refused (capacity): too many connections from your address";
    assert!(refused.contains(words), "{refused}");
    // Whoever calls 127.0.0.2 comes from 127.0.0.1 all the same, so the other is bound by hand.
    let other = tokio::net::TcpSocket::new_v4()?;
    other.bind("127.0.0.2:0".parse()?)?;
    let mut other = other.connect(format!("127.0.0.1:{port}").parse()?).await?;
    other.write_all(&[0xff]).await?;
    wait_until(|| ended(&server, "magic") == 1).await?;
    drop(second);
    wait_until(|| server.stats().open == 1).await?;
    let second = from("127.0.0.1").await?;
    config.max_connections_per_address = Some(3);
    let changes = server.reconfigure(config)?;
    assert_eq!(
        changes[0].to_string(),
        "server.max_connections_per_address: 2 -> 3"
    );
    let third = from("127.0.0.1").await?;
    for client in [&first, &second, &third] {
        is_served(client).await?;
    }
    assert_eq!(server.stats().turned_away, 1);
    Ok(())
}

/// The most that connections hold while something is done, bytes.
pub(crate) async fn most_held(
    server: &RunningServer,
    what: impl Future<Output = Tested>,
) -> Tested<usize> {
    let (mut most, mut what) = (0, std::pin::pin!(what));
    loop {
        tokio::select! {
            biased;
            done = &mut what => return done.map(|()| most),
            () = pause(Duration::from_millis(1)) => {
                most = most.max(server.stats().held);
            }
        }
    }
}

const MEMORY: usize = 8 << 20;
/// What one connection may bring after the bound was reached: what it has just read.
const SLACK: usize = 512 * 1024;

#[tokio::test]
async fn incomplete_messages_of_all_connections_have_a_bound_and_others_are_served() -> Tested {
    const HOSTILE: usize = 8;
    let mut config = ServerConfig::default();
    config.memory_max = Some(MEMORY);
    let server = serve_with("tcp://127.0.0.1:0", Router::new(), config).await?;
    let good = connect(&server).await?;
    let mut hostile = Vec::new();
    for _ in 0..HOSTILE {
        hostile.push(raw(&server).await?);
    }
    // 8 times 8 MiB, none of it complete.
    let floods: Vec<_> = hostile
        .into_iter()
        .map(|mut raw| {
            tokio::spawn(async move {
                let _ = raw.write_all(&begun(0, 16 << 20, 8 << 20)).await;
                let mut said = Vec::new();
                let _ = raw.read_to_end(&mut said).await;
                said
            })
        })
        .collect();
    let most = most_held(&server, async {
        while ended(&server, "memory") == 0 {
            is_served(&good).await?;
        }
        Ok(())
    })
    .await?;
    assert!(most > MEMORY / 2, "{most} bytes: nothing was held");
    assert!(most <= MEMORY + HOSTILE * SLACK, "{most} bytes");
    wait_until(|| server.stats().held <= MEMORY).await?;
    is_served(&good).await?;
    let words = b"the connections hold too much memory together";
    let mut told = 0;
    for flood in floods {
        // Those that may go on have nothing to come, so they are ended here.
        if let Ok(said) = tokio::time::timeout(Duration::from_secs(1), flood).await {
            told += usize::from(said?.windows(words.len()).any(|piece| piece == words));
        }
    }
    assert!(told > 0, "nobody was told why");
    Ok(())
}

#[tokio::test]
async fn what_all_hold_is_told_and_is_nothing_once_they_have_gone() -> Tested {
    let router = Router::new().route("forever", pending::<()>);
    let server = serve_with("tcp://127.0.0.1:0", router, ServerConfig::default()).await?;
    let mut incomplete = raw(&server).await?;
    incomplete.write_all(&begun(0, 16 << 20, 1 << 20)).await?;
    wait_until(|| server.stats().held >= 1 << 20).await?;
    let client = connect(&server).await?;
    let waiting = tokio::spawn(async move {
        let call = client.request("forever").timeout(PATIENCE);
        call.call_raw(vec![0; 2 << 20]).await
    });
    wait_until(|| server.stats().held >= 3 << 20).await?;
    waiting.abort();
    drop(incomplete);
    wait_until(|| server.stats().held == 0).await
}

#[tokio::test]
async fn readers_that_stop_are_ended_when_all_together_hold_too_much() -> Tested {
    const HOSTILE: usize = 16;
    let mut config = ServerConfig::default();
    config.memory_max = Some(MEMORY);
    // Not what ends them here.
    config.connection.write_stall = Duration::from_secs(600);
    let router = Router::new().route("big", async || Bytes::from(vec![b'x'; 1 << 20]));
    let server = serve_with("tcp://127.0.0.1:0", router, config).await?;
    let good = connect(&server).await?;
    let mut deaf = Vec::new();
    for _ in 0..HOSTILE {
        deaf.push(raw(&server).await?);
    }
    for raw in &mut deaf {
        let mut calls = Vec::new();
        for id in 0..32 {
            let mut parts = Vec::new();
            put_part(&mut parts, PartTag::RouteName as u8, b"big");
            let head = Head::new(Kind::Request).with_id(id).with_arg(u32::MAX);
            put_frame(&mut calls, head, &parts, b"", false);
        }
        raw.write_all(&calls).await?;
    }
    wait_until(|| ended(&server, "memory") > 0).await?;
    wait_until(|| server.stats().held <= MEMORY).await?;
    is_served(&good).await?;
    // Those that were not ended go on as soon as they read.
    wait_until(|| server.stats().open <= HOSTILE).await?;
    assert!(server.stats().open > 1, "not all of them held too much");
    Ok(())
}

#[tokio::test]
async fn while_all_hold_too_much_a_new_connection_is_told_capacity() -> Tested {
    let mut config = ServerConfig::default();
    config.memory_max = Some(1 << 20);
    let server = serve_with("tcp://127.0.0.1:0", Router::new(), config).await?;
    let mut hostile = raw(&server).await?;
    hostile.write_all(&begun(0, 16 << 20, 2 << 20)).await?;
    wait_until(|| server.stats().held > 1 << 20).await?;
    let refused = Client::connect(&tcp(&server)).await;
    let refused = refused.expect_err("there is no memory").to_string();
    assert!(
        refused.contains("refused (capacity): the connections hold too much"),
        "{refused}"
    );
    wait_until(|| ended(&server, "memory") == 1).await?;
    is_served(&connect(&server).await?).await
}

fn idle(time: Duration) -> ServerConfig {
    let mut config = ServerConfig::default();
    config.connection.idle = Some(time);
    config.connection.heartbeat = Duration::from_millis(20);
    config
}

#[tokio::test]
async fn a_client_that_has_nothing_but_heartbeats_to_say_is_asked_to_leave() -> Tested {
    let time = Duration::from_millis(400);
    let server = serve_with("tcp://127.0.0.1:0", Router::new(), idle(time)).await?;
    let mut raw = raw(&server).await?;
    let begin = std::time::Instant::now();
    let mut said = Vec::new();
    let words = b"the connection was idle for too long";
    while !said.windows(words.len()).any(|piece| piece == words) {
        // Heartbeats are no reason to stay.
        let mut ping = Vec::new();
        put_frame(&mut ping, Head::new(Kind::Ping).with_id(7), &[], b"", false);
        raw.write_all(&ping).await?;
        let mut piece = [0; 1024];
        let read = tokio::time::timeout(PATIENCE, raw.read(&mut piece)).await??;
        assert!(read > 0, "it is asked before it is closed");
        said.extend_from_slice(&piece[..read]);
        pause(Duration::from_millis(5)).await;
    }
    assert!(begin.elapsed() >= time - time / 8);
    raw.shutdown().await?;
    tokio::time::timeout(PATIENCE, raw.read_to_end(&mut said)).await??;
    drop(raw);
    wait_until(|| ended(&server, "idle") == 1).await
}

#[tokio::test]
async fn a_dialects_connection_that_is_idle_is_closed_and_one_with_a_call_at_work_is_not() -> Tested
{
    let time = Duration::from_millis(200);
    let slow = async || {
        pause(Duration::from_millis(1500)).await;
        "done"
    };
    let router = Router::new().route("slow", slow);
    let server = serve_with("tcp+line://127.0.0.1:0?route=slow", router, idle(time)).await?;
    let mut busy = TcpStream::connect(&server.addresses()[0]).await?;
    busy.write_all(b"x\n").await?;
    let mut silent = TcpStream::connect(&server.addresses()[0]).await?;
    let mut said = Vec::new();
    tokio::time::timeout(PATIENCE, silent.read_to_end(&mut said)).await??;
    assert_eq!(said, b"");
    drop(silent);
    wait_until(|| ended(&server, "idle") == 1).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, busy.read_to_end(&mut answer)).await??;
    assert!(
        String::from_utf8_lossy(&answer).contains("done"),
        "{answer:?}"
    );
    drop(busy);
    wait_until(|| ended(&server, "idle") == 2).await
}
