//! NATS by async-nats on `nats-server`: request and reply through the client's one inbox, and core
//! publish and subscribe. Nothing is written to disk.

use std::process::ExitCode;

use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use futures_util::StreamExt;
use harness::{Arguments, Caller, Received, Result, Role, Sender};

const ECHO: &str = "rivals.echo";
const TAKE: &str = "rivals.take";

fn main() -> ExitCode {
    harness::main(|role| match role {
        Role::Server(arguments) => arguments.block_on(respond(arguments.clone())),
        Role::Client(arguments) => arguments.call(dial),
        Role::Receiver(arguments) => arguments.receive(subscribe),
        Role::Sender(arguments) => arguments.send(dial),
    })
}

async fn connect(arguments: &Arguments) -> Result<Client> {
    // The subjects are constants: they need no check per message.
    let options = ConnectOptions::new().skip_subject_validation(true);
    Ok(options.connect(format!("nats://{}", arguments.at)).await?)
}

async fn respond(arguments: Arguments) -> Result<()> {
    let client = connect(&arguments).await?;
    let mut requests = client.subscribe(ECHO).await?;
    while let Some(request) = requests.next().await {
        if let Some(inbox) = request.reply {
            client.publish(inbox, request.payload).await?;
        }
    }
    Ok(())
}

async fn subscribe(arguments: Arguments, received: Received) -> Result<()> {
    let client = connect(&arguments).await?;
    let mut messages = client.subscribe(TAKE).await?;
    while let Some(message) = messages.next().await {
        received.take(message.payload);
    }
    Ok(())
}

#[derive(Clone)]
struct Connection {
    client: Client,
    payload: Bytes,
}

async fn dial(arguments: Arguments) -> Result<Connection> {
    Ok(Connection {
        client: connect(&arguments).await?,
        payload: arguments.payload(),
    })
}

impl Caller for Connection {
    async fn call(&mut self) -> Result<()> {
        let answer = self.client.request(ECHO, self.payload.clone()).await?;
        if answer.payload.len() != self.payload.len() {
            return Err("the answer is not what was sent".into());
        }
        Ok(())
    }
}

impl Sender for Connection {
    async fn send(&mut self) -> Result<()> {
        Ok(self.client.publish(TAKE, self.payload.clone()).await?)
    }
}
