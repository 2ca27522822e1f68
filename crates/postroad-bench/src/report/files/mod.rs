//! A run as files: for people, for programs, for other load testers' tools.

mod csv;
pub(crate) mod hlog;

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::page;
use crate::error::Error;
use crate::report::{FORMAT, Report};

/// Files that a run is written to; those without a path are not written.
#[derive(Clone, Debug, Default)]
pub struct ReportFiles {
    /// A page for people, with charts.
    pub html: Option<PathBuf>,
    /// The whole report, for programs and for comparisons.
    pub json: Option<PathBuf>,
    /// What happened over time, a line an interval.
    pub csv: Option<PathBuf>,
    /// The latencies as an HdrHistogram log.
    pub hlog: Option<PathBuf>,
}

impl ReportFiles {
    /// Those that were asked for.
    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let all = [&self.html, &self.json, &self.csv, &self.hlog];
        all.into_iter().flatten()
    }
}

/// Writes what was asked for, all that can be.
///
/// # Errors
///
/// [`Error::Written`] names what could not be written, and why.
pub fn write(files: &ReportFiles, report: &Report) -> Result<(), Error> {
    type Form = fn(&Report) -> String;
    let forms: [(_, Form); 4] = [
        (&files.html, page::html),
        (&files.json, json),
        (&files.csv, csv::text),
        (&files.hlog, hlog::text),
    ];
    let failed = forms.into_iter().filter_map(|(path, form)| {
        let path = path.as_ref()?;
        let error = replace(path, form(report).as_bytes()).err()?;
        Some(format!("{}: {error}", path.display()))
    });
    let failed: Vec<String> = failed.collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::Written(failed.join(", ")))
}

/// Files that were made to find out whether they can be. Those that stay empty go with it.
#[derive(Debug)]
pub struct Made {
    files: Vec<PathBuf>,
    /// Kept open, or their readers would take the run for over.
    pipes: Vec<File>,
}

/// Writes a file so that whoever reads it sees what it held before or all of this, also after a
/// full disk or a kill. Pipes and devices are written as they are.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let found = std::fs::metadata(path).ok();
    let is_plain = found.as_ref().is_none_or(std::fs::Metadata::is_file);
    // `/dev/stdout` may be a file, which others hold open.
    if !is_plain || path.starts_with("/dev") || path.starts_with("/proc") {
        return open(path, true)?.write_all(text);
    }
    // What a link points to is replaced, not the link.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let beside = beside(&target);
    let written = || {
        let mut file = File::create_new(&beside)?;
        if let Some(found) = &found {
            file.set_permissions(found.permissions())?;
        }
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&beside, &target)
    };
    written().inspect_err(|_| {
        // It may not have been made; what failed is told in any case.
        let _ = std::fs::remove_file(&beside);
    })
}

/// A name in the same folder, since a rename does not cross file systems.
fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

