//! A report for people.

use std::fmt::Write as _;
use std::time::Duration;

use super::units;
use super::{Distribution, End, Report};

const MIB: f64 = 1024.0 * 1024.0;

/// A line with its name in a column of its own.
fn line(out: &mut String, name: &str, what: impl std::fmt::Display) {
    let _ = writeln!(out, "{name:<11}{what}");
}

fn time(nanos: u64) -> String {
    format!("{:.1?}", Duration::from_nanos(nanos))
}

/// How words stand out where the text is shown.
pub trait Paint {
    /// Something that went wrong, or that should not be overlooked.
    fn bad(&self, text: &str) -> String {
        text.to_owned()
    }

    /// Something that went well.
    fn good(&self, text: &str) -> String {
        text.to_owned()
    }
}

/// No word stands out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Paint for Plain {}

/// The whole report as text for a terminal, and nothing that is not in it.
pub fn text(report: &Report, paint: &impl Paint) -> String {
    let mut out = String::new();
    load(&mut out, report);
    counts(&mut out, report);
    if report.latency_ns.count > 0 {
        latencies(&mut out, report);
    }
    if let Some(late) = &report.lateness_ns {
        let (p99, p999, max) = (time(late.p99), time(late.p999), time(late.max));
        line(
            &mut out,
            "generator",
            format_args!("{p99} late at p99, {p999} at p99.9, {max} at most"),
        );
    }
    end(&mut out, "client", &report.ends.client);
    end(&mut out, "server", &report.ends.server);
    workers(&mut out, report);
    for threshold in &report.thresholds {
        let (name, limit, measured) = (&threshold.name, &threshold.limit, &threshold.measured);
        // Padded first: colours have no width.
        let verdict = if threshold.missed {
            paint.bad(&format!("{:<11}", "missed"))
        } else {
            paint.good(&format!("{:<11}", "kept"))
        };
        let _ = writeln!(out, "{verdict}--{name} {limit}: {measured}");
    }
    if let Some(why) = &report.stopped {
        line(&mut out, "stopped", why);
    }
    for warning in report.warnings() {
        let _ = writeln!(out, "{}{warning}", paint.bad(&format!("{:<11}", "WARNING")));
    }
    for reason in &report.validity.reasons {
        let word = if report.validity.valid {
            "INCOMPLETE"
        } else {
            "INVALID"
        };
        let _ = writeln!(out, "{}{reason}", paint.bad(&format!("{word:<11}")));
    }
    out.truncate(out.trim_end().len());
    out
}

fn load(out: &mut String, report: &Report) {
    let load = &report.load;
    let shape = match (load.callers, &load.arrival) {
        (Some(callers), _) => format!("closed loop, {}", units::counted(callers.into(), "caller")),
        (None, Some(arrival)) => format!("open loop, {arrival}"),
        (None, None) => "open loop".to_owned(),
    };
    let _ = writeln!(
        out,
        "{} {}: {shape}, {}, payload {}",
        report.url,
        report.route,
        units::counted(load.connections.into(), "connection"),
        load.size
    );
}

fn counts(out: &mut String, report: &Report) {
    let (answered, rate) = (report.answered, report.rate);
    let bytes = (report.sent_bytes + report.received_bytes) as f64 / MIB;
    line(
        out,
        "answered",
        format_args!(
            "{} in {:.1} s, {} calls/s, {:.1} MiB/s of payload",
            units::count(answered),
            report.seconds,
            units::number(rate),
            bytes / report.seconds.max(1e-9)
        ),
    );
    let share = 100.0 * report.failed as f64 / (answered + report.failed).max(1) as f64;
    let failed = report.failed;
    if failed == 0 {
        line(out, "failed", 0);
    } else {
        line(
            out,
            "failed",
            format_args!(
                "{}, {share:.3}%; latencies are of the answered calls alone",
                units::count(failed)
            ),
        );
    }
    for (code, count) in &report.errors {
        let count = units::count(*count);
        match report.examples.get(code) {
            Some(example) => line(out, "", format_args!("{count} {code}: {example}")),
            None => line(out, "", format_args!("{count} {code}")),
        }
    }
    if report.not_sent > 0 {
        let not_sent = units::count(report.not_sent);
        line(
            out,
            "",
            format_args!("{not_sent} not sent: too many calls were in flight"),
        );
    }
    if report.unfinished > 0 {
        let unfinished = units::count(report.unfinished);
        line(
            out,
            "unfinished",
            format_args!("{unfinished} were waited for when the run was ended"),
        );
    }
    if report.held > 0 {
        let held = units::count(report.held);
        line(
            out,
            "held",
            format_args!(
                "{held} while their connection was gone or full; late from when they were due"
            ),
        );
    }
}

