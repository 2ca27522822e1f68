//! The numbers of a run in tables.

use super::escaped;
use crate::report::units;
use crate::report::{Distribution, End, Loop, Report};

/// A table whose first row is its head.
fn table(title: &str, rows: &[Vec<String>]) -> String {
    let Some((head, body)) = rows.split_first() else {
        return String::new();
    };
    let row = |cells: &[String], tag: &str| {
        let cells = cells
            .iter()
            .map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell)));
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let body: String = body.iter().map(|cells| row(cells, "td")).collect();
    format!(
        "<section><h2>{title}</h2><div class=\"scroll\"><table><thead>{}</thead>\
         <tbody>{body}</tbody></table></div></section>\n",
        row(head, "th")
    )
}

fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

pub(crate) fn all(report: &Report) -> String {
    [
        percentiles(report),
        errors(report),
        thresholds(report),
        ends(report),
        workers(report),
        configuration(report),
    ]
    .concat()
}

fn percentiles(report: &Report) -> String {
    let head = [
        "", "calls", "p50", "p75", "p90", "p99", "p99.9", "p99.99", "max", "mean", "stdev",
    ];
    let row = |name: &str, distribution: &Distribution| {
        let mut row = vec![name.to_owned(), units::count(distribution.count)];
        let quantiles = distribution.quantiles();
        row.extend(quantiles.map(|(_, ns)| units::time(ns as f64)));
        row.extend([distribution.mean, distribution.stdev].map(units::time));
        row
    };
    let mut rows = vec![cells(head), row("latency", &report.latency_ns)];
    for priority in &report.priorities {
        let name = format!("priority {}", priority.priority);
        rows.push(row(&name, &priority.latency_ns));
    }
    if let Some(lateness) = &report.lateness_ns {
        rows.push(row("generator late", lateness));
    }
    table("Percentiles", &rows)
}

fn errors(report: &Report) -> String {
    if report.failed == 0 {
        return String::new();
    }
    let all = (report.answered + report.failed) as f64;
    let row = |name: &str, count: u64| {
        vec![
            name.to_owned(),
            units::count(count),
            units::percent(count as f64 / all),
            report.examples.get(name).cloned().unwrap_or_default(),
        ]
    };
    let mut rows = vec![cells(["code", "calls", "of all", "such as"])];
    rows.extend(report.errors.iter().map(|(code, count)| row(code, *count)));
    if report.not_sent > 0 {
        rows.push(row("not sent: too many in flight", report.not_sent));
    }
    table("Errors by code", &rows)
}

fn thresholds(report: &Report) -> String {
    if report.thresholds.is_empty() {
        return String::new();
    }
    let mut rows = vec![cells(["threshold", "limit", "measured", "verdict"])];
    for threshold in &report.thresholds {
        let verdict = if threshold.missed { "missed" } else { "kept" };
        rows.push(cells([
            &threshold.name,
            &threshold.limit,
            &threshold.measured,
            verdict,
        ]));
    }
    table("Thresholds", &rows)
}

fn ends(report: &Report) -> String {
    let head = [
        "",
        "processor time",
        "per call",
        "cores busy",
        "memory, mean",
        "memory, peak",
        "waits",
        "preemptions",
    ];
    let row = |name: &str, end: &End| match end {
        End::Measured(usage) => vec![
            format!("{name} (process {})", usage.pid),
            units::time(usage.cpu_seconds * 1e9),
            usage
                .cpu_per_call_ns
                .map_or_else(|| "–".to_owned(), units::time),
            units::number(usage.cpu_seconds / report.seconds.max(1e-9)),
            units::bytes(usage.memory_mean_bytes as f64),
            units::bytes(usage.memory_peak_bytes as f64),
            units::count(usage.voluntary_switches),
            units::count(usage.involuntary_switches),
        ],
        End::Unknown { unknown } => vec![name.to_owned(), format!("not measured: {unknown}")],
    };
    let rows = [
        cells(head),
        row("generator", &report.ends.client),
        row("server", &report.ends.server),
    ];
    table("What it cost", &rows)
}

fn workers(report: &Report) -> String {
    if report.workers.is_empty() {
        return String::new();
    }
    let head = [
        "worker",
        "answered",
        "failed",
        "rate",
        "start within",
        "CPU per call",
        "memory, peak",
        "",
    ];
    let mut rows = vec![cells(head)];
    for worker in &report.workers {
        let lost = worker.lost.as_ref();
        let (per_call, peak) = match &worker.cost {
            End::Measured(usage) => (
                usage.cpu_per_call_ns.map(units::time),
                Some(units::bytes(usage.memory_peak_bytes as f64)),
            ),
            End::Unknown { .. } => (None, None),
        };
        rows.push(vec![
            worker.name.clone(),
            units::count(worker.answered),
            units::count(worker.failed),
            format!("{}/s", units::number(worker.rate)),
            units::time(worker.start_rtt_ns as f64),
            per_call.unwrap_or_else(|| "–".to_owned()),
            peak.unwrap_or_else(|| "–".to_owned()),
            lost.map_or_else(|| "complete".to_owned(), |why| format!("lost: {why}")),
        ]);
    }
    table("Workers", &rows)
}

fn configuration(report: &Report) -> String {
    let load = &report.load;
    let mut rows = vec![cells(["", "configuration of the run"])];
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row("target", report.url.clone());
    row("route", report.route.clone());
    match load.shape {
        Loop::Closed => row(
            "load",
            format!(
                "closed loop, {}",
                units::counted(load.callers.unwrap_or_default().into(), "caller")
            ),
        ),
        Loop::Open => row(
            "load",
            format!(
                "open loop, {}",
                load.arrival.as_deref().unwrap_or("constant")
            ),
        ),
    }
    row("connections", units::count(load.connections.into()));
    row("preset", load.preset.clone());
    row("generator threads", units::count(load.threads.into()));
    row("payload", units::payload(&load.size));
    row("priority", load.priority.clone());
    row("deadline", load.timeout.clone());
    row("warm-up, not counted", format!("{} s", load.warmup_seconds));
    row("duration", format!("{} s", load.duration_seconds));
    row("measured", format!("{:.3} s", report.seconds));
    row("seed", load.seed.to_string());
    row("begun", report.started.clone());
    row("generator", report.program.clone());
    let machine = &report.machine;
    row(
        "its machine",
        format!(
            "{}, {}, {} cores",
            machine.processor, machine.system, machine.cores
        ),
    );
    table("Configuration", &rows)
}
