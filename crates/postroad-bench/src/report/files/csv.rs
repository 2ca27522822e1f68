//! What happened over time, a line an interval.

use std::fmt::Write;

use crate::report::{Report, Sample};

/// Times in seconds since the measurement began, latencies in nanoseconds; what was not measured is
/// empty.
const HEAD: &str = "at_seconds,seconds,due,answered,failed,rate,p50_ns,p99_ns,max_ns,late_max_ns,\
    client_cpu_seconds,client_memory_bytes,server_cpu_seconds,server_memory_bytes";

pub(crate) fn text(report: &Report) -> String {
    let mut out = format!("{HEAD}\n");
    for interval in &report.series {
        let _ = write!(
            out,
            "{},{},{},{},{},{},",
            interval.at_seconds,
            interval.seconds,
            interval.due,
            interval.answered,
            interval.failed,
            interval.rate,
        );
        let latencies = [interval.p50_ns, interval.p99_ns, interval.max_ns];
        for nanos in latencies.into_iter().chain([interval.late_max_ns]) {
            let _ = write!(
                out,
                "{},",
                nanos.map_or_else(String::new, |ns| ns.to_string())
            );
        }
        let _ = writeln!(out, "{},{}", end(interval.client), end(interval.server));
    }
    out
}

fn end(sample: Option<Sample>) -> String {
    match sample {
        Some(sample) => format!("{},{}", sample.cpu_seconds, sample.memory_bytes),
        None => ",".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn every_line_has_every_column() {
        let mut report = example::open_run(1);
        let silent = &mut report.series[2];
        (silent.answered, silent.rate) = (0, 0.0);
        (silent.p50_ns, silent.p99_ns, silent.max_ns) = (None, None, None);
        let text = text(&report);
        let silent = text.lines().nth(3).expect("the third interval");
        assert!(silent.starts_with("2,1,20000,0,0,0,,,,"), "{silent}");
        let columns = |line: &str| line.split(',').count();
        assert!(
            text.lines().all(|line| columns(line) == columns(HEAD)),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1 + report.series.len());
        assert!(!HEAD.contains(' '));
    }
}
