//! Every transport carries calls; wrong keys and taken names are refused with words.

use postroad::extract::Peer;
use postroad::transport::TransportError;
use postroad::transport::{BoxFuture, Incoming, Listener, Stream, Transport, Transports};
use postroad::{Client, ClientConfig, Endpoint, Router, RunningServer, Server, ServerState};

use crate::support::{self, Tested};

async fn serve(url: &str) -> Result<RunningServer, postroad::StartError> {
    support::serve(url, Router::new()).await
}

async fn echo(url: &str) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect(url).await?;
    let body = vec![9; 300_000];
    assert_eq!(
        client.request("postroad/echo").call_raw("hello").await?,
        "hello"
    );
    assert_eq!(
        client
            .request("postroad/echo")
            .call_raw(body.clone())
            .await?,
        body
    );
    client.close().await;
    Ok(())
}

#[tokio::test]
async fn tcp_and_memory_carry_calls_and_every_dialect() -> Tested {
    let server = serve("tcp://127.0.0.1:0").await?;
    echo(&format!("tcp://{}", server.addresses()[0])).await?;
    let _server = serve("mem://carries").await?;
    echo("mem://carries").await?;
    for dialect in [
        "session", "sequence", "opcode", "priority", "compact", "line",
    ] {
        let server = serve(&format!("tcp+{dialect}://127.0.0.1:0")).await?;
        let client = Client::connect(&format!("tcp+{dialect}://{}", server.addresses()[0])).await?;
        let calls = (0..200).map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.request("command/1").call_raw(n.to_string()).await })
        });
        for (n, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(call.await??, n.to_string(), "{dialect}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_unix_socket_is_private_and_replaces_only_a_dead_one() -> Tested {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("node.sock");
    let url = format!("unix://{}", path.display());
    drop(std::os::unix::net::UnixListener::bind(&path)?);
    let server = serve(&url).await?;
    assert_eq!(
        std::fs::metadata(&path)?.permissions().mode() & 0o777,
        0o600
    );
    echo(&url).await?;
    let taken = serve(&url).await.expect_err("a second server").to_string();
    assert!(taken.contains("another process listens there"), "{taken}");
    server.shutdown().await;
    std::fs::write(folder.path().join("file"), "precious")?;
    let url = format!("unix://{}", folder.path().join("file").display());
    assert!(
        serve(&url)
            .await
            .expect_err("a file")
            .to_string()
            .contains("not a socket")
    );
    assert_eq!(std::fs::read(folder.path().join("file"))?, b"precious");
    Ok(())
}

#[tokio::test]
async fn endpoints_that_cannot_be_used_say_why() -> Tested {
    let server = serve("tcp://127.0.0.1:0").await?;
    let taken = format!("tcp://{}", server.addresses()[0]);
    assert!(
        serve(&taken)
            .await
            .expect_err("taken")
            .to_string()
            .contains("in use")
    );
    let text = serve("pigeon://roof")
        .await
        .expect_err("unknown")
        .to_string();
    assert!(text.contains("mem, tcp"), "{text}");
    let text = serve("tcp://127.0.0.1:0?crc=modbus")
        .await
        .expect_err("no option")
        .to_string();
    assert!(text.contains("unknown option \"crc\""), "{text}");
    let auto = Client::connect("tcp+auto://127.0.0.1:1")
        .await
        .expect_err("auto")
        .to_string();
    assert!(auto.contains("must say what it speaks"), "{auto}");
    Ok(())
}

/// A transport of a user's own: memory under another name, whose listeners first refuse that many
/// times, as the operating system does when there are too many open files.
struct Pigeon {
    inner: Transports,
    refusals: u32,
}

impl Pigeon {
    fn registered(refusals: u32) -> Transports {
        let mut transports = Transports::default();
        let inner = Transports::default();
        transports.register("pigeon", Self { inner, refusals });
        transports
    }

    fn endpoint(endpoint: &Endpoint) -> Endpoint {
        let url = format!("mem://pigeon-{}", endpoint.address());
        url.parse().expect("a valid endpoint")
    }
}

impl Transport for Pigeon {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Stream, TransportError>> {
        Box::pin(async move {
            let endpoint = Self::endpoint(endpoint);
            self.inner.get(&endpoint)?.dial(&endpoint).await
        })
    }

    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, TransportError>> {
        Box::pin(async move {
            let endpoint = Self::endpoint(endpoint);
            let inner = self.inner.get(&endpoint)?.listen(&endpoint).await?;
            let refusals = self.refusals;
            Ok(Box::new(Loft { inner, refusals }) as Box<dyn Listener>)
        })
    }

    fn has_integrity(&self) -> bool {
        true
    }
}

struct Loft {
    inner: Box<dyn Listener>,
    refusals: u32,
}

impl Listener for Loft {
    fn accept(&mut self) -> BoxFuture<'_, std::io::Result<Incoming>> {
        if self.refusals > 0 {
            self.refusals -= 1;
            return Box::pin(async { Err(std::io::Error::other("too many open files")) });
        }
        self.inner.accept()
    }

    fn local_address(&self) -> String {
        self.inner.local_address()
    }
}

