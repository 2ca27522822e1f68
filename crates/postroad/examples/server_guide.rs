//! All snippets of docs/server.md in one program:
//! `cargo run -p postroad --features admin,tower --example server_guide`.

use std::time::Duration;

use postroad::admin::{Admin, RunningAdmin};
use postroad::extract::{Deadline, Identity, Reply, Request};
use postroad::route::{Concurrency, RouteOptions, RouteRule, Work};
use postroad::{
    CallError, Client, Error, Json, Next, Retry, Router, RunningServer, Server, ServerConfig, code,
};
use tower::ServiceBuilder;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn first() -> Router {
    Router::new().route("text/shout", async |text: String| text.to_uppercase())
}

#[postroad::service]
trait Orders {
    /// Looks an order up.
    #[idempotent]
    async fn get(&self, number: u64) -> Result<String, Error>;
    /// Places an order.
    async fn place(&self, item: String) -> Result<u64, Error>;
}

struct Shop;

impl Orders for Shop {
    async fn get(&self, number: u64) -> Result<String, Error> {
        match number {
            17 => Ok("nails".to_owned()),
            _ => Err(Error::new(code!("ORD-E-404"), "there is no such order")),
        }
    }

    async fn place(&self, item: String) -> Result<u64, Error> {
        Ok(item.len() as u64)
    }
}

async fn cancel(Identity(caller): Identity, Json(number): Json<u64>) -> Result<String, Error> {
    match caller.is_anonymous() {
        true => Err(Error::new(code!("AUT-E-401"), "say who you are")),
        false => Ok(format!("{caller} has cancelled {number}")),
    }
}

async fn report(deadline: Deadline) -> String {
    match deadline.left() {
        Some(left) if left < Duration::from_millis(100) => "a summary".to_owned(),
        _ => "the whole of it".to_owned(),
    }
}

fn more() -> Router {
    let options = RouteOptions::new()
        .describe("Writes the report of a day")
        .idempotent()
        .timeout(Duration::from_secs(30));
    Router::new()
        .route("Orders.cancel", cancel)
        .route_with("Reports.daily", options, report)
        .merge(orders_routes(Shop))
}

fn rules() -> Vec<RouteRule> {
    let mut orders = RouteRule::of("Orders.*");
    orders.deadline = Some(Duration::from_millis(500));
    orders.concurrency = Some(Concurrency::Auto);
    let mut reports = RouteRule::of("Reports.*");
    reports.priority = Some(2);
    reports.work = Work::Cpu;
    reports.concurrency = Some(Concurrency::Fixed(8));
    vec![orders, reports]
}

async fn log_failures(request: Request, next: Next) -> Result<Reply, Error> {
    let (route, peer) = (request.route().to_owned(), request.peer().to_string());
    let answer = next.run(request).await;
    if let Err(error) = &answer {
        eprintln!("{route} has failed for {peer}: {error}");
    }
    answer
}

fn layered(router: Router) -> Router {
    let layers = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_secs(2)))
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(8));
    router.layer(layers)
}

fn versions() -> Router {
    let old = Router::new().route("greet", async |name: String| format!("Hello {name}"));
    let new = Router::new().route("greet", async |name: String| format!("Good day, {name}"));
    Router::new().version("1", old).version("2", new)
}

async fn serve(url: &str) -> Result<RunningServer> {
    let mut config = ServerConfig::default();
    config.rules = rules();
    let router = first().merge(layered(more())).merge(versions());
    let server = Server::new(router).config(config).around(log_failures);
    Ok(server.listen(url.parse()?).start().await?)
}

async fn release(server: &RunningServer) -> Result<()> {
    let mut rules = rules();
    let mut greet = RouteRule::of("greet");
    greet.versions = [("2".to_owned(), 100), ("1".to_owned(), 900)].into();
    rules.push(greet);
    Ok(server.set_rules(rules)?)
}

async fn ask(client: &Client) -> Result<String, CallError> {
    let order = client
        .request("Orders.get")
        .timeout(Duration::from_millis(200))
        .priority(6);
    let answer = order.call(&serde_json::json!({ "number": 17 })).await;
    if let Err(error) = &answer
        && error.retry() == Retry::Elsewhere
    {
        eprintln!(
            "not started; another server may, not sooner than {:?}",
            error.retry_after()
        );
    }
    answer
}

fn watch(server: &RunningServer, url: &str) -> Result<RunningAdmin> {
    let admin = Admin::listen(url)?.start()?;
    admin.watch(server);
    Ok(admin)
}

async fn show() -> Result<()> {
    let server = serve("tcp://127.0.0.1:0").await?;
    let admin = watch(&server, "http://127.0.0.1:0")?;
    println!("health at {}", admin.address());
    let client = Client::connect(&format!("tcp://{}", server.addresses()[0])).await?;
    assert_eq!(
        client.request("text/shout").call_raw("hello").await?,
        "HELLO"
    );
    assert_eq!(ask(&client).await?, "nails");
    let orders = OrdersClient::new(client.clone());
    assert_eq!(orders.place("nails".to_owned()).await?, 5);
    let refused: Result<String, CallError> = client.call("Orders.cancel", &17).await;
    assert_eq!(
        refused.expect_err("nobody has said who calls").code(),
        code!("AUT-E-401")
    );
    assert_eq!(
        client.request("Reports.daily").call_raw("").await?,
        "the whole of it"
    );
    let hurried = client
        .request("Reports.daily")
        .timeout(Duration::from_millis(99));
    assert_eq!(hurried.call_raw("").await?, "a summary");
    assert_eq!(
        client.request("greet").call_raw("Ada").await?,
        "Good day, Ada"
    );
    release(&server).await?;
    let greeted = client.request("greet").call_raw("Ada").await?;
    println!("greeted with {}", String::from_utf8_lossy(&greeted));
    assert_eq!(
        client.request("greet@1").call_raw("Ada").await?,
        "Hello Ada"
    );
    server.shutdown().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    show().await
}

#[tokio::test]
async fn the_guide_to_the_server_runs() -> Result<()> {
    show().await
}
