//! Who is given the records of sampled calls.

use std::fmt;
use std::sync::Arc;

use postroad_proto::policy::Why;

/// Who is given the records of sampled calls, with the name of each call's route.
#[derive(Clone)]
pub(super) struct WhySink(Arc<Told>);

/// Is told the route of a call and what was decided of it.
type Told = dyn Fn(&str, &Why) + Send + Sync;

impl WhySink {
    pub(super) fn new(sink: impl Fn(&str, &Why) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    pub(super) fn tell(&self, route: &str, why: &Why) {
        (self.0)(route, why);
    }
}

impl fmt::Debug for WhySink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WhySink")
    }
}
