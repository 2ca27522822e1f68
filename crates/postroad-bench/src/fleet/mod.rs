//! What a coordinator and its workers say to each other: a service of the library itself.

pub(crate) mod coordinator;
pub(crate) mod worker;

use postroad::Error;
use postroad::config::Limits;
use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::record::Chunk;
use crate::record::losses::Losses;
use crate::report::End;

/// Code of the error of a worker that cannot connect to the target.
pub const UNREACHABLE: &str = "BEN-E-503";

/// A process that makes calls for a coordinator, one run at a time.
#[postroad::service]
pub(crate) trait LoadWorker {
    /// Connects to the target; the number of the run.
    async fn prepare(&self, plan: Plan) -> Result<u64, Error>;
    /// Begins to call as soon as this arrives: nobody's clock is asked.
    async fn start(&self, run: u64) -> Result<(), Error>;
    /// The intervals since the last time; waits a while for the first. Who does not ask is taken
    /// for gone.
    async fn collect(&self, run: u64) -> Result<Collected, Error>;
    /// Ends the calls.
    async fn stop(&self, run: u64) -> Result<(), Error>;
}

/// What a worker has measured since the last time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Collected {
    pub(crate) chunks: Vec<Chunk>,
    /// When nothing will follow.
    pub(crate) ended: Option<Ended>,
}

/// A worker's load when it is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) losses: Losses,
    /// What the load cost the worker.
    pub(crate) cost: End,
    /// Why the load ended before its time, if nobody asked for that.
    pub(crate) gave_up: Option<String>,
}

/// Bounds of what they say: a plan carries its payloads, of up to 64 MiB, as numbers of up to two
/// bytes each.
pub(crate) fn limits() -> Limits {
    let max_message = 160 * 1024 * 1024;
    Limits {
        max_message,
        assembly_max: max_message,
        outbox_max: max_message,
        ..Limits::default()
    }
}

/// An address as it is typed for coordinators and workers: TCP, unless it says something else.
pub(crate) fn url(address: &str) -> String {
    if address.contains("://") {
        address.to_owned()
    } else {
        format!("tcp://{address}")
    }
}
