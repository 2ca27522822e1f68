//! `postroad config check FILE` and `postroad config print`.

use crate::terminal::{say, tell};
use std::path::Path;
use std::process::ExitCode;

use postroad::{Router, Server};

use crate::args::Config;
use crate::config::{ConfigError, Flags, NodeConfig, Place};
use crate::exit::{self, Failed};

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Self {
        if let ConfigError::Flag(what) = error {
            return Self::usage(what);
        }
        if let ConfigError::Unreachable(what) = error {
            return Self::new(exit::UNAVAILABLE, what);
        }
        Self::new(exit::CONFIG, error).hint("docs/configuration.md lists every key")
    }
}

pub(crate) fn run(config: &Config) -> Result<ExitCode, Failed> {
    match config {
        Config::Check { file } => check(file),
        Config::Print { file } => {
            let place = Place::find(file.as_deref())?;
            say(read(place.as_ref())?.print());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What is said at this place.
fn read(place: Option<&Place>) -> Result<NodeConfig, Failed> {
    let flags = Flags::default();
    let Some(place) = place else {
        return Ok(flags.read("configuration", "")?);
    };
    let text = super::runtime()?.block_on(place.read())?;
    Ok(flags.read(&place.to_string(), &text)?)
}

fn check(place: &Path) -> Result<ExitCode, Failed> {
    let place = Place::of(place)?;
    let config = read(Some(&place))?;
    let mut server = Server::new(Router::new()).config(config.server.clone());
    for endpoint in &config.listen {
        server = server.listen(endpoint.clone());
    }
    server.check()?;
    for endpoint in &config.listen {
        say(format_args!("listen {endpoint}"));
    }
    for sentence in config.explain_rules() {
        say(format_args!("route {sentence}"));
    }
    for (name, service) in &config.services {
        say(format_args!("service {name} {}", service.target));
    }
    say(format_args!("admin {}", config.admin.listen()));
    match config.warnings {
        Some(warnings) => tell(format_args!("{place}: correct\nwarning: {warnings}")),
        None => tell(format_args!("{place}: correct")),
    }
    Ok(ExitCode::SUCCESS)
}
