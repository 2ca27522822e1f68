//! Instances in a real etcd: registered, followed, expired, cut off, stopped and started.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use postroad::discovery::{Registration, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::discovery::{has_peer, instance, until, until_urls};
use super::support::{PATIENCE, Tested};

/// An etcd of the test's own.
struct Etcd {
    child: Child,
    port: u16,
    peers: u16,
}

fn free_port() -> Tested<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
}

fn spawn(data: &Path, port: u16, peers: u16) -> Tested<Child> {
    let (client, peer) = (
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{peers}"),
    );
    let child = Command::new("etcd")
        .arg("--data-dir")
        .arg(data)
        .args(["--listen-client-urls", &client])
        .args(["--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(child)
}

impl Etcd {
    async fn start(data: &Path) -> Tested<Self> {
        let (port, peers) = (free_port()?, free_port()?);
        let child = spawn(data, port, peers)?;
        let etcd = Self { child, port, peers };
        etcd.ready().await?;
        Ok(etcd)
    }

    async fn start_again(&mut self, data: &Path) -> Tested {
        self.child = spawn(data, self.port, self.peers)?;
        self.ready().await
    }

    fn stop(&mut self) -> Tested {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    async fn ready(&self) -> Tested {
        let ready = async {
            while self
                .post("/v3/kv/range", "{\"key\":\"YQ==\"}")
                .await
                .is_err()
            {
                tokio::task::yield_now().await;
            }
        };
        Ok(timeout(PATIENCE, ready).await?)
    }

    /// A request by hand, which shares no code with the client.
    async fn post(&self, path: &str, body: &str) -> Tested<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let len = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: e\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n\
             {body}"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        match answer.starts_with("HTTP/1.1 200") {
            true => Ok(answer),
            false => Err(answer.into()),
        }
    }

    async fn put(&self, key: &str, value: &str) -> Tested<String> {
        let (key, value) = (base64(key), base64(value));
        let body = format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}");
        self.post("/v3/kv/put", &body).await
    }

    fn target(&self) -> Tested<Target> {
        // The first host answers nothing; it costs one refused connection.
        Ok(format!("etcd://127.0.0.1:1,127.0.0.1:{}/orders", self.port).parse()?)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have been stopped already.
        let _ = self.stop();
    }
}

/// Passes connections on until it is aborted, which cuts them.
async fn pass(near: u16, far: u16) -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", near)).await?;
    let mut streams = JoinSet::new();
    loop {
        let (mut near, _) = listener.accept().await?;
        let mut far = TcpStream::connect(("127.0.0.1", far)).await?;
        streams.spawn(async move { copy_bidirectional(&mut near, &mut far).await });
    }
}

