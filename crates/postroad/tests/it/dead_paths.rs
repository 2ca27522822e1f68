//! A path that swallows everything while both ends keep their sockets: it says nothing, so only
//! heartbeats find it out.

use std::future::pending;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use postroad::transport::{
    BoxFuture, Incoming, Listener, PeerInfo, Stream, Transport, TransportError, Transports,
};
use postroad::{Client, ClientConfig, ConnectionState, Endpoint, Router, Server, ServerConfig};
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::support::{DIALECTS, Tested, echo_route};

const HEARTBEAT: Duration = Duration::from_secs(10);
/// What a wakeup may come late, by the granularity of timers.
const TICK: Duration = Duration::from_millis(50);

/// A relay between client and server.
struct Relay {
    dialled: mpsc::Sender<DuplexStream>,
    accepted: Mutex<Option<mpsc::Receiver<DuplexStream>>>,
    /// When this changes, the connections that there are carry nothing any more; later ones do.
    swallows: watch::Receiver<()>,
}

impl Relay {
    fn new() -> (Self, watch::Sender<()>) {
        let (dialled, accepted) = mpsc::channel(8);
        let (swallow, swallows) = watch::channel(());
        let accepted = Mutex::new(Some(accepted));
        let relay = Self {
            dialled,
            accepted,
            swallows,
        };
        (relay, swallow)
    }
}

/// Forwards until it is told to swallow, and then keeps both ends open.
async fn forward(mut near: DuplexStream, mut far: DuplexStream, mut swallows: watch::Receiver<()>) {
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => {}
        _ = swallows.changed() => pending().await,
    }
}

impl Transport for Relay {
    fn dial<'a>(
        &'a self,
        _endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Stream, TransportError>> {
        Box::pin(async {
            let (client, near) = duplex(64 * 1024);
            let (far, server) = duplex(64 * 1024);
            let mut swallows = self.swallows.clone();
            swallows.mark_unchanged();
            tokio::spawn(forward(near, far, swallows));
            self.dialled.send(server).await.expect("the server listens");
            Ok(Stream::new(client))
        })
    }

    fn listen<'a>(
        &'a self,
        _endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, TransportError>> {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let accepted = accepted.take().expect("one server listens");
        Box::pin(async { Ok(Box::new(Bound(accepted)) as Box<dyn Listener>) })
    }

    fn has_integrity(&self) -> bool {
        true
    }
}

struct Bound(mpsc::Receiver<DuplexStream>);

impl Listener for Bound {
    fn accept(&mut self) -> BoxFuture<'_, std::io::Result<Incoming>> {
        Box::pin(async {
            let Some(stream) = self.0.recv().await else {
                return pending().await;
            };
            Ok(Incoming {
                peer: PeerInfo::named("relay"),
                open: Box::new(move || Box::pin(async { Ok(Stream::new(stream)) })),
            })
        })
    }

    fn local_address(&self) -> String {
        "relay".to_owned()
    }
}

/// How long a client of this protocol takes to notice that its path swallows everything, and
/// whether it is back on a new connection. `busy` calls are made in each heartbeat meanwhile, with
/// this time each.
async fn noticed_after(dialect: Option<&str>, busy: u32, timeout: Duration) -> Tested<Duration> {
    let (relay, swallow) = Relay::new();
    let mut transports = Transports::default();
    transports.register("relay", relay);
    let scheme = dialect.map_or("relay".to_owned(), |dialect| format!("relay+{dialect}"));
    let endpoint: Endpoint = format!("{scheme}://r?route=postroad/echo").parse()?;
    let mut server = ServerConfig::default();
    server.connection.heartbeat = HEARTBEAT;
    let server = Server::new(Router::new())
        .config(server)
        .transports(transports.clone())
        .listen(endpoint.clone());
    let server = server.start().await?;
    let mut config = ClientConfig::default();
    config.connection.heartbeat = HEARTBEAT;
    let client = Client::with_transports(endpoint.into(), config, &transports)?;
    let route = echo_route(dialect);
    client.request(route).call_raw("x").await?;
    // Not at a beat, and after several that went well.
    tokio::time::sleep(HEARTBEAT * 5 / 2).await; // tidy: paused clock
    let mut state = client.state();
    assert_eq!(*state.borrow_and_update(), ConnectionState::Connected);

    swallow.send(())?;
    let begin = Instant::now();
    let caller = client.clone();
    let calls = tokio::spawn(async move {
        loop {
            if busy > 0 {
                let caller = caller.clone();
                tokio::spawn(async move {
                    drop(caller.request(route).timeout(timeout).call_raw("x").await);
                });
            }
            tokio::time::sleep(HEARTBEAT / busy.max(1)).await; // tidy: paused clock
        }
    });
    drop(
        state
            .wait_for(|state| *state != ConnectionState::Connected)
            .await?,
    );
    let noticed = begin.elapsed();
    calls.abort();
    drop(
        state
            .wait_for(|state| *state == ConnectionState::Connected)
            .await?,
    );
    assert_eq!(client.request(route).call_raw("again").await?, "again");
    server.shutdown().await;
    Ok(noticed)
}

fn protocols() -> impl Iterator<Item = Option<&'static str>> {
    std::iter::once(None).chain(DIALECTS.map(Some))
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_of_each_protocol_notices_within_three_heartbeats() -> Tested {
    for dialect in protocols() {
        let noticed = noticed_after(dialect, 0, HEARTBEAT).await?;
        assert!(noticed <= 3 * HEARTBEAT + TICK, "{dialect:?}: {noticed:?}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_busy_client_of_each_protocol_notices_within_three_heartbeats() -> Tested {
    for dialect in protocols() {
        for busy in [1, 8] {
            let patience = 100 * HEARTBEAT;
            // Where answers come in turn, a call without an answer is a sign of a dead path only
            // when its time is up.
            let in_turn = matches!(dialect, Some("line" | "opcode" | "compact"));
            let (timeout, bound) = match in_turn {
                true => (HEARTBEAT, HEARTBEAT + 3 * HEARTBEAT),
                false => (patience, 3 * HEARTBEAT),
            };
            let noticed = noticed_after(dialect, busy, timeout).await?;
            assert!(noticed <= bound + TICK, "{dialect:?}: {noticed:?}");
        }
    }
    Ok(())
}
