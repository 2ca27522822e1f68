//! A listener that can accept nothing, because the process has no descriptor left. In a process of
//! its own, which has none left.
#![cfg(all(target_os = "linux", feature = "admin"))]

#[path = "it/support.rs"]
mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postroad::admin::{Admin, RunningAdmin};
use postroad::{Router, ServerConfig, ServerState};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, Type};
use support::{PATIENCE, Tested, serve_with};

/// A socket that is not connected yet: what it takes of the process, it has.
fn socket() -> Tested<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// What `/readyz` answers, over this socket.
fn ready(mut socket: Socket, admin: &RunningAdmin) -> Tested<String> {
    socket.connect(&admin.address().parse::<SocketAddr>()?.into())?;
    socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Processor time of this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_descriptors_says_so_does_not_spin_and_comes_back() -> Tested {
    let limit = getrlimit(Resource::Nofile);
    let few = Rlimit {
        current: Some(200),
        ..limit
    };
    setrlimit(Resource::Nofile, few)?;
    let mut config = ServerConfig::default();
    config.workers = Some(1);
    let server = serve_with("tcp://127.0.0.1:0", Router::new(), config).await?;
    let admin = Admin::listen("http://127.0.0.1:0")?.start()?;
    admin.watch(&server);
    // Nobody asks before: a connection that is closed late would give its descriptor back late.
    let mut state = server.state();
    let (client, asker) = (socket()?, socket()?);
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    assert!(taken.len() < 200, "the limit holds");
    let (began, spent) = (Instant::now(), processor_time());
    client.connect(&server.addresses()[0].parse::<SocketAddr>()?.into())?;
    let failed = state.wait_for(|state| *state == ServerState::Error);
    tokio::time::timeout(PATIENCE, failed).await??;
    // Pauses of 10, 20, 40, 80, 160 and 320 ms.
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    while server.stats().accept_errors < 7 {
        looks.tick().await;
        assert!(began.elapsed() < PATIENCE, "{:?}", server.stats());
    }
    let (took, spent) = (began.elapsed(), processor_time() - spent);
    assert!(
        took >= Duration::from_millis(300),
        "it pauses longer each time: {took:?}"
    );
    assert!(spent < took / 4, "{spent:?} of processor time in {took:?}");

    drop(taken);
    let back = state.wait_for(|state| *state == ServerState::Running);
    tokio::time::timeout(PATIENCE, back).await??;
    assert!(ready(asker, &admin)?.starts_with("HTTP/1.1 200 "));
    assert_eq!(server.stats().accepted, 1, "nobody else has called");
    Ok(())
}
