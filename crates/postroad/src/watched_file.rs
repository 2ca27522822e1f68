//! A file that is looked at from time to time.
//!
//! It is looked at, not listened to: that sees a file that was renamed over another, and one behind
//! links that were exchanged, as in a Secret of Kubernetes.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Longest tick of a file system's clock.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    file: u64,
}

impl Stamp {
    /// The state of the file behind a path, and behind links.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&fs::metadata(path)?))
    }

    fn of(meta: &Metadata) -> Self {
        #[cfg(unix)]
        let file = std::os::unix::fs::MetadataExt::ino(meta);
        #[cfg(not(unix))]
        let file = 0;
        Self {
            modified: meta.modified().ok(),
            len: meta.len(),
            file,
        }
    }

    /// Whether a later change would show: two within a tick of the file system's clock have one
    /// time, so a file that has just changed is read again.
    pub(crate) fn is_settled(&self) -> bool {
        let age = self.modified.and_then(|time| time.elapsed().ok());
        age.is_none_or(|age| age > SETTLED_AFTER)
    }
}

/// A file, and which state of it was read last.
#[derive(Clone, Debug)]
pub(crate) struct WatchedFile {
    path: PathBuf,
    max: u64,
    read: Option<Stamp>,
}

impl WatchedFile {
    /// A file of at most so many bytes, which was not read yet.
    pub(crate) fn new(path: PathBuf, max: u64) -> Self {
        Self {
            path,
            max,
            read: None,
        }
    }

    /// The file's text, if it is another than the one that was read last. A file that cannot be
    /// read is read again the next time.
    ///
    /// # Errors
    /// Why it cannot be read, with its path.
    pub(crate) fn look(&mut self) -> Result<Option<String>, String> {
        let wrong = |error: io::Error| format!("{}: {error}", self.path.display());
        let stamp = Stamp::at(&self.path).map_err(wrong)?;
        if self.read == Some(stamp) {
            return Ok(None);
        }
        self.read = None;
        let mut text = String::new();
        let file = File::open(&self.path).map_err(wrong)?;
        // One byte more than is allowed tells a file that is too long.
        file.take(self.max + 1)
            .read_to_string(&mut text)
            .map_err(wrong)?;
        if text.len() as u64 > self.max {
            return Err(format!(
                "{}: more than {} bytes",
                self.path.display(),
                self.max
            ));
        }
        self.read = Some(stamp);
        Ok(Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_when_it_has_changed_and_never_beyond_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let mut file = WatchedFile::new(path.clone(), 8);
        assert!(file.look().unwrap_err().contains("token"));
        fs::write(&path, "one").unwrap();
        assert_eq!(file.look().unwrap().as_deref(), Some("one"));
        assert_eq!(file.look().unwrap(), None);
        // As a Secret is exchanged: another file under the same name.
        fs::write(folder.path().join("next"), "two").unwrap();
        fs::rename(folder.path().join("next"), &path).unwrap();
        assert_eq!(file.look().unwrap().as_deref(), Some("two"));
        fs::write(&path, "far too long").unwrap();
        assert!(file.look().unwrap_err().contains("more than 8 bytes"));
    }
}
