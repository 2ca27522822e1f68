//! Postroad with the whole protocol: checksums as negotiated by default, and a deadline and a
//! priority on every call.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use harness::{Arguments, Caller, Pipelined, Received, Recorder, Result, Role, Sender};
use postroad::config::Preset;
use postroad::{
    BlockingClient, Client, ClientConfig, Endpoint, Pipeline, Producer, Router, Server,
    ServerConfig,
};

const DEADLINE: Duration = Duration::from_secs(5);
const PRIORITY: u8 = 4;
/// The mode in which one task makes all calls of a connection.
const PIPELINE: &str = "pipeline";
/// The mode in which the server has a reactor a processor, as `postroad serve` has.
const REACTORS: &str = "reactors";
/// The mode in which messages are sent so many together, with large fragments.
const BATCHES: &str = "batches";
const BATCH: usize = 32;
/// How modes begin in which a thread calls, without a runtime of its own; a preset may follow.
const BLOCKING: &str = "blocking";

fn main() -> ExitCode {
    harness::main(|role| match role {
        Role::Server(arguments) => arguments.block_on(serve(
            arguments.clone(),
            Router::new().route("echo", async |payload: Bytes| payload),
        )),
        Role::Client(arguments) if arguments.mode == PIPELINE => {
            arguments.call_pipelined(async |arguments| {
                let Connection { client, payload } = dial(arguments).await?;
                let pipeline = client.pipeline("echo").timeout(DEADLINE).priority(PRIORITY);
                Ok(Piped { pipeline, payload })
            })
        }
        Role::Client(arguments) if arguments.mode.starts_with(BLOCKING) => {
            arguments.call_blocking(|recorder| call_from_a_thread(&arguments, &recorder))
        }
        Role::Client(arguments) => arguments.call(dial),
        Role::Receiver(arguments) => arguments.receive(|arguments, received: Received| {
            let count = move |payload: Bytes| {
                received.take(payload);
                std::future::ready(())
            };
            serve(arguments, Router::new().route("take", count))
        }),
        Role::Sender(arguments) if arguments.mode == BATCHES => {
            arguments.send(async |arguments| Ok(Batches(produce(arguments).await?)))
        }
        Role::Sender(arguments) => arguments.send(produce),
    })
}

fn endpoint(at: &str) -> Result<Endpoint> {
    let transport = if at.starts_with('/') { "unix" } else { "tcp" };
    Ok(format!("{transport}://{at}").parse()?)
}

/// What the mode asks for beyond the defaults.
fn configured(mode: &str) -> Result<(ServerConfig, ClientConfig)> {
    let (mut server, mut client) = (ServerConfig::default(), ClientConfig::default());
    let mode = mode.strip_prefix(BLOCKING).unwrap_or(mode);
    match mode.trim_start_matches('-') {
        "" | PIPELINE => {}
        BATCHES => {
            (server.connection.preset, client.connection.preset) =
                (Preset::Throughput, Preset::Throughput)
        }
        REACTORS => server.workers = Some(std::thread::available_parallelism()?.get()),
        preset => {
            let preset = preset.parse()?;
            (server.connection.preset, client.connection.preset) = (preset, preset);
        }
    }
    // As many calls as a row has in flight; the default is 1,000.
    server.connection.limits.max_calls = 65_536;
    client.connection.limits.max_calls = 65_536;
    Ok((server, client))
}

async fn serve(arguments: Arguments, router: Router) -> Result<()> {
    let server = Server::new(router).config(configured(&arguments.mode)?.0);
    let _server = server.listen(endpoint(&arguments.at)?).start().await?;
    std::future::pending().await
}

#[derive(Clone)]
struct Connection {
    client: Client,
    payload: Bytes,
}

struct Piped {
    pipeline: Pipeline,
    payload: Bytes,
}

struct OneWay {
    producer: Producer,
    payload: Bytes,
}

async fn dial(arguments: Arguments) -> Result<Connection> {
    let config = configured(&arguments.mode)?.1;
    Ok(Connection {
        client: Client::connect_with(endpoint(&arguments.at)?.into(), config).await?,
        payload: arguments.payload(),
    })
}

fn check(answer: &Bytes, sent: &Bytes) -> Result<()> {
    match answer.len() == sent.len() {
        true => Ok(()),
        false => Err("the answer is not what was sent".into()),
    }
}

fn call_from_a_thread(arguments: &Arguments, recorder: &Arc<Recorder>) -> Result<()> {
    let config = configured(&arguments.mode)?.1;
    let client = BlockingClient::connect_with(endpoint(&arguments.at)?.into(), config)?;
    let (mut lap, payload) = (recorder.lap(), arguments.payload());
    loop {
        let answer = client.with("echo", |call| {
            let call = call.timeout(DEADLINE).priority(PRIORITY);
            call.call_raw(payload.clone())
        })?;
        check(&answer, &payload)?;
        if !lap.tick() {
            return Ok(());
        }
    }
}

impl Caller for Connection {
    async fn call(&mut self) -> Result<()> {
        let request = self
            .client
            .request("echo")
            .timeout(DEADLINE)
            .priority(PRIORITY);
        let answer = request.call_raw(self.payload.clone()).await?;
        check(&answer, &self.payload)
    }
}

impl Pipelined for Piped {
    async fn call(&mut self, tag: u64) -> Result<()> {
        Ok(self.pipeline.call(tag, self.payload.clone()).await?)
    }

    async fn next(&mut self) -> Result<u64> {
        let (tag, answer) = self.pipeline.next().await.ok_or("no call is in flight")?;
        check(&answer?, &self.payload)?;
        Ok(tag)
    }
}

async fn produce(arguments: Arguments) -> Result<OneWay> {
    let Connection { client, payload } = dial(arguments).await?;
    Ok(OneWay {
        producer: client.producer("take").priority(PRIORITY),
        payload,
    })
}

impl Sender for OneWay {
    async fn send(&mut self) -> Result<()> {
        Ok(self.producer.send(self.payload.clone()).await?)
    }
}

/// A sender whose messages come so many together.
struct Batches(OneWay);

impl Sender for Batches {
    async fn send(&mut self) -> Result<()> {
        let OneWay { producer, payload } = &mut self.0;
        let messages = (0..BATCH).map(|_| payload.clone());
        let sent = producer.send_all(messages).await;
        Ok(sent.map_err(|(_, error)| error)?)
    }
}
