//! What a registry does for a document.

use std::fmt;

use super::error::DiscoveryError;
use crate::transport::BoxFuture;

/// A key of one registry.
pub(super) trait Keyed: fmt::Debug + Send + Sync + 'static {
    /// The text now, if nothing was seen yet; else waits, for a minute or so at most, until there
    /// may be another than the one that was seen.
    fn read(&self, seen: Option<u64>) -> BoxFuture<'_, Result<Version, DiscoveryError>>;
}

/// A text, and the number by which its registry knows it.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) text: Option<String>,
    pub(super) seen: u64,
}
