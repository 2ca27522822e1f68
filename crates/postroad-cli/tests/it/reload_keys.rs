//! Another configuration by a key of a registry.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::reload::Logged;
use crate::support::{PATIENCE, has_peer, postroad, signal, text, wait};

#[test]
fn a_node_that_waits_for_its_registry_ends_by_a_signal() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("it is bound").port();
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("etcd://127.0.0.1:{port}/postroad/node1");
    let mut node = Logged::start(&url, folder.path());
    let _asking = silent.accept().expect("it asks");
    signal(&node.child, "TERM");
    assert_eq!(wait(&mut node.child).code(), Some(143));
}

/// An etcd of the test's own.
struct Etcd {
    child: Child,
    port: u16,
    peers: u16,
    data: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Self {
        let free = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("it is bound").port()
        };
        let (port, peers) = (free(), free());
        let data = tempfile::tempdir().expect("a folder");
        let child = Self::spawn(data.path(), port, peers);
        let etcd = Self {
            child,
            port,
            peers,
            data,
        };
        etcd.ready();
        etcd
    }

    fn spawn(data: &Path, port: u16, peers: u16) -> Child {
        let [client, peer] = [port, peers].map(|port| format!("http://127.0.0.1:{port}"));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(data);
        command.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        command.args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("it is there")
    }

    fn stop(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    fn start_again(&mut self) {
        self.child = Self::spawn(self.data.path(), self.port, self.peers);
        self.ready();
    }

    fn ready(&self) {
        let until = Instant::now() + PATIENCE;
        while !self.post("/v3/kv/range", "{\"key\":\"YQ==\"}") {
            assert!(Instant::now() < until, "etcd does not answer");
            std::thread::yield_now();
        }
    }

    /// A request by hand; whether it was done.
    fn post(&self, path: &str, body: &str) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port))?;
            let len = body.len();
            write!(
                stream,
                "POST {path} HTTP/1.1\r\nhost: e\r\nconnection: close\r\n\
                 content-length: {len}\r\n\r\n{body}"
            )?;
            std::io::read_to_string(stream)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    fn put(&self, text: &str) {
        let (key, value) = (BASE64.encode("/postroad/node1"), BASE64.encode(text));
        let body = format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}");
        assert!(self.post("/v3/kv/put", &body));
    }

    fn delete(&self) {
        let body = format!("{{\"key\":\"{}\"}}", BASE64.encode("/postroad/node1"));
        assert!(self.post("/v3/kv/deleterange", &body));
    }

    fn url(&self) -> String {
        format!("etcd://127.0.0.1:{}/postroad/node1", self.port)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_key_of_etcd_is_followed_and_the_last_good_text_outlives_nonsense_deletion_and_etcd() {
    if !has_peer("etcd", "etcd-server") {
        return;
    }
    let mut etcd = Etcd::start();
    let (url, folder) = (etcd.url(), tempfile::tempdir().expect("a folder"));
    let config = |command: &str| {
        let mut program = postroad();
        program.args(["config", command, &url]);
        program.output().expect("it was built")
    };
    let absent = config("check");
    assert_eq!(absent.status.code(), Some(78));
    assert!(text(&absent.stderr).contains("there is no such key"));
    etcd.put("[server]\ndrain = \"25s\"\n");
    let printed = text(&config("print").stdout);
    assert!(printed.contains(&format!("# {url}:2")), "{printed}");

    let mut node = Logged::start(&url, folder.path());
    node.until("configuration read from etcd://");
    etcd.put("[server]\ndrain = \"20s\"\n");
    node.until("server.drain: 25s -> 20s");
    etcd.put("[server]\ndrain = \"soon\"\n");
    let said = node.until("the configuration before stays");
    assert!(said.contains("line 2, column 9"), "{said}");
    etcd.delete();
    node.until("was deleted; the last good configuration stays");
    etcd.put("\n");
    node.until("is empty; the last good configuration stays");
    etcd.put("[server]\ndrain = \"15s\"\n");
    node.until("server.drain: 20s -> 15s");
    node.hang_up();
    node.until("was read again: 0 changed");
    etcd.stop();
    node.until("cannot be read: ");
    node.stop();

    // The registry is down: the copy serves, and what comes later is taken.
    assert_eq!(config("check").status.code(), Some(69));
    let mut node = Logged::start(&url, folder.path());
    let said = node.until("starting with the last good configuration of etcd://");
    assert!(said.contains("WARN") && said.contains(" old ("), "{said}");
    etcd.start_again();
    etcd.put("[server]\ndrain = \"14s\"\n");
    node.until("server.drain: 15s -> 14s");
    node.stop();

    // Nonsense at the start: the copy again. A node without a copy does not start.
    etcd.put("[sevrer]\n");
    let mut node = Logged::start(&url, folder.path());
    let said = node.until("starting with the last good configuration of etcd://");
    assert!(said.contains("unknown section `sevrer`"), "{said}");
    node.url();
    node.stop();
    let empty = tempfile::tempdir().expect("a folder");
    let mut node = Logged::start(&url, empty.path());
    assert_eq!(wait(&mut node.child).code(), Some(78));
}
