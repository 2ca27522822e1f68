//! Every bound of discovery, with unit and reason.

use std::time::Duration;

/// Most instances of one service. A longer list is refused as a whole: a client that took a part of
/// it would send all load there.
pub(crate) const INSTANCES_MAX: usize = 65_536;
/// Greatest weight of an instance, that of an SRV record: sums of weights stay far from overflow.
pub(crate) const WEIGHT_MAX: u32 = 65_535;
/// Longest endpoint URL of an instance, bytes.
pub(crate) const URL_MAX: usize = 2048;
/// Longest tag or zone, bytes.
pub(crate) const TAG_MAX: usize = 255;
/// Longest reason that is kept or logged, bytes: a source chooses what it says.
pub(crate) const REASON_MAX: usize = 512;
/// Largest list in a file, and largest copy of one, bytes.
pub(crate) const FILE_MAX: u64 = 32 * 1024 * 1024;

/// Shortest time between two lists that clients see: a source that flaps costs ten applications a
/// second, however often it changes.
pub(crate) const APPLY_EVERY: Duration = Duration::from_millis(100);
/// Shortest time between two copies on disk.
pub(crate) const COPY_EVERY: Duration = Duration::from_secs(1);
/// How long a source may take to answer before the copy on disk serves.
pub(crate) const COPY_AFTER: Duration = Duration::from_secs(1);
/// How long an empty list that follows a list with instances is not believed, unless the target
/// says otherwise: registries have been seen to lose their data and tell everybody that all are
/// gone.
pub(crate) const KEEP: Duration = Duration::from_secs(60);
/// The longest `keep` that a target may ask for.
pub(crate) const KEEP_MAX: Duration = Duration::from_secs(86_400);
/// Bound of the first wait after a source has failed.
pub(crate) const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Bound of every wait after a source has failed.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(15);
/// How long leaving a registry may take.
pub(crate) const LEAVE_MAX: Duration = Duration::from_secs(5);
/// After how much silence a registry forgets an instance: two heartbeats of 10 s that were missed.
#[cfg(any(feature = "etcd", feature = "consul", feature = "nacos"))]
pub(crate) const FORGET_AFTER: Duration = Duration::from_secs(20);
/// How often an instance says that it is there, so that two beats may be lost.
#[cfg(any(feature = "etcd", feature = "consul", feature = "nacos"))]
pub(crate) const BEAT_EVERY: Duration = Duration::from_secs(6);
