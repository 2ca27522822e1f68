//! Redis as an RPC of one command. Calls of one connection are pipelined, as the client's
//! documentation recommends; `PING` with 64 bytes is its cheapest echo.

use std::collections::VecDeque;
use std::process::ExitCode;

use harness::{Arguments, Caller, Pipelined, Result, Role};
use redis::aio::MultiplexedConnection;

fn main() -> ExitCode {
    harness::main(|role| match role {
        Role::Client(arguments) if arguments.mode == "pipe" => {
            arguments.call_pipelined(async |arguments| {
                Ok(Piped {
                    connection: dial(arguments).await?,
                    pipe: redis::pipe(),
                    asked: VecDeque::new(),
                    answered: VecDeque::new(),
                })
            })
        }
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

/// The client's pipelines: what was asked since is sent together, and answered together.
struct Piped {
    connection: Connection,
    pipe: redis::Pipeline,
    asked: VecDeque<u64>,
    answered: VecDeque<u64>,
}

impl Pipelined for Piped {
    async fn call(&mut self, tag: u64) -> Result<()> {
        self.pipe.add_command(self.connection.command.clone());
        self.asked.push_back(tag);
        Ok(())
    }

    async fn next(&mut self) -> Result<u64> {
        if self.answered.is_empty() {
            let Connection {
                connection, size, ..
            } = &mut self.connection;
            let answers: Vec<Vec<u8>> = self.pipe.query_async(connection).await?;
            let are_right = answers.iter().all(|answer| answer.len() == *size);
            if !are_right || answers.len() != self.asked.len() {
                return Err("the answers are not what was sent".into());
            }
            self.pipe.clear();
            std::mem::swap(&mut self.asked, &mut self.answered);
        }
        let tag = self.answered.pop_front();
        tag.ok_or_else(|| "no call is in flight".into())
    }
}