#[tokio::test]
async fn a_transport_of_ones_own_is_registered_under_its_scheme() -> Tested {
    let transports = Pigeon::registered(0);
    let server = Server::new(Router::new()).transports(transports.clone());
    let _server = server.listen("pigeon://roof".parse()?).start().await?;
    let endpoint = "pigeon://roof".parse()?;
    let client = Client::with_transports(endpoint, ClientConfig::default(), &transports)?;
    assert_eq!(
        client.request("postroad/echo").call_raw("coo").await?,
        "coo"
    );
    Ok(())
}

#[tokio::test]
async fn a_server_that_cannot_accept_says_so_and_recovers() -> Tested {
    let transports = Pigeon::registered(2);
    let server = Server::new(Router::new()).transports(transports.clone());
    let server = server.listen("pigeon://weather".parse()?).start().await?;
    let mut state = server.state();
    state.wait_for(|state| *state == ServerState::Error).await?;
    let endpoint = "pigeon://weather".parse()?;
    let client = Client::with_transports(endpoint, ClientConfig::default(), &transports)?;
    assert_eq!(
        client.request("postroad/echo").call_raw("sun").await?,
        "sun"
    );
    assert_eq!(*state.borrow_and_update(), ServerState::Running);
    Ok(())
}

/// A root and a key pair that it signed, as files.
#[cfg(feature = "tls")]
struct Keys {
    folder: tempfile::TempDir,
}

