//! A file that is looked at once a second.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

use super::ConfigError;
use super::place::read_file;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For how long a changed file must have been quiet before it is read: editors and copying programs
/// write in pieces.
const QUIET: Duration = Duration::from_millis(500);
/// The same of a file that is empty or ends in the middle of a line: it is likely not whole yet.
const QUIET_IF_BROKEN_OFF: Duration = Duration::from_secs(5);

/// A file, and what was read from it.
#[derive(Debug)]
pub(crate) struct FileWatch {
    path: PathBuf,
    /// The text that was looked at last, whether it could be used or not.
    text: String,
    /// The file as it was when that was read; `None` if it is no file that can be read twice, such
    /// as a pipe.
    stamp: Option<Stamp>,
    /// What was last said of a file that cannot be read.
    said: Option<String>,
}

/// What differs between two states of a file. One that took its place by a rename is another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    len: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(of: Metadata) -> Self {
        Self {
            file: (of.dev(), of.ino()),
            len: of.len(),
            written: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        }
    }
}

impl FileWatch {
    /// Reads the file, and looks at it from now on.
    pub(super) fn start(path: PathBuf) -> Result<Self, ConfigError> {
        // Before reading: what is written meanwhile is a change.
        let found = std::fs::metadata(&path).ok();
        let stamp = found.filter(Metadata::is_file).map(Stamp::from);
        let text = read_file(&path)?;
        Ok(Self {
            path,
            text,
            stamp,
            said: None,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The text as it is now, however new it is.
    pub(super) fn now(&mut self) -> Result<String, ConfigError> {
        if self.stamp.is_none() {
            let path = self.path.display();
            return Err(ConfigError::Wrong(format!(
                "{path} is no file that can be read twice"
            )));
        }
        *self = Self::start(self.path.clone())?;
        Ok(self.text.clone())
    }

    /// The next text, once the file has been quiet. Cancellation safe.
    pub(super) async fn changed(&mut self) -> String {
        if self.stamp.is_none() {
            return std::future::pending().await;
        }
        loop {
            sleep(LOOK_EVERY).await;
            let stamp = match stamp(&self.path).await {
                Ok(stamp) if Some(stamp) == self.stamp => continue,
                Ok(stamp) => stamp,
                // Between taking a file away and putting another there.
                Err(error) => {
                    self.say(format!("cannot be read: {error}"));
                    continue;
                }
            };
            let text = match quiet_text(&self.path, stamp).await {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(error) => {
                    self.say(format!("cannot be read: {error}"));
                    continue;
                }
            };
            self.stamp = Some(stamp);
            // A full disk leaves empty files behind; nobody means all defaults by that.
            if text.trim().is_empty() && !self.text.trim().is_empty() {
                self.say("is empty".to_owned());
                continue;
            }
            self.said = None;
            if text != self.text {
                self.text.clone_from(&text);
                return text;
            }
        }
    }

    /// Says once why the file is not taken.
    fn say(&mut self, what: String) {
        if self.said.as_ref() != Some(&what) {
            let path = self.path.display();
            tracing::warn!(
                target: "postroad::config",
                "{path} {what}; the configuration before stays"
            );
            self.said = Some(what);
        }
    }
}

/// The text of a file that stays as it is for as long as it takes to be believed.
async fn quiet_text(path: &Path, before: Stamp) -> io::Result<Option<String>> {
    let is_the_same = async |time| {
        sleep(time).await;
        stamp(path).await.is_ok_and(|now| now == before)
    };
    if !is_the_same(QUIET).await {
        return Ok(None);
    }
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(owned)).await;
    let text = read.map_err(io::Error::other)??;
    if !text.ends_with('\n') {
        tracing::debug!(
            target: "postroad::config",
            "{} is empty or ends in the middle of a line: it is read when it was quiet for {:?}",
            path.display(),
            QUIET_IF_BROKEN_OFF
        );
        if !is_the_same(QUIET_IF_BROKEN_OFF).await {
            return Ok(None);
        }
    }
    // Written to while it was read: it is looked at again.
    Ok(is_the_same(Duration::ZERO).await.then_some(text))
}

/// Looks at a file where a slow disk holds nobody up.
async fn stamp(path: &Path) -> io::Result<Stamp> {
    let path = path.to_owned();
    let looked = tokio::task::spawn_blocking(move || std::fs::metadata(path)).await;
    looked.map_err(io::Error::other)?.map(Stamp::from)
}
