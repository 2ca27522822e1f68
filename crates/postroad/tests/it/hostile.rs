//! Peers that are broken, slow, silent or hostile: each costs its own connection and changes
//! nothing for others.

use std::time::Duration;

use bytes::BytesMut;
use postroad::{Bytes, Client, Router, RunningServer, Server, ServerConfig, StartError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, Tested, connect, serve_with};

/// Short times, so that giving up can be waited for.
fn impatient() -> ServerConfig {
    let short = Duration::from_millis(400);
    let mut config = ServerConfig::default();
    config.connection.handshake = short;
    config.connection.read_stall = short;
    config.connection.write_stall = short;
    config
}

async fn serve(url: &str) -> Result<RunningServer, StartError> {
    let router = Router::new().route("big", async || {
        vec![b'x'; 1 << 20]
            .into_iter()
            .map(char::from)
            .collect::<String>()
    });
    serve_with(url, router, impatient()).await
}

/// Reads to the end; an end by reset counts as one.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut all))
        .await
        .expect("the server ends the connection");
    all
}

async fn still_serves(server: &RunningServer) -> Tested {
    let client = connect(server).await?;
    assert_eq!(
        client.request("postroad/echo").call_raw("fine").await?,
        "fine"
    );
    Ok(())
}

/// Connections that ended for this reason.
fn ended(server: &RunningServer, reason: &str) -> u64 {
    let closed = server.stats().closed;
    closed
        .iter()
        .filter(|((_, word), _)| *word == reason)
        .map(|(_, count)| count)
        .sum()
}

/// Waits until a connection has been counted as ended for this reason.
async fn wait_for(server: &RunningServer, reason: &str) {
    let counted = async {
        while ended(server, reason) == 0 {
            tokio::task::yield_now().await;
        }
    };
    let result = tokio::time::timeout(Duration::from_secs(10), counted).await;
    assert!(
        result.is_ok(),
        "no end by {reason:?}: {:?}",
        server.stats().closed
    );
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = postroad_proto::policy::Random::new(seed);
    (0..len).map(|_| random.bits() as u8).collect()
}

