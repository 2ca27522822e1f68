//! Volo's Thrift: framed, pooled connections, one call in flight on each, as it is by default
//! (multiplexing is marked unstable); no call waits for a time limit of its own.

use std::net::SocketAddr;
use std::process::ExitCode;

use generated::echo::{EchoClient, EchoClientBuilder, EchoServer};
use harness::{Arguments, Caller, Role};
use pilota::Bytes;
use volo::net::Address;

/// What `volo-build` made of `echo.thrift`.
#[allow(
    unsafe_code,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "generated"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/volo_gen.rs"));
    pub(crate) use volo_gen::echo;
}

struct Back;

impl generated::echo::Echo for Back {
    async fn echo(&self, payload: Bytes) -> Result<Bytes, volo_thrift::ServerError> {
        Ok(payload)
    }
}

fn main() -> ExitCode {
    harness::main(|role| match role {
        Role::Server(arguments) => arguments.block_on(serve(arguments.clone())),
        Role::Client(arguments) => arguments.call(dial),
        other => other.absent(),
    })
}

fn address(arguments: &Arguments) -> harness::Result<Address> {
    Ok(Address::from(arguments.at.parse::<SocketAddr>()?))
}

async fn serve(arguments: Arguments) -> harness::Result<()> {
    EchoServer::new(Back).run(address(&arguments)?).await
}

#[derive(Clone)]
struct Pool {
    client: EchoClient,
    payload: Bytes,
}

async fn dial(arguments: Arguments) -> harness::Result<Pool> {
    let client = EchoClientBuilder::new("echo")
        .address(address(&arguments)?)
        .build();
    let payload = Bytes::from(arguments.payload().to_vec());
    Ok(Pool { client, payload })
}

impl Caller for Pool {
    async fn call(&mut self) -> harness::Result<()> {
        let answer = self.client.echo(self.payload.clone()).await?;
        if answer.len() != self.payload.len() {
            return Err("the answer is not what was sent".into());
        }
        Ok(())
    }
}
