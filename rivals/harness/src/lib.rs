//! How every rival is measured: one command line, one load loop, one clock, one result line.
//!
//! A rival is a program of its own that calls [`main`] and says what its roles do. The loops that
//! make load and count are here, so that all of them are measured by the same code.

mod calls;
mod clocks;
mod one_way;
mod record;
mod roles;

use std::process::ExitCode;

pub use calls::{Caller, Pipelined, print};
pub use one_way::{Received, Sender};
pub use record::{Lap, Recorder, Report};
pub use roles::{Arguments, Role, Runtime};

/// Whatever went wrong, in words: a rival's errors are only ever printed.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// Runs the role that the command line asks for.
pub fn main(run: impl FnOnce(Role) -> Result<()>) -> ExitCode {
    match clocks::raise_open_files().and_then(|()| run(Role::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "{}: {error}",
                std::env::args().collect::<Vec<_>>().join(" ")
            );
            ExitCode::FAILURE
        }
    }
}
