//! Decisions as pure state machines: given what happened and the time, what to do next.

mod backoff;
mod outcome;
mod state;

pub use backoff::{Backoff, BackoffError, Ended, GiveUp, Next, Pause, Random, Reconnect};
pub use outcome::{CallInfo, Ending, Outcome, Timing};
pub use state::{ConnectionState, IllegalTransition, ServerState};
