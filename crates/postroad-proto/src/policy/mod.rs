//! Decisions as pure state machines: given what happened and the time, what to do next.

mod backoff;
mod state;

pub use backoff::{Backoff, BackoffError, Random, Reconnect};
pub use state::{ConnectionState, IllegalTransition, ServerState};
