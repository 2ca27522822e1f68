//! Records of why a call went where it went, for those who ask.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use postroad_proto::Time;
pub use postroad_proto::policy::{Considered, Step, Why};

use super::channel::{Channel, Lease};
use crate::clock;

/// Where a call writes down why it went where it went; see
/// [`CallBuilder::explain`](super::CallBuilder::explain).
///
/// ```
/// # async fn run(client: postroad::Client) -> Result<(), postroad::CallError> {
/// let why = postroad::client::Explanation::default();
/// let call = client.request("Orders.get").explain(&why);
/// let order: Result<String, _> = call.call(&7).await;
/// println!("{order:?}\n{}", why.take());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Explanation(Arc<Mutex<Why>>);

impl Explanation {
    /// What was written down since the last time.
    #[must_use]
    pub fn take(&self) -> Why {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        why.fmt(f)
    }
}

/// Writes down what is decided, if somebody wants to know.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    into: Option<Explanation>,
    since: Time,
}

impl Recorder {
    pub(super) fn new(into: Option<Explanation>) -> Self {
        let since = clock::now();
        Self { into, since }
    }

    /// The servers as they are now, if somebody wants to know.
    pub(super) fn considers(&self, channel: &Channel) -> Option<(Vec<String>, Vec<Considered>)> {
        self.into.as_ref()?;
        channel.fleet().map(|fleet| fleet.considered())
    }

    /// A server was picked of those that were considered, or none.
    pub(super) fn picked(
        &self,
        channel: &Channel,
        considered: Option<(Vec<String>, Vec<Considered>)>,
        lease: Option<&Lease>,
    ) {
        let Some((names, considered)) = considered else {
            return;
        };
        let picked = lease.and_then(Lease::member).map(|member| member.url());
        let picked = picked.and_then(|url| names.iter().position(|name| name == url));
        self.write(|why, now| {
            why.set_names(names);
            let step = Step::Pick {
                by: channel.balance(),
                considered,
                more: 0,
                picked,
            };
            why.note(now, step);
        });
    }

    /// Adds what was decided by whom, which is made into words only if somebody wants to know.
    pub(super) fn note(&self, by: &'static str, what: impl FnOnce() -> String) {
        self.write(|why, now| why.verdict(now, by, what()));
    }

    fn write(&self, write: impl FnOnce(&mut Why, Time)) {
        let Some(into) = &self.into else {
            return;
        };
        let mut why = into.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *why == Why::default() {
            *why = Why::new(self.since);
        }
        write(&mut why, clock::now());
    }
}
