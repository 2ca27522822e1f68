//! Why a source cannot be asked.

use std::fmt;

use super::bounds::REASON_MAX;
use super::instance::cut;

/// Why a source of instances, or a registry, does not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// Nothing answers, or not in time. It is asked again.
    #[error("{0}")]
    Unreachable(String),
    /// It has answered that it will not. It is asked again, since most refusals pass.
    #[error("{0}")]
    Refused(String),
    /// What it says cannot be understood. It is asked again.
    #[error("{0}")]
    Nonsense(String),
}

impl DiscoveryError {
    /// Nothing answers, or not in time.
    #[must_use]
    pub fn unreachable(what: impl fmt::Display) -> Self {
        Self::Unreachable(bounded(what))
    }

    /// It has answered that it will not.
    #[must_use]
    pub fn refused(what: impl fmt::Display) -> Self {
        Self::Refused(bounded(what))
    }

    /// What it says cannot be understood.
    #[must_use]
    pub fn nonsense(what: impl fmt::Display) -> Self {
        Self::Nonsense(bounded(what))
    }
}

/// One line of bounded length, whatever a source has said.
fn bounded(what: impl fmt::Display) -> String {
    let text = what.to_string().replace(char::is_control, " ");
    cut(&text, REASON_MAX).to_owned()
}
