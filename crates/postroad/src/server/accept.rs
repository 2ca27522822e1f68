//! From a listener to driven connections.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::session::{CloseReason, Config, Session, Shortage};

use super::addresses::Counted;
use super::gate::{Gate, Standing};
use super::run_queue::RunQueue;
use super::start::Dispatcher;
use super::{ServerConfig, Shared};
use crate::clock;
use crate::driver::{Connection, ConnectionDriver};
use crate::endpoint::{Endpoint, Protocol};
use crate::observe::{connections, node};
use crate::transport::{BoxFuture, Incoming, Listener, Stream};

/// First and longest pause after the operating system refused to accept (too many open files).
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Connections beyond the bound that are told so at once; more than these are closed without a
/// word.
const TOLD_MAX: usize = 64;

/// What the connections of one listener share that were accepted under one configuration.
struct Listening {
    shared: Arc<Shared>,
    endpoint: Arc<Endpoint>,
    has_integrity: bool,
    server: Arc<ServerConfig>,
    config: Arc<Config>,
}

impl Listening {
    fn new(shared: &Arc<Shared>, endpoint: &Arc<Endpoint>, has_integrity: bool) -> Arc<Self> {
        let server = shared.config.now();
        let mut config = server.connection.session(has_integrity);
        if server.identity.jwt.is_some() {
            (config.accepts_credentials, config.judges_credentials) = (true, true);
        }
        Arc::new(Self {
            shared: Arc::clone(shared),
            endpoint: Arc::clone(endpoint),
            has_integrity,
            config: Arc::new(config),
            server,
        })
    }

    /// The same, or another if the configuration has changed since.
    fn renewed(self: Arc<Self>) -> Arc<Self> {
        match Arc::ptr_eq(&self.server, &self.shared.config.now()) {
            true => self,
            false => Self::new(&self.shared, &self.endpoint, self.has_integrity),
        }
    }
}

/// Accepts until it is aborted.
pub(super) async fn accept(
    shared: Arc<Shared>,
    endpoint: Endpoint,
    mut listener: Box<dyn Listener>,
    has_integrity: bool,
) {
    let endpoint = &Arc::new(endpoint);
    let mut listening = Listening::new(&shared, endpoint, has_integrity);
    let mut pause = PAUSE_MIN;
    loop {
        let incoming = match next(listener.as_mut(), &shared, &mut pause).await {
            Ok(incoming) => incoming,
            Err(error) if is_about_one_connection(&error) => continue,
            Err(error) => {
                node::cannot_accept(&shared.counters, endpoint, &error, pause);
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
        listening = listening.renewed();
        let (counted, shortage) = match listening.find_room(&incoming) {
            Room::Found(counted) => (counted, None),
            Room::None(counted, shortage) => (counted, Some(shortage)),
            Room::NotEvenForWords => continue,
        };
        node::accepted(&shared.counters);
        let reactor = shared.reactors.next();
        let queue = Arc::clone(reactor.queue);
        let opening = Arc::clone(&listening).open(incoming, shortage, queue, clock::now());
        let served = Served {
            stage: Stage::Opening(Opening {
                future: Box::pin(opening),
                gate: Arc::clone(reactor.gate),
                standing: Standing::New,
            }),
            counted,
        };
        reactor.run(served).await;
    }
}

/// The next connection. A listener that has failed, and waits for one without failing again, is
/// well: the system takes descriptors before it looks whether anybody waits, so also one that
/// nobody has called may have failed, and nobody need ever call.
async fn next(
    listener: &mut dyn Listener,
    shared: &Shared,
    pause: &mut Duration,
) -> io::Result<Incoming> {
    let mut accepting = listener.accept();
    if *pause > PAUSE_MIN {
        match tokio::time::timeout(*pause, &mut accepting).await {
            Ok(accepted) => return accepted,
            Err(_) => {
                shared.recover();
                *pause = PAUSE_MIN;
            }
        }
    }
    accepting.await
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

/// What there is for a connection that comes.
enum Room {
    Found(Open),
    /// None, which it is told.
    None(Open, Shortage),
    /// None, and too many are being told already.
    NotEvenForWords,
}

/// Counts a connection as open while it lives.
struct Open {
    listening: Arc<Listening>,
    /// Among those of its address, if it has one. On its own memory, because Unix sockets have
    /// none.
    _address: Option<Box<Counted>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.listening.count(|open| *open -= 1);
    }
}

/// A connection: opened, then driven to its end. Written by hand, because every open connection
/// holds one.
struct Served {
    stage: Stage,
    counted: Open,
}

enum Stage {
    /// What this takes is given back before the connection is driven.
    Opening(Opening),
    Driving(ConnectionDriver),
}

/// A connection that is being opened, a step at a time.
struct Opening {
    future: BoxFuture<'static, Option<ConnectionDriver>>,
    gate: Arc<Gate>,
    standing: Standing,
}

impl Opening {
    /// Makes a step as soon as the reactor has time for it. What comes out is `None` if the
    /// connection could not be opened.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<ConnectionDriver>> {
        // The real time: what is shared is the processor's, which a paused clock does not stop.
        let begin = clock::real();
        if !self.gate.enter(cx, begin, &mut self.standing) {
            return Poll::Pending;
        }
        self.standing = Standing::New;
        let polled = self.future.as_mut().poll(cx);
        let end = clock::real();
        self.gate.leave(end, end.since(begin));
        polled
    }
}

impl Future for Served {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Stage::Opening(opening) = &mut self.stage {
            let Some(driver) = ready!(opening.poll(cx)) else {
                return Poll::Ready(());
            };
            self.stage = Stage::Driving(driver);
        }
        let Self { stage, counted } = &mut *self;
        if let Stage::Driving(driver) = stage {
            let reason = ready!(Pin::new(&mut *driver).poll(cx));
            counted.listening.observe_end(driver.connection(), &reason);
        }
        Poll::Ready(())
    }
}

