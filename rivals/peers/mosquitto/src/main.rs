//! MQTT with QoS 0 by rumqttc on Mosquitto. Thousands of connections, which are only held, are
//! plain sockets that speak just enough MQTT: what is measured there is the broker.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use harness::{Arguments, Caller, Received, Result, Role, Sender};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, Packet, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

const TOPIC: &str = "rivals";
/// Publications that may wait for the event loop.
const QUEUE: usize = 2048;

fn main() -> ExitCode {
    harness::main(|role| match role {
        Role::Client(arguments) => arguments.call(hold),
        Role::Receiver(arguments) => arguments.receive(subscribe),
        Role::Sender(arguments) => arguments.send(publisher),
        other => other.absent(),
    })
}

fn client(name: &str, arguments: &Arguments) -> Result<(AsyncClient, EventLoop)> {
    let (host, port) = arguments
        .at
        .rsplit_once(':')
        .ok_or("an address has a port")?;
    let mut options = MqttOptions::new(name, host, port.parse()?);
    options.set_keep_alive(Duration::from_secs(60));
    let (client, mut events) = AsyncClient::new(options, QUEUE);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    Ok((client, events))
}

async fn subscribe(arguments: Arguments, received: Received) -> Result<()> {
    let (client, mut events) = client("receiver", &arguments)?;
    client.subscribe(TOPIC, QoS::AtMostOnce).await?;
    loop {
        if let Event::Incoming(Packet::Publish(message)) = events.poll().await? {
            received.take(message.payload);
        }
    }
}

struct Publisher {
    client: AsyncClient,
    payload: Vec<u8>,
}

async fn publisher(arguments: Arguments) -> Result<Publisher> {
    let (client, mut events) = client("sender", &arguments)?;
    tokio::spawn(async move { while events.poll().await.is_ok() {} });
    Ok(Publisher {
        client,
        payload: arguments.payload().to_vec(),
    })
}

impl Sender for Publisher {
    async fn send(&mut self) -> Result<()> {
        let (qos, payload) = (QoS::AtMostOnce, self.payload.clone());
        Ok(self.client.publish(TOPIC, qos, false, payload).await?)
    }
}

/// A connection that is pinged.
#[derive(Clone)]
struct Held(Arc<Mutex<TcpStream>>);

async fn hold(arguments: Arguments) -> Result<Held> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("held-{:06}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut stream = TcpStream::connect(&arguments.at).await?;
    stream.set_nodelay(true)?;
    // CONNECT of MQTT 3.1.1: a clean session, kept alive for ten minutes.
    let mut connect = vec![0x10, 12 + name.len() as u8];
    connect.extend_from_slice(b"\0\x04MQTT\x04\x02\x02\x58\0");
    connect.push(name.len() as u8);
    connect.extend_from_slice(name.as_bytes());
    stream.write_all(&connect).await?;
    let mut accepted = [0; 4];
    stream.read_exact(&mut accepted).await?;
    match accepted {
        [0x20, 2, _, 0] => Ok(Held(Arc::new(Mutex::new(stream)))),
        other => Err(format!("the broker answered {other:?}").into()),
    }
}

impl Caller for Held {
    async fn call(&mut self) -> Result<()> {
        let mut stream = self.0.lock().await;
        stream.write_all(&[0xc0, 0]).await?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await?;
        if answer != [0xd0, 0] {
            return Err("the answer is no PINGRESP".into());
        }
        Ok(())
    }
}
