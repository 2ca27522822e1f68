//! What the tests share: servers and clients for them, and the shape of their results.

#![allow(
    dead_code,
    reason = "the tests with a program of their own use a part of it"
)]

use std::error::Error;
use std::time::Duration;

use postroad::{
    BlockingClient, Bytes, Client, Router, RunningServer, Server, ServerConfig, StartError,
};

/// How a test ends: any error fails it.
pub(crate) type Tested<T = ()> = Result<T, Box<dyn Error>>;

/// Far more than anything takes that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a server at this endpoint.
pub(crate) async fn serve<S: Clone + Send + Sync + 'static>(
    url: &str,
    router: Router<S>,
) -> Result<RunningServer, StartError> {
    serve_with(url, router, ServerConfig::default()).await
}

/// Starts a server with settings of the test's own.
pub(crate) async fn serve_with<S: Clone + Send + Sync + 'static>(
    url: &str,
    router: Router<S>,
    config: ServerConfig,
) -> Result<RunningServer, StartError> {
    let endpoint = url.parse().map_err(StartError::Transport)?;
    let server = Server::new(router).config(config).listen(endpoint);
    server.start().await
}

/// The URL of a server's first TCP endpoint.
pub(crate) fn tcp(server: &RunningServer) -> String {
    format!("tcp://{}", server.addresses()[0])
}

/// A client of a server's first TCP endpoint.
pub(crate) async fn connect(server: &RunningServer) -> Tested<Client> {
    Ok(Client::connect(&tcp(server)).await?)
}

/// A call from a thread without a runtime.
pub(crate) fn echo(client: &BlockingClient, text: &str) -> Bytes {
    let call = client.with("postroad/echo", |call| {
        call.timeout(PATIENCE).call_raw(text.to_owned())
    });
    call.expect("the server echoes")
}

/// The names of all dialects, as in URLs.
pub(crate) const DIALECTS: [&str; 6] = [
    "line", "session", "sequence", "opcode", "compact", "priority",
];

/// A route that a client of this protocol can name, and that reaches the echo of a server which has
/// no routes of its own.
pub(crate) fn echo_route(dialect: Option<&str>) -> &'static str {
    match dialect {
        None => "postroad/echo",
        Some("line") => "line",
        Some("opcode") => "opcode/1",
        Some(_) => "command/1",
    }
}
