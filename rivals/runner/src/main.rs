//! Starts every rival, measures them in turns, and says which goals are reached.

mod build;
mod goals;
mod measure;
mod overload;
mod plot;
mod process;
mod report;
mod results;
mod rows;
mod table;

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use measure::Bench;
use process::Scratch;
use results::Results;
use rows::{CELLS, Cell, ROWS, Row};

/// Whatever went wrong, in words: errors are only printed.
type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

/// Measures Postroad beside its rivals and beside what sockets alone cost.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask rivals", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Experiment>,
    /// One short round of groups S, T and C.
    #[arg(long)]
    quick: bool,
    /// Passes over everything; medians are over these.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only rows whose name begins so.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Only these groups: S, A, T, B, C, W, D, G.
    #[arg(long, value_delimiter = ',', value_name = "GROUP")]
    group: Vec<String>,
    /// Seconds measured in each cell.
    #[arg(long, default_value_t = 0.8)]
    seconds: f64,
}

/// What is measured otherwise.
#[derive(Debug, Subcommand)]
enum Experiment {
    Overload(overload::Overload),
}

impl Arguments {
    fn rows(&self) -> Vec<&'static Row> {
        let wanted = |row: &&Row| {
            self.only.is_empty()
                || self
                    .only
                    .iter()
                    .any(|name| row.name.starts_with(name.as_str()))
        };
        ROWS.iter().filter(wanted).collect()
    }

    fn cells(&self) -> Vec<&'static Cell> {
        let groups: Vec<&str> = match self.group.is_empty() {
            true if self.quick => vec!["S", "T", "C"],
            _ => self.group.iter().map(String::as_str).collect(),
        };
        let wanted = |cell: &&Cell| groups.is_empty() || groups.contains(&cell.group());
        CELLS.iter().filter(wanted).collect()
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(Experiment::Overload(overload)) => overload.run(),
        None => run(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("rivals: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything that was asked for was measured.
fn run(arguments: &Arguments) -> Result<bool> {
    let (rows, cells) = (arguments.rows(), arguments.cells());
    let in_some = |row: &&&Row| cells.iter().any(|cell| row.cells.contains(&cell.name));
    let rows: Vec<&Row> = rows.iter().filter(in_some).copied().collect();
    if rows.is_empty() {
        return Err("no row has this name in these groups".into());
    }
    let home = build::home();
    let built = home.join("target/release");
    let absent = build::prepare(&rows, &built);
    let rows: Vec<&Row> = rows
        .into_iter()
        .filter(|row| !absent.contains_key(row.name))
        .collect();
    let seconds = if arguments.quick {
        0.3
    } else {
        arguments.seconds
    };
    let bench = Bench {
        built,
        scratch: Scratch::make()?,
        seconds,
    };
    let rounds = if arguments.quick { 1 } else { arguments.rounds };
    let (results, failed) = measure_all(&bench, rounds, &rows, &cells);
    println!(
        "{}## Goals\n\n{}",
        table::tables(&results),
        goals::table(&results)
    );
    let not_run: Vec<String> = absent
        .iter()
        .map(|(row, problem)| format!("not run: {row}: {problem}"))
        .collect();
    not_run
        .iter()
        .chain(&failed)
        .for_each(|line| println!("{line}"));
    if !arguments.quick && arguments.only.is_empty() {
        report::keep(&home.join("results"), results, &not_run)?;
    }
    Ok(failed.is_empty() && not_run.is_empty())
}

/// Every row in every cell, then the same again: what slows the machine for a while slows all.
fn measure_all(
    bench: &Bench,
    rounds: usize,
    rows: &[&'static Row],
    cells: &[&'static Cell],
) -> (Results, BTreeSet<String>) {
    let (mut results, mut failed) = (Results::default(), BTreeSet::new());
    for round in 1..=rounds {
        for cell in cells {
            for row in rows.iter().filter(|row| row.cells.contains(&cell.name)) {
                let report = bench.measure(row, cell);
                let said = match &report {
                    Ok(report) => report
                        .get(cell.by)
                        .map_or_else(|| "-".to_owned(), |value| table::show(cell.by, value)),
                    Err(error) => {
                        failed.insert(format!("failed: {} in {}: {error}", row.name, cell.name));
                        error.to_string()
                    }
                };
                eprintln!(
                    "round {round}/{rounds}  {:<9} {:<22} {said}",
                    cell.name, row.name
                );
                results.add(cell.name, row.name, report.ok());
            }
        }
    }
    (results, failed)
}
