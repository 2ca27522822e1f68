//! TLS 1.3 and mutual TLS over TCP, by rustls with its provider passed explicitly.
//!
//! Options of a dialler: `ca` (PEM file of roots instead of the system's), `cert` and `key` (this
//! client's own), `name` (the name to expect instead of the host's). Options of a listener: `cert`
//! and `key` (needed), `client_ca` (PEM file of roots; with it every client must show a
//! certificate). A listener's files may be exchanged while it is open: see
//! `server/certificates.rs`.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    BoxFuture, Incoming, Listener, PeerCertificate, Reload, Stream, SubjectName, Transport, Use,
    io_error, tcp, tls_words,
};
use crate::endpoint::Endpoint;
use crate::error::TransportError;

#[derive(Debug)]
pub(super) struct Tls;

fn invalid(detail: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, detail.into())
}

fn certificates(path: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| invalid(format!("{path}: {error}")))?;
    if certificates.is_empty() {
        return Err(invalid(format!("{path}: no certificate in it")));
    }
    Ok(certificates)
}

fn private_key(path: &str) -> io::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        let words = tls_words::key_words(Path::new(path));
        let detail = words.map_or_else(|| error.to_string(), str::to_owned);
        invalid(format!("{path}: {detail}"))
    })
}

fn roots(path: &str) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| invalid(format!("{path}: {error}")))?;
    }
    Ok(roots)
}

fn system_roots() -> io::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(invalid(
            "the system has no root certificates; name them with ?ca=FILE",
        ));
    }
    Ok(roots)
}

fn client_config(endpoint: &Endpoint) -> io::Result<ClientConfig> {
    let roots = endpoint.option("ca").map_or_else(system_roots, roots)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| invalid(error.to_string()))?
        .with_root_certificates(roots);
    match (endpoint.option("cert"), endpoint.option("key")) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(|error| pair_error(cert, key, &error)),
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(invalid("cert and key go together")),
    }
}

fn server_config(endpoint: &Endpoint) -> io::Result<ServerConfig> {
    let needed = |name: &str| {
        endpoint
            .option(name)
            .ok_or_else(|| invalid(format!("a TLS listener needs ?{name}=FILE")))
    };
    let (cert_path, key_path) = (needed("cert")?, needed("key")?);
    let (cert, key) = (certificates(cert_path)?, private_key(key_path)?);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| invalid(error.to_string()))?;
    let builder = match endpoint.option("client_ca") {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(roots(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| invalid(error.to_string()))?)
        }
    };
    builder
        .with_single_cert(cert, key)
        .map_err(|error| pair_error(cert_path, key_path, &error))
}

/// Why a certificate and a key cannot be used together.
fn pair_error(cert: &str, key: &str, error: &rustls::Error) -> io::Error {
    let words = tls_words::words(error).unwrap_or_else(|| error.to_string());
    // RSA keys of 1,024 bits are still found in old folders.
    let hint = match error {
        rustls::Error::General(_) => " (an RSA key has at least 2,048 bits)",
        _ => "",
    };
    invalid(format!("{cert} with {key}: {words}{hint}"))
}

/// The name that the server's certificate must have.
fn server_name(endpoint: &Endpoint) -> io::Result<ServerName<'static>> {
    let host = tcp::split(endpoint.address()).map(|(host, _)| host);
    let name = match endpoint.option("name") {
        Some(name) => name.trim_matches(['[', ']']),
        // A certificate knows no zone of this machine.
        None => host.map_or("", |host| host.split('%').next().unwrap_or(host)),
    };
    ServerName::try_from(name.to_owned()).map_err(|error| invalid(format!("{name}: {error}")))
}

/// What the certificate that a client has shown says of it, if it has shown one.
///
/// rustls has verified the chain before; here it is only read. A certificate that rustls accepts
/// and this parser cannot read counts as one without names, which authorises nothing.
fn client_certificate(session: &rustls::ServerConnection) -> Option<PeerCertificate> {
    let shown = session.peer_certificates()?.first()?;
    Some(read_certificate(shown).unwrap_or_default())
}

fn read_certificate(der: &CertificateDer<'_>) -> Option<PeerCertificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.map(|found| &found.value.general_names);
    let names = names.into_iter().flatten().filter_map(subject_name);
    Some(PeerCertificate {
        subject: certificate.subject().to_string(),
        names: names.collect(),
        expires: expiry(&certificate),
    })
}

