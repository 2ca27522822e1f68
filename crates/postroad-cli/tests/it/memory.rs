//! What a node holds when those who made it grow have gone.
#![cfg(all(target_os = "linux", feature = "jemalloc"))]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use postroad_proto::Time;
use postroad_proto::frame::{Head, Kind, MESSAGE_ID, MORE, PartTag, put_frame, put_part};
use postroad_proto::session::{Config, Session};

use crate::support::Node;

const CONNECTIONS: usize = 200;
/// Messages that each begins: as many as it may.
const BEGUN: u32 = 256;

/// A connection that has begun many large messages, and named many routes: small pieces of memory
/// that lie between those of all the others.
fn hold(address: &str) -> TcpStream {
    let mut wire = Vec::new();
    Session::client(Config::default(), Time(0)).poll_transmit(&mut wire);
    let mut stream = TcpStream::connect(address).expect("it is accepted");
    stream.write_all(&wire).expect("it reads");
    let mut head = [0; 8];
    stream.read_exact(&mut head).expect("it answers");
    let mut wire = Vec::new();
    let mut parts = Vec::new();
    put_part(
        &mut parts,
        PartTag::WholeLength as u8,
        &200_000_u32.to_le_bytes(),
    );
    for number in 0..BEGUN {
        let first = Head::new(Kind::OneWay).with_class(MORE).with_arg(u32::MAX);
        put_frame(
            &mut wire,
            first.with_id(MESSAGE_ID | number),
            &parts,
            b"x",
            true,
        );
    }
    for number in 1..=1_024 {
        let name = format!("{number:04}{}", "r".repeat(251));
        let route = Head::new(Kind::Route).with_id(number);
        put_frame(&mut wire, route, &[], name.as_bytes(), true);
    }
    stream.write_all(&wire).expect("it reads");
    stream
}

#[test]
fn memory_goes_back_to_the_system_when_connections_have_gone() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let before = node.memory();
    let held: Vec<_> = (0..CONNECTIONS).map(|_| hold(&node.addresses[0])).collect();
    let begin = Instant::now();
    let wait_for = |what: &str, is_so: &dyn Fn(u64) -> bool| {
        while !is_so(node.memory()) {
            let held = node.memory() / 1024;
            assert!(
                begin.elapsed() < Duration::from_secs(120),
                "{what}: {held} MiB"
            );
            std::thread::yield_now();
        }
    };
    wait_for("held", &|kib| kib > before + 60 * 1024);
    drop(held);
    // glibc's allocator would keep nine tenths.
    wait_for("back", &|kib| kib < before + 20 * 1024);
}