impl Drop for Served {
    /// A connection is in the server's list while it is driven, also if its driver panics.
    fn drop(&mut self) {
        if let Stage::Driving(driver) = &self.stage {
            self.counted.listening.shared.leave(driver.connection());
        }
    }
}

impl Listening {
    /// Changes the number of open connections.
    fn count(&self, change: impl FnOnce(&mut usize)) {
        self.shared.open.send_modify(|open| {
            change(open);
            self.shared.counters.held.set_open(*open);
        });
    }

    /// Finds room for a connection, and counts it.
    fn find_room(self: &Arc<Self>, incoming: &Incoming) -> Room {
        let (shared, server) = (&self.shared, &self.server);
        let open = *shared.open.borrow();
        let address = incoming.peer.socket_address();
        let (address, of_address) = address
            .map(|address| shared.addresses.enter(address))
            .unzip();
        let of_address_max = server.max_connections_per_address.unwrap_or(usize::MAX);
        let shortage = if open >= server.max_connections {
            Some(Shortage::Connections)
        } else if of_address.is_some_and(|many| many > of_address_max) {
            Some(Shortage::Address)
        } else if shared.counters.held.is_over() {
            Some(Shortage::Memory)
        } else {
            None
        };
        if let Some(shortage) = shortage {
            let peer = &incoming.peer;
            node::turned_away(&shared.counters, &self.endpoint, peer, shortage, open);
        }
        let is_beyond = |many: usize, max: usize| many >= max.saturating_add(TOLD_MAX);
        if is_beyond(open, server.max_connections)
            || of_address.is_some_and(|many| is_beyond(many, of_address_max))
        {
            return Room::NotEvenForWords;
        }
        self.count(|open| *open += 1);
        let counted = Open {
            listening: Arc::clone(self),
            _address: address.map(Box::new),
        };
        match shortage {
            None => Room::Found(counted),
            Some(shortage) => Room::None(counted, shortage),
        }
    }

    /// Opens a connection that was accepted at `begin`, unless that fails or takes too long.
    async fn open(
        self: Arc<Self>,
        incoming: Incoming,
        shortage: Option<Shortage>,
        queue: Arc<RunQueue>,
        begin: Time,
    ) -> Option<ConnectionDriver> {
        let Self {
            shared, endpoint, ..
        } = &*self;
        let Incoming { mut peer, open } = incoming;
        peer.arrived_at(endpoint);
        let mut stream = match self.handshake(open, begin).await {
            Ok(stream) => stream,
            Err(error) => {
                connections::handshake_failed(&shared.counters, endpoint, &peer, &error);
                return None;
            }
        };
        peer.certified_by(stream.take_certificate());
        // TLS, detection and opening share one time.
        let mut session = self.session(begin);
        if let Some(shortage) = shortage {
            session.turn_away(clock::now(), shortage);
        }
        let dispatch = Arc::clone(&shared.routes.dispatch);
        let service = Box::new(Dispatcher::new(dispatch, queue));
        let preset = self.server.connection.preset;
        let counters = Arc::clone(&shared.counters);
        let driver = ConnectionDriver::server(stream, session, peer, service, counters, preset);
        let connection = driver.connection();
        shared.enter(connection);
        // A shutdown that began meanwhile has not seen this connection.
        if shared.is_dropped() {
            connection.close(CloseReason::Local);
        } else if shared.is_draining() {
            connection.drain(shared.config.now().drain);
        }
        Some(driver)
    }

    /// What has to be done before the first byte of a protocol: with TLS, its handshake. All of
    /// the opening has to be done within one time, in which the connection may have had to wait for
    /// its turn.
    async fn handshake(
        &self,
        open: impl FnOnce() -> BoxFuture<'static, io::Result<Stream>>,
        begin: Time,
    ) -> io::Result<Stream> {
        let end = begin + self.server.connection.handshake;
        // One that has waited too long is not worth its handshake any more.
        if clock::now() >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let opened = tokio::time::timeout_at(clock::instant(end), open()).await;
        opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The session of a connection that began then.
    fn session(&self, begin: Time) -> Session {
        let (config, endpoint) = (Arc::clone(&self.config), &self.endpoint);
        let (dialect, id) = (
            endpoint.dialect(config.limits.max_dialect_payload),
            rand::random(),
        );
        match (endpoint.protocol(), dialect) {
            (Protocol::Dialect(_), Some(dialect)) => {
                Session::dialect_server(config, dialect, begin)
            }
            (Protocol::Auto, _) => {
                Session::detect(config, Arc::clone(endpoint.mapping()), id, begin)
            }
            _ => Session::server(config, id, begin),
        }
    }

    fn observe_end(&self, connection: &Connection, reason: &CloseReason) {
        let counters = &self.shared.counters;
        let protocol = connection.protocol();
        connections::closed(counters, &self.endpoint, &connection.peer, protocol, reason);
    }
}
