//! The commands that do one thing.

pub(crate) mod call;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod decode;
pub(crate) mod ls;
pub(crate) mod serve;

use tokio::runtime::{Builder, Runtime};

use crate::exit::Failed;

/// The runtime of a tool: one thread is enough for one connection.
pub(crate) fn runtime() -> Result<Runtime, Failed> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}
