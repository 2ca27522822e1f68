//! What a client knows of its servers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::instance::Instance;

/// Instances that a message about them names.
const NAMED: usize = 3;

/// What is known of the instances of a service.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Found {
    /// The instances, those of lower priority numbers first. The last good list, while the source
    /// cannot be asked.
    pub instances: Arc<[Instance]>,
    /// Why the list may be out of date: the source cannot be asked, or says what is not believed
    /// yet.
    pub trouble: Option<Trouble>,
    /// Whether the list is the copy on disk, because the source has not answered yet.
    pub is_copy: bool,
    /// Whether the source has answered since this began.
    pub has_answered: bool,
    /// Set while there are no instances, and the source says so.
    pub gone: Option<Gone>,
}

/// Why a list may be out of date.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trouble {
    /// What the source said last, or why it cannot be asked.
    pub said: Arc<str>,
    since: Instant,
}

impl Trouble {
    pub(super) fn new(said: impl Into<Arc<str>>, since: Instant) -> Self {
        let said = said.into();
        Self { said, since }
    }

    /// For how long it has been so, by a clock that nobody sets.
    #[must_use]
    pub fn lasts(&self) -> Duration {
        self.since.elapsed()
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "for {:.1?}: {}", self.lasts(), self.said)
    }
}

/// There are no instances.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Gone {
    /// The last that were known, if there ever were some.
    pub last: Arc<[Instance]>,
    since: Instant,
}

impl Gone {
    pub(super) fn new(last: Arc<[Instance]>, since: Instant) -> Self {
        Self { last, since }
    }

    /// For how long there have been none.
    #[must_use]
    pub fn lasts(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Found {
    pub(super) fn fixed(instances: Arc<[Instance]>) -> Self {
        Self {
            instances,
            has_answered: true,
            ..Self::default()
        }
    }
}

impl fmt::Display for Found {
    /// For an error: how many there are, since when there are none, what was last known, and what
    /// the source says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.gone, self.instances.len()) {
            (Some(gone), _) => {
                write!(f, "no instances for {:.1?}", gone.lasts())?;
                for (at, instance) in gone.last.iter().take(NAMED).enumerate() {
                    let before = if at == 0 { "; last known: " } else { ", " };
                    write!(f, "{before}{instance}")?;
                }
                if gone.last.len() > NAMED {
                    write!(f, " and {} more", gone.last.len() - NAMED)?;
                }
            }
            (None, 0) => f.write_str("the source has not answered yet")?,
            (None, 1) => f.write_str("1 instance")?,
            (None, many) => write!(f, "{many} instances")?,
        }
        if self.is_copy {
            f.write_str(", from the copy on disk")?;
        }
        match &self.trouble {
            Some(trouble) => write!(f, "; trouble {trouble}"),
            None => Ok(()),
        }
    }
}
