//! `postroad config check FILE`.

use std::process::ExitCode;

use crate::args::Config;
use crate::config::{ConfigError, NodeConfig};
use crate::exit::{self, Failed};

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Self {
        Self::new(exit::CONFIG, error).hint("docs/configuration.md lists every key")
    }
}

pub(crate) fn run(config: &Config) -> Result<ExitCode, Failed> {
    let Config::Check { file } = config;
    let config = NodeConfig::load(Some(file), crate::config::variables(), &[], None)?;
    for endpoint in &config.listen {
        println!("listen {endpoint}");
    }
    eprintln!("{}: correct", file.display());
    Ok(ExitCode::SUCCESS)
}
