//! The client: connections that come back by themselves, to one server or several, and calls on
//! them.
//!
//! ```text
//! blocking, builder -> handle -> call, producer, pipeline -> attempt -> channel
//! channel -> keeper -> trouble
//!        \-> fleet -> keeping -> keeper
//! ```
//!
//! Each module imports only what stands to the right of it, and `layers` from all. `options` holds
//! what producers and pipelines have in common, `values` how values become bytes, `config` the
//! settings.

mod attempt;
mod blocking;
mod builder;
mod call;
mod call_options;
mod channel;
mod config;
mod fleet;
mod handle;
mod keeper;
mod keeping;
#[cfg(feature = "tower")]
pub mod layers;
mod options;
mod pipeline;
mod policies;
mod producer;
#[cfg(test)]
mod tests;
mod token;
mod trouble;
mod values;
mod why;
mod why_sink;

pub use blocking::BlockingClient;
pub use builder::ClientBuilder;
pub use call::CallBuilder;
pub use call_options::{CallOptions, Outgoing};
pub use config::ClientConfig;
pub use handle::{Client, ConnectError};
pub use pipeline::Pipeline;
pub use policies::{BreakerPolicy, HealthPolicy, HedgePolicy, Policies, PoolPolicy, RetryPolicy};
pub use postroad_proto::policy::{Balance, Ending, Outcome, Timing};
pub use producer::Producer;
pub use why::{Considered, Explanation, Step, Why};
