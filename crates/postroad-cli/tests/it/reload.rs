//! Another configuration while a node runs: by a hangup, and by a changed file.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use crate::support::{
    bench, json, number, postroad, postroad_heeding_hangups, report, signal, text, wait,
};

/// A node with a configuration, and what it logs.
pub(crate) struct Logged {
    pub(crate) child: Child,
    log: Lines<BufReader<ChildStderr>>,
    out: Lines<BufReader<ChildStdout>>,
}

impl Logged {
    pub(crate) fn start(config: &str, folder: &Path) -> Self {
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
    pub(crate) fn url(&mut self) -> String {
        let line = self.out.next().expect("it listens").expect("it is text");
        format!("tcp://{}", line.rsplit(' ').next().expect("an address"))
    }

    /// The lines up to one that contains this, that one included.
    pub(crate) fn until(&mut self, words: &str) -> String {
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

    pub(crate) fn hang_up(&self) {
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

    pub(crate) fn stop(mut self) {
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
    // An empty file is no wish for all defaults, unless somebody asks for it to be read.
    write(&path, "");
    node.until("node.toml is empty; the configuration before stays");
    node.hang_up();
    node.until("server.drain: 12s -> 25s");
    write(&path, "[server]\ndrain = \"12s\"\n");
    node.until("server.drain: 25s -> 12s");
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
    node.url();
    node.stop();
    let mut print = postroad();
    let print = print.args(["config", "print"]).current_dir(folder.path());
    let printed = text(&print.output().expect("it was built").stdout);
    assert!(printed.contains("# postroad.toml:2"), "{printed}");
}

#[test]
fn what_can_be_read_only_once_is_not_looked_at_again() {
    let mut command = postroad_heeding_hangups();
    command.args(["serve", "--listen", "tcp://127.0.0.1:0"]);
    command
        .args(["--config", "/dev/stdin"])
        .stdin(Stdio::piped());
    let mut node = Logged::spawn(command);
    let mut stdin = node.child.stdin.take().expect("it is piped");
    stdin
        .write_all(b"[server]\ndrain = \"3s\"\n")
        .expect("it is read");
    drop(stdin);
    node.until("configuration read from /dev/stdin");
    node.url();
    node.hang_up();
    let said = node.until("the configuration before stays");
    assert!(said.contains("no file that can be read twice"), "{said}");
    node.stop();
}
