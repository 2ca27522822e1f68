//! Dialling and listening: one interface for every transport, and a registry that users can add to.

mod memory;
mod peer;
#[cfg(unix)]
mod quiet;
mod stream;
mod tcp;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls_absent.rs"]
mod tls;
#[cfg(feature = "tls")]
mod tls_words;
#[cfg(unix)]
mod unix;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

pub use peer::{ConnectionId, PeerInfo, UnixCredentials};
pub use stream::{AsyncStream, Stream};
pub(crate) use stream::{Reader, Writer};
#[cfg(all(unix, feature = "admin"))]
pub(crate) use unix::{SocketFile, bind as bind_unix};

pub use crate::caller::{PeerCertificate, SubjectName};
use crate::endpoint::Endpoint;
pub use crate::error::TransportError;

/// A boxed future: transports are chosen at run time.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A way to carry bytes. Implement it to add a URL scheme; see `examples/own_transport.rs`.
pub trait Transport: Send + Sync + 'static {
    /// Connects to an endpoint. The caller bounds the time; the future may be dropped.
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Stream, TransportError>>;

    /// Binds an endpoint.
    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, TransportError>>;

    /// Checks all of an endpoint that can be checked without using it: its options, the files that
    /// it names.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self, endpoint: &Endpoint, use_as: Use) -> Result<(), TransportError> {
        let _ = (endpoint, use_as);
        Ok(())
    }

    /// What an operator should know of an endpoint that can be used all the same, such as a
    /// certificate that soon expires.
    fn warning(&self, endpoint: &Endpoint) -> Option<String> {
        let _ = endpoint;
        None
    }

    /// Whether bytes cannot be changed on the way unseen, so that frames need no checksum of their
    /// own.
    fn has_integrity(&self) -> bool;
}

/// What an endpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To connect to.
    Dial,
    /// To listen on.
    Listen,
}

/// A bound endpoint.
pub trait Listener: Send {
    /// The next connection. Errors that concern one connection only are not errors of the listener:
    /// it goes on. Cancellation safe.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>>;

    /// The address as the operating system has settled it, such as the port behind `:0`.
    fn local_address(&self) -> String;

    /// What can be read again while it is open, such as certificates; by default nothing.
    fn reload(&self) -> Option<Arc<dyn Reload>> {
        None
    }
}

/// What a listener can read again while it is open. Connections that are open do not notice.
pub trait Reload: Send + Sync {
    /// The files that it is made of: when one of them changes, it is read again.
    fn files(&self) -> Vec<PathBuf>;

    /// Reads it again.
    ///
    /// # Errors
    /// What is wrong with it: then everything stays as it was.
    fn reload(&self) -> io::Result<()>;
}

/// A connection that was accepted, before whatever else its transport needs (a TLS handshake) has
/// been done.
pub struct Incoming {
    /// Who it is, as far as that is known before [`Self::open`]. A certificate is known only
    /// afterwards, and comes with the stream: [`Stream::with_certificate`].
    pub peer: PeerInfo,
    /// Finishes it, on the runtime that will drive it. The caller bounds the time.
    pub open: Box<dyn FnOnce() -> BoxFuture<'static, io::Result<Stream>> + Send>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Transports by URL scheme.
#[derive(Clone)]
pub struct Transports(BTreeMap<String, Arc<dyn Transport>>);

impl Default for Transports {
    /// `tcp`, `unix`, `mem`, and `tls` if that feature is on.
    fn default() -> Self {
        let mut transports = Self(BTreeMap::new());
        transports.register("tcp", tcp::Tcp);
        transports.register("mem", memory::Memory);
        #[cfg(unix)]
        transports.register("unix", unix::Unix);
        transports.register("tls", tls::Tls);
        transports
    }
}

impl Transports {
    /// Adds or replaces the transport of a scheme.
    pub fn register(&mut self, scheme: &str, transport: impl Transport) {
        self.0.insert(scheme.to_owned(), Arc::new(transport));
    }

    /// The transport of an endpoint.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn get(&self, endpoint: &Endpoint) -> Result<&Arc<dyn Transport>, TransportError> {
        self.0
            .get(endpoint.transport())
            .ok_or_else(|| TransportError::UnknownTransport {
                scheme: endpoint.transport().to_owned(),
                known: self.0.keys().cloned().collect::<Vec<_>>().join(", "),
            })
    }
}

impl fmt::Debug for Transports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

fn io_error(action: &'static str, endpoint: &Endpoint, source: io::Error) -> TransportError {
    TransportError::Io {
        action,
        endpoint: endpoint.to_string(),
        source,
    }
}
