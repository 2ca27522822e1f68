//! A line that takes few bytes at a time: who has much to send waits, and who is urgent does not.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use postroad::transport::TransportError;
use postroad::transport::{BoxFuture, Listener, Stream, Transport, Transports};
use postroad::{Bytes, Client, ClientConfig, Endpoint, Router, Server};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::support::Tested;

/// Bytes that the line takes in a millisecond.
const PACE: usize = 16 * 1024;
const TICK: Duration = Duration::from_millis(1);

/// TCP that takes so many bytes in a millisecond.
struct Slow;

struct SlowStream {
    stream: TcpStream,
    tick: Pin<Box<Sleep>>,
    /// Bytes that it takes until the next tick.
    left: usize,
}

impl Transport for Slow {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Stream, TransportError>> {
        Box::pin(async move {
            let stream = TcpStream::connect(endpoint.address()).await;
            let stream = stream.expect("the node listens");
            stream.set_nodelay(true).expect("it is open");
            let tick = Box::pin(sleep_until(Instant::now()));
            Ok(Stream::new(SlowStream {
                stream,
                tick,
                left: PACE,
            }))
        })
    }

    fn listen<'a>(
        &'a self,
        _endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, TransportError>> {
        unreachable!("the tests dial only")
    }

    fn has_integrity(&self) -> bool {
        false
    }
}

impl AsyncRead for SlowStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for SlowStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.left == 0 {
            ready!(self.tick.as_mut().poll(cx));
            self.tick.as_mut().reset(Instant::now() + TICK);
            self.left = PACE;
        }
        let now = buf.len().min(self.left);
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &buf[..now]));
        self.left -= *written.as_ref().unwrap_or(&0);
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Answers to urgent calls say nothing about room for bulk.
#[tokio::test]
async fn bulk_waits_for_room_also_where_only_urgent_calls_are_answered() -> Tested {
    const BULK: usize = 256 * 1024;
    const ROUNDS: u64 = 30;
    let router = Router::new().route("length", async |body: Bytes| body.len().to_string());
    let server = Server::new(router).listen("tcp://127.0.0.1:0".parse()?);
    let server = server.start().await?;
    let mut transports = Transports::default();
    transports.register("slow", Slow);
    let mut config = ClientConfig::default();
    config.connection.limits.outbox_max = 2 << 20;
    config.connection.limits.max_message = 1 << 20;
    let endpoint = format!("slow://{}", server.addresses()[0]).parse()?;
    let client = Client::with_transports(endpoint, config, &transports)?;
    let mut pipeline = client.pipeline("length");
    let mut bulk_answers = 0;
    for round in 0..ROUNDS {
        pipeline.set_priority(0);
        let call = pipeline.call(round, vec![0; BULK]).await;
        call.map_err(|error| format!("bulk {round}: {error}"))?;
        pipeline.set_priority(7);
        pipeline.call(ROUNDS + round, "urgent").await?;
        loop {
            let (tag, answer) = pipeline.next().await.ok_or("an answer is missing")?;
            answer?;
            if tag == ROUNDS + round {
                break;
            }
            bulk_answers += 1;
        }
    }
    while let Some((_, answer)) = pipeline.next().await {
        answer?;
        bulk_answers += 1;
    }
    assert_eq!(bulk_answers, ROUNDS);
    Ok(())
}
