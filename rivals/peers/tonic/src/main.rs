//! gRPC by tonic: unary calls without TLS; without delay, windows as they are by default, and as
//! many streams on a connection as calls are in flight.

use std::process::ExitCode;

use bytes::Bytes;
use generated::echo_client::EchoClient;
use generated::echo_server::{Echo, EchoServer};
use harness::{Arguments, Caller, Role};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

const STREAMS: u32 = 8192;

/// What `tonic-build` made of `build.rs`.
#[expect(
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "generated"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/rivals.Echo.rs"));
}

/// `message Message { bytes payload = 1; }`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Message {
    #[prost(bytes = "bytes", tag = "1")]
    payload: Bytes,
}

struct Back;

#[tonic::async_trait]
impl Echo for Back {
    async fn echo(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

fn main() -> ExitCode {
    harness::main(|role| match role {
        Role::Server(arguments) => arguments.block_on(serve(arguments.clone())),
        Role::Client(arguments) => arguments.call(dial),
        other => other.absent(),
    })
}

async fn serve(arguments: Arguments) -> harness::Result<()> {
    let mut server = Server::builder()
        .tcp_nodelay(true)
        .max_concurrent_streams(STREAMS);
    Ok(server
        .add_service(EchoServer::new(Back))
        .serve(arguments.at.parse()?)
        .await?)
}

#[derive(Clone)]
struct Connection {
    client: EchoClient<Channel>,
    payload: Bytes,
}

async fn dial(arguments: Arguments) -> harness::Result<Connection> {
    let endpoint = Endpoint::from_shared(format!("http://{}", arguments.at))?.tcp_nodelay(true);
    Ok(Connection {
        client: EchoClient::new(endpoint.connect().await?),
        payload: arguments.payload(),
    })
}

impl Caller for Connection {
    async fn call(&mut self) -> harness::Result<()> {
        let message = Message {
            payload: self.payload.clone(),
        };
        let answer = self.client.echo(message).await?.into_inner();
        if answer.payload.len() != self.payload.len() {
            return Err("the answer is not what was sent".into());
        }
        Ok(())
    }
}
