//! A text behind a key of a registry, such as a node's configuration, read and followed.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;

use super::bounds::APPLY_EVERY;
use super::error::DiscoveryError;
use super::keyed::Keyed;
use super::pauses::Pauses;
use super::url::Url;
use super::{consul, copy, etcd, nacos};
use crate::error::TransportError;

/// A text behind a key of a registry, such as a node's configuration.
///
/// - `etcd://10.0.0.5:2379,10.0.0.6:2379/postroad/node1` is the key `/postroad/node1` (feature
///   `etcd`);
/// - `consul://127.0.0.1:8500/postroad/node1` is `postroad/node1` of the KV store (feature
///   `consul`);
/// - `nacos://127.0.0.1:8848/postroad/node1` is the data id `node1` of the group `postroad`, or of
///   `DEFAULT_GROUP` if there is one name alone (feature `nacos`).
///
/// Nacos has the options `namespace=ID` and `api=v1` (the default) or `api=v2`.
#[derive(Clone, Debug)]
pub struct Document {
    url: String,
    source: Arc<dyn Keyed>,
}

/// What is known of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reading {
    /// The text as it was read last; `None` if there is no such key.
    pub text: Option<Arc<str>>,
    /// Why it cannot be read now; what was read before is kept meanwhile.
    pub trouble: Option<DiscoveryError>,
    /// Whether it was ever read.
    pub is_read: bool,
}

impl Document {
    /// Reads the text as it is now; `None` if there is no such key. Cancellation safe.
    ///
    /// # Errors
    /// If the registry cannot be asked, within about 5 s a host.
    pub async fn read(&self) -> Result<Option<String>, DiscoveryError> {
        Ok(self.source.read(None).await?.text)
    }

    /// Keeps this text on disk, for a start while the registry is down: only its owner can read it,
    /// and whoever reads it sees the old or the new one, never a part.
    ///
    /// # Errors
    /// If it cannot be written; then the copy before is left.
    pub fn keep(&self, copy: &Path, text: &str) -> io::Result<()> {
        copy::write_text(copy, &self.url, text)
    }

    /// The text that [`Self::keep`] has kept, and how long ago; `None` if there is none yet.
    ///
    /// # Errors
    /// If it cannot be read, or is the copy of another document.
    pub fn kept(&self, copy: &Path) -> io::Result<Option<(String, Duration)>> {
        copy::read_text(copy, &self.url)
    }

    /// What is known of the text, from now on, by a task of the present runtime that ends when all
    /// receivers are dropped. After a failure it is asked again, after up to 15 s.
    ///
    /// # Errors
    /// If there is no runtime.
    pub fn follow(&self) -> Result<watch::Receiver<Reading>, TransportError> {
        let runtime = Handle::try_current().map_err(|error| TransportError::Io {
            action: "follow",
            endpoint: self.url.clone(),
            source: io::Error::other(error.to_string()),
        })?;
        let (sender, receiver) = watch::channel(Reading::default());
        let source = Arc::clone(&self.source);
        runtime.spawn(async move {
            tokio::select! {
                () = follow(&*source, &sender) => {}
                () = sender.closed() => {}
            }
        });
        Ok(receiver)
    }
}

async fn follow(source: &dyn Keyed, told: &watch::Sender<Reading>) {
    let (mut pauses, mut seen) = (Pauses::new(), None);
    loop {
        let reading = match source.read(seen).await {
            Ok(version) => {
                pauses.reset();
                seen = Some(version.seen);
                Reading {
                    text: version.text.map(Into::into),
                    trouble: None,
                    is_read: true,
                }
            }
            Err(error) => {
                // What has changed meanwhile was not seen.
                seen = None;
                Reading {
                    trouble: Some(error),
                    ..told.borrow().clone()
                }
            }
        };
        let has_failed = reading.trouble.is_some();
        told.send_if_modified(|present| {
            let is_other = *present != reading;
            *present = reading;
            is_other
        });
        // Even a registry that answers at once is never asked in a loop without a pause.
        sleep(if has_failed {
            pauses.next()
        } else {
            APPLY_EVERY
        })
        .await;
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl FromStr for Document {
    type Err = TransportError;

    fn from_str(text: &str) -> Result<Self, TransportError> {
        let url = Url::parse(text)?;
        let source = match url.scheme.as_str() {
            "etcd" => etcd::keyed(url)?,
            "consul" => consul::keyed(url)?,
            "nacos" => nacos::keyed(url)?,
            other => {
                let known = "etcd, consul and nacos have keys";
                return Err(url.wrong(format!("{other} is no registry; {known}")));
            }
        };
        let url = text.to_owned();
        Ok(Self { url, source })
    }
}
