//! A server that ends on SIGINT and SIGTERM, and finishes what it has accepted:
//! `cargo run -p postroad --example signals`. It sends the signal to itself.

use std::time::Duration;

use postroad::{Client, Router, Server};
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Before anything is served, so that no signal ends the process on the spot.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let router = Router::new().route("slow", async || {
        // The signal comes while this call is in flight.
        kill_process(getpid(), Signal::TERM).expect("a process may signal itself");
        tokio::time::sleep(Duration::from_millis(200)).await;
        "done"
    });
    let server = Server::new(router)
        .listen("tcp://127.0.0.1:0".parse()?)
        .start()
        .await?;
    let client = Client::connect(&format!("tcp://{}", server.addresses()[0])).await?;
    let call = tokio::spawn(async move { client.request("slow").call_raw("").await });

    let name = tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    };
    println!("{name}: finishing what was accepted");
    // Takes no new calls, and waits `ServerConfig::drain` for those in flight at most.
    server.shutdown().await;
    let answer = call.await??;
    println!(
        "the call in flight was answered: {}",
        String::from_utf8_lossy(&answer)
    );
    assert_eq!(answer, "done");
    Ok(())
}
