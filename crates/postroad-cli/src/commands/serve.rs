//! `postroad serve`: a node.

use std::process::ExitCode;

use postroad::{Router, Server, practice};

use crate::args::Serve;
use crate::config::NodeConfig;
use crate::exit::Failed;
use crate::signals::Signals;
use crate::terminal::say;

pub(crate) fn run(serve: &Serve) -> Result<ExitCode, Failed> {
    let config = serve.config.as_deref();
    let config = NodeConfig::load(
        config,
        crate::config::variables(),
        &serve.listen,
        serve.workers,
    )?;
    super::raise_open_files();
    super::runtime()?.block_on(node(config, serve.practice))
}

async fn node(config: NodeConfig, has_practice: bool) -> Result<ExitCode, Failed> {
    let mut signals = Signals::listen()?;
    let router = match has_practice {
        true => practice::routes(),
        false => Router::new(),
    };
    let mut server = Server::new(router).config(config.server);
    for endpoint in &config.listen {
        server = server.listen(endpoint.clone());
    }
    let server = server.start().await?;
    for (endpoint, address) in config.listen.iter().zip(server.addresses()) {
        // Data for whoever started the node on port 0; people read the log.
        say(format_args!("listening {endpoint} {address}"));
    }
    signals.next_of_node().await;
    tracing::info!("finishing what was accepted; a second signal ends at once");
    tokio::select! {
        () = server.shutdown() => Ok(ExitCode::SUCCESS),
        code = signals.next_of_node() => Ok(code),
    }
}
