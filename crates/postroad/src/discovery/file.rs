//! A list in a file: `file:///etc/orders.toml`.
//!
//! The file is looked at, not listened to: that sees a file that was renamed over another, and one
//! behind links that were exchanged, as in a ConfigMap of Kubernetes.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::task::spawn_blocking;

use super::bounds::FILE_MAX;
use super::error::DiscoveryError;
use super::instance::{Instance, Record};
use super::source::{Discovery, Source};
use super::updates::Updates;
use super::url::Url;
use crate::error::TransportError;
use crate::transport::BoxFuture;
use crate::watched_file::Stamp;

/// How often the file is looked at. A change counts when it looks the same twice, so a file that is
/// being written is not read half.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A list in a file.
#[derive(Debug)]
struct File(PathBuf);

pub(super) fn open(url: Url) -> Result<Source, TransportError> {
    url.check_rest("keep")?;
    Ok(Source::of(File(url.address.into())))
}

/// The file as it is written. People write it, so a slip anywhere is told and not passed over.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    instance: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    url: String,
    weight: Option<u32>,
    tag: Option<String>,
    zone: Option<String>,
}

/// The instances that a text lists.
fn parse(text: &str) -> Result<Vec<Instance>, String> {
    let list: List = toml::from_str(text).map_err(|error| error.to_string())?;
    let read = |entry: Entry| {
        let url = entry.url;
        let mut record = Record::new(url.clone());
        record.weight = entry.weight.unwrap_or(record.weight);
        (record.tag, record.zone) = (entry.tag, entry.zone);
        let wrong = |why| format!("instance {url:?}: {why}");
        record.read().map_err(wrong)
    };
    list.instance.into_iter().map(read).collect()
}

/// What a look at the file has brought.
enum Look {
    /// Nothing that was not known.
    Same,
    /// Another state, which may still be changing.
    Changing(Stamp),
    /// A state that is new and has stayed for a while, and the list in it.
    New(Stamp, Result<Vec<Instance>, String>),
}

impl File {
    /// Looks at the file. `seen` is the last look's state, `read` the state that was read last.
    fn look(path: &Path, seen: Option<Stamp>, read: Option<Stamp>) -> io::Result<Look> {
        let stamp = Stamp::at(path)?;
        if read == Some(stamp) && stamp.is_settled() {
            return Ok(Look::Same);
        }
        // The first list is wanted at once.
        if seen.is_some() && seen != Some(stamp) {
            return Ok(Look::Changing(stamp));
        }
        let mut text = String::new();
        let file = fs::File::open(path)?;
        // One byte more than is allowed tells a file that is too long.
        file.take(FILE_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > FILE_MAX {
            return Ok(Look::New(stamp, Err(format!("more than {FILE_MAX} bytes"))));
        }
        Ok(Look::New(stamp, parse(&text)))
    }

    async fn follow(&self, updates: &Updates) -> DiscoveryError {
        let (mut seen, mut read) = (None, None);
        loop {
            let path = self.0.clone();
            let look = spawn_blocking(move || Self::look(&path, seen, read)).await;
            let wrong = |why: &dyn fmt::Display| format!("{}: {why}", self.0.display());
            match look {
                Err(error) => return DiscoveryError::unreachable(wrong(&error)),
                Ok(Err(error)) => {
                    // It may be between two names. When it is there again, it is read again.
                    (seen, read) = (None, None);
                    updates.set_trouble(DiscoveryError::unreachable(wrong(&error)));
                }
                Ok(Ok(Look::Same)) => seen = read,
                Ok(Ok(Look::Changing(stamp))) => seen = Some(stamp),
                Ok(Ok(Look::New(stamp, list))) => {
                    (seen, read) = (Some(stamp), Some(stamp));
                    match list {
                        Ok(list) => updates.set(list),
                        Err(why) => updates.set_trouble(DiscoveryError::nonsense(wrong(&why))),
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Discovery for File {
    fn watch<'a>(&'a self, updates: &'a Updates) -> BoxFuture<'a, DiscoveryError> {
        Box::pin(self.follow(updates))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_being_written_is_not_read_before_it_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.toml");
        let entry = "[[instance]]\nurl = 'tcp://a:1'\n";
        fs::write(&path, entry).unwrap();
        let Look::New(first, Ok(list)) = File::look(&path, None, None).unwrap() else {
            panic!("the first list is wanted at once");
        };
        assert_eq!(list.len(), 1);
        fs::write(&path, "").unwrap();
        let second = File::look(&path, Some(first), Some(first)).unwrap();
        assert!(
            matches!(second, Look::Changing(_)),
            "it may be half of a file"
        );
        fs::write(&path, entry.repeat(2)).unwrap();
        let third = File::look(&path, Some(first), Some(first)).unwrap();
        let Look::Changing(third) = third else {
            panic!("it still changes");
        };
        let Look::New(_, Ok(list)) = File::look(&path, Some(third), Some(first)).unwrap() else {
            panic!("it has stayed");
        };
        assert_eq!(list.len(), 2);
    }

    #[test]
    fn a_slip_in_a_file_is_told_with_its_place() {
        let list = parse("[[instance]]\nurl = 'tcp://a:1'\nweight = 3\ntag = 'v2'").unwrap();
        assert_eq!((list[0].weight, list[0].tag.as_deref()), (3, Some("v2")));
        assert_eq!(parse("").unwrap(), []);
        for (text, says) in [
            ("[[instance]]\nurl = 'tcp://a:1'\nwieght = 3", "line 3"),
            ("[[instance]]\nurl = 'a:1'", "instance \"a:1\""),
            ("[[instance]]\nurl = 'tcp://a:1'\nweight = 70000", "65535"),
            ("[[instance]]\nurl = 'tcp:/", "line 2"),
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
