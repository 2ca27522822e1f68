//! All tests of the protocol core from outside, in one program: it is linked once, and its tests
//! share the harness. `cargo test -p postroad-proto --test it session::` runs one module.

mod envelopes;
mod faults;
mod fleet;
mod harness;
mod overload;
mod policy;
mod policy_balance;
mod policy_breaker;
mod policy_codel;
mod policy_expect;
mod policy_limit;
mod policy_order;
mod policy_pressure;
mod policy_rate;
mod policy_retry;
mod policy_shares;
mod properties;
mod refusals;
mod session;
mod simulation;
mod soak;
mod stops;
mod vectors;
mod work;
