//! `postroad bench`: load, and honest numbers about it.
//!
//! Arguments become a [`plan::Plan`], an [`engine`] makes its calls, a [`recorder`] of each thread
//! counts them by interval, and the intervals add up to a [`report::Report`], from which everything
//! is printed.

pub(crate) mod args;
mod codec;
mod compare;
mod coordinator;
mod ends;
mod engine;
#[cfg(test)]
mod exact;
#[cfg(test)]
mod example;
mod files;
mod fleet;
mod gather;
mod mix;
mod page;
mod plan;
mod progress;
mod recorder;
pub(crate) mod report;
mod run;
mod schedule;
mod statistics;
mod table;
mod threshold;
mod units;
mod worker;

use std::process::ExitCode;

use crate::commands::{raise_open_files, runtime};
use crate::exit::{self, Failed};
use crate::terminal::{Color, Output, Style, put, tell};
use args::{Bench, BenchCommand, Run};
use report::Report;

pub(crate) fn run(bench: &Bench, color: Color) -> Result<ExitCode, Failed> {
    match &bench.command {
        Some(BenchCommand::Worker(worker)) => {
            raise_open_files();
            worker::run(worker)
        }
        Some(BenchCommand::Compare(compare)) => compare::run(compare),
        Some(BenchCommand::Report(rewrite)) => files::rewrite(rewrite),
        Some(BenchCommand::Codec(codec)) => codec::run(codec),
        None => load(&bench.run, color),
    }
}

fn load(run: &Run, color: Color) -> Result<ExitCode, Failed> {
    let plan = plan::Plan::new(run)?;
    let made = files::check(&run.files)?;
    raise_open_files();
    let (report, interrupted) = match runtime()?.block_on(run::measure(run, plan))? {
        run::Outcome::Measured {
            report,
            interrupted,
        } => (report, interrupted),
        run::Outcome::NotBegun(code) => {
            tell("it was interrupted before it had begun: nothing was measured");
            return Ok(code);
        }
    };
    let report = &*report;
    // What was measured is kept before anybody can stop listening.
    let written = files::write(&run.files, report);
    drop(made);
    let is_heard = match run.output {
        Output::Text => put(table::text(report, Style::new(color, &std::io::stdout()))),
        Output::Json => {
            let json = serde_json::to_string(report);
            put(json.map_err(|error| Failed::new(exit::FAILED, error))?)
        }
    };
    let verdict = match interrupted {
        Some(code) => Ok(code),
        None => judge(report),
    };
    if matches!(verdict, Ok(code) if code == ExitCode::SUCCESS) {
        written?;
        let code = if is_heard { 0 } else { exit::FAILED };
        return Ok(ExitCode::from(code));
    }
    // The verdict on the run is what a script waits for.
    if let Err(failed) = written {
        tell(format_args!("error: {failed}"));
    }
    verdict
}

/// The exit code that a report deserves. An invalid run can neither keep nor miss a threshold; one
/// without an answer can miss it, and cannot keep it.
fn judge(report: &Report) -> Result<ExitCode, Failed> {
    let is_judged = !report.thresholds.is_empty() || report.stopped.is_some();
    if report.answered == 0 && !is_judged {
        return Err(Failed::new(exit::FAILED, unanswered(report)));
    }
    let missed = missed(report);
    if report.answered > 0
        && let Some(doubt) = doubt(report)
    {
        match (is_judged, report.validity.complete) {
            (true, _) => {
                let all = std::iter::once(doubt).chain(missed);
                let all = all.collect::<Vec<_>>().join("; ");
                return Err(Failed::new(exit::INVALID, all));
            }
            (false, false) => return Err(Failed::new(exit::FAILED, doubt)),
            (false, true) => tell(format_args!("warning: {doubt}")),
        }
    }
    match (missed, doubt(report)) {
        (Some(missed), _) => Err(Failed::new(exit::THRESHOLD, missed)),
        (None, Some(doubt)) if is_judged => Err(Failed::new(exit::INVALID, doubt)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The stop condition that was met, or else the thresholds that were missed.
fn missed(report: &Report) -> Option<String> {
    if let Some(why) = &report.stopped {
        return Some(format!("stopped: {why}"));
    }
    let thresholds = report.thresholds.iter();
    let missed = thresholds.filter(|threshold| threshold.missed);
    let missed: Vec<_> = missed
        .map(|each| format!("--{} {}: {}", each.name, each.limit, each.measured))
        .collect();
    (!missed.is_empty()).then(|| format!("missed {}", missed.join(", ")))
}

/// What became of all calls, when none was answered.
fn unanswered(report: &Report) -> String {
    let errors = report.errors.iter();
    let mut all: Vec<_> = errors
        .map(|(code, count)| format!("{count} {code}"))
        .collect();
    if report.not_sent > 0 {
        all.push(format!("{} not sent", report.not_sent));
    }
    let lost = report.workers.iter();
    all.extend(lost.filter_map(|worker| {
        let why = worker.lost.as_ref()?;
        Some(format!("worker {} was lost: {why}", worker.name))
    }));
    if all.is_empty() {
        all.push("none was due in the measured time".to_owned());
    }
    format!("no call was answered: {}", all.join(", "))
}

/// Why the numbers are not to be believed.
fn doubt(report: &Report) -> Option<String> {
    let validity = &report.validity;
    let word = match (validity.valid, validity.complete) {
        (true, true) => return None,
        (false, _) => "invalid",
        (true, false) => "incomplete",
    };
    Some(format!(
        "the run is {word}: {}",
        validity.reasons.join("; ")
    ))
}
