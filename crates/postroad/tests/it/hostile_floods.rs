//! Floods of what costs a peer next to nothing: beside each of them a good client is answered, and
//! little is held for it. What they cost the good client in time is measured by the example
//! `hostile`, since it depends on the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use postroad::{Client, Router, RunningServer, ServerConfig};
use postroad_proto::frame::{Head, Kind, put_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::peers::{is_served, most_held, raw, wait_until};
use crate::support::{Tested, connect, serve_with, tcp};

/// Peers that flood.
const HOSTILE: usize = 4;
/// Calls of the good client beside them.
const CALLS: usize = 50;
/// The most that is held for each of the peers, bytes: answers beyond a megabyte are not made while
/// they are not read, and a few are in the making.
const HELD: usize = 2 << 20;

async fn serve() -> Tested<RunningServer> {
    let config = ServerConfig::default();
    Ok(serve_with("tcp://127.0.0.1:0", Router::<()>::new(), config).await?)
}

/// What the server has to have taken of a flood before it is over, bytes: more than the kernel
/// holds of all its connections. Of peers that do not read it takes less.
const TAKEN: u64 = 32 << 20;

/// Calls of a good client beside peers that each say `first`, and then `again` until it is over.
/// Those that `read` take what they are answered.
async fn beside(server: &RunningServer, first: &[u8], again: Vec<u8>, read: bool) -> Tested {
    let good = connect(server).await?;
    let (mut floods, sent) = (Vec::new(), Arc::new(AtomicU64::new(0)));
    for _ in 0..HOSTILE {
        let mut raw = raw(server).await?;
        raw.write_all(first).await?;
        let (mut reader, mut writer) = raw.into_split();
        let (again, sent) = (again.clone(), Arc::clone(&sent));
        floods.push(tokio::spawn(async move {
            while writer.write_all(&again).await.is_ok() {
                sent.fetch_add(again.len() as u64, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }));
        floods.push(tokio::spawn(async move {
            let mut piece = vec![0; 1 << 16];
            while read && reader.read(&mut piece).await.is_ok_and(|read| read > 0) {}
            std::future::pending::<()>().await;
        }));
    }
    let calls = async {
        let is_taken = || !read || sent.load(Ordering::Relaxed) >= TAKEN;
        let mut calls = 0;
        while calls < CALLS || !is_taken() {
            is_served(&good).await?;
            calls += 1;
        }
        Ok(())
    };
    let most = most_held(server, calls).await?;
    let closed = server.stats().closed;
    assert!(closed.is_empty(), "a flood broke the protocol: {closed:?}");
    assert!(most <= HOSTILE * HELD, "{most} bytes were held");
    assert_eq!(server.stats().panicked, 0);
    floods.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}

/// So many frames of one kind.
fn frames(head: Head, body: &[u8], many: usize) -> Vec<u8> {
    let mut out = Vec::new();
    (0..many).for_each(|_| put_frame(&mut out, head, &[], body, false));
    out
}

/// Calls of route 1, which a client may repeat once they were answered.
fn calls(body: &[u8], many: u32) -> Vec<u8> {
    let call = Head::new(Kind::Request).with_route(1).with_arg(u32::MAX);
    let calls = (0..many).map(|id| frames(call.with_id(id), body, 1));
    calls.flatten().collect()
}

fn define(number: u32, route: &str) -> Vec<u8> {
    frames(Head::new(Kind::Route).with_id(number), route.as_bytes(), 1)
}

#[tokio::test]
async fn beside_floods_of_cancels_a_good_client_is_answered() -> Tested {
    let cancel = Head::new(Kind::Cancel).with_id(77 << 16);
    beside(&serve().await?, b"", frames(cancel, b"", 4000), true).await
}

#[tokio::test]
async fn beside_floods_of_pings_a_good_client_is_answered_also_if_nobody_reads_the_pongs() -> Tested
{
    let ping = Head::new(Kind::Ping).with_id(1);
    for read in [true, false] {
        let server = serve().await?;
        beside(&server, b"", frames(ping, b"8 bytes.", 4000), read).await?;
    }
    Ok(())
}

#[tokio::test]
async fn beside_floods_of_unknown_routes_a_good_client_is_answered() -> Tested {
    let server = serve().await?;
    let first = define(1, "no/such/route");
    beside(&server, &first, calls(b"", 1000), true).await?;
    assert!(
        server.stats().failed > 1000,
        "they are answered, and counted"
    );
    Ok(())
}

#[tokio::test]
async fn beside_readers_that_stop_a_good_client_is_answered() -> Tested {
    let server = serve().await?;
    let first = define(1, "postroad/echo");
    beside(&server, &first, calls(&[b'x'; 30_000], 64), false).await
}

#[tokio::test]
async fn silent_connections_and_senders_of_a_byte_a_time_hold_next_to_nothing() -> Tested {
    let server = serve().await?;
    let good = connect(&server).await?;
    let mut silent = Vec::new();
    for _ in 0..250 {
        silent.push(TcpStream::connect(&server.addresses()[0]).await?);
    }
    let mut slow = Vec::new();
    for _ in 0..50 {
        slow.push(raw(&server).await?);
    }
    let call = Head::new(Kind::Request).with_route(1).with_arg(u32::MAX);
    let frame = frames(call, &[b'x'; 1000], 1);
    let sending = async {
        for byte in &frame[..100] {
            for raw in &mut slow {
                raw.write_all(&[*byte]).await?;
            }
            is_served(&good).await?;
        }
        Ok(())
    };
    let most = most_held(&server, sending).await?;
    // Each may hold a page that it has not told.
    assert!(most <= 50 * 4096, "{most} bytes");
    assert_eq!(server.stats().open, 1 + 250 + 50);
    Ok(())
}

#[tokio::test]
async fn a_flood_of_connections_that_open_and_go_leaves_nothing_behind() -> Tested {
    let server = serve().await?;
    let good = connect(&server).await?;
    for round in 0..300 {
        match round % 3 {
            0 => drop(raw(&server).await?),
            1 => drop(TcpStream::connect(&server.addresses()[0]).await?),
            _ => {
                let mut wrong = TcpStream::connect(&server.addresses()[0]).await?;
                wrong.write_all(b"not a magic at all").await?;
            }
        }
        is_served(&good).await?;
    }
    wait_until(|| server.stats().open == 1).await?;
    assert_eq!(server.stats().held, 0);
    assert_eq!(server.stats().accepted, 301);
    Ok(())
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_flood_of_tls_handshakes_leaves_nothing_behind() -> Tested {
    let folder = tempfile::tempdir()?;
    let key = rcgen::KeyPair::generate()?;
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?;
    let certificate = params.self_signed(&key)?.pem();
    let file = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(file("cert.pem"), certificate)?;
    std::fs::write(file("key.pem"), key.serialize_pem())?;
    let url = format!(
        "tls://127.0.0.1:0?cert={}&key={}",
        file("cert.pem"),
        file("key.pem")
    );
    let server = serve_with(&url, Router::<()>::new(), ServerConfig::default()).await?;
    let address = server.addresses()[0].clone();
    let client = format!("tls://{address}?name=localhost&ca={}", file("cert.pem"));
    let good = Client::connect(&client).await?;
    for round in 0..60 {
        match round % 3 {
            0 => drop(Client::connect(&client).await?),
            // A record that says it is a handshake of 512 bytes, and no more of it.
            1 => {
                let mut cut = TcpStream::connect(&address).await?;
                cut.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1]).await?;
            }
            _ => {
                let mut wrong = TcpStream::connect(&address).await?;
                wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
            }
        }
        is_served(&good).await?;
    }
    wait_until(|| server.stats().open == 1).await?;
    assert_eq!(server.stats().held, 0);
    Ok(())
}

#[cfg(feature = "jwt")]
#[tokio::test]
async fn floods_of_connections_with_wrong_tokens_are_refused_and_a_good_one_is_served() -> Tested {
    let locked = crate::identity::Locked::start("token-floods", Vec::new()).await?;
    let good = locked.client(locked.token(600)).await?;
    let forged = crate::identity::Issuer::new(jsonwebtoken::Algorithm::ES256, "one");
    let forged = forged.token("ada", &["trader"], 600);
    let expired = locked.token(-10);
    for round in 0..200 {
        let token = if round % 2 == 0 { &forged } else { &expired };
        let refused = locked.client(token.clone()).await;
        let refused = refused.expect_err("it is not believed");
        assert!(refused.contains("token"), "{refused}");
        is_served(&good).await?;
    }
    wait_until(|| locked.server.stats().open == 1).await
}

#[tokio::test]
async fn an_address_that_floods_is_not_let_in_beyond_its_bound() -> Tested {
    let mut config = ServerConfig::default();
    config.max_connections_per_address = Some(10);
    let server = serve_with("tcp://127.0.0.1:0", Router::<()>::new(), config).await?;
    let good = connect(&server).await?;
    let mut kept = Vec::new();
    for _ in 0..200 {
        kept.push(TcpStream::connect(&server.addresses()[0]).await?);
    }
    wait_until(|| server.stats().turned_away >= 190).await?;
    // Ten, and those that are being told so.
    assert!(server.stats().open <= 10 + 64, "{}", server.stats().open);
    is_served(&good).await?;
    drop(kept);
    let again = async {
        while Client::connect(&tcp(&server)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, again).await?;
    Ok(())
}
