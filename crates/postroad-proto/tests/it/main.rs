//! All tests of the protocol core from outside, in one program: it is linked once, and its tests
//! share the harness. `cargo test -p postroad-proto --test it session::` runs one module.

mod envelopes;
mod faults;
mod fleet;
mod harness;
mod policy;
mod policy_balance;
mod policy_breaker;
mod policy_retry;
mod properties;
mod refusals;
mod session;
mod simulation;
mod soak;
mod stops;
mod vectors;
mod work;
