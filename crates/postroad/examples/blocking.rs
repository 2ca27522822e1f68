//! Calls from threads, without async code: `cargo run -p postroad --example blocking`.

use std::thread;
use std::time::Duration;

use postroad::{BlockingClient, Json, Router, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A server needs a runtime; here it has one of its own, on threads of its own.
    let runtime = tokio::runtime::Runtime::new()?;
    let router = Router::new().route("double", async |Json(n): Json<u32>| Json(n * 2));
    let server = Server::new(router).listen("tcp://127.0.0.1:0".parse()?);
    let server = runtime.block_on(server.start())?;

    let client = BlockingClient::connect(&format!("tcp://{}", server.addresses()[0]))?;
    let doubled: u32 = client.call("double", &21)?;
    println!("21 doubled is {doubled}");
    assert_eq!(doubled, 42);

    // Threads share a client and its connection.
    thread::scope(|scope| {
        let client = &client;
        let threads: Vec<_> = (0..4)
            .map(|n| scope.spawn(move || client.call::<u32, u32>("double", &n)))
            .collect();
        for (n, thread) in (0..).zip(threads) {
            let answer = thread.join().expect("it does not panic");
            assert_eq!(answer.expect("the server answers"), n * 2);
        }
    });

    // What a call may be told is told in a closure.
    let urgent: Result<u32, _> = client.with("double", |call| {
        let call = call.priority(7).timeout(Duration::from_secs(1));
        async move { call.call(&4).await }
    });
    println!("4 doubled, urgently, is {}", urgent?);
    client.close();
    runtime.block_on(server.shutdown());
    Ok(())
}
