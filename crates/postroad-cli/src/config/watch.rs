//! The text of a running node's configuration, and every other one that takes its place.

use std::sync::Arc;

use postroad::discovery::{Document, Reading};
use tokio::sync::watch;

use super::file_watch::FileWatch;
use super::last_good::LastGood;
use super::{AdminListen, ConfigError, NodeConfig, Place};

/// What a node's flags say beside its configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) listen: Vec<String>,
    pub(crate) workers: Option<usize>,
    pub(crate) admin: Option<AdminListen>,
}

impl Flags {
    /// The configuration that this text of this place makes, with variables and flags.
    pub(crate) fn read(&self, place: &str, text: &str) -> Result<NodeConfig, ConfigError> {
        let variables = super::variables();
        let mut config = NodeConfig::read(place, text, variables, &self.listen, self.workers)?;
        config.admin = config.admin.with_flag(self.admin.clone());
        Ok(config)
    }
}

/// Where the texts come from.
#[derive(Debug)]
pub(crate) enum Watch {
    /// The node was told nothing.
    Nothing,
    File(FileWatch),
    Key(KeyWatch),
}

/// A key of a registry that is followed.
#[derive(Debug)]
pub(crate) struct KeyWatch {
    document: Document,
    copy: LastGood,
    heard: watch::Receiver<Reading>,
    /// The text that was looked at last, whether it could be used or not.
    looked_at: Arc<str>,
    /// What was last said about the key.
    said: Option<String>,
}

impl Watch {
    /// Reads the configuration of a node that starts.
    pub(crate) async fn start(
        place: Option<Place>,
        flags: &Flags,
    ) -> Result<(NodeConfig, Self), ConfigError> {
        match place {
            None => Ok((flags.read("configuration", "")?, Self::Nothing)),
            Some(Place::File(path)) => {
                let watch = FileWatch::start(path)?;
                let name = watch.path().display().to_string();
                let config = flags.read(&name, watch.text())?;
                tracing::info!(target: "postroad::config", "configuration read from {name}");
                Ok((config, Self::File(watch)))
            }
            Some(Place::Key(document)) => {
                let (config, watch) = KeyWatch::start(document, flags).await?;
                Ok((config, Self::Key(watch)))
            }
        }
    }

    /// What it is called.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Nothing => "configuration".to_owned(),
            Self::File(file) => file.path().display().to_string(),
            Self::Key(key) => key.document.to_string(),
        }
    }

    /// The next text. Cancellation safe.
    pub(crate) async fn changed(&mut self) -> String {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::File(file) => file.changed().await,
            Self::Key(key) => key.changed().await,
        }
    }

    /// The text as it is now, because somebody asks for it; `None` if the node was told nothing.
    pub(crate) async fn now(&mut self) -> Result<Option<String>, ConfigError> {
        match self {
            Self::Nothing => Ok(None),
            Self::File(file) => file.now().map(Some),
            Self::Key(key) => {
                let text = Place::Key(key.document.clone()).read().await?;
                key.looked_at = text.as_str().into();
                Ok(Some(text))
            }
        }
    }

    /// This text could be used: it is the last good one.
    pub(crate) fn keep(&self, text: &str) {
        if let Self::Key(key) = self {
            key.copy.keep(&key.document, text);
        }
    }
}

impl KeyWatch {
    async fn start(document: Document, flags: &Flags) -> Result<(NodeConfig, Self), ConfigError> {
        let (name, copy) = (document.to_string(), LastGood::of(&document));
        let text = Place::Key(document.clone()).read().await;
        let text = text.map(Arc::<str>::from);
        let read = match &text {
            Ok(text) => flags.read(&name, text),
            Err(error) => Err(ConfigError::Wrong(error.to_string())),
        };
        let (config, looked_at) = match read {
            Ok(config) => {
                let text = text?;
                copy.keep(&document, &text);
                tracing::info!(target: "postroad::config", "configuration read from {name}");
                (config, text)
            }
            Err(error) => {
                let Some(kept) = copy.serve(&document, &error) else {
                    // What kind of failure it was decides the exit code.
                    text?;
                    return Err(error);
                };
                let config = flags.read(&name, &kept)?;
                (config, text.unwrap_or_else(|_| kept.into()))
            }
        };
        let heard = document.follow();
        let heard = heard.map_err(|error| ConfigError::Wrong(error.to_string()))?;
        let watch = Self {
            document,
            copy,
            heard,
            looked_at,
            said: None,
        };
        Ok((config, watch))
    }

    async fn changed(&mut self) -> String {
        loop {
            if self.heard.changed().await.is_err() {
                // Its task ends with the runtime only.
                return std::future::pending().await;
            }
            let Reading {
                text,
                trouble,
                is_read,
                ..
            } = self.heard.borrow_and_update().clone();
            let name = &self.document;
            if let Some(trouble) = trouble {
                self.say(format!("{name} cannot be read: {trouble}"));
            } else if let Some(text) = text {
                // As good as deleted: nobody means all defaults by it.
                if text.trim().is_empty() {
                    self.say(format!("{name} is empty"));
                    continue;
                }
                self.said = None;
                if text != self.looked_at {
                    self.looked_at = Arc::clone(&text);
                    return text.as_ref().to_owned();
                }
            } else if is_read {
                self.say(format!("{name} was deleted"));
            }
        }
    }

    /// Says what keeps the configuration from being read, once.
    fn say(&mut self, what: String) {
        if self.said.as_ref() != Some(&what) {
            tracing::warn!(
                target: "postroad::config",
                "{what}; the last good configuration stays"
            );
            self.said = Some(what);
        }
    }
}
