//! `postroad serve`: a node.

mod reload;

use std::process::ExitCode;

use postroad::admin::{Admin, RunningAdmin};
use postroad::discovery::Registration;
use postroad::{Endpoint, Protocol, Router, RunningServer, Server, practice};

use crate::args::Serve;
use crate::config::{AdminConfig, AdminListen, Flags, NodeConfig, Place, Watch};
use crate::exit::{self, Failed};
use crate::signals::{Asked, Signals};
use crate::terminal::{put, say};
use reload::Node;

pub(crate) fn run(serve: &Serve) -> Result<ExitCode, Failed> {
    let place = Place::find(serve.config.as_deref())?;
    let flags = Flags {
        listen: serve.listen.clone(),
        workers: serve.workers,
        admin: serve.admin.clone(),
    };
    super::raise_open_files();
    crate::memory::give_back();
    let practice = serve.practice;
    super::runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        let (config, watch) = tokio::select! {
            read = Watch::start(place, &flags) => read?,
            code = signals.next_stop() => return Ok(code),
        };
        node(config, watch, flags, practice, signals).await
    })
}

async fn node(
    config: NodeConfig,
    mut watch: Watch,
    flags: Flags,
    has_practice: bool,
    mut signals: Signals,
) -> Result<ExitCode, Failed> {
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
    let mut node = Node {
        server,
        registration,
        running: config,
        flags,
    };
    loop {
        tokio::select! {
            asked = signals.next_of_node() => match asked {
                Asked::Stop(_) => break,
                // A registry may take its time to answer, and an end is not to wait for that.
                Asked::Reload => tokio::select! {
                    () = node.reload(&mut watch) => {}
                    _ = signals.next_stop() => break,
                },
            },
            text = watch.changed() => node.take(&watch, &text),
        }
    }
    tracing::info!("finishing what was accepted; a second signal ends at once");
    tokio::select! {
        () = node.drain() => Ok(ExitCode::SUCCESS),
        code = signals.next_stop() => Ok(code),
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
