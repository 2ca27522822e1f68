//! Mutual TLS: both ends show a certificate, and the handler knows whose it is.
//! `cargo run -p postroad --features tls --example tls`.

use std::path::Path;

use postroad::extract::Peer;
use postroad::{Client, Router, Server};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Writes `ca.pem`, and a certificate with its key for each of these names. A program of your own
/// is given such files.
fn make_certificates(folder: &Path, names: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::new(Vec::new())?;
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(folder.join("ca.pem"), root.self_signed(&root_key)?.pem())?;
    let issuer = Issuer::new(root, root_key);
    for name in names {
        let key = KeyPair::generate()?;
        let mut certificate = CertificateParams::new(vec!["localhost".to_owned()])?;
        certificate
            .distinguished_name
            .push(DnType::CommonName, *name);
        let certificate = certificate.signed_by(&key, &issuer)?;
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem())?;
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}

async fn who(Peer(peer): Peer) -> String {
    match peer.certificate() {
        Some(certificate) => certificate.subject.clone(),
        None => "somebody without a certificate".to_owned(),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    make_certificates(folder.path(), &["shop", "till"])?;
    let at = folder.path().display();

    // `client_ca` asks clients for a certificate of this authority.
    let listen =
        format!("tls://127.0.0.1:0?cert={at}/shop.pem&key={at}/shop.key&client_ca={at}/ca.pem");
    let router = Router::new().route("who", who);
    let server = Server::new(router).listen(listen.parse()?).start().await?;
    let port = server.addresses()[0].rsplit(':').next().unwrap_or_default();

    let dial =
        format!("tls://localhost:{port}?ca={at}/ca.pem&cert={at}/till.pem&key={at}/till.key");
    let client = Client::connect(&dial).await?;
    let who = client.request("who").call_raw("").await?;
    println!("the server knows {}", String::from_utf8_lossy(&who));
    assert!(String::from_utf8_lossy(&who).contains("till"));

    // Whoever has no certificate is turned away.
    let stranger = Client::connect(&format!("tls://localhost:{port}?ca={at}/ca.pem")).await;
    let refused = match stranger {
        Ok(client) => client
            .request("who")
            .call_raw("")
            .await
            .err()
            .map(|e| e.to_string()),
        Err(error) => Some(error.to_string()),
    };
    println!("without a certificate: {refused:?}");
    assert!(refused.is_some());
    server.shutdown().await;
    Ok(())
}