/// When a certificate expires; `None` if that is later than a clock can show.
fn expiry(certificate: &X509Certificate<'_>) -> Option<SystemTime> {
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn subject_name(name: &GeneralName<'_>) -> Option<SubjectName> {
    match name {
        GeneralName::DNSName(name) => Some(SubjectName::Dns((*name).to_owned())),
        GeneralName::URI(name) => Some(SubjectName::Uri((*name).to_owned())),
        GeneralName::RFC822Name(name) => Some(SubjectName::Email((*name).to_owned())),
        // The length says which kind of address it is.
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            v4.or(v6).ok().map(SubjectName::Ip)
        }
        _ => None,
    }
}

impl Transport for Tls {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Stream, TransportError>> {
        Box::pin(async move {
            let fail = |error| io_error("connect to", endpoint, error);
            let config = client_config(endpoint).map_err(fail)?;
            let name = server_name(endpoint).map_err(fail)?;
            let stream = tcp::connect(endpoint).await?;
            let connector = TlsConnector::from(Arc::new(config));
            let stream = connector.connect(name, stream).await;
            let stream = stream.map_err(tls_words::explain).map_err(fail)?;
            Ok(Stream::new(stream))
        })
    }

    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, TransportError>> {
        Box::pin(async move {
            let fail = |error| io_error("listen on", endpoint, error);
            let settings = Arc::new(Settings::of(endpoint).map_err(fail)?);
            let listener = tcp::bind(endpoint).await?;
            Ok(Box::new(Bound { listener, settings }) as Box<dyn Listener>)
        })
    }

    fn warning(&self, endpoint: &Endpoint) -> Option<String> {
        let path = endpoint.option("cert")?;
        let own = certificates(path).ok()?;
        let text = tls_words::validity(own.first()?, SystemTime::now())?;
        Some(format!("{path}: {text}"))
    }

    fn check(&self, endpoint: &Endpoint, use_as: Use) -> Result<(), TransportError> {
        let (known, result): (&[&str], _) = match use_as {
            Use::Dial => (
                &["ca", "cert", "key", "name"],
                client_config(endpoint)
                    .and_then(|_| server_name(endpoint))
                    .map(drop),
            ),
            Use::Listen => (
                &["cert", "key", "client_ca"],
                server_config(endpoint).map(drop),
            ),
        };
        endpoint.check_options(known)?;
        tcp::check_address(endpoint)?;
        result.map_err(|error| TransportError::Endpoint {
            url: endpoint.to_string(),
            detail: error.to_string(),
        })
    }

    fn has_integrity(&self) -> bool {
        true
    }
}

/// The settings of a listener, as its files were when they were read last.
struct Settings {
    endpoint: Endpoint,
    /// Another one has sessions of its own: none of before can be resumed, whose client perhaps
    /// would not be let in any more.
    current: ArcSwap<ServerConfig>,
}

impl Settings {
    fn of(endpoint: &Endpoint) -> io::Result<Self> {
        Ok(Self {
            endpoint: endpoint.clone(),
            current: ArcSwap::from_pointee(server_config(endpoint)?),
        })
    }
}

impl Reload for Settings {
    fn files(&self) -> Vec<PathBuf> {
        let names = ["cert", "key", "client_ca"];
        let paths = names.iter().filter_map(|name| self.endpoint.option(name));
        paths.map(PathBuf::from).collect()
    }

    fn reload(&self) -> io::Result<()> {
        self.current.store(Arc::new(server_config(&self.endpoint)?));
        Ok(())
    }
}

struct Bound {
    listener: TcpListener,
    settings: Arc<Settings>,
}

impl Listener for Bound {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        Box::pin(async {
            let (stream, peer) = tcp::accept(&self.listener).await?;
            let acceptor = TlsAcceptor::from(self.settings.current.load_full());
            Ok(Incoming {
                peer: peer.into(),
                open: Box::new(move || {
                    Box::pin(async move {
                        let stream = TcpStream::from_std(stream)?;
                        let stream = acceptor.accept(stream).await.map_err(tls_words::explain)?;
                        let certificate = client_certificate(stream.get_ref().1);
                        Ok(Stream::new(stream).with_certificate(certificate))
                    })
                }),
            })
        })
    }

    fn local_address(&self) -> String {
        tcp::local_address(&self.listener)
    }

    fn reload(&self) -> Option<Arc<dyn Reload>> {
        Some(Arc::clone(&self.settings) as _)
    }
}
