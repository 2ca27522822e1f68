//! What a connection costs while nothing happens on it. In a process of its own, because resident
//! memory is the whole process's.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::TcpStream;

use postroad::{Router, Server};
use postroad_proto::Time;
use postroad_proto::session::{Config, Session};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const WARM_UP: usize = 500;
const CONNECTIONS: usize = 4000;
/// Bytes; about 1500 are needed with glibc's allocator.
const EACH_MAX: u64 = 2048;

/// Resident memory of this process, bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process runs");
    let mut words = status.split_whitespace();
    words.find(|word| *word == "VmRSS:").expect("it is there");
    let kib = words.next().and_then(|number| number.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

/// Connects and waits for WELCOME.
fn open(address: &str, hello: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it is accepted");
    stream.write_all(hello).expect("it reads");
    let mut head = [0; 8];
    stream.read_exact(&mut head).expect("it answers");
    assert_eq!(head[4], 2, "WELCOME");
    stream
}

#[test]
fn an_idle_native_connection_takes_less_than_two_kib() {
    let limit = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, limit).expect("up to the maximum it is allowed");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let server = Server::new(Router::<()>::new());
    let server = server.listen("tcp://127.0.0.1:0".parse().expect("a URL"));
    let server = runtime.block_on(server.start()).expect("it starts");
    let address = server.addresses()[0].clone();
    let mut hello = Vec::new();
    Session::client(Config::default(), Time(0)).poll_transmit(&mut hello);

    let first: Vec<_> = (0..WARM_UP).map(|_| open(&address, &hello)).collect();
    let before = memory();
    let rest: Vec<_> = (0..CONNECTIONS).map(|_| open(&address, &hello)).collect();
    let each = memory().saturating_sub(before) / CONNECTIONS as u64;
    println!("{each} bytes a connection");
    assert!(each < EACH_MAX, "{each} bytes a connection");
    assert_eq!(server.stats().open, first.len() + rest.len());
    // Closing thousands of connections in good order takes longer than the process needs to end.
    runtime.shutdown_background();
}
