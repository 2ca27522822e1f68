//! `postroad serve`: a node.

use std::process::ExitCode;

use postroad::admin::{Admin, RunningAdmin};
use postroad::discovery::Registration;
use postroad::{Endpoint, Protocol, Router, RunningServer, Server, practice};

use crate::args::Serve;
use crate::config::{AdminConfig, AdminListen, NodeConfig};
use crate::exit::{self, Failed};
use crate::signals::Signals;
use crate::terminal::{put, say};

pub(crate) fn run(serve: &Serve) -> Result<ExitCode, Failed> {
    let config = serve.config.as_deref();
    let mut config = NodeConfig::load(
        config,
        crate::config::variables(),
        &serve.listen,
        serve.workers,
    )?;
    config.admin = config.admin.with_flag(serve.admin.clone());
    super::raise_open_files();
    crate::memory::give_back();
    super::runtime()?.block_on(node(config, serve.practice))
}

async fn node(config: NodeConfig, has_practice: bool) -> Result<ExitCode, Failed> {
    let mut signals = Signals::listen()?;
    let router = match has_practice {
        true => practice::routes(),
        false => Router::new(),
    };
    let admin = admin(&config.admin)?;
    let mut server = Server::new(router).config(config.server.clone());
    for endpoint in &config.listen {
        server = server.listen(endpoint.clone());
    }
    let server = server.start().await?;
    admin.iter().for_each(|admin| admin.watch(&server));
    let registration = register(&config, &server)?;
    let listeners = config.listen.iter().zip(server.addresses());
    if crate::logging::is_watched() {
        banner(listeners, admin.as_ref());
    } else {
        // Data for whoever started the node on port 0; people read the log.
        listeners
            .for_each(|(endpoint, address)| say(format_args!("listening {endpoint} {address}")));
        if let Some(admin) = &admin {
            // Whoever has read where the node listens may read no more.
            put(format_args!(
                "admin {} {}",
                config.admin.listen(),
                admin.address()
            ));
        }
    }
    signals.next_of_node().await;
    tracing::info!("finishing what was accepted; a second signal ends at once");
    let drained = async {
        // Clients hear of it while the node still answers everything.
        server.routes().set_ready(false);
        if let Some(registration) = registration
            && let Err(error) = registration.leave().await
        {
            tracing::warn!(%error, "the registry was not left: it forgets this node within 20 s");
        }
        server.shutdown().await;
    };
    tokio::select! {
        () = drained => Ok(ExitCode::SUCCESS),
        code = signals.next_of_node() => Ok(code),
    }
}

/// Begins to tell how the node does. At the default address another node of this machine may do so
/// already: then this one goes on without.
fn admin(config: &AdminConfig) -> Result<Option<RunningAdmin>, Failed> {
    let AdminListen::At(address) = config.listen() else {
        return Ok(None);
    };
    match Admin::at(address)?.start() {
        Ok(admin) => Ok(Some(admin)),
        Err(error) if !config.is_asked_for() => {
            tracing::warn!(
                %error, "this node tells no health and metrics; --admin names another address"
            );
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Tells the registry that the node is there, if the configuration names one.
fn register(config: &NodeConfig, server: &RunningServer) -> Result<Option<Registration>, Failed> {
    let Some(register) = &config.register else {
        return Ok(None);
    };
    let wrong = |(key, what)| Failed::new(exit::CONFIG, format!("register.{key}: {what}"));
    let instance = register.instance(&config.listen[0], &server.addresses()[0]);
    let registration =
        Registration::start(&register.at().map_err(wrong)?, instance.map_err(wrong)?)?;
    Ok(Some(registration))
}

/// What somebody at a terminal wants to know, in place of lines for programs.
fn banner<'a>(
    listeners: impl Iterator<Item = (&'a Endpoint, &'a String)>,
    admin: Option<&RunningAdmin>,
) {
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
    if let Some(admin) = admin {
        say(format_args!("health and metrics: {}", admin.address()));
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
