//! Redis as an RPC of one command. Calls of one connection are pipelined, as the client's
//! documentation recommends; `PING` with 64 bytes is its cheapest echo.

use std::process::ExitCode;

use harness::{Arguments, Caller, Result, Role};
use redis::aio::MultiplexedConnection;

fn main() -> ExitCode {
    harness::main(|role| match role {
        Role::Client(arguments) => arguments.call(dial),
        other => other.absent(),
    })
}

#[derive(Clone)]
struct Connection {
    connection: MultiplexedConnection,
    command: redis::Cmd,
    size: usize,
}

async fn dial(arguments: Arguments) -> Result<Connection> {
    let client = redis::Client::open(format!("redis://{}/", arguments.at))?;
    let mut command = redis::cmd("PING");
    command.arg(&arguments.payload()[..]);
    Ok(Connection {
        connection: client.get_multiplexed_async_connection().await?,
        command,
        size: arguments.size,
    })
}

impl Caller for Connection {
    async fn call(&mut self) -> Result<()> {
        let answer: Vec<u8> = self.command.query_async(&mut self.connection).await?;
        if answer.len() != self.size {
            return Err("the answer is not what was sent".into());
        }
        Ok(())
    }
}
