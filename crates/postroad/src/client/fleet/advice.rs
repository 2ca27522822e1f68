//! What the owner of a service says of its routes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

/// What a route's owner says of it.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Advice {
    /// Whether it may be called twice.
    #[serde(rename = "idempotent")]
    pub(super) is_idempotent: bool,
    /// How long a caller should wait, milliseconds.
    pub(super) timeout_ms: Option<u64>,
    /// The highest priority that its requests should have.
    pub(super) priority_max: Option<u8>,
}

/// The advice by route. It is looked up for every call, and mostly short: comparing a few names
/// costs less than hashing one.
pub(super) type Owner = BTreeMap<String, Advice>;

impl Advice {
    pub(super) fn timeout(&self) -> Option<Duration> {
        // No time at all is a slip, and would end every call.
        let millis = self.timeout_ms.filter(|millis| *millis > 0);
        millis.map(Duration::from_millis)
    }

    pub(super) fn priority_max(&self) -> Option<u8> {
        self.priority_max
    }
}