pub(crate) fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32| char::from(DIGITS[bits as usize % 64]);
    let group = |bytes: &[u8]| {
        let at = |n: usize| u32::from(*bytes.get(n).unwrap_or(&0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let mut text: String = [18, 12, 6, 0]
            .map(|shift| digit(bits >> shift))
            .iter()
            .collect();
        text.truncate(bytes.len() + 1);
        format!("{text:=<4}")
    };
    text.as_bytes().chunks(3).map(group).collect()
}

#[tokio::test]
async fn instances_come_and_go_with_their_registrations() -> Tested {
    if !has_peer("etcd", "etcd-server") {
        return Ok(());
    }
    let data = tempfile::tempdir()?;
    let etcd = Etcd::start(data.path()).await?;
    let target = etcd.target()?;
    let mut found = target.follow(None)?;
    until(&mut found, |found| found.gone.is_some()).await;
    let mut heavy = instance("tcp://[::1]:7400");
    (heavy.weight, heavy.tag, heavy.zone) = (10, Some("v2".into()), Some("a".into()));
    let first = Registration::start(&target, heavy.clone())?;
    let second = Registration::start(&target, instance("tcp://b:7400"))?;
    let both = until_urls(&mut found, &["tcp://[::1]:7400", "tcp://b:7400"]).await;
    assert_eq!(both.instances[0], heavy);
    timeout(PATIENCE, first.registered()).await?;
    assert!(first.trouble().is_none());
    first.leave().await?;
    until_urls(&mut found, &["tcp://b:7400"]).await;

    // What others write is read, and what nobody could use is left out.
    etcd.put("/postroad/orders/x", "{\"url\":\"tcp://c:1\",\"weight\":0}")
        .await?;
    etcd.put("/postroad/orders/y", "{\"url\":").await?;
    etcd.put("/postroad/orders-of-others/z", "{\"url\":\"tcp://z:1\"}")
        .await?;
    let mixed = until_urls(&mut found, &["tcp://b:7400", "tcp://c:1"]).await;
    assert_eq!(mixed.instances[1].weight, 0);

    // A server that was killed leaves by itself.
    drop(second);
    until_urls(&mut found, &["tcp://c:1"]).await;
    Ok(())
}

#[tokio::test]
async fn a_registered_server_takes_another_weight_and_stays_where_it_is() -> Tested {
    if !has_peer("etcd", "etcd-server") {
        return Ok(());
    }
    let data = tempfile::tempdir()?;
    let etcd = Etcd::start(data.path()).await?;
    let target = etcd.target()?;
    let mut found = target.follow(None)?;
    let registration = Registration::start(&target, instance("tcp://a:1"))?;
    until_urls(&mut found, &["tcp://a:1"]).await;
    let mut heavy = instance("tcp://a:1");
    (heavy.weight, heavy.tag) = (7, Some("v2".into()));
    registration.update(heavy.clone())?;
    until(&mut found, |found| found.instances.contains(&heavy)).await;
    let elsewhere = registration.update(instance("tcp://b:1"));
    let refused = elsewhere.expect_err("it is another endpoint").to_string();
    assert!(refused.contains("tcp://a:1 is registered"), "{refused}");
    registration.leave().await?;
    let key = base64("/postroad/orders/tcp://a:1");
    let body = format!("{{\"key\":\"{key}\"}}");
    let left = etcd.post("/v3/kv/range", &body).await?;
    assert!(!left.contains("kvs"), "{left}");
    Ok(())
}

#[tokio::test]
async fn an_etcd_that_stops_takes_nothing_away_and_one_that_lost_its_data_is_told_again() -> Tested
{
    if !has_peer("etcd", "etcd-server") {
        return Ok(());
    }
    let (data, empty) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut etcd = Etcd::start(data.path()).await?;
    let target = etcd.target()?;
    let mut found = target.follow(None)?;
    let registration = Registration::start(&target, instance("tcp://a:1"))?;
    until_urls(&mut found, &["tcp://a:1"]).await;

    etcd.stop()?;
    let down = until(&mut found, |found| found.trouble.is_some()).await;
    assert_eq!(down.instances.len(), 1, "{down}");
    etcd.start_again(data.path()).await?;
    etcd.put("/postroad/orders/b", "{\"url\":\"tcp://b:1\"}")
        .await?;
    until_urls(&mut found, &["tcp://a:1", "tcp://b:1"]).await;

    etcd.stop()?;
    etcd.start_again(empty.path()).await?;
    let lost = until(&mut found, |found| {
        let said = found.trouble.as_ref().map(|trouble| &*trouble.said);
        said.is_some_and(|said| said.contains("no instances"))
    })
    .await;
    assert_eq!(lost.instances.len(), 2, "an empty list is not believed yet");
    let back = until_urls(&mut found, &["tcp://a:1"]).await;
    assert!(back.trouble.is_none());
    timeout(PATIENCE, registration.registered()).await?;
    Ok(())
}

#[tokio::test]
async fn changes_that_were_compacted_away_while_etcd_was_cut_off_are_not_missed() -> Tested {
    if !has_peer("etcd", "etcd-server") {
        return Ok(());
    }
    let data = tempfile::tempdir()?;
    let mut etcd = Etcd::start(data.path()).await?;
    etcd.put("/postroad/orders/a", "{\"url\":\"tcp://a:1\"}")
        .await?;
    // A follower of an address that is nobody's for a while.
    let relay = free_port()?;
    let target: Target = format!("etcd://127.0.0.1:{relay}/orders").parse()?;
    let mut found = target.follow(None)?;
    let passing = tokio::spawn(pass(relay, etcd.port));
    until_urls(&mut found, &["tcp://a:1"]).await;
    passing.abort();
    until(&mut found, |found| found.trouble.is_some()).await;

    for n in 0..50 {
        etcd.put("/postroad/orders/x", &format!("{n}")).await?;
    }
    for key in ["/postroad/orders/a", "/postroad/orders/x"] {
        let body = format!("{{\"key\":\"{}\"}}", base64(key));
        etcd.post("/v3/kv/deleterange", &body).await?;
    }
    let answer = etcd
        .put("/postroad/orders/b", "{\"url\":\"tcp://b:1\"}")
        .await?;
    let (_, rest) = answer.split_once("\"revision\":\"").ok_or("a revision")?;
    let (revision, _) = rest.split_once('"').ok_or("a number")?;
    let body = format!("{{\"revision\":\"{revision}\",\"physical\":true}}");
    etcd.post("/v3/kv/compaction", &body).await?;
    let passing = tokio::spawn(pass(relay, etcd.port));
    until_urls(&mut found, &["tcp://b:1"]).await;
    passing.abort();
    etcd.stop()
}
