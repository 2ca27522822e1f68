//! A run as one page for people: no scripts, nothing loaded from elsewhere, light and dark.

mod axis;
mod charts;
mod svg;
mod tables;

use std::borrow::Cow;

use crate::report::units;
use crate::report::{End, Loop, Report};

const STYLE: &str = include_str!("style.css");

pub(crate) fn html(report: &Report) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Load test of {url}</title><style>\n{STYLE}</style></head><body><main>\n\
         {header}{banner}{tiles}<div class=\"charts\">\n{charts}</div>\n{tables}{footer}\
         </main></body></html>\n",
        url = escaped(&report.url),
        header = header(report),
        banner = banner(report),
        tiles = tiles(report),
        charts = charts::draw(report),
        tables = tables::all(report),
        footer = footer(report),
    )
}

/// Text as HTML: what came from elsewhere stays text.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    Cow::Owned(out)
}

fn header(report: &Report) -> String {
    let load = &report.load;
    let shape = match load.shape {
        Loop::Closed => {
            let callers = load.callers.unwrap_or_default();
            format!("closed loop, {}", units::counted(callers.into(), "caller"))
        }
        Loop::Open => format!(
            "open loop, {} due",
            load.arrival.as_deref().unwrap_or("constant")
        ),
    };
    format!(
        "<header><h1>Load test of {}</h1><p>Route {}, {}; {}, payload {}; begun {}, \
         measured for {:.1} s.</p></header>\n",
        escaped(&report.url),
        escaped(&report.route),
        escaped(&shape),
        units::counted(load.connections.into(), "connection"),
        escaped(&units::payload(&load.size)),
        escaped(&report.started),
        report.seconds
    )
}

/// Whether the numbers may be believed, before any of them.
fn banner(report: &Report) -> String {
    let validity = &report.validity;
    let has_missed = report.thresholds.iter().any(|each| each.missed);
    let (class, verdict) = match (validity.valid, validity.complete) {
        (true, true) if has_missed => ("invalid", "Valid, and a threshold was missed."),
        (true, true) if report.stopped.is_some() => ("invalid", "Valid, and it was stopped."),
        (true, true) if !report.warnings().is_empty() => ("caveat", "Valid, with a caveat."),
        (true, true) => ("valid", "Valid: nothing speaks against these numbers."),
        (true, false) => (
            "invalid",
            "Incomplete: a part of the load is missing from these numbers.",
        ),
        (false, _) => (
            "invalid",
            "Invalid: do not judge the server by these numbers.",
        ),
    };
    let mut notes: Vec<String> = validity.reasons.clone();
    if let Some(stopped) = &report.stopped {
        notes.push(format!("Stopped: {stopped}."));
    }
    let missed = report
        .thresholds
        .iter()
        .filter(|threshold| threshold.missed);
    notes.extend(missed.map(|missed| {
        format!(
            "{} was to be {}, and is {}.",
            missed.name, missed.limit, missed.measured
        )
    }));
    notes.extend(report.warnings());
    if notes.is_empty() && report.load.shape == Loop::Open {
        notes.push("Each latency counts from the moment when its call was due.".to_owned());
    } else if notes.is_empty() {
        notes.push(
            "In a closed loop callers wait while the server stalls: its stalls show less than its \
             users would feel them."
                .to_owned(),
        );
    }
    let notes: String = notes
        .iter()
        .map(|note| format!("<li>{}</li>", escaped(note)))
        .collect();
    format!("<div class=\"banner {class}\"><strong>{verdict}</strong><ul>{notes}</ul></div>\n")
}

/// The numbers that one looks for first.
fn tiles(report: &Report) -> String {
    let latency = &report.latency_ns;
    let per_call = |end: &End| match end {
        End::Measured(usage) => usage
            .cpu_per_call_ns
            .map_or_else(|| "–".to_owned(), units::time),
        End::Unknown { .. } => "–".to_owned(),
    };
    let tiles = [
        ("answered a second", units::number(report.rate)),
        ("failed", units::count(report.failed)),
        ("p50", units::time(latency.p50 as f64)),
        ("p99", units::time(latency.p99 as f64)),
        ("p99.9", units::time(latency.p999 as f64)),
        ("max", units::time(latency.max as f64)),
        ("server CPU a call", per_call(&report.ends.server)),
        (
            "generator CPU a call",
            of_workers(report).map_or_else(|| per_call(&report.ends.client), units::time),
        ),
    ];
    let tiles = tiles.map(|(name, value)| format!("<div><span>{name}</span><b>{value}</b></div>"));
    format!("<div class=\"tiles\">{}</div>\n", tiles.concat())
}

/// What a call cost the workers, if there were any and all have said it.
fn of_workers(report: &Report) -> Option<f64> {
    let seconds = report.workers.iter().map(|worker| match &worker.cost {
        End::Measured(usage) => Some(usage.cpu_seconds),
        End::Unknown { .. } => None,
    });
    let seconds = seconds.sum::<Option<f64>>()?;
    let sent = (report.answered + report.failed).saturating_sub(report.not_sent);
    (sent > 0 && !report.workers.is_empty()).then(|| seconds * 1e9 / sent as f64)
}

