//! What the program advises where something is not as it should be.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use crate::support::{Node, run, text};

/// Checks the exit code and words of what was said on stderr.
fn assert_says(output: &Output, code: i32, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} in {said}");
    }
}

fn call(url: &str) -> Output {
    run(&["call", url, "postroad/echo", "1", "--timeout", "2s"])
}

#[test]
fn a_log_filter_that_nobody_logs_to_is_refused_with_the_word_that_was_meant() {
    let output = run(&["--log", "infoo", "call", "tcp://127.0.0.1:1", "x"]);
    let words = ["\"infoo\" is neither a level", "did you mean `info`?"];
    assert_says(&output, 2, &words);
}

#[test]
fn each_failure_to_connect_has_a_hint_that_fits() {
    let refused = call("tcp://127.0.0.1:1");
    let words = [
        "tcp://127.0.0.1:1: Connection refused",
        "is the server running",
    ];
    assert_says(&refused, 69, &words);
    let said = text(&refused.stderr);
    assert!(
        !said.contains("attempt") && !said.contains("(Error)"),
        "{said}"
    );
    assert_says(&call("unix:///no/such/socket"), 69, &["is the path right?"]);
    // A label of more than 63 characters is no name anywhere, so no resolver is asked.
    let name = "n".repeat(70);
    let output = call(&format!("tcp://{name}:1"));
    assert_says(&output, 69, &["finds no address for the name", &name]);
}

#[test]
fn too_few_open_files_are_this_machines_fault() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let program = env!("CARGO_BIN_EXE_postroad");
    let script = format!(
        "ulimit -n 9; exec {program} call {} postroad/echo 1",
        node.tcp()
    );
    let output = Command::new("sh").args(["-c", &script]).output();
    assert_says(
        &output.expect("sh is there"),
        1,
        &["hint: this machine", "ulimit -n"],
    );
}

#[test]
fn a_socket_that_cannot_be_made_has_a_hint_that_fits() {
    let listen = |url: &str| run(&["serve", "--listen", url]);
    let output = listen("unix:///no/such/folder/s.sock");
    assert_says(&output, 1, &["hint: the folder is not there"]);
    let output = listen("tcp://192.0.2.1:7400");
    assert_says(&output, 1, &["hint: no network interface of this machine"]);
    let folder = tempfile::tempdir().expect("a folder");
    let mode = std::fs::Permissions::from_mode(0o555);
    std::fs::set_permissions(folder.path(), mode).expect("it is ours");
    if std::fs::write(folder.path().join("probe"), "").is_ok() {
        // Root may write anywhere.
        return;
    }
    let output = listen(&format!("unix://{}/s.sock", folder.path().display()));
    assert_says(&output, 1, &["this user may not make a socket there"]);
}

#[cfg(feature = "tls")]
#[test]
fn tls_at_one_end_alone_is_named() {
    use std::net::TcpListener;

    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let url = node.tcp().replace("tcp", "tls");
    assert_says(&call(&url), 69, &["write tcp:// instead of tls://"]);
    // An alert as a server with TLS sends it to whoever does not speak it.
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("tcp://{}", server.local_addr().expect("it is bound"));
    let alert = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut peer, _) = server.accept().expect("a client");
        peer.write_all(&[0x15, 3, 3, 0, 2, 2, 50])
            .expect("it reads");
        let _ = peer.read_to_end(&mut Vec::new());
    });
    assert_says(&call(&url), 69, &["write tls:// instead of tcp://"]);
    alert.join().expect("no panic");
}

#[test]
fn two_ends_that_speak_different_things_are_told_so() {
    let node = Node::start(&["tcp://127.0.0.1:0", "tcp+sequence://127.0.0.1:0"]);
    let native = call(&format!("tcp://{}", node.addresses[1]));
    let words = [
        "it looks like the dialect sequence",
        "tcp+sequence://HOST:PORT",
    ];
    assert_says(&native, 69, &words);
    // The server has no word that such a client would read: it hangs up.
    let dialect = call(&format!("tcp+priority://{}", node.addresses[0]));
    assert_says(
        &dialect,
        1,
        &["hint: if every call ends like this", "its log"],
    );
}
