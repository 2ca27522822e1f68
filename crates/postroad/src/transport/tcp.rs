//! TCP: no delay, keepalive, a short queue in the kernel.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::task::JoinSet;

use super::{BoxFuture, Incoming, Listener, Stream, Transport, Use, io_error};
use crate::endpoint::Endpoint;
use crate::error::TransportError;

/// Connections that the kernel queues before they are accepted.
const BACKLOG: u32 = 4096;
/// Silence after which the kernel probes: dead peers of dialects without heartbeats are found by
/// it.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long an address of a name may not answer before the next one is tried beside it (RFC 8305,
/// section 5).
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// Addresses of a name that one attempt tries.
const ADDRESSES_MAX: usize = 16;

/// Bytes that the kernel takes before those it has are sent.
#[cfg(target_os = "linux")]
const NOT_SENT_MAX: u32 = 64 * 1024;

#[derive(Debug)]
pub(super) struct Tcp;

/// The address needs a port; whether the name has an address is known only when it is used.
pub(super) fn check_address(endpoint: &Endpoint) -> Result<(), TransportError> {
    let Err(detail) = split(endpoint.address()) else {
        return Ok(());
    };
    Err(TransportError::Endpoint {
        url: endpoint.to_string(),
        detail,
    })
}

/// Host and port of an address; the host without the brackets of an IPv6 address.
pub(super) fn split(address: &str) -> Result<(&str, u16), String> {
    let wrong = || "an address is HOST:PORT, with a port from 0 to 65535".to_owned();
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse::<u16>().map_err(|_| wrong())?;
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']').ok_or_else(wrong)?,
        // Where its port begins could only be guessed.
        None if host.contains(':') => {
            return Err(format!(
                "an IPv6 address stands in brackets: [{host}]:{port}"
            ));
        }
        None => host,
    };
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(wrong());
    }
    Ok((host, port))
}

/// The addresses of a name, in the order in which they are tried: that of the resolver, but with
/// the families in turn, so that one family that does not work holds up only every other attempt
/// (RFC 8305, section 4).
async fn look_up(address: &str) -> io::Result<Vec<SocketAddr>> {
    let wrong = |detail| io::Error::new(io::ErrorKind::InvalidInput, detail);
    let (host, port) = split(address).map_err(wrong)?;
    // A zone may be written as in a URI, where the percent sign is escaped (RFC 6874).
    let host = host.replacen("%25", "%", 1);
    let found: Vec<_> = lookup_host((host.as_str(), port)).await?.collect();
    Ok(interleave(found))
}

fn interleave(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = found.first() else {
        return found;
    };
    let is_first = first.is_ipv4();
    let (mut ours, mut others): (VecDeque<_>, VecDeque<_>) = found
        .into_iter()
        .partition(|address| address.is_ipv4() == is_first);
    let mut all = Vec::new();
    while let Some(address) = ours.pop_front().or_else(|| others.pop_front()) {
        all.push(address);
        all.extend(others.pop_front());
    }
    all
}

/// Connects to the first of these addresses that answers.
///
/// Each is tried when those before it have failed or have not answered within [`NEXT_AFTER`]; they
/// are not given up, so the one that answers first wins. Dropping the future drops all attempts.
async fn first_of(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut addresses = addresses.into_iter().take(ADDRESSES_MAX);
    let mut attempts = JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        let is_last = match addresses.next() {
            Some(address) => {
                attempts.spawn(TcpStream::connect(address));
                false
            }
            None => true,
        };
        let ended = if is_last {
            attempts.join_next().await
        } else {
            match tokio::time::timeout(NEXT_AFTER, attempts.join_next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => last = error,
            Some(Err(error)) => last = io::Error::other(error),
            None => return Err(last),
        }
    }
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
        let addresses = look_up(endpoint.address()).await?;
        let stream = match addresses[..] {
            // The usual case needs no task.
            [address] => TcpStream::connect(address).await?,
            _ => first_of(addresses).await?,
        };
        tune(&stream)?;
        Ok(stream)
    };
    connect
        .await
        .map_err(|error| io_error("connect to", endpoint, error))
}

pub(super) async fn bind(endpoint: &Endpoint) -> Result<TcpListener, TransportError> {
    let bind = async {
        let addresses = look_up(endpoint.address()).await?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match bind_one(address, endpoint.is_ipv6_only()) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    bind.await
        .map_err(|error| io_error("listen on", endpoint, error))
}

fn bind_one(address: SocketAddr, is_ipv6_only: bool) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    // A server that was killed can be started again at once, though its old connections linger.
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // `[::]` takes IPv4 too, whatever the system's default is, unless another listener does.
        SockRef::from(&socket).set_only_v6(is_ipv6_only)?;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port_and_ipv6_stands_in_brackets() {
        assert_eq!(split("localhost:7400"), Ok(("localhost", 7400)));
        assert_eq!(split("[::1]:0"), Ok(("::1", 0)));
        assert_eq!(split("[fe80::1%eth0]:1"), Ok(("fe80::1%eth0", 1)));
        let refused = split("::1:7400").unwrap_err();
        assert!(refused.contains("[::1]:7400"), "{refused}");
        for wrong in [
            "", "h", "h:", ":1", "[::1]", "[::1:1", "[]:1", "h:65536", "a b:1",
        ] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_zone_is_understood_in_both_spellings_and_by_name_or_number() {
        // The loopback interface is there on every machine, under its number at least.
        for address in ["[fe80::77%1]:7403", "[fe80::77%251]:7403"] {
            let found = look_up(address).await.expect(address);
            assert!(
                matches!(found[..], [SocketAddr::V6(v6)] if v6.scope_id() == 1),
                "{found:?}"
            );
        }
    }

    #[test]
    fn the_families_of_a_names_addresses_take_turns() {
        let parse = |all: [&str; 5]| all.map(|text| text.parse::<SocketAddr>().expect(text));
        let found = parse(["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]);
        let tried = parse(["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]);
        assert_eq!(interleave(found.to_vec()), tried);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_address_that_does_not_answer_holds_the_next_up_for_a_fraction_of_a_second() {
        // A listener whose queue is full drops what comes, as a firewall does.
        let silent = tokio::net::TcpSocket::new_v4().expect("a socket");
        silent
            .bind("127.0.0.1:0".parse().expect("an address"))
            .expect("a port");
        let silent = silent.listen(1).expect("it listens");
        let address = silent.local_addr().expect("an address");
        let mut filling = Vec::new();
        loop {
            let one = TcpStream::connect(address);
            match tokio::time::timeout(Duration::from_millis(200), one).await {
                Ok(stream) => filling.push(stream),
                Err(_) => break,
            }
        }
        let good = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let good_address = good.local_addr().expect("an address");
        let begin = tokio::time::Instant::now();
        let stream = first_of(vec![address, good_address])
            .await
            .expect("one of them answers");
        assert_eq!(stream.peer_addr().expect("it is connected"), good_address);
        let took = begin.elapsed();
        assert!(
            took >= NEXT_AFTER && took < Duration::from_secs(1),
            "{took:?}"
        );

        // One that refuses holds nothing up.
        let refusing = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let refused = refusing.local_addr().expect("an address");
        drop(refusing);
        let begin = tokio::time::Instant::now();
        first_of(vec![refused, good_address])
            .await
            .expect("one answers");
        assert!(begin.elapsed() < NEXT_AFTER);
    }
}
