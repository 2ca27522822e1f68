//! The commands that do one thing.

pub(crate) mod bench;
pub(crate) mod call;
pub(crate) mod completions;
pub(crate) mod config;
mod deadline;
pub(crate) mod decode;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod probe;
pub(crate) mod serve;

use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

use crate::config::{DEFAULT_FILE, NodeConfig, Service};
use crate::exit::Failed;

/// The runtime of a tool: one thread is enough for one connection.
pub(crate) fn runtime() -> Result<Runtime, Failed> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// A connection is an open file: as many as the system lets this user have.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = ?limit.current, "the limit on open files stays");
    }
}

/// What is called: a target as it stands, or a service of the configuration file by its name.
pub(crate) fn service(name: &str, file: Option<&Path>) -> Result<Service, Failed> {
    if name.contains("://") {
        return Ok(Service::of(name.parse()?));
    }
    let default = Path::new(DEFAULT_FILE);
    let Some(file) = file.or_else(|| default.exists().then_some(default)) else {
        // The text of the URL's parser says what a target looks like.
        let wrong = name.parse::<postroad::discovery::Target>().err();
        let wrong = wrong.map_or_else(|| name.to_owned(), |wrong| wrong.to_string());
        let hint = format!(
            "a service by its name needs a configuration file: --config FILE, or {DEFAULT_FILE} \
             here"
        );
        return Err(Failed::usage(wrong).hint(hint));
    };
    let mut config = NodeConfig::load(Some(file), crate::config::variables(), &[], None)?;
    config.services.remove(name).ok_or_else(|| {
        let names: Vec<_> = config.services.keys().map(String::as_str).collect();
        let there_are = match names.is_empty() {
            true => "it has no [service.NAME]".to_owned(),
            false => format!("there are {}", names.join(", ")),
        };
        let what = format!("no service `{name}` in {}; {there_are}", file.display());
        Failed::usage(what).hint("a target has `://`, such as tcp://127.0.0.1:7400")
    })
}
