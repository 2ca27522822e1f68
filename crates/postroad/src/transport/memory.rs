//! Pipes within one process: `mem://name`, for tests and for services that live together.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::{BoxFuture, Incoming, Listener, PeerInfo, Stream, Transport, Use, io_error};
use crate::endpoint::Endpoint;
use crate::error::TransportError;

/// Bytes that one direction holds before its writer waits.
const PIPE_BYTES: usize = 64 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 128;

type Names = HashMap<String, (u64, mpsc::Sender<DuplexStream>)>;

/// Who listens under which name, in this process.
fn names() -> &'static Mutex<Names> {
    static NAMES: OnceLock<Mutex<Names>> = OnceLock::new();
    NAMES.get_or_init(Mutex::default)
}

#[derive(Debug)]
pub(super) struct Memory;

impl Memory {
    async fn connect(name: &str) -> io::Result<Stream> {
        let refused = || {
            io::Error::new(
                io::ErrorKind::ConnectionRefused,
                "nobody listens under this name",
            )
        };
        let sender = {
            let names = names().lock().unwrap_or_else(PoisonError::into_inner);
            names
                .get(name)
                .map(|(_, sender)| sender.clone())
                .ok_or_else(refused)?
        };
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        sender.send(theirs).await.map_err(|_| refused())?;
        Ok(Stream::new(ours))
    }
}

impl Transport for Memory {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Stream, TransportError>> {
        Box::pin(async move {
            let stream = Self::connect(endpoint.address()).await;
            stream.map_err(|error| io_error("connect to", endpoint, error))
        })
    }

    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, TransportError>> {
        Box::pin(async move {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let name = endpoint.address().to_owned();
            let (sender, receiver) = mpsc::channel(BACKLOG);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let mut names = names().lock().unwrap_or_else(PoisonError::into_inner);
            if names.contains_key(&name) {
                let taken = io::Error::new(io::ErrorKind::AddrInUse, "the name is taken");
                return Err(io_error("listen on", endpoint, taken));
            }
            names.insert(name.clone(), (number, sender));
            Ok(Box::new(Bound {
                name,
                number,
                receiver,
            }) as Box<dyn Listener>)
        })
    }

    fn check(&self, endpoint: &Endpoint, _use_as: Use) -> Result<(), TransportError> {
        endpoint.check_options(&[])
    }

    fn has_integrity(&self) -> bool {
        true
    }
}

struct Bound {
    name: String,
    number: u64,
    receiver: mpsc::Receiver<DuplexStream>,
}

impl Drop for Bound {
    fn drop(&mut self) {
        let mut names = names().lock().unwrap_or_else(PoisonError::into_inner);
        if names
            .get(&self.name)
            .is_some_and(|(number, _)| *number == self.number)
        {
            names.remove(&self.name);
        }
    }
}

impl Listener for Bound {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        Box::pin(async {
            // The registry keeps a sender while this listener lives, so the channel does not end.
            match self.receiver.recv().await {
                Some(stream) => Ok(Incoming {
                    peer: PeerInfo::named(format!("mem:{}", self.name)),
                    open: Box::new(move || Box::pin(async move { Ok(Stream::new(stream)) })),
                }),
                None => std::future::pending().await,
            }
        })
    }

    fn local_address(&self) -> String {
        self.name.clone()
    }
}
