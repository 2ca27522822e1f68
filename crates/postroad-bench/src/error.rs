//! Why a load test, a comparison or a file could not be made.

use std::path::Path;

use postroad::client::ConnectError;
use postroad::transport::TransportError;
use postroad::{CallError, StartError};

/// Why something could not be done. None of these is worth a retry before somebody has changed
/// something, but for [`Self::Connect`] and [`Self::Worker`]: the server may come.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for is wrong or can never be made. No call was made.
    #[error("{0}")]
    Asked(String),
    /// The connections that were asked for are more open files than this process may have. No
    /// connection was made.
    #[error(
        "{connections} connections are {connections} open files, and this process may have \
             {limit}"
    )]
    OpenFiles {
        /// Connections of this process.
        connections: u64,
        /// Open files that the system allows it.
        limit: u64,
        /// Connections that it could make.
        connections_max: u64,
    },
    /// Nothing to compare was named.
    #[error("no run in {0:?}")]
    NoRun(String),
    /// Something speaks against comparing these runs.
    #[error("{}", .reasons.join("\n  "))]
    Doubtful {
        /// Each a sentence.
        reasons: Vec<String>,
        /// Whether they can be compared all the same, by
        /// [`CompareConfig::force`](crate::compare::CompareConfig::force).
        is_forceable: bool,
    },
    /// The target cannot be reached, or refuses the connection. No call was made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// An endpoint is not one.
    #[error(transparent)]
    Endpoint(#[from] TransportError),
    /// A worker cannot listen.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A worker refuses or fails what it was asked for.
    #[error(transparent)]
    Refused(#[from] CallError),
    /// Something went wrong with one worker of several.
    #[error("worker {name}: {source}")]
    Worker {
        /// Its address, as it was given.
        name: String,
        /// What went wrong.
        source: Box<Self>,
    },
    /// A file cannot be read, or does not hold what it should.
    #[error("{path}: {why}")]
    File {
        /// The path, as it was given.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Files that could not be written; all others were.
    #[error("{0}")]
    Written(String),
    /// The operating system refuses a thread or a timer.
    #[error(transparent)]
    System(#[from] std::io::Error),
    /// A part of the program failed in a way that it never should.
    #[error("{0}")]
    Broken(String),
}

impl Error {
    pub(crate) fn asked(what: impl ToString) -> Self {
        Self::Asked(what.to_string())
    }

    pub(crate) fn file(path: &Path, why: impl ToString) -> Self {
        Self::File {
            path: path.display().to_string(),
            why: why.to_string(),
        }
    }

    pub(crate) fn of_worker(self, name: &str) -> Self {
        Self::Worker {
            name: name.to_owned(),
            source: Box::new(self),
        }
    }
}
