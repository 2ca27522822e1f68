//! Where a configuration stands: in a file, or behind a key of a registry.

use std::fmt;
use std::path::{Path, PathBuf};

use postroad::discovery::Document;

use super::ConfigError;

/// The file that is read if none is named.
pub(crate) const DEFAULT_FILE: &str = "postroad.toml";

/// Where a configuration stands.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    File(PathBuf),
    Key(Document),
}

impl Place {
    /// What a flag or an argument names: a file, or a URL such as
    /// `etcd://127.0.0.1:2379/postroad/node1`.
    pub(crate) fn of(named: &Path) -> Result<Self, ConfigError> {
        match named.to_str().filter(|name| name.contains("://")) {
            None => Ok(Self::File(named.to_owned())),
            Some(url) => {
                let wrong = |error| ConfigError::Flag(format!("{error}"));
                url.parse().map(Self::Key).map_err(wrong)
            }
        }
    }

    /// What is named, or the default file if there is one.
    pub(crate) fn find(named: Option<&Path>) -> Result<Option<Self>, ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        let named = named.or_else(|| default.exists().then_some(default));
        named.map(Self::of).transpose()
    }

    /// The text as it is now.
    pub(crate) async fn read(&self) -> Result<String, ConfigError> {
        match self {
            Self::File(path) => read_file(path),
            Self::Key(document) => {
                let read = document.read().await;
                let read = read.map_err(|error| {
                    ConfigError::Unreachable(format!("{document} cannot be read: {error}"))
                })?;
                read.ok_or_else(|| ConfigError::Wrong(format!("{document}: there is no such key")))
            }
        }
    }
}

pub(super) fn read_file(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.display().to_string(),
        source,
    })
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Key(document) => document.fmt(f),
        }
    }
}
