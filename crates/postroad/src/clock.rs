//! The one place where a clock is read.

use std::sync::OnceLock;
use std::time::Duration;

use postroad_proto::Time;
use tokio::time::Instant;

/// The moment that [`Time`] counts from. Taken from the real clock, so that every paused one is
/// later.
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(|| Instant::from_std(std::time::Instant::now()))
}

/// Now, by the runtime's clock, which tests may pause.
#[inline]
pub(crate) fn now() -> Time {
    // A second is added so that moments a little before the first call still have a number.
    let since = Instant::now().saturating_duration_since(start());
    Time((since.as_secs() + 1) * 1_000_000_000 + u64::from(since.subsec_nanos()))
}

/// The runtime's instant for a moment.
pub(crate) fn instant(time: Time) -> Instant {
    start() + Duration::from_nanos(time.0).saturating_sub(Duration::from_secs(1))
}
