//! Peers that share no code with Postroad: a Python client of every dialect, JMeter, openssl.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::support::{Node, has_peer, peer, root};

fn python(dialect: &str, url: &str, options: &[&str]) {
    if !has_peer("python3", "python3") {
        return;
    }
    let node = Node::start(&[url]);
    let mut command = Command::new("python3");
    command
        .arg(root().join("tests/peers/dialect_peer.py"))
        .args([dialect, &node.addresses[0]]);
    command.args(options).arg("--vectors");
    command.arg(root().join("crates/postroad-proto/tests/vectors/dialects.json"));
    let said = peer(&mut command);
    assert!(said.contains(" passed, 0 failed"), "{said}");
}

#[test]
fn a_python_client_of_session_works_with_every_checksum() {
    for crc in ["ibm-3740", "modbus", "xmodem", "arc", "kermit"] {
        python(
            "session",
            &format!("tcp+session://127.0.0.1:0?crc={crc}"),
            &["--crc", crc],
        );
    }
}

#[test]
fn a_python_client_of_sequence_works() {
    python("sequence", "tcp+sequence://127.0.0.1:0", &[]);
    python("auto-sequence", "tcp+auto://127.0.0.1:0", &[]);
}

#[test]
fn a_python_client_of_opcode_works() {
    python("opcode", "tcp+opcode://127.0.0.1:0", &[]);
    python("auto-opcode", "tcp+auto://127.0.0.1:0", &[]);
}

#[test]
fn a_python_client_of_priority_works_with_every_header() {
    for header in ["9", "10", "12"] {
        python(
            "priority",
            &format!("tcp+priority://127.0.0.1:0?header={header}"),
            &["--header", header],
        );
    }
}

#[test]
fn a_python_client_of_compact_works() {
    python("compact", "tcp+compact://127.0.0.1:0", &[]);
    python("auto-compact", "tcp+auto://127.0.0.1:0", &[]);
}

#[test]
fn a_python_client_of_line_works() {
    python("line", "tcp+line://127.0.0.1:0", &[]);
}

#[test]
fn vectors_are_what_their_generators_write() {
    for name in ["native", "envelope"] {
        if has_peer("python3", "python3") {
            let file = match name {
                "envelope" => "envelopes.json",
                _ => "native.json",
            };
            let mut command = Command::new("python3");
            command
                .arg(root().join(format!("tests/peers/{name}_vectors.py")))
                .arg("--check");
            peer(
                command.arg(
                    root()
                        .join("crates/postroad-proto/tests/vectors")
                        .join(file),
                ),
            );
        }
    }
}

#[test]
fn a_python_client_says_deadline_trace_and_metadata_in_envelopes() {
    if !has_peer("python3", "python3") {
        return;
    }
    for envelope in ["json", "protobuf"] {
        let url = format!("tcp+sequence://127.0.0.1:0?envelope={envelope}");
        let node = Node::with(&["--practice", "--listen", &url], 1);
        let mut command = Command::new("python3");
        command.arg(root().join("tests/peers/envelope_vectors.py"));
        peer(command.args(["--ask", envelope, &node.addresses[0]]));
    }
}

#[test]
fn jmeter_sends_ten_thousand_samples_without_an_error() {
    if !has_peer("jmeter", "jmeter jmeter-tcp libxstream-java")
        || !has_peer("javac", "default-jdk-headless")
    {
        return;
    }
    let node = Node::start(&["tcp+line://127.0.0.1:0"]);
    let said = peer(Command::new(root().join("tests/peers/jmeter/run.sh")).arg(node.port()));
    assert!(said.contains("10000 samples, 0 errors"), "{said}");
}

#[test]
fn openssl_talks_to_a_tls_listener() {
    if !has_peer("openssl", "openssl") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let request = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ];
    let names = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ];
    peer(
        Command::new("openssl")
            .args(request)
            .args(names)
            .args(["-out", &cert, "-keyout", &key]),
    );
    let node = Node::start(&[&format!("tls+line://127.0.0.1:0?cert={cert}&key={key}")]);
    let mut client = Command::new("openssl")
        .args([
            "s_client",
            "-quiet",
            "-tls1_3",
            "-CAfile",
            &cert,
            "-verify_return_error",
            "-connect",
        ])
        .arg(&node.addresses[0])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is there");
    let mut input = client.stdin.take().expect("it is piped");
    input.write_all(b"hello\n").expect("it reads");
    let mut answer = [0; 11];
    client
        .stdout
        .take()
        .expect("it is piped")
        .read_exact(&mut answer)
        .expect("an answer");
    assert_eq!(&answer, b"ACK: hello\n");
    drop(input);
    let _ = client.kill();
    let _ = client.wait();
}

#[test]
fn a_person_with_netcat_gets_an_answer_a_line() {
    let node = Node::start(&["tcp+line://127.0.0.1:0"]);
    let mut stream = TcpStream::connect(&node.addresses[0]).expect("the node listens");
    stream.write_all(b"hello\r\nPING\n").expect("it reads");
    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("it is open");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("it is text");
    assert_eq!(answers, "ACK: hello\nPONG\n");
}
