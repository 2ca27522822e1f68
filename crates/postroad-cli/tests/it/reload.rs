//! Another configuration while a node runs: by a hangup, by a changed file, by a key of a registry.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::support::{
    PATIENCE, bench, has_peer, json, number, postroad, postroad_heeding_hangups, report, signal,
    text, wait,
};

/// A node with a configuration, and what it logs.
struct Logged {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    out: Lines<BufReader<ChildStdout>>,
}

impl Logged {
    fn start(config: &str, folder: &Path) -> Self {
        let mut command = postroad_heeding_hangups();
        command.args([
            "--log",
            "info,postroad::config=debug",
            "serve",
            "--practice",
        ]);
        command.args(["--listen", "tcp://127.0.0.1:0", "--config", config]);
        command.current_dir(folder).env("XDG_STATE_HOME", folder);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        command.env_remove("STATE_DIRECTORY");
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program was built");
        let log = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let out = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, log, out }
    }

    /// The URL of its listener.
    fn url(&mut self) -> String {
        let line = self.out.next().expect("it listens").expect("it is text");
        format!("tcp://{}", line.rsplit(' ').next().expect("an address"))
    }

    /// The lines up to one that contains this, that one included.
    fn until(&mut self, words: &str) -> String {
        let mut seen = String::new();
        for line in self.log.by_ref().map_while(Result::ok) {
            seen.push_str(&line);
            seen.push('\n');
            if line.contains(words) {
                return seen;
            }
        }
        panic!("no {words:?} in {seen}");
    }

    fn hang_up(&self) {
        signal(&self.child, "HUP");
    }

    /// What a file of the process's folder in /proc says, such as `Threads`.
    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the node runs");
        let line = status.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number
            .and_then(|number| number.parse().ok())
            .expect("a number")
    }

    fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        open.expect("the node runs").count()
    }

    fn stop(mut self) {
        signal(&self.child, "TERM");
        assert_eq!(wait(&mut self.child).code(), Some(0));
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with a configuration.
fn configured(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node.toml");
    std::fs::write(&path, text).expect("it is written");
    (folder, path)
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("it is written");
}

#[test]
fn a_hangup_takes_all_of_a_changed_file_and_says_each_change_or_each_mistake() {
    let (folder, path) = configured("[server]\ndrain = \"25s\"\n");
    let mut node = Logged::start("node.toml", folder.path());
    node.until("configuration read from node.toml");
    node.url();
    write(
        &path,
        "[server]\ndrain = \"10s\"\nmax_requests = 50\nworkers = 3\n[limits]\nmax_calls = 9\n\
         [workers]\ncpu = 3\n[[route]]\nname = \"practice/*\"\npriority = 5\n",
    );
    node.hang_up();
    let said = node.until("node.toml was read again");
    for change in [
        "server.drain: 25s -> 10s",
        "server.max_requests: 10000 -> 50",
        "-> 3 (takes effect at the next start)",
        "limits.max_calls: 1000 -> 9 (for new connections)",
        "route.\"practice/*\": none -> { priority = 5 }",
    ] {
        assert!(said.contains(change), "{change:?} in {said}");
    }

    write(
        &path,
        "[server]\ndrain = \"5s\"\ndrian = \"1s\"\nmax_requests = 0\n",
    );
    node.hang_up();
    let said = node.until("the configuration before stays");
    for mistake in [
        "node.toml: line 3, column 1: unknown key `drian`",
        "node.toml: line 4, column 16: max_requests = 0 is out of bounds",
    ] {
        assert!(said.contains(mistake), "{mistake:?} in {said}");
    }

    write(&path, "[server]\ndrain = \"5s\"\n");
    node.hang_up();
    let said = node.until("node.toml was read again");
    assert!(said.contains("server.drain: 10s -> 5s"), "{said}");
    assert!(
        said.contains("route.\"practice/*\": { priority = 5 } -> none"),
        "{said}"
    );
    node.stop();
}

#[test]
fn a_bound_that_was_changed_counts_from_then_on() {
    let (folder, path) = configured("[server]\nmax_requests = 1000\nworkers = 1\n");
    let mut node = Logged::start("node.toml", folder.path());
    let url = node.url();
    let asked = folder.path().join("asked.json");
    write(&asked, "{\"ms\": 20}");
    let asked = asked.display().to_string();
    let failed = |code: i32| {
        let load = ["--route", "practice/sleep", "--payload", &asked];
        let more = ["--callers", "20", "--duration", "300ms", "--output", "json"];
        let output = bench(&url, &[&load[..], &more[..]].concat());
        number(&report(&output, code), "/failed")
    };
    assert_eq!(failed(0), 0.0);
    write(&path, "[server]\nmax_requests = 1\nworkers = 1\n");
    node.hang_up();
    node.until("server.max_requests: 1000 -> 1");
    assert!(failed(1) > 0.0);
    node.stop();
}

#[test]
fn reloads_under_load_lose_no_call_and_leak_nothing() {
    let (folder, path) = configured("[server]\ndrain = \"25s\"\n");
    let mut node = Logged::start("node.toml", folder.path());
    let url = node.url();
    let reload = |node: &mut Logged, n: u64| {
        let limit = 100 + n % 2;
        write(
            &path,
            &format!(
                "[server]\ndrain = \"{}s\"\n[limits]\nmax_calls = {limit}\n",
                5 + n % 7
            ),
        );
        node.hang_up();
        node.until("node.toml was read again");
    };
    let load = std::thread::spawn(move || {
        let load = ["--rate", "500", "--duration", "3s", "--connections", "4"];
        json(&url, &load)
    });
    for n in 0..10 {
        reload(&mut node, n);
    }
    let before = (
        node.descriptors(),
        node.status("Threads"),
        node.status("VmRSS"),
    );
    for n in 0..100 {
        reload(&mut node, n);
    }
    let report = load.join().expect("it ends");
    assert_eq!(number(&report, "/failed"), 0.0, "{report}");
    assert_eq!(number(&report, "/answered"), 1500.0, "{report}");
    let after = (
        node.descriptors(),
        node.status("Threads"),
        node.status("VmRSS"),
    );
    // The load's connections have gone meanwhile, or have come.
    assert!(after.0 <= before.0 + 8, "descriptors: {before:?} {after:?}");
    assert!(after.1 <= before.1 + 2, "threads: {before:?} {after:?}");
    assert!(after.2 <= before.2 + 4096, "KiB: {before:?} {after:?}");
    node.stop();
}

#[test]
fn a_changed_file_is_taken_by_itself_once_it_is_whole_also_if_another_takes_its_place() {
    let (folder, path) = configured("[server]\ndrain = \"25s\"\n");
    let mut node = Logged::start("node.toml", folder.path());
    node.until("configuration read");
    // An editor writes another file and renames it.
    let beside = folder.path().join("node.toml.new");
    write(&beside, "[server]\ndrain = \"20s\"\n");
    std::fs::rename(&beside, &path).expect("it is renamed");
    let said = node.until("node.toml was read again");
    assert!(said.contains("server.drain: 25s -> 20s"), "{said}");
    // A half of a file that would be right as it stands is not taken for the whole.
    let mut file = std::fs::File::create(&path).expect("it is made");
    file.write_all(b"[server]\ndrain = \"15s\"\nmax_requests = 1")
        .expect("it is written");
    file.sync_all().expect("it is written");
    node.until("ends in the middle of a line");
    file.write_all(b"0\n").expect("it is written");
    let said = node.until("node.toml was read again");
    assert!(said.contains("server.drain: 20s -> 15s"), "{said}");
    assert!(
        said.contains("server.max_requests: 10000 -> 10\n"),
        "{said}"
    );
    // A mistake is told once, and the file that is right again is taken.
    write(&path, "[server]\ndrain = 15\n");
    node.until("the configuration before stays");
    write(&path, "[server]\ndrain = \"12s\"\n");
    let said = node.until("node.toml was read again");
    assert_eq!(said.matches("stays").count(), 0, "{said}");
    // While it is gone, nothing is lost.
    std::fs::remove_file(&path).expect("it is removed");
    node.until("node.toml cannot be read");
    write(&path, "[server]\ndrain = \"11s\"\n");
    node.until("server.drain: 12s -> 11s");
    node.stop();
}

#[test]
fn without_a_flag_the_file_of_the_folder_is_read_and_a_node_without_any_says_so_at_a_hangup() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = || {
        let mut command = postroad_heeding_hangups();
        command.args(["serve", "--listen", "tcp://127.0.0.1:0"]);
        command.current_dir(folder.path());
        Logged::spawn(command)
    };
    let mut node = start();
    node.url();
    node.hang_up();
    node.until("the node was started without a configuration");
    node.stop();
    write(
        &folder.path().join("postroad.toml"),
        "[server]\ndrain = \"3s\"\n",
    );
    let mut node = start();
    node.until("configuration read from postroad.toml");
    node.stop();
    let mut print = postroad();
    let print = print.args(["config", "print"]).current_dir(folder.path());
    let printed = text(&print.output().expect("it was built").stdout);
    assert!(printed.contains("# postroad.toml:2"), "{printed}");
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

#[cfg(feature = "discovery")]
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
    node.stop();
    let empty = tempfile::tempdir().expect("a folder");
    let mut node = Logged::start(&url, empty.path());
    assert_eq!(wait(&mut node.child).code(), Some(78));
}
