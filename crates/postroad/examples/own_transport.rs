//! A transport of one's own under a scheme of one's own: here TCP that counts its connections.
//! `cargo run -p postroad --example own_transport`.

use std::sync::atomic::{AtomicU64, Ordering};

use postroad::transport::TransportError;
use postroad::transport::{BoxFuture, Incoming, Listener, Stream, Transport, Transports};
use postroad::{Client, ClientConfig, Endpoint, Router, Server};
use tokio::net::{TcpListener, TcpStream};

static DIALLED: AtomicU64 = AtomicU64::new(0);

/// TCP, counted.
struct Counted;

fn failed(endpoint: &Endpoint, source: std::io::Error) -> TransportError {
    TransportError::Io {
        action: "use",
        endpoint: endpoint.to_string(),
        source,
    }
}

impl Transport for Counted {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Stream, TransportError>> {
        Box::pin(async move {
            DIALLED.fetch_add(1, Ordering::Relaxed);
            let stream = TcpStream::connect(endpoint.address()).await;
            stream
                .map(Stream::from)
                .map_err(|error| failed(endpoint, error))
        })
    }

    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, TransportError>> {
        Box::pin(async move {
            let listener = TcpListener::bind(endpoint.address()).await;
            let listener = listener.map_err(|error| failed(endpoint, error))?;
            Ok(Box::new(Bound(listener)) as Box<dyn Listener>)
        })
    }

    fn has_integrity(&self) -> bool {
        false
    }
}

struct Bound(TcpListener);

impl Listener for Bound {
    fn accept(&mut self) -> BoxFuture<'_, std::io::Result<Incoming>> {
        Box::pin(async {
            let (stream, peer) = self.0.accept().await?;
            let open = Box::new(move || {
                Box::pin(async move { Ok(Stream::from(stream)) }) as BoxFuture<'static, _>
            });
            Ok(Incoming {
                peer: peer.into(),
                open,
            })
        })
    }

    fn local_address(&self) -> String {
        self.0
            .local_addr()
            .map(|address| address.to_string())
            .unwrap_or_default()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut transports = Transports::default();
    transports.register("counted", Counted);
    let server = Server::new(Router::new()).transports(transports.clone());
    let server = server
        .listen("counted://127.0.0.1:0".parse()?)
        .start()
        .await?;
    let endpoint = format!("counted://{}", server.addresses()[0]).parse()?;
    let client = Client::with_transports(endpoint, ClientConfig::default(), &transports)?;
    let answer = client.request("postroad/echo").call_raw("hello").await?;
    println!(
        "{answer:?} over {} connection",
        DIALLED.load(Ordering::Relaxed)
    );
    server.shutdown().await;
    Ok(())
}
