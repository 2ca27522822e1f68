//! tarpc over TCP with bincode, as its example service is; without delay, and with queues as long
//! as the calls in flight, since its default of 100 would be what is measured.

use std::process::ExitCode;

use bytes::Bytes;
use futures_util::StreamExt;
use harness::{Arguments, Caller, Result, Role};
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::tokio_util::codec::LengthDelimitedCodec;
use tarpc::{client, context, serde_transport, server};
use tokio::net::{TcpListener, TcpStream};

const QUEUE: usize = 8192;

#[tarpc::service]
trait Echo {
    async fn echo(payload: Bytes) -> Bytes;
}

#[derive(Clone)]
struct Back;

impl Echo for Back {
    async fn echo(self, _: context::Context, payload: Bytes) -> Bytes {
        payload
    }
}

fn main() -> ExitCode {
    harness::main(|role| match role {
        Role::Server(arguments) => arguments.block_on(serve(arguments.clone())),
        Role::Client(arguments) => arguments.call(dial),
        other => other.absent(),
    })
}

async fn serve(arguments: Arguments) -> Result<()> {
    let listener = TcpListener::bind(&arguments.at).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let frames = LengthDelimitedCodec::builder().new_framed(stream);
        let transport = serde_transport::new(frames, Bincode::default());
        let config = server::Config {
            pending_response_buffer: QUEUE,
        };
        let calls = BaseChannel::new(config, transport).execute(Back.serve());
        tokio::spawn(calls.for_each(async |call| drop(tokio::spawn(call))));
    }
}

#[derive(Clone)]
struct Connection {
    client: EchoClient,
    payload: Bytes,
}

async fn dial(arguments: Arguments) -> Result<Connection> {
    let stream = TcpStream::connect(&arguments.at).await?;
    stream.set_nodelay(true)?;
    let frames = LengthDelimitedCodec::builder().new_framed(stream);
    let transport = serde_transport::new(frames, Bincode::default());
    let mut config = client::Config::default();
    config.max_in_flight_requests = QUEUE;
    config.pending_request_buffer = QUEUE;
    Ok(Connection {
        client: EchoClient::new(config, transport).spawn(),
        payload: arguments.payload(),
    })
}

impl Caller for Connection {
    async fn call(&mut self) -> Result<()> {
        let answer = self
            .client
            .echo(context::current(), self.payload.clone())
            .await?;
        if answer.len() != self.payload.len() {
            return Err("the answer is not what was sent".into());
        }
        Ok(())
    }
}
