//! `postroad serve`: a node.

use std::process::ExitCode;

use postroad::{Endpoint, Protocol, Router, Server, practice};

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
    let listeners = config.listen.iter().zip(server.addresses());
    if crate::logging::is_watched() {
        banner(listeners);
    } else {
        // Data for whoever started the node on port 0; people read the log.
        listeners
            .for_each(|(endpoint, address)| say(format_args!("listening {endpoint} {address}")));
    }
    signals.next_of_node().await;
    tracing::info!("finishing what was accepted; a second signal ends at once");
    tokio::select! {
        () = server.shutdown() => Ok(ExitCode::SUCCESS),
        code = signals.next_of_node() => Ok(code),
    }
}

/// What somebody at a terminal wants to know, in place of lines for programs.
fn banner<'a>(listeners: impl Iterator<Item = (&'a Endpoint, &'a String)>) {
    say(format_args!(
        "postroad {} listens on",
        env!("CARGO_PKG_VERSION")
    ));
    let mut example = None;
    for (endpoint, address) in listeners {
        say(format_args!("   {endpoint}  ({address})"));
        let (transport, is_native) = (endpoint.transport(), !is_dialect(endpoint));
        if example.is_none() && is_native && matches!(transport, "tcp" | "unix") {
            // From this machine the address of every interface is reached by the one of its own.
            let address = address.replace("0.0.0.0:", "127.0.0.1:");
            let address = address.replace("[::]:", "[::1]:");
            example = Some(format!("{transport}://{address}"));
        }
    }
    if let Some(url) = example {
        say(format_args!(
            "try: postroad call {url} postroad/echo '\"hello\"'"
        ));
    }
    say("Ctrl-C ends it");
}

fn is_dialect(endpoint: &Endpoint) -> bool {
    matches!(endpoint.protocol(), Protocol::Dialect(_))
}
