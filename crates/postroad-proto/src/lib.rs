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
//! - [`code`], [`error_body`], [`wire_error`]: what can go wrong, whose fault it is, and whether
//!   trying again is safe.
//! - [`trace`], [`text`]: what a call carries besides; text of a peer, fit to be shown.
//! - [`payload_codec`]: numbers of payload codecs.
//! - [`limits`]: every bound.
//! - [`units`]: sizes and times as people write them.

pub mod code;
pub mod dialect;
pub mod error_body;
pub mod explain;
pub mod frame;
pub mod limits;
pub mod payload_codec;
pub mod policy;
pub mod session;
pub mod text;
mod time;
pub mod trace;
pub mod units;
pub mod wire_error;

pub use time::Time;
