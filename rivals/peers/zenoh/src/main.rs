//! Zenoh between two peers: no router and no scouting. A querier is declared once, as its
//! documentation recommends for repeated queries; publications block rather than drop. Zenoh runs
//! on threads of its own, and refuses the one-thread runtime.

use std::process::ExitCode;
use std::sync::Arc;

use harness::{Arguments, Caller, Received, Result, Role, Sender};
use zenoh::pubsub::Publisher;
use zenoh::qos::CongestionControl;
use zenoh::query::Querier;
use zenoh::{Session, Wait};

const KEY: &str = "rivals";

fn main() -> ExitCode {
    harness::main(|role| match role {
        Role::Server(arguments) => arguments.block_on(serve(arguments.clone())),
        Role::Client(arguments) => arguments.call(querier),
        Role::Receiver(arguments) => arguments.receive(subscribe),
        Role::Sender(arguments) => arguments.send(publisher),
    })
}

/// A session that listens or connects, and finds nobody else.
async fn open(side: &str, arguments: &Arguments) -> Result<Session> {
    let mut config = zenoh::Config::default();
    let endpoint = format!(r#"["tcp/{}"]"#, arguments.at);
    let other = if side == "listen" {
        "connect"
    } else {
        "listen"
    };
    for (key, value) in [
        ("mode", r#""peer""#),
        ("scouting/multicast/enabled", "false"),
        ("scouting/gossip/enabled", "false"),
        (&format!("{other}/endpoints"), "[]"),
        (&format!("{side}/endpoints"), &endpoint),
    ] {
        config.insert_json5(key, value)?;
    }
    zenoh::open(config).await
}

async fn serve(arguments: Arguments) -> Result<()> {
    let session = open("listen", &arguments).await?;
    let echo = session.declare_queryable(KEY).callback(|query| {
        let payload = query.payload().cloned().unwrap_or_default();
        // Whoever asked may have gone.
        let _ = query.reply(KEY, payload).wait();
    });
    let _echo = echo.await?;
    std::future::pending().await
}

#[derive(Clone)]
struct Connection {
    /// A querier ends with its session.
    _session: Session,
    querier: Arc<Querier<'static>>,
    payload: Vec<u8>,
}

async fn querier(arguments: Arguments) -> Result<Connection> {
    let session = open("connect", &arguments).await?;
    Ok(Connection {
        querier: Arc::new(session.declare_querier(KEY).await?),
        _session: session,
        payload: arguments.payload().to_vec(),
    })
}

impl Caller for Connection {
    async fn call(&mut self) -> Result<()> {
        let replies = self.querier.get().payload(&self.payload).await?;
        let reply = replies.recv_async().await?;
        let sample = reply.result().map_err(|error| format!("{error:?}"))?;
        if sample.payload().len() != self.payload.len() {
            return Err("the answer is not what was sent".into());
        }
        Ok(())
    }
}

async fn subscribe(arguments: Arguments, received: Received) -> Result<()> {
    let session = open("listen", &arguments).await?;
    let count = move |sample: zenoh::sample::Sample| received.take(sample);
    let _subscriber = session.declare_subscriber(KEY).callback(count).await?;
    std::future::pending().await
}

struct Publications {
    /// A publisher ends with its session.
    _session: Session,
    publisher: Publisher<'static>,
    payload: Vec<u8>,
}

async fn publisher(arguments: Arguments) -> Result<Publications> {
    let session = open("connect", &arguments).await?;
    let publisher = session
        .declare_publisher(KEY)
        .congestion_control(CongestionControl::Block);
    Ok(Publications {
        publisher: publisher.await?,
        _session: session,
        payload: arguments.payload().to_vec(),
    })
}

impl Sender for Publications {
    async fn send(&mut self) -> Result<()> {
        self.publisher.put(&self.payload).await
    }
}