#[cfg(feature = "tls")]
impl Keys {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let folder = tempfile::tempdir()?;
        let root_key = KeyPair::generate()?;
        let mut root = CertificateParams::new(Vec::new())?;
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(
            folder.path().join("ca.pem"),
            root.self_signed(&root_key)?.pem(),
        )?;
        let issuer = Issuer::new(root, root_key);
        let key = KeyPair::generate()?;
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        std::fs::write(folder.path().join("cert.pem"), certificate.pem())?;
        std::fs::write(folder.path().join("key.pem"), key.serialize_pem())?;
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn own(&self) -> String {
        format!(
            "cert={}&key={}",
            self.path("cert.pem"),
            self.path("key.pem")
        )
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_carries_calls_and_refuses_a_root_that_is_not_ours() -> Tested {
    let (keys, others) = (Keys::new()?, Keys::new()?);
    let server = serve(&format!("tls://127.0.0.1:0?{}", keys.own())).await?;
    let url = |ca: String| format!("tls://{}?ca={ca}", server.addresses()[0]);
    echo(&url(keys.path("ca.pem"))).await?;
    let refused = Client::connect(&url(others.path("ca.pem")))
        .await
        .expect_err("a stranger's root");
    assert!(refused.to_string().contains("certificate"), "{refused}");
    let plain = format!("tcp://{}", server.addresses()[0]);
    let refused = Client::connect(&plain)
        .await
        .expect_err("no TLS")
        .to_string();
    assert!(refused.contains("NET-E-503"), "{refused}");
    echo(&url(keys.path("ca.pem"))).await?;
    let failed = || {
        let closed = server.stats().closed;
        let handshakes = closed
            .into_iter()
            .filter(|((protocol, _), _)| *protocol == "handshake");
        handshakes.map(|(_, count)| count).sum::<u64>()
    };
    let counted = async {
        while failed() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), counted).await?;
    assert_eq!(
        failed(),
        2,
        "each counted once: {:?}",
        server.stats().closed
    );
    Ok(())
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn mutual_tls_wants_a_certificate_of_its_own_root() -> Tested {
    let (keys, others) = (Keys::new()?, Keys::new()?);
    let client_ca = keys.path("ca.pem");
    let server = serve(&format!(
        "tls://127.0.0.1:0?{}&client_ca={client_ca}",
        keys.own()
    ))
    .await?;
    let url = |own: String| format!("tls://{}?ca={client_ca}{own}", server.addresses()[0]);
    echo(&url(format!("&{}", keys.own()))).await?;
    for own in [String::new(), format!("&{}", others.own())] {
        assert!(Client::connect(&url(own)).await.is_err());
    }
    Ok(())
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_files_that_are_missing_or_wrong_are_named() -> Tested {
    let text = serve("tls://127.0.0.1:0")
        .await
        .expect_err("no certificate")
        .to_string();
    assert!(text.contains("?cert=FILE"), "{text}");
    let text = serve("tls://127.0.0.1:0?cert=/no/cert.pem&key=/no/key.pem").await;
    assert!(
        text.expect_err("no file")
            .to_string()
            .contains("/no/cert.pem")
    );
    let keys = Keys::new()?;
    let swapped = format!("tls://127.0.0.1:0?cert={0}&key={0}", keys.path("key.pem"));
    assert!(
        serve(&swapped)
            .await
            .expect_err("a key for a certificate")
            .to_string()
            .contains("key.pem")
    );
    Ok(())
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_handler_knows_the_certificate_that_a_client_has_shown() -> Tested {
    let keys = Keys::new()?;
    let ca = keys.path("ca.pem");
    let who = async |Peer(peer): Peer| format!("{:?}", peer.certificate());
    let server = Server::new(Router::new().route("who", who));
    let url = format!("tls://127.0.0.1:0?{}&client_ca={ca}", keys.own());
    let plain = format!("tls://127.0.0.1:0?{}", keys.own());
    let server = server.listen(url.parse()?).listen(plain.parse()?);
    let server = server.start().await?;
    let ask = async |address: &str| {
        let url = format!("tls://{address}?ca={ca}&{}", keys.own());
        let client = Client::connect(&url).await?;
        Ok::<_, Box<dyn std::error::Error>>(client.request("who").call_raw("").await?)
    };
    let shown = ask(&server.addresses()[0]).await?;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.contains("CN=rcgen self signed cert"), "{shown}");
    assert!(
        shown.contains("Dns(\"localhost\"), Ip(127.0.0.1)"),
        "{shown}"
    );
    // Where nobody asks for a certificate a client shows none.
    assert_eq!(ask(&server.addresses()[1]).await?, "None");
    Ok(())
}

#[tokio::test]
async fn all_of_ipv4_and_all_of_ipv6_listen_on_one_port_side_by_side_and_ipv6_alone_takes_both()
-> Tested {
    // Whoever writes both wants both, in whichever order.
    for (first, second) in [("0.0.0.0", "[::]"), ("[::]", "0.0.0.0")] {
        let port = free_port()?;
        let server = Server::new(Router::new())
            .listen(format!("tcp://{first}:{port}").parse()?)
            .listen(format!("tcp+sequence://{second}:{port}").parse()?)
            .start()
            .await?;
        let (of_first, of_second) = match first {
            "[::]" => ("[::1]", "127.0.0.1"),
            _ => ("127.0.0.1", "[::1]"),
        };
        echo(&format!("tcp://{of_first}:{port}")).await?;
        let client = Client::connect(&format!("tcp+sequence://{of_second}:{port}")).await?;
        assert_eq!(
            client.request("command/1").call_raw("hello").await?,
            "hello"
        );
        server.shutdown().await;
    }
    let server = serve("tcp://[::]:0").await?;
    let port = server.addresses()[0].rsplit(':').next().expect("a port");
    echo(&format!("tcp://127.0.0.1:{port}")).await?;
    echo(&format!("tcp://[::1]:{port}")).await?;
    // Another server's port is not shared.
    let taken = serve(&format!("tcp://0.0.0.0:{port}")).await;
    let taken = taken.expect_err("the first takes IPv4 too").to_string();
    assert!(taken.contains("in use"), "{taken}");
    Ok(())
}

/// A port that was free a moment ago, with both families.
fn free_port() -> std::io::Result<u16> {
    let listener = std::net::TcpListener::bind("[::]:0")?;
    Ok(listener.local_addr()?.port())
}