#[tokio::test]
async fn random_bytes_cost_their_connection_on_every_listener() -> Tested {
    for dialect in [
        "native", "auto", "session", "sequence", "opcode", "priority", "compact", "line",
    ] {
        let server = serve(&format!("tcp+{dialect}://127.0.0.1:0")).await?;
        for seed in 0..40 {
            let mut stream = TcpStream::connect(&server.addresses()[0]).await?;
            let _ = stream.write_all(&noise(seed, 2000)).await;
            let _ = stream.shutdown().await;
            rest(&mut stream).await;
        }
        let server_stats = server.stats();
        assert_eq!(server_stats.panicked, 0, "{dialect}");
        if matches!(dialect, "native" | "auto") {
            still_serves(&server).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn whoever_says_nothing_is_closed_when_the_opening_is_due() -> Tested {
    for dialect in ["native", "auto"] {
        let server = serve(&format!("tcp+{dialect}://127.0.0.1:0")).await?;
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(TcpStream::connect(&server.addresses()[0]).await?);
        }
        still_serves(&server).await?;
        for stream in &mut silent {
            assert!(rest(stream).await.is_empty());
        }
        let expected = if dialect == "auto" {
            "magic"
        } else {
            "handshake timeout"
        };
        wait_for(&server, expected).await;
    }
    Ok(())
}

#[tokio::test]
async fn more_requests_in_one_piece_than_are_served_at_once_all_get_their_answers() -> Tested {
    let mut config = impatient();
    config.connection.limits.max_calls = 1;
    for config in [impatient(), config] {
        let server = Server::new(Router::new()).config(config);
        let server = server
            .listen("tcp+line://127.0.0.1:0".parse()?)
            .start()
            .await?;
        let mut stream = TcpStream::connect(&server.addresses()[0]).await?;
        stream.write_all("x\n".repeat(3000).as_bytes()).await?;
        stream.shutdown().await?;
        assert_eq!(
            rest(&mut stream).await,
            "ACK: x\n".repeat(3000).into_bytes()
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_came_before_a_wrong_frame_is_answered_whatever_the_pieces() -> Tested {
    let server = serve("tcp+line://127.0.0.1:0").await?;
    let mut stream = TcpStream::connect(&server.addresses()[0]).await?;
    stream.write_all(b"good\n\xff\nnever read\n").await?;
    let answer = String::from_utf8(rest(&mut stream).await)?;
    assert!(
        answer.starts_with("ACK: good\nERR: NET-E-400 utf-8 at byte 0"),
        "{answer}"
    );
    assert_eq!(answer.lines().count(), 2);
    Ok(())
}

#[tokio::test]
async fn an_endpoint_is_free_when_its_server_was_shut_down() -> Tested {
    let folder = tempfile::tempdir()?;
    let unix = format!("unix://{}/node.sock", folder.path().display());
    for url in ["mem://free-again", &unix] {
        for _ in 0..3 {
            serve(url).await?.shutdown().await;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_dialects_frame_that_does_not_end_is_given_up_with_words() -> Tested {
    let server = serve("tcp+sequence://127.0.0.1:0").await?;
    let mut stream = TcpStream::connect(&server.addresses()[0]).await?;
    stream
        .write_all(b"\xab\xcd\x01\x01\0\0\0\x05\0\0\0\x01ab")
        .await?;
    rest(&mut stream).await;
    wait_for(&server, "read stall").await;
    Ok(())
}

#[tokio::test]
async fn a_length_of_four_gigabytes_is_answered_with_an_error_that_says_so() -> Tested {
    let server = serve("tcp+sequence://127.0.0.1:0").await?;
    let mut stream = TcpStream::connect(&server.addresses()[0]).await?;
    stream
        .write_all(b"\xab\xcd\x01\x01\xff\xff\xff\xff\0\0\0\x07")
        .await?;
    let answer = rest(&mut stream).await;
    assert_eq!(answer[..4], [0xab, 0xcd, 1, 5]);
    assert_eq!(answer[8..12], [0, 0, 0, 7], "the id that could be read");
    let text = String::from_utf8_lossy(&answer[12..]);
    assert!(text.starts_with("NET-E-400 length at byte 4"), "{text}");
    wait_for(&server, "length").await;
    assert_eq!(ended(&server, "length"), 1, "counted once");
    Ok(())
}

#[tokio::test]
async fn a_frame_cut_off_by_the_end_is_a_fault() -> Tested {
    let server = serve("tcp+line://127.0.0.1:0").await?;
    let mut stream = TcpStream::connect(&server.addresses()[0]).await?;
    stream.write_all(b"whole\ncut").await?;
    stream.shutdown().await?;
    let answer = String::from_utf8(rest(&mut stream).await)?;
    assert!(
        answer.starts_with("ACK: whole\nERR: NET-E-400 truncated"),
        "{answer}"
    );
    Ok(())
}

#[tokio::test]
async fn a_half_closed_peer_still_gets_its_answers() -> Tested {
    let server = serve("tcp+line://127.0.0.1:0").await?;
    let mut stream = TcpStream::connect(&server.addresses()[0]).await?;
    stream.write_all(b"one\ntwo\nPING\n").await?;
    stream.shutdown().await?;
    assert_eq!(rest(&mut stream).await, b"ACK: one\nACK: two\nPONG\n");
    Ok(())
}

#[tokio::test]
async fn a_peer_that_never_reads_is_dropped_and_others_do_not_notice() -> Tested {
    let server = serve("tcp://127.0.0.1:0").await?;
    let address = &server.addresses()[0];
    let greedy = Client::connect(&format!("tcp://{address}")).await?;
    // What the client's end would read is never read: its runtime is this one, and it is not
    // polled.
    let mut raw = TcpStream::connect(address).await?;
    let mut hello = bytes_of_hello();
    raw.write_all(&hello).await?;
    hello.clear();
    let mut welcome = [0; 8];
    raw.read_exact(&mut welcome).await?;
    let mut requests = Vec::new();
    for id in 0..200_u32 {
        requests.extend_from_slice(&request(id, "big"));
    }
    let _ = raw.write_all(&requests).await;
    wait_for(&server, "write stall").await;
    drop(raw);
    assert_eq!(
        greedy.request("postroad/echo").call_raw("fine").await?,
        "fine"
    );
    Ok(())
}

#[tokio::test]
async fn a_peer_that_the_node_itself_kept_waiting_is_not_dropped() -> Tested {
    const ANSWERS: u32 = 40;
    let server = serve("tcp://127.0.0.1:0").await?;
    let mut raw = std::net::TcpStream::connect(&server.addresses()[0])?;
    std::io::Write::write_all(&mut raw, &bytes_of_hello())?;
    for id in 0..ANSWERS {
        std::io::Write::write_all(&mut raw, &request(id, "big"))?;
    }
    // More than the kernel holds: the node's writes are blocked, for less than it tolerates.
    let run_for = async |time: Duration| {
        let begin = std::time::Instant::now();
        while begin.elapsed() < time {
            tokio::task::yield_now().await;
        }
    };
    run_for(Duration::from_millis(200)).await;
    // While the node's thread is held up, its peer takes all there is.
    raw.set_read_timeout(Some(Duration::from_millis(400)))?;
    let (mut piece, mut got) = (vec![0; 1 << 20], 0);
    while let Ok(read) = std::io::Read::read(&mut raw, &mut piece) {
        got += read;
    }
    assert!(got < (ANSWERS as usize) << 20, "all fitted in the kernel");
    raw.set_nonblocking(true)?;
    let mut raw = TcpStream::from_std(raw)?;
    while got < (ANSWERS as usize) << 20 {
        let read = raw.read(&mut piece).await?;
        assert!(read > 0, "dropped: {:?}", server.stats().closed);
        got += read;
    }
    assert_eq!(server.stats().open, 1);
    Ok(())
}

#[tokio::test]
async fn a_dialects_peer_that_reads_slowly_gets_all_of_many_large_answers() -> Tested {
    use postroad_proto::dialect::{Dialect, DialectCodec, DialectFrame, FrameKind, Reader};
    let server = serve("tcp+sequence://127.0.0.1:0?route=big").await?;
    let mut raw = TcpStream::connect(&server.addresses()[0]).await?;
    let mut codec = DialectCodec::new(Dialect::Sequence, Reader::Client);
    codec.max_payload = 2 << 20;
    let mut requests = BytesMut::new();
    for id in 1..=64 {
        let mut request = DialectFrame::new(FrameKind::Request, Bytes::new());
        request.id = id;
        codec.encode(&request, &mut requests)?;
    }
    raw.write_all(&requests).await?;
    // 64 MiB in small pieces: the server takes longer for them than it waits for who takes nothing.
    let (mut left, mut got) = (64, BytesMut::new());
    let begin = std::time::Instant::now();
    while left > 0 {
        let mut piece = [0; 32 * 1024];
        let read = raw.read(&mut piece).await?;
        assert!(read > 0, "{left} answers are missing");
        got.extend_from_slice(&piece[..read]);
        while let Some(answer) = codec.decode(&mut got)? {
            assert_eq!((answer.kind, answer.id), (FrameKind::Response, 65 - left));
            assert_eq!(answer.payload.len(), 1 << 20);
            left -= 1;
            let pace = Duration::from_millis(15) * (64 - left);
            while begin.elapsed() < pace {
                tokio::task::yield_now().await;
            }
        }
    }
    assert_eq!(server.stats().open, 1);
    let url = format!("tcp+sequence://{}", server.addresses()[0]);
    let client = Client::connect(&url).await?;
    let answer = client.request("command/1").call_raw("").await?;
    assert_eq!(answer.len(), 1 << 20);
    Ok(())
}

/// HELLO without checksum, made by hand.
fn bytes_of_hello() -> Vec<u8> {
    use postroad_proto::frame::{Hello, Opening};
    let hello = Opening::Hello(Hello {
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
    });
    let mut out = Vec::new();
    hello.encode(&mut out);
    out
}

/// A request that names its route.
fn request(id: u32, route: &str) -> Vec<u8> {
    request_with(id, route, b"")
}

/// The same with a payload.
fn request_with(id: u32, route: &str, payload: &[u8]) -> Vec<u8> {
    use postroad_proto::frame::{Head, Kind, PartTag, put_frame, put_part};
    let (mut parts, mut out) = (Vec::new(), Vec::new());
    put_part(&mut parts, PartTag::RouteName as u8, route.as_bytes());
    let head = Head::new(Kind::Request).with_id(id).with_arg(u32::MAX);
    put_frame(&mut out, head, &parts, payload, false);
    out
}

#[tokio::test]
async fn a_client_that_vanishes_in_the_middle_of_a_call_frees_its_handler() -> Tested {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<()>(1);
    let router = Router::with_state(sender).route(
        "forever",
        async |postroad::extract::State(alive): postroad::extract::State<
            tokio::sync::mpsc::Sender<()>,
        >| {
            let _ = alive.send(()).await;
            std::future::pending::<()>().await;
        },
    );
    let server = Server::new(router)
        .listen("tcp://127.0.0.1:0".parse()?)
        .start()
        .await?;
    let mut raw = TcpStream::connect(&server.addresses()[0]).await?;
    raw.write_all(&bytes_of_hello()).await?;
    raw.write_all(&request(0, "forever")).await?;
    receiver.recv().await.ok_or("the handler did not start")?;
    drop(raw);
    let gone = async {
        while server.stats().open > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await?;
    Ok(())
}

#[tokio::test]
async fn more_connections_than_allowed_are_turned_away_and_counted() -> Tested {
    let mut config = ServerConfig::default();
    config.max_connections = 2;
    let server = Server::new(Router::new())
        .config(config)
        .listen("tcp://127.0.0.1:0".parse()?)
        .start()
        .await?;
    let url = format!("tcp://{}", server.addresses()[0]);
    let first = Client::connect(&url).await?;
    let _second = Client::connect(&url).await?;
    let refusal = Client::connect(&url)
        .await
        .expect_err("there are two already")
        .to_string();
    assert!(
        refusal.contains("refused (capacity): too many connections"),
        "{refusal}"
    );
    assert!(server.stats().turned_away >= 1);
    assert_eq!(
        first.request("postroad/echo").call_raw("fine").await?,
        "fine"
    );
    Ok(())
}

/// A one-way message that names its route.
fn message(number: u32, route: &str) -> Vec<u8> {
    message_until(u32::MAX, number, route)
}

/// The same with so many microseconds left.
fn message_until(micros: u32, number: u32, route: &str) -> Vec<u8> {
    use postroad_proto::frame::{Head, Kind, MESSAGE_ID, PartTag, put_frame, put_part};
    let (mut parts, mut out) = (Vec::new(), Vec::new());
    put_part(&mut parts, PartTag::RouteName as u8, route.as_bytes());
    let head = Head::new(Kind::OneWay)
        .with_id(number | MESSAGE_ID)
        .with_arg(micros);
    put_frame(&mut out, head, &parts, b"", false);
    out
}

/// Connects without a client, and says hello.
async fn raw(server: &RunningServer) -> Tested<TcpStream> {
    let mut raw = TcpStream::connect(&server.addresses()[0]).await?;
    raw.write_all(&bytes_of_hello()).await?;
    raw.read_exact(&mut [0; 8]).await?;
    Ok(raw)
}

#[tokio::test]
async fn one_way_messages_that_wait_have_a_bound_a_connection_and_the_rest_is_counted() -> Tested {
    let mut config = impatient();
    config.connection.limits.max_calls = 10;
    let router = Router::new().route("forever", std::future::pending::<()>);
    let server = serve_with("tcp://127.0.0.1:0", router, config).await?;
    let mut greedy = raw(&server).await?;
    let messages: Vec<u8> = (0..100)
        .flat_map(|number| message(number, "forever"))
        .collect();
    greedy.write_all(&messages).await?;
    let dropped = async {
        while server.stats().dropped < 90 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), dropped).await?;
    assert_eq!(server.stats().running, 10);
    still_serves(&server).await
}

#[tokio::test]
async fn one_way_messages_that_come_late_are_counted_as_dropped() -> Tested {
    let server = serve("tcp://127.0.0.1:0").await?;
    let mut late = raw(&server).await?;
    let messages: Vec<u8> = (0..3)
        .flat_map(|number| message_until(0, number, "big"))
        .collect();
    late.write_all(&messages).await?;
    let dropped = async {
        while server.stats().dropped < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), dropped).await?;
    let stats = server.stats();
    assert_eq!((stats.dropped, stats.failed, stats.started), (3, 3, 0));
    still_serves(&server).await
}

#[tokio::test]
async fn calls_that_wait_hold_no_more_bytes_than_the_bound_and_the_rest_is_refused() -> Tested {
    let mut config = ServerConfig::default();
    config.connection.limits.max_message = 64 * 1024;
    config.connection.limits.assembly_max = 64 * 1024;
    let router = Router::new().route("forever", std::future::pending::<()>);
    let server = serve_with("tcp://127.0.0.1:0", router, config).await?;
    let mut greedy = raw(&server).await?;
    // The fifth goes beyond 64 KiB, so there is no room for the sixth.
    for id in 0..6 {
        let frame = request_with(id, "forever", &[0; 15 * 1024]);
        greedy.write_all(&frame).await?;
    }
    let (mut said, mut piece) = (Vec::new(), [0; 4096]);
    let refused = async {
        while !String::from_utf8_lossy(&said).contains("hold too much already") {
            let read = greedy.read(&mut piece).await?;
            assert!(read > 0, "the connection goes on");
            said.extend_from_slice(&piece[..read]);
        }
        Ok::<_, std::io::Error>(())
    };
    tokio::time::timeout(Duration::from_secs(10), refused).await??;
    assert_eq!(server.stats().running, 5);
    Ok(())
}

#[tokio::test]
async fn a_message_of_one_frame_may_not_be_longer_than_the_bound_on_messages() -> Tested {
    let mut config = ServerConfig::default();
    config.connection.limits.max_message = 1024;
    let server = serve_with("tcp://127.0.0.1:0", Router::<()>::new(), config).await?;
    let mut sender = raw(&server).await?;
    let frame = request_with(0, "postroad/echo", &[0; 1025]);
    sender.write_all(&frame).await?;
    let said = rest(&mut sender).await;
    let said = String::from_utf8_lossy(&said);
    assert!(
        said.contains("message of 1025 bytes, at most 1024"),
        "{said}"
    );
    wait_for(&server, "length").await;
    Ok(())
}

#[tokio::test]
async fn who_writes_everything_before_reading_gets_the_answers_that_are_there_and_an_end() -> Tested
{
    let mut config = ServerConfig::default();
    config.connection.write_stall = Duration::from_millis(200);
    let server = serve_with("tcp+line://127.0.0.1:0", Router::new(), config).await?;
    let mut stream = TcpStream::connect(&server.addresses()[0]).await?;
    let line = [&[b'x'; 1_000][..], b"\n"].concat();
    // More than the kernel holds in both directions: none of it is answered by a reset.
    tokio::time::timeout(PATIENCE, stream.write_all(&line.repeat(32_000))).await??;
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).await?;
    assert!(answers.len() > 50_000, "{} bytes", answers.len());
    assert!(answers.starts_with(b"ACK: xxx"));
    Ok(())
}

#[tokio::test]
async fn calls_that_their_connection_refuses_are_counted_by_reason() -> Tested {
    use postroad_proto::frame::{Head, Kind, put_frame};
    let mut config = ServerConfig::default();
    config.connection.limits.max_calls = 8;
    let server = serve_with("tcp://127.0.0.1:0", Router::<()>::new(), config).await?;
    let mut raw = raw(&server).await?;
    let mut frames = Vec::new();
    for (id, micros) in [(1, 0), (2, 0), (8, u32::MAX)] {
        let head = Head::new(Kind::Request).with_id(id).with_arg(micros);
        put_frame(&mut frames, head, &[], b"", false);
    }
    raw.write_all(&frames).await?;
    wait_until(|| server.stats().failed == 3).await?;
    let refused = server.stats().refused.into_iter().collect::<Vec<_>>();
    assert_eq!(refused, [("late", 2), ("too many calls", 1)]);
    still_serves(&server).await
}

/// Waits for something that happens soon.
async fn wait_until(what: impl Fn() -> bool) -> Tested {
    let waiting = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    Ok(tokio::time::timeout(PATIENCE, waiting).await?)
}

/// A server, and a peer that has sent calls with large answers and five messages behind them, and
/// that reads nothing.
async fn deaf(work_budget: Duration) -> Tested<(RunningServer, TcpStream)> {
    let big = async || Bytes::from(vec![b'x'; 1 << 20]);
    let router = Router::new()
        .route("big", big)
        .route("count", std::future::pending::<()>);
    let server = Server::new(router)
        .config(impatient())
        .work_budget(work_budget);
    let server = server.listen("tcp://127.0.0.1:0".parse()?).start().await?;
    let mut deaf = raw(&server).await?;
    let calls = (0..64).flat_map(|id| request_with(id, "big", b""));
    let messages = (0..5).flat_map(|number| message(number, "count"));
    let frames: Vec<u8> = calls.chain(messages).collect();
    deaf.write_all(&frames).await?;
    Ok((server, deaf))
}

#[tokio::test]
async fn messages_that_were_read_when_their_connection_ends_are_counted_as_dropped() -> Tested {
    let (server, _deaf) = deaf(Duration::from_secs(60)).await?;
    wait_until(|| ended(&server, "write stall") == 1).await?;
    let stats = server.stats();
    assert!(stats.started < 64, "the peer reads: {stats:?}");
    assert_eq!((stats.dropped, stats.running), (5, 0), "{stats:?}");
    Ok(())
}

#[tokio::test]
async fn messages_behind_calls_of_a_peer_that_reads_no_answers_are_handled_when_it_is_given_up()
-> Tested {
    let (server, _deaf) = deaf(Duration::ZERO).await?;
    wait_until(|| ended(&server, "write stall") == 1).await?;
    wait_until(|| server.stats().queued == 0).await?;
    let stats = server.stats();
    assert!(stats.started < 64, "the peer reads: {stats:?}");
    assert_eq!((stats.dropped, stats.running), (0, 5), "{stats:?}");
    Ok(())
}
