//! `postroad man --dir DIR`.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::Arguments;
use crate::exit::Failed;

pub(crate) fn run(dir: &Path) -> Result<ExitCode, Failed> {
    let place = |error: std::io::Error| Failed::from(error).at(dir.display());
    std::fs::create_dir_all(dir).map_err(place)?;
    clap_mangen::generate_to(Arguments::command(), dir).map_err(place)?;
    Ok(ExitCode::SUCCESS)
}
