//! All tests of the program as a process, in one program: it is linked once, and its tests share
//! one support module. `cargo test -p postroad-cli --test it bench::` runs one module.
//!
//! Tests that measure time are programs of their own beside this folder: cargo runs one test
//! program after the other, so nothing else runs beside them.

mod admin;
mod bench;
mod call;
mod clients;
mod compare;
mod config;
mod ending;
mod fleet;
mod help;
mod hints;
#[cfg(feature = "jwt")]
mod identity;
mod memory;
mod peers;
mod practice;
mod program;
mod reload;
#[cfg(feature = "discovery")]
mod reload_keys;
mod signals;
mod support;
mod terminal;
mod workers;
