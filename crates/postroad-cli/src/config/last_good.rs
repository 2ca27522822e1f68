//! The last good configuration of a key, on disk, for a start while its registry is down.

use std::path::PathBuf;

use humantime::format_duration;
use postroad::discovery::Document;

use super::ConfigError;

/// The copy of one key.
#[derive(Debug)]
pub(super) struct LastGood {
    /// `None` if this user has no folder for such files.
    path: Option<PathBuf>,
}

impl LastGood {
    /// Where systemd or the user keeps such files, under a name that tells whose copy it is.
    pub(super) fn of(document: &Document) -> Self {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let name = document.to_string().replace(|c| !is_plain(c), "-");
        let path = folder().map(|folder| folder.join(format!("config-{name}.json")));
        Self { path }
    }

    /// Keeps a text that could be used.
    pub(super) fn keep(&self, document: &Document, text: &str) {
        let Some(path) = &self.path else {
            tracing::warn!(
                target: "postroad::config",
                "no copy of {document} is kept: none of STATE_DIRECTORY, XDG_STATE_HOME and HOME \
                 is set"
            );
            return;
        };
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        if let Err(error) = made.and_then(|()| document.keep(path, text)) {
            let path = path.display();
            tracing::warn!(
                target: "postroad::config",
                "no copy of {document} is kept in {path}: {error}"
            );
        }
    }

    /// The text that was kept, to start with although the key cannot be used now.
    pub(super) fn serve(&self, document: &Document, why: &ConfigError) -> Option<String> {
        let path = self.path.as_ref()?;
        match document.kept(path) {
            Ok(kept) => {
                let (text, age) = kept?;
                why.log();
                let age = format_duration(std::time::Duration::from_secs(age.as_secs()));
                let path = path.display();
                tracing::warn!(
                    target: "postroad::config",
                    "starting with the last good configuration of {document}, which is {age} old \
                     ({path})"
                );
                Some(text)
            }
            Err(error) => {
                let path = path.display();
                tracing::warn!(
                    target: "postroad::config",
                    "the copy of {document} in {path} cannot be read: {error}"
                );
                None
            }
        }
    }
}

/// Where copies are kept: the folder that systemd gives a service, or the user's for such files.
fn folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folders) = variable("STATE_DIRECTORY") {
        return std::env::split_paths(&folders).next();
    }
    if let Some(folder) = variable("XDG_STATE_HOME") {
        return Some(PathBuf::from(folder).join("postroad"));
    }
    let home = PathBuf::from(variable("HOME")?);
    Some(home.join(".local/state/postroad"))
}
