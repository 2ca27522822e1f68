//! What every command needs of the world: the repository's root, programs, output, exit codes.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

pub(crate) const FAILED: u8 = 1;
pub(crate) const WRONG_USAGE: u8 = 2;
pub(crate) const TOOL_MISSING: u8 = 3;

/// The repository's root: the folder above this crate.
pub(crate) fn root() -> PathBuf {
    // At run time first, so that a moved checkout with an old build still finds itself.
    let here = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent()
        .map_or_else(|| here.clone(), Path::to_path_buf)
}

/// Writes to standard output; a closed pipe (`| head`) is the reader's wish and no failure.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Writes one message to standard error.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "xtask: {}", text.trim_end());
}

/// The cargo that runs this program, started in the repository's root.
pub(crate) fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(root());
    // `cargo run` describes this package in variables that some build scripts watch; handing
    // them on would rebuild those crates whenever xtask and a plain cargo take turns.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// The file that the shell would run for `program`, if there is one.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// The exit code of a finished step; names the step when it failed.
pub(crate) fn outcome(step: &str, status: io::Result<ExitStatus>) -> u8 {
    match status {
        Ok(status) if status.success() => 0,
        Ok(status) => {
            complain(&format!("step `{step}` failed: {status}"));
            // Killed by a signal: no code to pass on.
            status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(FAILED)
        }
        Err(error) => {
            complain(&format!("step `{step}` could not start: {error}"));
            TOOL_MISSING
        }
    }
}
