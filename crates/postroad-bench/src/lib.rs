//! The load tester of Postroad: makes calls to a server as they were planned, and says honestly how
//! the server took them.
//!
//! ```text
//! LoadConfig -> LoadTest -> threads that call -> intervals -> Report -> text, files, comparison
//!               (checked)   (engine, fleet)      (record)
//! ```
//!
//! Say in a [`LoadConfig`] what load is wanted, have [`LoadTest::new`] check it, and
//! [run](LoadTest::run) it. The [`Report`] of a run holds everything that is printed or written
//! about it. [`compare`](compare::compare) says which differences between two sets of reports are
//! real. [`Worker`] makes the calls of a run that another process measures.
//!
//! The crate prints nothing and ends no process: it returns values, and a [`Watcher`] hears how a
//! run goes and can end it.
//!
//! ```no_run
//! use postroad_bench::{LoadConfig, LoadTest, Outcome, Unwatched};
//!
//! # async fn run() -> Result<(), postroad_bench::Error> {
//! let config = LoadConfig {
//!     rate: Some("20000".parse().expect("a number of calls a second")),
//!     ..LoadConfig::new("tcp://127.0.0.1:7400")
//! };
//! let test = LoadTest::new(config)?;
//! if let Outcome::Measured(report) = test.run(&mut Unwatched).await? {
//!     println!("{} calls a second", report.rate);
//! }
//! # Ok(())
//! # }
//! ```

mod bounds;
pub mod codec;
pub mod compare;
mod engine;
mod error;
#[cfg(test)]
mod example;
mod failure;
mod fleet;
mod plan;
mod record;
pub mod report;
mod run;
mod statistics;
mod targets;
mod watcher;

pub use bounds::Bounds;
pub use error::Error;
pub use fleet::UNREACHABLE;
pub use fleet::worker::Worker;
pub use plan::config::{CONNECTIONS_MAX, LoadConfig, SIZE_MAX, Spacing, THREADS_MAX};
pub use plan::mix::Mix;
pub use plan::schedule::{Burst, Rate};
pub use report::Report;
pub use run::{LoadTest, Outcome};
pub use watcher::{Progress, Unwatched, Watcher};
