//! Much traffic from one task: many calls in flight, and one-way messages in order.
//! `cargo run -p postroad --example pipeline_and_producer`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use postroad::extract::State;
use postroad::{Bytes, Client, Json, Router, Server};
use tokio::sync::Notify;

const MESSAGES: u64 = 10_000;

/// What was told one-way.
#[derive(Default)]
struct Told {
    sum: AtomicU64,
    count: AtomicU64,
    all: Notify,
}

async fn tell(State(told): State<Arc<Told>>, Json(number): Json<u64>) {
    told.sum.fetch_add(number, Ordering::Relaxed);
    if told.count.fetch_add(1, Ordering::Relaxed) + 1 == MESSAGES {
        told.all.notify_one();
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let told = Arc::new(Told::default());
    let router = Router::with_state(Arc::clone(&told))
        .route("tell", tell)
        .route("length", async |body: Bytes| body.len().to_string());
    let server = Server::new(router)
        .listen("tcp://127.0.0.1:0".parse()?)
        .start()
        .await?;
    let client = Client::connect(&format!("tcp://{}", server.addresses()[0])).await?;

    // A hundred calls are in flight; answers come in any order, and each has the tag of its call.
    let mut pipeline = client.pipeline("length");
    let (mut made, mut answered) = (0, 0);
    while answered < MESSAGES {
        while made < MESSAGES && pipeline.in_flight() < 100 {
            pipeline.call(made, vec![b'x'; made as usize % 64]).await?;
            made += 1;
        }
        let (tag, answer) = pipeline.next().await.ok_or("calls are in flight")?;
        assert_eq!(answer?, (tag % 64).to_string());
        answered += 1;
    }
    println!("{answered} calls were answered");

    // Nobody answers a one-way message. The producer waits where they do not leave fast enough.
    let mut producer = client.producer("tell");
    for number in 0..MESSAGES {
        producer.send(Bytes::from(number.to_string())).await?;
    }
    producer.flush().await?;
    told.all.notified().await;
    let sum = told.sum.load(Ordering::Relaxed);
    println!("{MESSAGES} messages came, their sum is {sum}");
    assert_eq!(sum, MESSAGES * (MESSAGES - 1) / 2);
    server.shutdown().await;
    Ok(())
}
