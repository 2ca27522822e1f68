//! `postroad bench`: what the load tester measured, printed, written, and as exit codes.

mod progress;

use std::process::ExitCode;

use postroad_bench::compare::{self, GateVerdict};
use postroad_bench::report::{self, Paint, Verdict, files};
use postroad_bench::{LoadTest, Outcome, Report, codec};

use super::{raise_open_files, runtime};
use crate::args::bench::{Bench, BenchCommand, Codec, Compare, Rewrite, Run, Worker};
use crate::exit::{self, Failed};
use crate::signals::Signals;
use crate::terminal::{Color, Output, Style, put, say, tell};
use progress::Terminal;

pub(crate) fn run(bench: &Bench, color: Color) -> Result<ExitCode, Failed> {
    match &bench.command {
        Some(BenchCommand::Worker(worker)) => work(worker),
        Some(BenchCommand::Compare(compare)) => compare_runs(compare),
        Some(BenchCommand::Report(rewrite)) => write_again(rewrite),
        Some(BenchCommand::Codec(codec)) => measure_codecs(codec),
        None => load(&bench.run, color),
    }
}

fn load(run: &Run, color: Color) -> Result<ExitCode, Failed> {
    let test = LoadTest::new(run.config())?;
    let report_files = run.files.files();
    let made = files::check(&report_files)?;
    raise_open_files();
    let (outcome, interrupted) = runtime()?.block_on(async {
        let mut terminal = Terminal::new(test.warms_up())?;
        let outcome = test.run(&mut terminal).await;
        let interrupted = terminal.end();
        Ok::<_, Failed>((outcome?, interrupted))
    })?;
    let Outcome::Measured(report) = outcome else {
        tell("it was interrupted before it had begun: nothing was measured");
        return Ok(interrupted.unwrap_or(ExitCode::from(exit::INTERRUPTED)));
    };
    // What was measured is kept before anybody can stop listening.
    let written = files::write(&report_files, &report).map_err(Failed::from);
    drop(made);
    let is_heard = match run.output {
        Output::Text => put(report::text(
            &report,
            &Style::new(color, &std::io::stdout()),
        )),
        Output::Json => {
            let json = serde_json::to_string(&*report);
            put(json.map_err(|error| Failed::new(exit::FAILED, error))?)
        }
    };
    let verdict = match interrupted {
        Some(code) => Ok(code),
        None => judge(&report),
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

/// The exit code that a report deserves.
fn judge(report: &Report) -> Result<ExitCode, Failed> {
    match report.verdict() {
        Verdict::Kept => Ok(ExitCode::SUCCESS),
        Verdict::Doubtful(doubt) => {
            tell(format_args!("warning: {doubt}"));
            Ok(ExitCode::SUCCESS)
        }
        Verdict::Failed(why) => Err(Failed::new(exit::FAILED, why)),
        Verdict::Missed(what) => Err(Failed::new(exit::THRESHOLD, what)),
        Verdict::Undecided(why) => Err(Failed::new(exit::INVALID, why)),
    }
}

impl Paint for Style {
    fn bad(&self, text: &str) -> String {
        self.red(text)
    }

    fn good(&self, text: &str) -> String {
        self.green(text)
    }
}

fn work(worker: &Worker) -> Result<ExitCode, Failed> {
    raise_open_files();
    runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        let worker = postroad_bench::Worker::listen(&worker.listen).await?;
        for address in worker.addresses() {
            say(format_args!("worker on {address}"));
        }
        signals.next().await;
        tokio::select! {
            () = worker.shutdown() => Ok(ExitCode::SUCCESS),
            // The second signal insists.
            code = signals.next() => Ok(code),
        }
    })
}

fn compare_runs(flags: &Compare) -> Result<ExitCode, Failed> {
    use postroad_bench::Error;
    let compared = compare::compare(&flags.a, &flags.b, &flags.config());
    let compared = compared.map_err(|error| {
        let is_forceable = matches!(error, Error::Doubtful { is_forceable, .. } if is_forceable);
        let failed = Failed::from(error);
        if is_forceable {
            failed.hint("--force compares them all the same")
        } else {
            failed
        }
    })?;
    match flags.output {
        Output::Text => say(compared.text()),
        Output::Json => say(compared.json()),
    }
    for warning in compared.warnings() {
        tell(format_args!("warning: {warning}"));
    }
    match compared.verdict() {
        GateVerdict::Kept => Ok(ExitCode::SUCCESS),
        GateVerdict::Missed(what) => Err(Failed::new(exit::THRESHOLD, what)),
        GateVerdict::Undecided(why) => Err(Failed::new(exit::FAILED, why)),
    }
}

fn write_again(rewrite: &Rewrite) -> Result<ExitCode, Failed> {
    files::rewrite(&rewrite.run, &rewrite.files.files())?;
    Ok(ExitCode::SUCCESS)
}

fn measure_codecs(bench: &Codec) -> Result<ExitCode, Failed> {
    if cfg!(debug_assertions) {
        tell("warning: a debug build; only a release build's times say something");
    }
    let rows = codec::contest_all(bench.runs, bench.time)?;
    match bench.output {
        Output::Text => say(codec::text(&rows, bench.runs, bench.time)),
        Output::Json => say(serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "runs": bench.runs,
            "run_ns": bench.time.as_nanos() as u64,
            "codecs": rows,
        })),
    }
    Ok(ExitCode::SUCCESS)
}
