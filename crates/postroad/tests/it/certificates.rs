//! Certificates: exchanged while a server runs, and what they let their bearers do.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use postroad::extract::Identity;
use postroad::route::RouteRule;
use postroad::{Client, Router, RunningServer, Server, ServerConfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use crate::support::{PATIENCE, Tested};

/// A root that signs certificates.
struct Root {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, as files hold them.
struct Pair {
    certificate: String,
    key: String,
}

impl Root {
    fn new() -> Tested<Self> {
        let key = KeyPair::generate()?;
        let mut root = CertificateParams::new(Vec::new())?;
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = root.self_signed(&key)?.pem();
        let issuer = Issuer::new(root, key);
        Ok(Self { issuer, pem })
    }

    fn sign(&self, id: Option<&str>, lasts: Duration) -> Tested<Pair> {
        let key = KeyPair::generate()?;
        let mut wanted = CertificateParams::new(vec!["localhost".to_owned()])?;
        if let Some(id) = id {
            wanted.subject_alt_names.push(SanType::URI(id.try_into()?));
        }
        wanted.not_after = (SystemTime::now() + lasts).into();
        let certificate = wanted.signed_by(&key, &self.issuer)?.pem();
        let key = key.serialize_pem();
        Ok(Pair { certificate, key })
    }
}

const DAY: Duration = Duration::from_secs(86_400);

/// A folder of files that are exchanged all at once, as a Secret of Kubernetes is: `cert.pem` is a
/// link to `..data/cert.pem`, and `..data` one to a folder.
struct Secret(tempfile::TempDir);

impl Secret {
    fn new(files: &[(&str, &str)]) -> Tested<Self> {
        let secret = Self(tempfile::tempdir()?);
        secret.exchange(files)?;
        for (name, _) in files {
            std::os::unix::fs::symlink(format!("..data/{name}"), secret.0.path().join(name))?;
        }
        Ok(secret)
    }

    fn exchange(&self, files: &[(&str, &str)]) -> Tested {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let version = format!("..{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = self.0.path().join(&version);
        std::fs::create_dir(&folder)?;
        for (name, text) in files {
            std::fs::write(folder.join(name), text)?;
        }
        let next = self.0.path().join("..next");
        std::os::unix::fs::symlink(&version, &next)?;
        std::fs::rename(next, self.0.path().join("..data"))?;
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn own(&self) -> String {
        format!(
            "cert={}&key={}",
            self.path("cert.pem"),
            self.path("key.pem")
        )
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Tested<String> {
    let path = folder.join(name);
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

fn router() -> Router {
    Router::new().route("who", async |Identity(caller): Identity| {
        let ids: Vec<_> = caller.spiffe_ids().collect();
        ids.join(",")
    })
}

async fn dial(server: &RunningServer, options: &str) -> Result<Client, String> {
    let url = format!("tls://{}?name=localhost&{options}", server.addresses()[0]);
    Client::connect(&url)
        .await
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_pair_is_exchanged_without_dropping_a_connection_and_a_wrong_one_is_not_taken() -> Tested
{
    let (before, after) = (Root::new()?, Root::new()?);
    let (old, new) = (before.sign(None, DAY)?, after.sign(None, DAY)?);
    let secret = Secret::new(&[("cert.pem", &old.certificate), ("key.pem", &old.key)])?;
    let folder = tempfile::tempdir()?;
    let old_ca = format!("ca={}", write(folder.path(), "old.pem", &before.pem)?);
    let new_ca = format!("ca={}", write(folder.path(), "new.pem", &after.pem)?);
    let url = format!("tls://127.0.0.1:0?{}", secret.own());
    let server = Server::new(router()).listen(url.parse()?).start().await?;
    let early = dial(&server, &old_ca).await?;
    assert!(dial(&server, &new_ca).await.is_err());
    // The certificate has come and its key has not: what was there stays, and the reason is told.
    secret.exchange(&[("cert.pem", &new.certificate), ("key.pem", &old.key)])?;
    let error = server
        .reload_certificates()
        .expect_err("they do not fit")
        .to_string();
    assert!(
        error.contains("cert.pem") && error.contains("key.pem"),
        "{error}"
    );
    dial(&server, &old_ca).await?;
    secret.exchange(&[("cert.pem", &new.certificate), ("key.pem", &new.key)])?;
    server.reload_certificates()?;
    dial(&server, &new_ca).await?;
    assert!(dial(&server, &old_ca).await.is_err());
    early.request("who").call_raw("").await?;
    // The other way without being told: the files are looked at.
    secret.exchange(&[("cert.pem", &old.certificate), ("key.pem", &old.key)])?;
    let noticed = async { while dial(&server, &old_ca).await.is_err() {} };
    tokio::time::timeout(PATIENCE, noticed).await?;
    early.request("who").call_raw("").await?;
    assert_eq!(server.stats().closed.get(&("native", "transport")), None);
    server.shutdown().await;
    Ok(())
}

/// What a client needs to show this pair.
fn options(folder: &Path, ca: &str, name: &str, pair: &Pair) -> Tested<String> {
    let certificate = write(folder, &format!("{name}.pem"), &pair.certificate)?;
    let key = write(folder, &format!("{name}.key"), &pair.key)?;
    Ok(format!("ca={ca}&cert={certificate}&key={key}"))
}

fn desk_only() -> ServerConfig {
    let mut rule = RouteRule::of("who");
    rule.allow = Some(vec!["spiffe://plant/desk/*".to_owned()]);
    let mut config = ServerConfig::default();
    config.rules.push(rule);
    config
}

#[tokio::test]
async fn a_spiffe_id_lets_its_bearer_in_until_its_root_is_taken_away() -> Tested {
    let (root, other) = (Root::new()?, Root::new()?);
    let own = root.sign(None, DAY)?;
    let files = [
        ("cert.pem", &*own.certificate),
        ("key.pem", &*own.key),
        ("ca.pem", &*root.pem),
    ];
    let secret = Secret::new(&files)?;
    let folder = tempfile::tempdir()?;
    let ca = write(folder.path(), "ca.pem", &root.pem)?;
    let client = |name: &str, pair: &Pair| options(folder.path(), &ca, name, pair);
    let desk = client("desk", &root.sign(Some("spiffe://plant/desk/7"), DAY)?)?;
    let oven = client("oven", &root.sign(Some("spiffe://plant/oven/1"), DAY)?)?;
    let config = desk_only();
    let url = format!(
        "tls://127.0.0.1:0?{}&client_ca={}",
        secret.own(),
        secret.path("ca.pem")
    );
    let server = Server::new(router())
        .config(config)
        .listen(url.parse()?)
        .start()
        .await?;
    let at_desk = dial(&server, &desk).await?;
    assert_eq!(
        at_desk.request("who").call_raw("").await?,
        "spiffe://plant/desk/7"
    );
    let refused = dial(&server, &oven)
        .await?
        .request("who")
        .call_raw("")
        .await;
    let error = refused.expect_err("an oven is no desk").to_string();
    assert!(
        error.contains("AUT-E-403") && error.contains("spiffe://plant/desk/*"),
        "{error}"
    );
    // A certificate that ends while its connection lives: calls are refused from then on.
    let brief = client(
        "brief",
        &root.sign(Some("spiffe://plant/desk/8"), Duration::from_secs(3))?,
    )?;
    let brief = dial(&server, &brief).await?;
    let ended = async { while brief.request("who").call_raw("").await.is_ok() {} };
    tokio::time::timeout(PATIENCE, ended).await?;
    let error = brief
        .request("who")
        .call_raw("")
        .await
        .expect_err("over")
        .to_string();
    assert!(
        error.contains("AUT-E-498") && error.contains("certificate has expired"),
        "{error}"
    );
    // Its root is not trusted any more: connections stay, new ones are not let in.
    secret.exchange(&[files[0], files[1], ("ca.pem", &other.pem)])?;
    server.reload_certificates()?;
    at_desk.request("who").call_raw("").await?;
    let is_out = match dial(&server, &desk).await {
        Err(_) => true,
        Ok(client) => client.request("who").call_raw("").await.is_err(),
    };
    assert!(is_out, "it was resumed, or not verified");
    server.shutdown().await;
    Ok(())
}
