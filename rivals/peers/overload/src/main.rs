//! What the overload experiment compares Postroad with: a tonic server with its own limit of
//! concurrency and its own load shedding, and an open loop of calls to it.

mod load;
mod record;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser};
use generated::worker_server::{Worker, WorkerServer};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Calls in flight that a connection may carry: more than are ever made.
const STREAMS: u32 = 1 << 20;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What `tonic-build` made of `build.rs`.
#[expect(
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "generated"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/overload.Worker.rs"));
}

/// `message Asked { uint64 sleep_ms = 1; uint64 spin_us = 2; }`, answered as it was asked.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Asked {
    #[prost(uint64, tag = "1")]
    sleep_ms: u64,
    #[prost(uint64, tag = "2")]
    spin_us: u64,
}

#[derive(Debug, Parser)]
enum Role {
    /// Serves, on one thread.
    Serve(Serve),
    /// Calls, and prints what it measured.
    Load(load::Load),
}

#[derive(Debug, Args)]
struct Serve {
    #[arg(long)]
    at: String,
    /// Handlers of the one connection at once.
    #[arg(long)]
    concurrency: usize,
    /// What comes beyond them is refused; otherwise it waits.
    #[arg(long)]
    shed: bool,
}

struct Practice;

#[tonic::async_trait]
impl Worker for Practice {
    async fn work(&self, asked: Request<Asked>) -> std::result::Result<Response<Asked>, Status> {
        let Asked { sleep_ms, spin_us } = *asked.get_ref();
        if sleep_ms > 0 {
            tokio::time::sleep(Duration::from_millis(sleep_ms)).await;
        }
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_micros(spin_us) {
            std::hint::spin_loop();
        }
        Ok(Response::new(asked.into_inner()))
    }
}

fn main() -> ExitCode {
    let done = match Role::parse() {
        Role::Serve(how) => serve(&how),
        Role::Load(load) => load.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer-overload: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(how: &Serve) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut server = Server::builder()
        .tcp_nodelay(true)
        .max_concurrent_streams(STREAMS)
        .concurrency_limit_per_connection(how.concurrency)
        .load_shed(how.shed);
    let server = server.add_service(WorkerServer::new(Practice));
    Ok(runtime.block_on(server.serve(how.at.parse()?))?)
}
