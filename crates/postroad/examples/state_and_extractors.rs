//! Handlers without a trait, which share a state and take what they need out of a request:
//! `cargo run -p postroad --example state_and_extractors`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use postroad::extract::{Metadata, Peer, State};
use postroad::{Client, Error, Json, Router, Server, code};

#[derive(Clone, Default)]
struct Counter(Arc<AtomicU64>);

async fn count(State(counter): State<Counter>, Json(by): Json<u64>) -> Result<Json<u64>, Error> {
    if by == 0 {
        return Err(Error::new(
            code!("CNT-E-001"),
            "counting by nothing changes nothing",
        ));
    }
    Ok(Json(counter.0.fetch_add(by, Ordering::Relaxed) + by))
}

async fn who(peer: Peer, Metadata(pairs): Metadata) -> String {
    format!("{peer} with {} keys of metadata", pairs.len())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let router = Router::with_state(Counter::default())
        .route("count", count)
        .route("who", who);
    let server = Server::new(router)
        .listen("tcp://127.0.0.1:0".parse()?)
        .start()
        .await?;
    let client = Client::connect(&format!("tcp://{}", server.addresses()[0])).await?;
    client.call::<_, u64>("count", &2).await?;
    let counted: u64 = client.call("count", &3).await?;
    println!("counted {counted}");
    assert_eq!(counted, 5);
    let who = client
        .request("who")
        .metadata("tenant", "acme")
        .call_raw("")
        .await?;
    println!("{}", String::from_utf8_lossy(&who));
    server.shutdown().await;
    Ok(())
}
