//! A service and its client in one program: `cargo run -p postroad --example service`.

use postroad::{Client, Error, Server};

/// The schema: arguments and answers are ordinary types.
#[postroad::service]
trait Greeter {
    /// Greets somebody.
    async fn hello(&self, name: String) -> Result<String, Error>;
}

struct Polite;

impl Greeter for Polite {
    async fn hello(&self, name: String) -> Result<String, Error> {
        if name.is_empty() {
            return Err(Error::new("GRT-E-001", "nobody to greet"));
        }
        Ok(format!("Good day, {name}"))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::new(greeter_routes(Polite));
    let server = server
        .listen("tcp+auto://127.0.0.1:0".parse()?)
        .start()
        .await?;
    let url = format!("tcp://{}", server.addresses()[0]);
    let greeter = GreeterClient::new(Client::connect(&url).await?);
    println!("{}", greeter.hello("Ada".to_owned()).await?);
    if let Err(error) = greeter.hello(String::new()).await {
        println!("{error} (try again: {:?})", error.retry());
    }
    server.shutdown().await;
    Ok(())
}
