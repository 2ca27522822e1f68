//! HTTP/1.1 as far as health and metrics need it: one request a connection, each in bounded time
//! and memory.
//!
//! There are [`CONNECTIONS_MAX`] connections at most; when one more comes, the oldest goes. So
//! whoever holds connections open without asking anything keeps nobody else from being answered.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::address::AdminAddress;
use super::pages;
use super::told::Shared;
use crate::observe::admin as observe;
use crate::transport::AsyncStream;

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// How old the oldest connection must be before it goes for a newer one: time enough for a request
/// that is on its way.
const EVICTED_AFTER: Duration = Duration::from_millis(20);
/// Bytes of a request's head, and of an answer that is not written yet.
const HEAD_MAX: usize = 8 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// For a request's head.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// For a connection as a whole.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// After the operating system has let nothing be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// What was bound, before a runtime drives it.
pub(super) enum Bound {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(
        std::os::unix::net::UnixListener,
        crate::transport::SocketFile,
    ),
}

/// Binds; the address as it is then.
pub(super) fn bind(address: &AdminAddress) -> io::Result<(Bound, String)> {
    #[cfg(unix)]
    if let Some(path) = address.path() {
        let listener = crate::transport::bind_unix(path)?;
        let file = crate::transport::SocketFile::new(path.to_owned());
        return Ok((Bound::Unix(listener, file), path.display().to_string()));
    }
    let address = address.socket_address();
    let address = address.ok_or(io::ErrorKind::InvalidInput)?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?.to_string();
    Ok((Bound::Tcp(listener), bound))
}

enum Listener {
    Tcp(tokio::net::TcpListener),
    #[cfg(unix)]
    Unix {
        listener: tokio::net::UnixListener,
        /// Goes with the listener.
        _file: crate::transport::SocketFile,
    },
}

impl Listener {
    fn new(bound: Bound) -> io::Result<Self> {
        Ok(match bound {
            Bound::Tcp(listener) => Self::Tcp(tokio::net::TcpListener::from_std(listener)?),
            #[cfg(unix)]
            Bound::Unix(listener, file) => Self::Unix {
                listener: tokio::net::UnixListener::from_std(listener)?,
                _file: file,
            },
        })
    }

    async fn accept(&self) -> io::Result<Box<dyn AsyncStream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            #[cfg(unix)]
            Self::Unix { listener, .. } => Box::new(listener.accept().await?.0),
        })
    }
}

/// A descriptor that is held back: when the process has none left, it is given for the connection
/// of whoever asks what is wrong.
#[derive(Default)]
pub(super) struct Spare(Option<File>);

impl Spare {
    /// Held from now on.
    pub(super) fn new() -> Self {
        let mut spare = Self::default();
        spare.fill();
        spare
    }

    fn fill(&mut self) {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
    }
}

/// Accepts and answers until it is dropped.
pub(super) async fn serve(bound: Bound, mut spare: Spare, shared: &Arc<Shared>) {
    let listener = match Listener::new(bound) {
        Ok(listener) => listener,
        Err(error) => return observe::cannot_accept(&error),
    };
    let mut connections = Connections::default();
    let mut is_failing = false;
    loop {
        connections.make_room(shared).await;
        spare.fill();
        let accepted = match listener.accept().await {
            // The connection still waits: it can have this descriptor.
            Err(_) if spare.0.take().is_some() => listener.accept().await,
            accepted => accepted,
        };
        match accepted {
            Ok(stream) => {
                shared.counters.accepted();
                connections.add(stream, shared);
                is_failing = false;
                // It is read before the next one is accepted.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    observe::cannot_accept(&error);
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// Those that are open, the oldest first.
#[derive(Default)]
struct Connections(VecDeque<(Instant, AbortHandle)>);

impl Connections {
    /// Lets the oldest go if there are as many as may be.
    async fn make_room(&mut self, shared: &Shared) {
        self.0.retain(|(_, connection)| !connection.is_finished());
        while self.0.len() >= CONNECTIONS_MAX {
            let Some((since, oldest)) = self.0.pop_front() else {
                return;
            };
            sleep_until(since + EVICTED_AFTER).await;
            if !oldest.is_finished() {
                oldest.abort();
                shared.counters.evicted();
            }
        }
    }

    fn add(&mut self, stream: Box<dyn AsyncStream>, shared: &Arc<Shared>) {
        let task = tokio::spawn(connection(stream, Arc::clone(shared)));
        self.0.push_back((Instant::now(), task.abort_handle()));
    }
}

/// Answers one request. A peer that sends nonsense, too much or too slowly is not worth a word.
async fn connection(stream: Box<dyn AsyncStream>, shared: Arc<Shared>) {
    let answer = service_fn(|request| {
        let answer = pages::answer(&shared, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), answer);
    let _ = timeout(CONNECTION_TIME, served).await;
}
