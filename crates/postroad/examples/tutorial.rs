//! All snippets of docs/tutorial.md in one program: `cargo run -p postroad --example tutorial`.

use std::time::Duration;

use postroad::{CallContext, Client, Error, RunningServer, Server, code};
use rustix::process::{Signal, getpid, kill_process};

#[postroad::service]
trait Orders {
    async fn place(&self, cx: &CallContext, item: String) -> Result<String, Error>;
}

struct Shop;

impl Orders for Shop {
    async fn place(&self, cx: &CallContext, item: String) -> Result<String, Error> {
        if item.is_empty() {
            return Err(Error::new(code!("ORD-E-001"), "an order needs an item"));
        }
        Ok(format!(
            "{item} for {:?}",
            cx.metadata("tenant").unwrap_or_default()
        ))
    }
}

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

async fn start(url: &str) -> Result<RunningServer> {
    let server = Server::new(orders_routes(Shop));
    Ok(server.listen(url.parse()?).start().await?)
}

async fn run_until_interrupted(server: RunningServer) -> Result<()> {
    tokio::signal::ctrl_c().await?;
    server.shutdown().await; // answers what was accepted, for at most 25 s
    Ok(())
}

async fn order(url: &str) -> Result<String> {
    let client = Client::connect(url).await?;
    let orders = OrdersClient::new(client).with(|call| call.timeout(Duration::from_secs(2)));
    let urgent = orders.with(|call| call.priority(7).metadata("tenant", "acme"));
    Ok(urgent.place("nails".to_owned()).await?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let server = start("tcp://127.0.0.1:0").await?;
    let url = format!("tcp://{}", server.addresses()[0]);
    let shopping = async {
        let placed = order(&url).await?;
        println!("placed: {placed}");
        assert_eq!(placed, "nails for b\"acme\"");
        // As if somebody had pressed Ctrl-C.
        Ok(kill_process(getpid(), Signal::INT)?)
    };
    // The server is polled first, and so heeds the signal before it is sent.
    tokio::try_join!(biased; run_until_interrupted(server), shopping)?;
    println!("the server has ended in order");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_order_is_placed() -> Result<()> {
    let server = start("mem://placed").await?;
    let orders = OrdersClient::new(Client::connect("mem://placed").await?);
    assert!(orders.place("nails".to_owned()).await?.starts_with("nails"));
    server.shutdown().await;
    Ok(())
}
