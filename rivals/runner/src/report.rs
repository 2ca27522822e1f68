//! The folder `results`: numbers of all rounds, a page and a picture.
//!
//! A run replaces the cells that it measured and leaves the others, so that one group can be
//! measured again without all of them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::build::home;
use crate::results::Results;
use crate::{Result, goals, plot, table};

pub(crate) fn keep(folder: &Path, newer: Results, not_run: &[String]) -> Result<()> {
    fs::create_dir_all(folder)?;
    let rounds = folder.join("rounds.json");
    let mut results = Results::load(&rounds)?;
    results.replace(newer, &commit());
    results.save(&rounds)?;
    let absent: String = not_run.iter().map(|line| format!("- {line}\n")).collect();
    let page = format!(
        "# Postroad beside its rivals\n\n\
         Measured by `cargo xtask rivals` on {}. [How, and how to read it](../README.md); every\n\
         round is in [rounds.json](rounds.json).\n\n\
         ![The results as bars](rivals.svg)\n\n\
         ## Goals\n\n{}\n{}{absent}",
        machine(),
        goals::table(&results),
        table::tables(&results),
    );
    fs::write(folder.join("rivals.md"), page)?;
    fs::write(folder.join("rivals.svg"), plot::svg(&results))?;
    eprintln!("written: {}", folder.join("rivals.md").display());
    Ok(())
}

/// The processor, how many of it, and the kernel.
fn machine() -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let mut names = processors
        .lines()
        .filter_map(|line| line.strip_prefix("model name"));
    let name = names.next().map_or("an unknown processor", |name| {
        name.trim_start_matches([' ', '\t', ':'])
    });
    let count = names.count() + 1;
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    format!("{count} x {name}, Linux {kernel}")
}

/// The state of the repository, the results themselves aside; empty where git cannot say.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        Command::new("git")
            .args(arguments)
            .current_dir(home())
            .output()
    };
    let short = git(&["rev-parse", "--short", "HEAD"]).map(|output| output.stdout);
    let changed = git(&["status", "--porcelain", "--", ":/", ":!results"]);
    let is_changed = changed.is_ok_and(|output| !output.stdout.is_empty());
    let commit = String::from_utf8_lossy(&short.unwrap_or_default())
        .trim()
        .to_owned();
    if is_changed {
        commit + " with changes"
    } else {
        commit
    }
}
