//! From a listener to driven connections.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use postroad_proto::session::{CloseReason, Config, Session};

use super::Shared;
use super::dispatch::Dispatcher;
use super::stats::count;
use crate::clock;
use crate::driver::ConnectionDriver;
use crate::endpoint::{Endpoint, Protocol};
use crate::transport::{Incoming, Listener};

/// First and longest pause after the operating system refused to accept (too many open files).
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Connections beyond the bound that are told so at once; more than these are closed without a
/// word.
const TOLD_MAX: usize = 64;

/// Accepts until it is aborted.
pub(super) async fn accept(
    shared: Arc<Shared>,
    endpoint: Endpoint,
    mut listener: Box<dyn Listener>,
    has_integrity: bool,
) {
    let endpoint = Arc::new(endpoint);
    let mut pause = PAUSE_MIN;
    let mut is_full = false;
    loop {
        let incoming = match listener.accept().await {
            Ok(incoming) => incoming,
            Err(error) if is_about_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(
                    target: "postroad::server", %endpoint, %error, ?pause, "cannot accept; pausing"
                );
                shared.fail();
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                continue;
            }
        };
        if pause > PAUSE_MIN {
            shared.recover();
        }
        pause = PAUSE_MIN;
        let open = *shared.open.borrow();
        let is_over = open >= shared.config.max_connections;
        if is_over {
            count(&shared.counters.turned_away, 1);
            if !is_full {
                tracing::warn!(
                    target: "postroad::server", %endpoint, open,
                    "too many connections; turning new ones away"
                );
            }
        }
        is_full = is_over;
        if open >= shared.config.max_connections.saturating_add(TOLD_MAX) {
            continue;
        }
        count(&shared.counters.accepted, 1);
        shared.open.send_modify(|open| *open += 1);
        let guard = Open(Arc::clone(&shared));
        let task = serve(
            guard,
            Arc::clone(&endpoint),
            incoming,
            has_integrity,
            is_over,
        );
        shared.reactors.run(task).await;
    }
}

/// The peer was gone before it was accepted: no reason to pause.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected,
    };
    let kinds = [
        ConnectionAborted,
        ConnectionRefused,
        ConnectionReset,
        NotConnected,
        InvalidInput,
    ];
    kinds.contains(&error.kind())
}

/// Counts a connection as open while it lives.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

/// What the driving of a connection needs of its beginning.
struct Served {
    guard: Open,
    endpoint: Arc<Endpoint>,
    key: u64,
}

impl Drop for Served {
    /// A connection is in the server's list while it is driven, also if its driver panics.
    fn drop(&mut self) {
        self.guard.0.leave(self.key);
    }
}

/// Opens a connection; what that takes is given back before it is driven.
async fn serve(
    guard: Open,
    endpoint: Arc<Endpoint>,
    incoming: Incoming,
    has_integrity: bool,
    is_over: bool,
) {
    let shared = &guard.0;
    let Incoming { peer, open } = incoming;
    let begin = clock::now();
    let stream = match tokio::time::timeout(shared.config.handshake, open()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            shared.counters.closed("handshake", "transport");
            tracing::warn!(
                target: "postroad::connection", %endpoint, peer, %error, "handshake failed"
            );
            return;
        }
        Err(_) => {
            shared.counters.closed("handshake", "timeout");
            tracing::warn!(target: "postroad::connection", %endpoint, peer, "handshake timed out");
            return;
        }
    };
    // TLS, detection and opening share one time.
    let left = shared
        .config
        .handshake
        .saturating_sub(clock::now().since(begin));
    let mut session = session(shared, &endpoint, has_integrity, left);
    if is_over {
        session.turn_away(clock::now());
    }
    let service = Box::new(Dispatcher::new(Arc::clone(&shared.dispatch)));
    let preset = shared.config.preset;
    let driver = ConnectionDriver::server(stream, session, peer, service, preset);
    let connection = driver.connection();
    let key = shared.enter(connection);
    // A shutdown that began meanwhile has not seen this connection.
    if shared.is_dropped() {
        connection.close(CloseReason::Local);
    } else if shared.is_ending() {
        connection.drain(shared.config.drain);
    }
    let served = Served {
        guard,
        endpoint,
        key,
    };
    tokio::spawn(drive(driver, served));
}

/// Drives a connection to its end.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice"
)]
fn drive(mut driver: ConnectionDriver, served: Served) -> impl Future<Output = ()> {
    async move {
        let reason = (&mut driver).await;
        let connection = driver.connection();
        let protocol = connection.protocol();
        served.guard.0.counters.closed(protocol, reason.word());
        log_end(&served.endpoint, &connection.peer, protocol, &reason);
    }
}

fn session(
    shared: &Shared,
    endpoint: &Endpoint,
    has_integrity: bool,
    handshake: Duration,
) -> Session {
    let config = Config {
        handshake,
        ..shared.config.session(has_integrity)
    };
    let now = clock::now();
    match endpoint.protocol() {
        Protocol::Native => Session::server(config, now),
        Protocol::Auto => Session::detect(config, Arc::clone(endpoint.mapping()), now),
        Protocol::Dialect(_) => match endpoint.dialect(config.limits.max_dialect_payload) {
            Some(dialect) => Session::dialect_server(config, dialect, now),
            None => Session::server(config, now),
        },
    }
}

/// Once a connection, and loudly only where the peer is to blame.
fn log_end(endpoint: &Endpoint, peer: &str, protocol: &str, reason: &CloseReason) {
    let is_ordinary = matches!(
        reason,
        CloseReason::Peer | CloseReason::Drained | CloseReason::Local | CloseReason::TurnedAway
    );
    if is_ordinary {
        tracing::debug!(
            target: "postroad::connection", %endpoint, peer, protocol, %reason, "closed"
        );
    } else {
        tracing::warn!(
            target: "postroad::connection", %endpoint, peer, protocol, %reason, "closed"
        );
    }
}