/// Opens a file to write it anew, or only to find out whether that can be done. A pipe that nobody
/// reads is an error: to wait for a reader would be to hang.
fn open(path: &Path, anew: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let is_pipe = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    if is_pipe {
        let at_once = OFlags::NONBLOCK.bits() as i32;
        let opened = options.write(true).custom_flags(at_once).open(path);
        let pipe = opened.map_err(|error| match error.raw_os_error() {
            Some(number) if number == Errno::NXIO.raw_os_error() => {
                io::Error::other("nobody reads this pipe; start its reader first")
            }
            _ => error,
        })?;
        // What is written to it may wait.
        rustix::fs::fcntl_setfl(&pipe, OFlags::empty())?;
        return Ok(pipe);
    }
    match anew {
        true => options.write(true).truncate(true),
        false => options.append(true),
    };
    options.create(true).open(path)
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.files {
            let metadata = std::fs::metadata(path);
            if metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0) {
                // Somebody else may have taken it away.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// Finds out before a run whether its files can be written after it. What they hold stays.
///
/// # Errors
///
/// [`Error::Asked`] names the first that cannot, or that is named twice.
pub fn check(files: &ReportFiles) -> Result<Made, Error> {
    check_distinct(&files.paths().collect::<Vec<_>>())?;
    let mut made = Made {
        files: Vec::new(),
        pipes: Vec::new(),
    };
    for path in files.paths() {
        let is_new = std::fs::symlink_metadata(path).is_err();
        let opened = open(path, false);
        let file = opened.map_err(|error| Error::asked(format!("{}: {error}", path.display())))?;
        if is_new {
            made.files.push(path.clone());
        } else if file.metadata().is_ok_and(|file| file.file_type().is_fifo()) {
            made.pipes.push(file);
        }
    }
    Ok(made)
}

/// No file is written twice, and none over the one that it is made from.
fn check_distinct(paths: &[&PathBuf]) -> Result<(), Error> {
    for (number, path) in paths.iter().enumerate() {
        if paths[..number].iter().any(|other| is_same(other, path)) {
            let why = "is named twice; name a file of its own for each";
            return Err(Error::asked(format!("{}: {why}", path.display())));
        }
    }
    Ok(())
}

/// Whether what is written to one is in the other: by name where there is no such file yet.
fn is_same(one: &Path, other: &Path) -> bool {
    match (std::fs::metadata(one), std::fs::metadata(other)) {
        // Devices keep nothing that could be lost.
        (Ok(one), Ok(other)) => {
            let keeps = one.is_file() || one.file_type().is_fifo();
            keeps && (one.dev(), one.ino()) == (other.dev(), other.ino())
        }
        (Err(_), Err(_)) => match (whole(one), whole(other)) {
            (Some(one), Some(other)) => one == other,
            _ => one == other,
        },
        _ => false,
    }
}

/// The name that a file will have, with its folder resolved.
fn whole(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let folder = path.parent()?.canonicalize().ok()?;
    Some(folder.join(path.file_name()?))
}

/// Makes the other files of a run from the one for programs.
///
/// # Errors
///
/// [`Error::Asked`] if there is nothing to write, or a file would be written twice or over its own
/// source; [`Error::File`] if the run cannot be read; [`Error::Written`] if not all was written.
pub fn rewrite(run: &Path, files: &ReportFiles) -> Result<(), Error> {
    if files.paths().next().is_none() {
        return Err(Error::asked(
            "nothing to write: give --html, --csv, --hlog or --json",
        ));
    }
    let run = run.to_owned();
    let paths: Vec<_> = std::iter::once(&run).chain(files.paths()).collect();
    check_distinct(&paths)?;
    write(files, &read(&run)?)
}

fn json(report: &Report) -> String {
    let text = serde_json::to_string_pretty(report);
    text.expect("a report has string keys and no value that JSON lacks") + "\n"
}

/// Reads the file of a run for programs, as [`write()`] wrote it.
///
/// # Errors
///
/// [`Error::File`] if there is none, or it holds something else or another format.
pub fn read(path: &Path) -> Result<Report, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::file(path, error))?;
    /// The field that every format has.
    #[derive(serde::Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Head = serde_json::from_str(&text).map_err(|error| Error::file(path, error))?;
    if head.format != FORMAT {
        let why = format!("format {}, and this program reads {FORMAT}", head.format);
        return Err(Error::file(path, why));
    }
    serde_json::from_str(&text).map_err(|error| Error::file(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use crate::report::Interval;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_a_link_to_it_stays() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("run.csv"), folder.path().join("link"));
        std::fs::write(&file, "old").expect("it is written");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).expect("a mode");
        std::os::unix::fs::symlink("run.csv", &link).expect("a link");
        replace(&link, b"new").expect("it is replaced");
        assert_eq!(std::fs::read(&file).expect("it is there"), b"new");
        let mode = std::fs::metadata(&file)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o640);
        assert!(
            std::fs::symlink_metadata(&link)
                .expect("it is there")
                .is_symlink()
        );
        replace(&folder.path().join("no/run.csv"), b"new").expect_err("there is no such folder");
        let names = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(names, 2, "nothing is left beside them");
    }

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
    fn no_file_is_named_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| Some(folder.path().join(name));
        let files = |csv: &str, hlog: &str| ReportFiles {
            csv: at(csv),
            hlog: at(hlog),
            ..ReportFiles::default()
        };
        let twice = check(&files("out", "./out")).expect_err("one file");
        assert!(twice.to_string().contains("is named twice"), "{twice}");
        assert!(!folder.path().join("out").exists(), "nothing was made");
        std::fs::write(folder.path().join("a"), "a").expect("it is written");
        let made = check(&files("a", "b")).expect("two files");
        assert!(folder.path().join("b").exists(), "it can be made");
        drop(made);
        assert!(!folder.path().join("b").exists(), "nothing was written");
        assert!(folder.path().join("a").exists(), "it was there before");
        check(&files("c", "no/b")).expect_err("the second cannot be made");
        assert!(!folder.path().join("c").exists(), "nothing was written");
        std::os::unix::fs::symlink("a", folder.path().join("b")).expect("a link");
        check(&files("a", "b")).expect_err("one file by two names");
        let rewritten = rewrite(&folder.path().join("a"), &files("b", "c"));
        let twice = rewritten.expect_err("over its own source");
        assert!(twice.to_string().contains("is named twice"), "{twice}");
        let nowhere = ReportFiles {
            csv: Some("/dev/null".into()),
            hlog: Some("/dev/null".into()),
            ..ReportFiles::default()
        };
        check(&nowhere).expect("nothing is lost there");
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
