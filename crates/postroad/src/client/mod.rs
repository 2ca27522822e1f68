//! The client: one connection that comes back by itself, and calls on it.
//!
//! ```text
//! blocking -> handle -> call, producer, pipeline -> attempt -> channel -> keeper -> trouble
//!                \-> keeping -> keeper
//! ```
//!
//! Each module imports only what stands to the right of it. `options` holds what producers and
//! pipelines have in common, `values` how values become bytes, `config` the settings.

mod attempt;
mod blocking;
mod call;
mod call_options;
mod channel;
mod config;
mod handle;
mod keeper;
mod keeping;
mod options;
mod pipeline;
mod producer;
#[cfg(test)]
mod tests;
mod trouble;
mod values;

pub use blocking::BlockingClient;
pub use call::CallBuilder;
pub use call_options::{CallOptions, Outgoing};
pub use config::ClientConfig;
pub use handle::{Client, ConnectError};
pub use pipeline::Pipeline;
pub use producer::Producer;
