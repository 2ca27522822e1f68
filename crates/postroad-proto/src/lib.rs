//! The protocol core of Postroad: bytes in, events and bytes out, and time as an argument.
//!
//! This crate decides and never does: it opens no socket, reads no clock, draws no random number,
//! logs nothing and grows nothing without a bound. `postroad` joins it to a runtime.
//!
//! - [`frame`]: native frames, `docs/protocol.md`.
//! - [`dialect`]: the six dialects, `docs/dialects.md`.
//! - [`session`]: the state machine of one connection, of either end.
//! - [`policy`]: reconnecting, and the states that users observe.
//! - [`explain`]: any frame, field by field, for a person.
//! - [`limits`]: every bound.

pub mod dialect;
pub mod error;
pub mod explain;
pub mod frame;
pub mod limits;
pub mod policy;
pub mod session;
mod time;

pub use time::Time;
