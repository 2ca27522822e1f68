//! Authentication that cannot forget a route, on both sides:
//! `cargo run -p postroad --example auth`.

use postroad::extract::Request;
use postroad::{CallContext, Client, Error, Server, code};

/// Who calls, as the hook has found out.
struct User(String);

#[postroad::service]
trait Orders {
    /// Places an order for whoever calls.
    async fn place(&self, cx: &CallContext, item: String) -> Result<String, Error>;
}

struct Shop;

impl Orders for Shop {
    async fn place(&self, cx: &CallContext, item: String) -> Result<String, Error> {
        let name = cx.identity().map_or("nobody", |User(name)| name);
        Ok(format!("{item} for {name}"))
    }
}

/// Runs before every request, also those for the built-in routes.
async fn authenticate(mut request: Request) -> Result<Request, Error> {
    let token = request.metadata("token").unwrap_or_default();
    if token != "let me in" {
        return Err(Error::new(
            code!("AUT-E-401"),
            "the token is missing or wrong",
        ));
    }
    request.set_identity(User("Ada".to_owned()));
    Ok(request)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::new(orders_routes(Shop)).before(authenticate);
    let server = server.listen("tcp://127.0.0.1:0".parse()?).start().await?;
    let client = Client::connect(&format!("tcp://{}", server.addresses()[0])).await?;

    let refused = OrdersClient::new(client.clone())
        .place("nails".to_owned())
        .await;
    println!("without a token: {refused:?}");
    assert!(refused.is_err());

    // Every call of this client has the token, whichever way it is made.
    let client = client.before(|call| call.metadata("token", "let me in"));
    let placed = OrdersClient::new(client).place("nails".to_owned()).await?;
    println!("with a token: {placed}");
    assert_eq!(placed, "nails for Ada");
    server.shutdown().await;
    Ok(())
}
