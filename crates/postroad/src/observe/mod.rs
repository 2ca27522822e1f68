//! What is counted and logged. Nothing else in this crate names `tracing` or a counter.
//!
//! Whoever has something to tell calls a function that says what has happened; here it becomes a
//! log line, a count, or both, and one place decides what an operator is told how loudly. What
//! costs anything is made only where somebody looks: [`trace::is_watched`] is asked first.
//!
//! | module | of what |
//! | --- | --- |
//! | `admin` | who asks how a node does |
//! | [`audit`] | who called what, and what was decided |
//! | [`calls`] | calls and one-way messages, at both ends |
//! | [`connections`] | connections that open, end, fail, and a client's state |
//! | [`discovery`] | sources of instances |
//! | [`identity`] | keys, tokens, certificates |
//! | [`node`] | listeners, and a server's state |
//! | [`counters`] | what a server has counted since its start |
//! | [`held`] | what all connections of a server hold |
//! | [`log_rate`] | how many lines of a kind are written a second |
//! | [`trace`] | trace ids |

#[cfg(feature = "admin")]
pub(crate) mod admin;
pub(crate) mod audit;
pub(crate) mod calls;
pub(crate) mod connections;
pub(crate) mod counters;
pub(crate) mod discovery;
pub(crate) mod fleet;
pub(crate) mod held;
pub(crate) mod identity;
pub(crate) mod log_rate;
pub(crate) mod node;
pub(crate) mod trace;
