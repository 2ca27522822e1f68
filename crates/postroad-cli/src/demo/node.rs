//! The process that the demonstration starts, kills and starts again: a node with two services.

use crate::terminal::say;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postroad::route::{Concurrency, RouteRule};
use postroad::{Client, ClientConfig, Error, Router, Server, ServerConfig};

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::args::DemoNode;
use crate::commands::runtime;
use crate::exit::Failed;
use crate::signals::Signals;

/// What is in store.
#[postroad::service]
pub(crate) trait Stock {
    /// How many there are of an item.
    #[idempotent]
    async fn count(&self, item: String) -> Result<u32, Error>;
    /// Counts slowly, to be cancelled.
    async fn count_slowly(&self, item: String, millis: u64) -> Result<u32, Error>;
    /// Weighs what is there; there are few scales.
    async fn weigh(&self, item: String) -> Result<u32, Error>;
    /// How many slow counts were stopped before their end.
    async fn stopped(&self) -> Result<u32, Error>;
}

/// Takes orders, and asks the stock.
#[postroad::service]
pub(crate) trait Orders {
    /// Places an order for one item.
    async fn place(&self, item: String) -> Result<String, Error>;
}

/// How many can be weighed at once, and how long that takes.
pub(crate) const SCALES: usize = 4;
pub(crate) const WEIGHING: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Shelves {
    stopped: Arc<AtomicU32>,
}

/// Counts when a handler is dropped before its end.
struct Stopped(Option<Arc<AtomicU32>>);

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some(stopped) = &self.0 {
            stopped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Stock for Shelves {
    async fn count(&self, item: String) -> Result<u32, Error> {
        match item.as_str() {
            "nails" => Ok(1000),
            "hammers" => Ok(7),
            other => Err(Error::new("INV-E-003", format!("there are no {other}"))),
        }
    }

    async fn count_slowly(&self, item: String, millis: u64) -> Result<u32, Error> {
        let mut stopped = Stopped(Some(Arc::clone(&self.stopped)));
        tokio::time::sleep(Duration::from_millis(millis)).await;
        stopped.0 = None;
        self.count(item).await
    }

    async fn weigh(&self, item: String) -> Result<u32, Error> {
        tokio::time::sleep(WEIGHING).await;
        self.count(item).await
    }

    async fn stopped(&self) -> Result<u32, Error> {
        Ok(self.stopped.load(Ordering::Relaxed))
    }
}

struct Desk {
    stock: StockClient,
}

impl Orders for Desk {
    async fn place(&self, item: String) -> Result<String, Error> {
        let count = self.stock.count(item.clone()).await.map_err(|cause| {
            Error::new("ORD-E-102", "the order cannot be filled").caused_by(cause)
        })?;
        Ok(format!("one of {count} {item} is yours"))
    }
}

pub(crate) fn run(node: &DemoNode) -> Result<ExitCode, Failed> {
    // A demonstration that is killed takes its node with it.
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(std::io::Error::from)?;
    runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        // The services talk to each other as if they were on two machines.
        let inside = Server::new(stock_routes(Shelves::default()))
            .listen("mem://stock".parse()?)
            .start()
            .await?;
        let client = Client::connect_with("mem://stock".parse()?, ClientConfig::default()).await?;
        let desk = Desk {
            stock: StockClient::new(client),
        };
        let router: Router = stock_routes(Shelves::default()).merge(orders_routes(desk));
        let mut config = ServerConfig::default();
        let mut weigh = RouteRule::of("Stock.weigh");
        weigh.concurrency = Some(Concurrency::Fixed(SCALES));
        config.rules.push(weigh);
        let mut server = Server::new(router).config(config);
        for url in &node.listen {
            server = server.listen(url.parse()?);
        }
        let server = server.start().await?;
        for address in server.addresses() {
            say(format_args!("{address}"));
        }
        say(format_args!("ready"));
        signals.next().await;
        server.shutdown().await;
        drop(inside);
        Ok(ExitCode::SUCCESS)
    })
}
