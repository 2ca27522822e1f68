//! `postroad config check FILE` and `postroad config print`.

use crate::terminal::{say, tell};
use std::path::Path;
use std::process::ExitCode;

use postroad::{Router, Server};

use crate::args::Config;
use crate::config::{ConfigError, NodeConfig};
use crate::exit::{self, Failed};

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Self {
        if let ConfigError::Flag(what) = error {
            return Self::usage(what);
        }
        Self::new(exit::CONFIG, error).hint("docs/configuration.md lists every key")
    }
}

pub(crate) fn run(config: &Config) -> Result<ExitCode, Failed> {
    match config {
        Config::Check { file } => check(file),
        Config::Print { file } => {
            let file = file.as_deref();
            let config = NodeConfig::load(file, crate::config::variables(), &[], None)?;
            say(config.print());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(file: &Path) -> Result<ExitCode, Failed> {
    let config = NodeConfig::load(Some(file), crate::config::variables(), &[], None)?;
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
    match config.warnings {
        Some(warnings) => tell(format_args!(
            "{}: correct\nwarning: {warnings}",
            file.display()
        )),
        None => tell(format_args!("{}: correct", file.display())),
    }
    Ok(ExitCode::SUCCESS)
}
