//! Ends that poll before they sleep: what comes is the same, however it was looked for.

use std::io::{self, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use postroad::config::Preset;
use postroad::transport::TransportError;
use postroad::transport::{BoxFuture, Listener, Stream, Transport, Transports};
use postroad::{
    BlockingClient, Bytes, Client, ClientConfig, Endpoint, Router, RunningServer, Server,
    ServerConfig,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::support::Tested;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("threads have a runtime each")
}

fn client_config() -> ClientConfig {
    let mut config = ClientConfig::default();
    config.connection.preset = Preset::LowLatency;
    config.timeout = Duration::from_secs(20);
    config
}

/// A polling node on a thread of its own, which ends with this.
struct Node {
    server: RunningServer,
    _end: mpsc::SyncSender<()>,
}

impl Node {
    fn tcp(&self) -> String {
        format!("tcp://{}", self.server.addresses()[0])
    }
}

fn serve(url: &str) -> Node {
    let (tell, told) = mpsc::sync_channel(1);
    let (end, ended) = mpsc::sync_channel::<()>(1);
    let endpoint = url.parse().expect("the test's own URL");
    std::thread::spawn(move || {
        runtime().block_on(async {
            let mut config = ServerConfig::default();
            config.connection.preset = Preset::LowLatency;
            let router = Router::new().route("slow", || {
                keep_busy(Duration::from_micros(40));
                std::future::ready(())
            });
            let server = Server::new(router).config(config).listen(endpoint);
            let server = server.start().await.expect("the endpoint is free");
            tell.send(server).expect("the test waits for it");
            let _ = tokio::task::spawn_blocking(move || ended.recv()).await;
        });
    });
    let server = told.recv().expect("the server starts");
    Node { server, _end: end }
}

fn keep_busy(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn body(call: usize, length: usize) -> Bytes {
    vec![call as u8; length].into()
}

/// One after the other, with bodies that a look takes whole, at its edge, and in part.
async fn echo_in_turn(client: &Client) -> Tested {
    for call in 0..600 {
        let body = body(call, [0, 64, 900, 1_000, 1_100, 70_000][call % 6]);
        let answer = client.request("postroad/echo").call_raw(body.clone());
        assert_eq!(answer.await?, body, "call {call}");
    }
    Ok(())
}

fn echo(url: &str) -> Tested {
    runtime().block_on(async {
        let client = Client::connect_with(url.parse()?, client_config()).await?;
        echo_in_turn(&client).await?;
        client.close().await;
        Ok(())
    })
}

#[test]
fn lone_calls_have_their_own_answers_over_tcp_and_memory() -> Tested {
    let node = serve("tcp://127.0.0.1:0");
    echo(&node.tcp())?;
    let _node = serve("mem://polled");
    echo("mem://polled")
}

#[cfg(unix)]
#[test]
fn lone_calls_have_their_own_answers_over_a_unix_socket() -> Tested {
    let folder = tempfile::tempdir()?;
    let url = format!("unix://{}/node.sock", folder.path().display());
    let _node = serve(&url);
    echo(&url)
}

#[test]
fn several_connections_of_a_thread_poll_together() -> Tested {
    let node = serve("tcp://127.0.0.1:0");
    let url = node.tcp();
    runtime().block_on(async {
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let client = Client::connect_with(url.parse()?, client_config()).await?;
            for _ in 0..2 {
                let client = client.clone();
                callers.spawn(async move {
                    let done = echo_in_turn(&client).await;
                    done.map_err(|error| error.to_string())
                });
            }
        }
        while let Some(done) = callers.join_next().await {
            done??;
        }
        Ok(())
    })
}

#[test]
fn a_blocking_caller_polls_for_its_own_answers() -> Tested {
    let node = serve("tcp://127.0.0.1:0");
    let client = BlockingClient::connect_with(node.tcp().parse()?, client_config())?;
    for call in 0..1_000 {
        let body = body(call, 64);
        let answer = client.with("postroad/echo", |with| with.call_raw(body.clone()));
        assert_eq!(answer?, body);
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn who_polls_sleeps_at_last_also_where_the_clock_stands_still() -> Tested {
    let slow = async || tokio::time::sleep(Duration::from_secs(1)).await; // tidy: paused clock
    let mut config = ServerConfig::default();
    config.connection.preset = Preset::LowLatency;
    let server = Server::new(Router::new().route("slow", slow)).config(config);
    let _node = server.listen("mem://paused".parse()?).start().await?;
    let client = Client::connect_with("mem://paused".parse()?, client_config()).await?;
    for _ in 0..3 {
        client.request("slow").call_raw("").await?;
    }
    Ok(())
}

#[test]
fn a_node_that_polls_takes_nonsense_and_ends_for_what_they_are() -> Tested {
    let node = serve("tcp+sequence://127.0.0.1:0?route=postroad/echo");
    let address = &node.server.addresses()[0];
    for _ in 0..50 {
        TcpStream::connect(address)?.write_all(&[0xff; 3000])?;
        drop(TcpStream::connect(address)?);
    }
    echo(&format!("tcp+sequence://{address}"))?;
    let begin = Instant::now();
    while node.server.stats().open > 0 {
        assert!(begin.elapsed() < Duration::from_secs(10), "some are left");
        std::thread::yield_now();
    }
    let ends = |reason: &str| {
        let closed = node.server.stats().closed;
        let same = closed.into_iter().filter(|((_, word), _)| *word == reason);
        same.map(|(_, count)| count).sum::<u64>()
    };
    let closed = node.server.stats().closed;
    assert_eq!((ends("magic"), ends("peer")), (50, 51), "{closed:?}");
    Ok(())
}

/// TCP that counts how often it is asked for bytes.
struct Asked(Arc<AtomicUsize>);

struct AskedStream {
    stream: tokio::net::TcpStream,
    count: Arc<AtomicUsize>,
}

impl Transport for Asked {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Stream, TransportError>> {
        let count = Arc::clone(&self.0);
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(endpoint.address()).await;
            let stream = stream.expect("the node listens");
            stream.set_nodelay(true).expect("it is open");
            Ok(Stream::new(AskedStream { stream, count }))
        })
    }

    fn listen<'a>(
        &'a self,
        _endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, TransportError>> {
        unreachable!("the test dials only")
    }

    fn has_integrity(&self) -> bool {
        false
    }
}

impl AsyncRead for AskedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.count.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for AskedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How often 30 new clients ask for the answers to their first calls, which take a while.
async fn times_asked(node: &Node, preset: Preset) -> Result<usize, Box<dyn std::error::Error>> {
    let count = Arc::new(AtomicUsize::new(0));
    let mut transports = Transports::default();
    transports.register("asked", Asked(Arc::clone(&count)));
    let endpoint: Endpoint = format!("asked://{}", node.server.addresses()[0]).parse()?;
    let mut asked = 0;
    for _ in 0..30 {
        let mut config = client_config();
        config.connection.preset = preset;
        let client = Client::with_transports(endpoint.clone().into(), config, &transports)?;
        let mut state = client.state();
        let is_there = |state: &_| *state == postroad::ConnectionState::Connected;
        state.wait_for(is_there).await?;
        let before = count.load(Ordering::Relaxed);
        client.request("slow").call_raw("").await?;
        asked += count.load(Ordering::Relaxed) - before;
    }
    Ok(asked)
}

#[test]
fn who_waits_looks_again_and_again_before_sleeping_where_that_can_help() -> Tested {
    let node = serve("tcp://127.0.0.1:0");
    let (sleeping, polling) = runtime().block_on(async {
        let sleeping = times_asked(&node, Preset::Default).await?;
        let polling = times_asked(&node, Preset::LowLatency).await?;
        Ok::<_, Box<dyn std::error::Error>>((sleeping, polling))
    })?;
    assert!(sleeping <= 4 * 30, "{sleeping}");
    let has_cores = std::thread::available_parallelism()?.get() > 1;
    assert_eq!(polling > 5 * 30, has_cores, "{polling} to {sleeping}");
    Ok(())
}
