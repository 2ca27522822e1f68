//! tokio without a protocol, and with the simplest framing.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use harness::{Arguments, Caller, Received, Result, Role, Sender};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// Held by every connection, idle or not: what a plain echo does.
const BUFFER: usize = 8 * 1024;

pub(crate) fn echo(role: Role) -> Result<()> {
    match role {
        Role::Server(arguments) => arguments.block_on(serve(arguments.clone())),
        Role::Client(arguments) if arguments.in_flight > arguments.connections => {
            Err("a plain echo has one call in flight on a connection".into())
        }
        Role::Client(arguments) => arguments.call(dial),
        other => other.absent(),
    }
}

pub(crate) fn one_way(role: Role) -> Result<()> {
    match role {
        Role::Receiver(arguments) => arguments.receive(receive),
        Role::Sender(arguments) => arguments.send(feed),
        other => other.absent(),
    }
}

async fn serve(arguments: Arguments) -> Result<()> {
    let listener = TcpListener::bind(&arguments.at).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut buffer = vec![0; BUFFER];
            loop {
                let length = stream.read(&mut buffer).await?;
                if length == 0 {
                    return Ok::<_, std::io::Error>(());
                }
                stream.write_all(&buffer[..length]).await?;
            }
        });
    }
}

/// One call at a time on a connection.
#[derive(Clone)]
struct Echo {
    stream: Arc<Mutex<TcpStream>>,
    payload: Bytes,
    buffer: Vec<u8>,
}

async fn dial(arguments: Arguments) -> Result<Echo> {
    let stream = TcpStream::connect(&arguments.at).await?;
    stream.set_nodelay(true)?;
    Ok(Echo {
        stream: Arc::new(Mutex::new(stream)),
        payload: arguments.payload(),
        buffer: vec![0; arguments.size],
    })
}

impl Caller for Echo {
    async fn call(&mut self) -> Result<()> {
        let mut stream = self.stream.lock().await;
        stream.write_all(&self.payload).await?;
        stream.read_exact(&mut self.buffer).await?;
        Ok(())
    }
}

async fn receive(arguments: Arguments, received: Received) -> Result<()> {
    let listener = TcpListener::bind(&arguments.at).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let mut frames = Framed::new(stream, LengthDelimitedCodec::new());
        let received = received.clone();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = frames.next().await {
                received.take(frame.freeze());
            }
        });
    }
}

/// `feed` writes when its buffer is full, not per message.
struct Feed {
    frames: Framed<TcpStream, LengthDelimitedCodec>,
    payload: Bytes,
}

async fn feed(arguments: Arguments) -> Result<Feed> {
    let stream = TcpStream::connect(&arguments.at).await?;
    stream.set_nodelay(true)?;
    Ok(Feed {
        frames: Framed::new(stream, LengthDelimitedCodec::new()),
        payload: arguments.payload(),
    })
}

impl Sender for Feed {
    async fn send(&mut self) -> Result<()> {
        Ok(self.frames.feed(self.payload.clone()).await?)
    }
}
