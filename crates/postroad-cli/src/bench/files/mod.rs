//! A run as files: for people, for programs, for other load testers' tools.

mod csv;
pub(super) mod hlog;

use std::fs::OpenOptions;
use std::path::Path;
use std::process::ExitCode;

use super::args::{ReportFiles, Rewrite};
use super::page;
use super::report::{FORMAT, Report};
use crate::exit::{self, Failed};

/// Writes what was asked for, all that can be; what could not is named.
pub(super) fn write(files: &ReportFiles, report: &Report) -> Result<(), Failed> {
    type Form = fn(&Report) -> String;
    let forms: [(_, Form); 4] = [
        (&files.html, page::html),
        (&files.json, json),
        (&files.csv, csv::text),
        (&files.hlog, hlog::text),
    ];
    let failed = forms.into_iter().filter_map(|(path, form)| {
        let path = path.as_ref()?;
        let error = std::fs::write(path, form(report)).err()?;
        Some(format!("{}: {error}", path.display()))
    });
    let failed: Vec<String> = failed.collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failed::new(exit::FAILED, failed.join(", ")))
}

/// Finds out before a run whether its files can be written after it. What they hold stays.
pub(super) fn check(files: &ReportFiles) -> Result<(), Failed> {
    for path in files.paths() {
        let opened = OpenOptions::new().append(true).create(true).open(path);
        opened.map_err(|error| Failed::usage(format!("{}: {error}", path.display())))?;
    }
    Ok(())
}

/// Makes the other files of a run from the one for programs.
pub(super) fn rewrite(rewrite: &Rewrite) -> Result<ExitCode, Failed> {
    let files = &rewrite.files;
    if files.paths().next().is_none() {
        return Err(Failed::usage(
            "nothing to write: give --html, --csv, --hlog or --json",
        ));
    }
    write(files, &read(&rewrite.run)?)?;
    Ok(ExitCode::SUCCESS)
}

fn json(report: &Report) -> String {
    let text = serde_json::to_string_pretty(report);
    text.expect("a report has string keys and no value that JSON lacks") + "\n"
}

/// Reads what `--json` wrote.
pub(super) fn read(path: &Path) -> Result<Report, Failed> {
    let text = std::fs::read_to_string(path).map_err(|error| about(path, error))?;
    /// The field that every format has.
    #[derive(serde::Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Head = serde_json::from_str(&text).map_err(|error| about(path, error))?;
    if head.format != FORMAT {
        let why = format!("format {}, and this program reads {FORMAT}", head.format);
        return Err(about(path, why));
    }
    serde_json::from_str(&text).map_err(|error| about(path, error))
}

/// What is wrong with a file.
pub(super) fn about(path: &Path, why: impl std::fmt::Display) -> Failed {
    Failed::new(exit::FAILED, format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::example;
    use crate::bench::report::Interval;

    #[test]
    fn a_file_that_cannot_be_written_does_not_cost_the_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = ReportFiles {
            html: Some(folder.path().to_owned()),
            json: Some(folder.path().join("run.json")),
            hlog: Some(folder.path().join("no/run.hlog")),
            ..ReportFiles::default()
        };
        let failed = write(&files, &example::open_run(1)).expect_err("two are wrong");
        assert!(failed.to_string().contains("no/run.hlog: "), "{failed}");
        read(&folder.path().join("run.json")).expect("it is there");
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.json");
        let report = example::open_run(1);
        let files = ReportFiles {
            json: Some(path.clone()),
            ..ReportFiles::default()
        };
        write(&files, &report).expect("it is written");
        let same = read(&path).expect("it is read");
        assert_eq!((&same.load, &same.errors), (&report.load, &report.errors));
        assert!(same.latency_ns.hdr == report.latency_ns.hdr);
        let all_same = |(a, b): (&Interval, &Interval)| a.hdr == b.hdr && a.client == b.client;
        assert!(same.series.iter().zip(&report.series).all(all_same));
        let text = std::fs::read_to_string(&path).expect("it is there");
        std::fs::write(&path, text.replacen("\"format\": 1", "\"format\": 99", 1)).expect("it is");
        let wrong = format!("{:?}", read(&path).expect_err("another format"));
        assert!(
            wrong.contains("run.json") && wrong.contains("format 99"),
            "{wrong}"
        );
    }
}
