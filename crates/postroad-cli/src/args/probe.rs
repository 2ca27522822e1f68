//! What `postroad probe` takes.

use std::time::Duration;

use clap::Args;
use postroad::admin::AdminAddress;

use crate::config::DEFAULT_ADMIN;
use crate::times::duration;

#[derive(Debug, Args)]
pub(crate) struct Probe {
    /// Where the node tells how it does: `listen` of its section `[admin]`.
    #[arg(default_value = DEFAULT_ADMIN)]
    pub(crate) url: AdminAddress,
    /// Ask whether its threads still turn; if not, it should be started anew.
    #[arg(long, group = "asked")]
    live: bool,
    /// Ask whether it wants calls. This is the default.
    #[arg(long, group = "asked")]
    ready: bool,
    /// Ask whether it has been started.
    #[arg(long, group = "asked")]
    startup: bool,
    /// Time for the answer.
    #[arg(long, value_parser = duration, default_value = "1s")]
    pub(crate) timeout: Duration,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probed {
    Live,
    Ready,
    Startup,
}

impl Probe {
    pub(crate) fn asked(&self) -> Probed {
        match (self.live, self.startup) {
            (true, _) => Probed::Live,
            (_, true) => Probed::Startup,
            _ => Probed::Ready,
        }
    }
}

impl Probed {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Live => "/livez",
            Self::Ready => "/readyz",
            Self::Startup => "/startupz",
        }
    }

    /// What it is if all is well.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Ready => "ready",
            Self::Startup => "started",
        }
    }
}