/// A column for all calls, and one for each priority when there are several.
fn latencies(out: &mut String, report: &Report) {
    let mut columns = vec![("latency".to_owned(), &report.latency_ns)];
    for priority in &report.priorities {
        columns.push((
            format!("priority {}", priority.priority),
            &priority.latency_ns,
        ));
    }
    if columns.len() > 1 {
        row(out, "", columns.iter().map(|(name, _)| name.clone()));
        row(
            out,
            "answered",
            columns.iter().map(|(_, each)| units::count(each.count)),
        );
        let failed = report.priorities.iter().map(|each| each.failed);
        let failed = std::iter::once(report.failed).chain(failed);
        row(out, "failed", failed.map(units::count));
    }
    let means = |each: &Distribution| (time(each.mean as u64), time(each.stdev as u64));
    row(out, "mean", columns.iter().map(|(_, each)| means(each).0));
    row(out, "stdev", columns.iter().map(|(_, each)| means(each).1));
    for (number, (name, _)) in report.latency_ns.quantiles().iter().enumerate() {
        row(
            out,
            name,
            columns
                .iter()
                .map(|(_, each)| time(each.quantiles()[number].1)),
        );
    }
}

fn row(out: &mut String, name: &str, cells: impl Iterator<Item = String>) {
    let cells: Vec<_> = cells.map(|cell| format!("{cell:<13}")).collect();
    line(out, name, cells.concat().trim_end());
}

fn end(out: &mut String, name: &str, end: &End) {
    let usage = match end {
        End::Measured(usage) => usage,
        End::Unknown { unknown } => {
            return line(out, name, format_args!("CPU and memory unknown: {unknown}"));
        }
    };
    let per_call = usage.cpu_per_call_ns.unwrap_or(0.0) / 1000.0;
    line(
        out,
        name,
        format_args!(
            "{per_call:.2} µs of CPU a call, {:.2} s in all; {:.1} MiB at most; waited {} times, \
             was interrupted {} times",
            usage.cpu_seconds,
            usage.memory_peak_bytes as f64 / MIB,
            units::count(usage.voluntary_switches),
            units::count(usage.involuntary_switches),
        ),
    );
}

fn workers(out: &mut String, report: &Report) {
    for worker in &report.workers {
        let name = &worker.name;
        let (answered, failed) = (units::count(worker.answered), units::count(worker.failed));
        let lost = if worker.lost.is_some() { ", LOST" } else { "" };
        let cost = match &worker.cost {
            End::Measured(usage) => format!(
                "; {:.2} µs of CPU a call, {:.1} MiB at most",
                usage.cpu_per_call_ns.unwrap_or(0.0) / 1000.0,
                usage.memory_peak_bytes as f64 / MIB
            ),
            End::Unknown { .. } => String::new(),
        };
        line(
            out,
            "worker",
            format_args!("{name}: {answered} answered, {failed} failed{lost}{cost}"),
        );
    }
    let begun = report.workers.iter().map(|worker| worker.start_rtt_ns);
    let begun: Vec<_> = begun.filter(|rtt| *rtt > 0).collect();
    if let Some(spread) = begun.iter().max() {
        let who = if begun.len() == report.workers.len() {
            "all began".to_owned()
        } else {
            format!("{} of {} began", begun.len(), report.workers.len())
        };
        line(out, "", format_args!("{who} within {}", time(*spread)));
    }
}