fn footer(report: &Report) -> String {
    format!(
        "<footer>Measured by {}. Latencies are of answered calls, within 0.1 % of their value. \
         The warm-up is not counted. Point at a dot of a chart to read its value. \
         This page is one file and loads nothing.</footer>\n",
        escaped(&report.program)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use crate::report::{Threshold, Usage, Worker};

    #[test]
    fn a_page_is_whole_and_asks_for_nothing() {
        let page = html(&example::open_run(1));
        for wanted in [
            "Valid: nothing speaks against these numbers.",
            "Latency by percentile",
            "Lateness of the generator",
            "SRV-E-503",
            "constant 20000/s",
            "prefers-color-scheme: dark",
        ] {
            assert!(page.contains(wanted), "{wanted}");
        }
        for unwanted in [
            "<script", "<link", "<img", "http", "url(", "@import", "NaN", "inf",
        ] {
            assert!(!page.contains(unwanted), "{unwanted}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert_eq!(page.matches("<figure").count(), 7);
    }

    #[test]
    fn what_came_from_elsewhere_stays_text() {
        let mut report = example::open_run(1);
        report.route = "<script>alert(1)</script>".to_owned();
        report.errors = [("\"&'<b>".to_owned(), 240)].into();
        let page = html(&report);
        assert!(!page.contains("<script") && !page.contains("<b>\"") && !page.contains("'<b>"));
        assert!(page.contains("&lt;script&gt;") && page.contains("&quot;&amp;&#39;&lt;b&gt;"));
    }

    #[test]
    fn errors_of_several_kinds_are_told_apart_over_time() {
        let mut report = example::open_run(1);
        assert!(!html(&report).contains("SRV-E-503: "), "the bars say it");
        report.errors.insert("NET-E-502".to_owned(), 7);
        report.series[30].errors.insert("NET-E-502".to_owned(), 7);
        let page = html(&report);
        for wanted in [
            "failed: 120/s at 30",
            "SRV-E-503: 120/s at 30",
            "NET-E-502: 7/s at 30",
        ] {
            assert!(page.contains(wanted), "{wanted}");
        }
    }

    #[test]
    fn an_invalid_run_says_so_first() {
        let mut report = example::open_run(1);
        report.validity.valid = false;
        report.validity.reasons = vec!["The generator was 30 ms late at p99.".to_owned()];
        let page = html(&report);
        let at = |text| page.find(text).unwrap_or_else(|| panic!("no {text}"));
        assert!(at("Invalid: do not judge") < at("answered a second"));
        assert!(at("30 ms late") < at("answered a second"));
    }

    #[test]
    fn a_missed_threshold_and_the_cost_of_workers_are_told_at_the_top() {
        let mut report = example::open_run(1);
        let calls = report.answered + report.failed;
        let cost = |pid| match &report.ends.client {
            End::Measured(usage) => End::Measured(Usage {
                pid,
                cpu_seconds: calls as f64 * 2e-6,
                ..usage.clone()
            }),
            End::Unknown { .. } => panic!("it was measured"),
        };
        let workers = [1, 2].map(|pid| Worker {
            name: format!("10.0.0.{pid}:7480"),
            answered: report.answered / 2,
            failed: report.failed / 2,
            rate: 10_000.0,
            start_rtt_ns: 300_000,
            cost: cost(pid),
            lost: None,
        });
        report.workers = workers.to_vec();
        report.thresholds = vec![Threshold {
            name: "max-p99".to_owned(),
            limit: "1ms".to_owned(),
            measured: "9.282ms".to_owned(),
            missed: true,
        }];
        let page = html(&report);
        let at = |text| page.find(text).unwrap_or_else(|| panic!("no {text}"));
        assert!(at("Valid, and a threshold was missed.") < at("answered a second"));
        assert!(!page.contains("nothing speaks against"));
        assert!(page.contains("generator CPU a call</span><b>4.00 µs</b>"));
        report.thresholds[0].missed = false;
        assert!(html(&report).contains("nothing speaks against"));
    }

    #[test]
    fn a_run_with_many_failures_says_whose_percentiles_it_has() {
        let mut report = example::open_run(1);
        let warning = "the percentiles are those of answered calls only";
        let table = |report: &Report| crate::report::text(report, &crate::report::Plain);
        assert!(!html(&report).contains(warning) && !table(&report).contains(warning));
        report.failed = report.answered / 50;
        let page = html(&report);
        assert!(page.contains(warning) && !page.contains("nothing speaks against"));
        assert!(table(&report).contains("WARNING    2.0 % of the calls failed: "));
    }

    #[test]
    fn the_generators_share_of_a_latency_is_told() {
        let mut report = example::open_run(1);
        let mut late = example::histogram();
        late.saturating_record(60_000);
        report.lateness_ns = Some((&late).into());
        let told = "p50 60.0 µs of ";
        let page = html(&report);
        assert!(
            page.contains(told) && page.contains("p75 60.0 µs of "),
            "each is named"
        );
        assert!(page.contains("banner caveat") && page.contains("Valid, with a caveat."));
        let table = crate::report::text(&report, &crate::report::Plain);
        assert!(
            table.contains("WARNING    a fifth or more of a latency"),
            "{table}"
        );
        report.lateness_ns = None;
        assert!(!html(&report).contains(told));
    }

    #[test]
    fn a_run_without_an_answer_makes_a_page_too() {
        let mut report = example::open_run(1);
        report.series.clear();
        report.latency_ns = (&example::histogram()).into();
        (report.answered, report.failed, report.seconds, report.rate) = (0, 0, 0.0, 0.0);
        let page = html(&report);
        assert!(!page.contains("NaN") && page.contains("Latency by percentile"));
    }
}
