//! TCP: no delay, keepalive, a short queue in the kernel.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream, lookup_host};

use super::{BoxFuture, Incoming, Listener, Stream, Transport, Use, io_error};
use crate::endpoint::Endpoint;
use crate::error::TransportError;

/// Connections that the kernel queues before they are accepted.
const BACKLOG: u32 = 4096;
/// Silence after which the kernel probes: dead peers of dialects without heartbeats are found by
/// it.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Bytes that the kernel takes before those it has are sent.
#[cfg(target_os = "linux")]
const NOT_SENT_MAX: u32 = 64 * 1024;

#[derive(Debug)]
pub(super) struct Tcp;

/// The address needs a port; whether the name has an address is known only when it is used.
pub(super) fn check_address(endpoint: &Endpoint) -> Result<(), TransportError> {
    if let Some((host, port)) = endpoint.address().rsplit_once(':')
        && !host.is_empty()
        && !host.contains(char::is_whitespace)
        && port.parse::<u16>().is_ok()
    {
        return Ok(());
    }
    let detail = "an address is HOST:PORT, with a port from 0 to 65535".to_owned();
    Err(TransportError::Endpoint {
        url: endpoint.to_string(),
        detail,
    })
}

/// Sets what every connection has.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 6);
    let socket = SockRef::from(stream);
    // What the kernel has queued, no urgent message can overtake.
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(NOT_SENT_MAX)?;
    socket.set_tcp_keepalive(&keepalive)
}

pub(super) async fn connect(endpoint: &Endpoint) -> Result<TcpStream, TransportError> {
    let connect = async {
        let stream = TcpStream::connect(endpoint.address()).await?;
        tune(&stream)?;
        Ok(stream)
    };
    connect
        .await
        .map_err(|error| io_error("connect to", endpoint, error))
}

pub(super) async fn bind(endpoint: &Endpoint) -> Result<TcpListener, TransportError> {
    let bind = async {
        let addresses: Vec<SocketAddr> = lookup_host(endpoint.address()).await?.collect();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match bind_one(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    bind.await
        .map_err(|error| io_error("listen on", endpoint, error))
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    // A server that was killed can be started again at once, though its old connections linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts, and goes on when one connection fails.
pub(super) async fn accept(
    listener: &TcpListener,
) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    let (stream, peer) = listener.accept().await?;
    tune(&stream)?;
    // The reactor that will drive it registers it.
    Ok((stream.into_std()?, peer))
}

pub(super) fn local_address(listener: &TcpListener) -> String {
    listener
        .local_addr()
        .map(|address| address.to_string())
        .unwrap_or_default()
}

impl Transport for Tcp {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Stream, TransportError>> {
        Box::pin(async move { connect(endpoint).await.map(Stream::from) })
    }

    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, TransportError>> {
        Box::pin(async move {
            let listener = bind(endpoint).await?;
            Ok(Box::new(Bound(listener)) as Box<dyn Listener>)
        })
    }

    fn check(&self, endpoint: &Endpoint, _use_as: Use) -> Result<(), TransportError> {
        endpoint.check_options(&[])?;
        check_address(endpoint)
    }

    fn has_integrity(&self) -> bool {
        // Sixteen bits over a network card's offload are not one.
        false
    }
}

struct Bound(TcpListener);

impl Listener for Bound {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        Box::pin(async {
            let (stream, peer) = accept(&self.0).await?;
            Ok(Incoming {
                peer: peer.into(),
                open: Box::new(move || {
                    Box::pin(async move { TcpStream::from_std(stream).map(Stream::from) })
                }),
            })
        })
    }

    fn local_address(&self) -> String {
        local_address(&self.0)
    }
}
