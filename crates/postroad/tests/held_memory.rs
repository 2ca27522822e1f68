//! What requests that wait cost. In a process of its own, because resident memory is the whole
//! process's.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::TcpStream;

use postroad::{Router, Server};
use postroad_proto::Time;
use postroad_proto::frame::{Head, Kind, PartTag, put_frame, put_part};
use postroad_proto::session::{Config, Session};

/// Bit of a kind: whoever does not know it skips it.
const SKIPPABLE: u8 = 1 << 7;
const CALLS: u32 = 300;
/// Bytes of frames that are skipped between two calls: as much as the largest read.
const FILLER: usize = 250_000;

/// Resident memory of this process, bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process runs");
    let mut words = status.split_whitespace();
    words.find(|word| *word == "VmRSS:").expect("it is there");
    let kib = words.next().and_then(|number| number.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

/// As much of `FILLER` as whole frames without a body fill.
fn filler() -> Vec<u8> {
    let mut frame = Vec::new();
    put_frame(&mut frame, Head::new(Kind::Ping), &[], b"", false);
    // A kind of the high half that nobody knows.
    frame[3] = SKIPPABLE | 0x3F;
    frame.repeat(FILLER / frame.len())
}

fn call(id: u32) -> Vec<u8> {
    let (mut parts, mut out) = (Vec::new(), Vec::new());
    put_part(&mut parts, PartTag::RouteName as u8, b"forever");
    let head = Head::new(Kind::Request).with_id(id).with_arg(u32::MAX);
    put_frame(&mut out, head, &parts, b"x", false);
    out
}

#[test]
fn a_small_call_that_waits_does_not_keep_the_buffer_that_it_was_read_into() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    // It keeps its payload while it waits.
    let forever = async |payload: postroad::Bytes| {
        std::future::pending::<()>().await;
        payload
    };
    let server = Server::new(Router::<()>::new().route("forever", forever));
    let server = server.listen("tcp://127.0.0.1:0".parse().expect("a URL"));
    let server = runtime.block_on(server.start()).expect("it starts");
    let mut hello = Vec::new();
    let config = Config {
        offered: 0,
        ..Config::default()
    };
    Session::client(config, Time(0)).poll_transmit(&mut hello);
    let mut stream = TcpStream::connect(&server.addresses()[0]).expect("it is accepted");
    stream.write_all(&hello).expect("it reads");
    stream.read_exact(&mut [0; 8]).expect("it answers");
    let filler = filler();
    let mut before = 0;
    for id in 0..CALLS {
        if id == 10 {
            before = memory();
        }
        stream.write_all(&call(id)).expect("it reads");
        stream.write_all(&filler).expect("it reads");
    }
    while server.stats().running < CALLS as usize {
        std::thread::yield_now();
    }
    let held = memory().saturating_sub(before);
    assert!(
        held < 16 << 20,
        "{} KiB for {CALLS} calls of a byte",
        held >> 10
    );
}
