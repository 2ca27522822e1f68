//! The audit log: who called what, and what was decided.
//!
//! Whoever has decided something hands a record over and goes on. One thread writes, and while it
//! cannot keep up, records are left out and counted; their number is a line of its own. A disk that
//! is full costs lines, never calls.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postroad_proto::code::Code;
use postroad_proto::trace::Trace;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::caller::Caller;
use crate::error::Error;
use crate::extract::Origin;
use crate::transport::PeerInfo;

/// Records that wait to be written, at most: those of 80 ms at a hundred thousand calls a second.
const WAITING_MAX: usize = 8192;
/// Bytes that are written at a time.
const WRITE_AT: usize = 64 * 1024;

/// Audit logs of this process that want every call, not only those that were refused.
static WANT_ALL: AtomicUsize = AtomicUsize::new(0);

/// Whether an audit log wants every call.
#[inline(always)]
pub(crate) fn wants_all() -> bool {
    WANT_ALL.load(Ordering::Relaxed) > 0
}

/// Where an audit log is, and what of.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    /// Bytes after which another file is begun.
    pub(crate) max_size: u64,
    /// Files of before that are kept.
    pub(crate) keep: u32,
    /// Whether every call is written, or only what was denied.
    pub(crate) all: bool,
}

/// Who called what, from where.
enum Who {
    Known(Arc<Origin>),
    Named {
        caller: String,
        address: String,
        route: String,
    },
}

/// One decision.
struct Record {
    at: SystemTime,
    who: Who,
    code: Option<Code>,
    /// Whether a handler was started.
    started: bool,
    trace: Option<Trace>,
    took: Option<Duration>,
}

enum Message {
    Record(Record),
    /// Opens the file anew: somebody has moved it away.
    Reopen,
    /// Everything before is written.
    Flush(oneshot::Sender<()>),
}

/// An audit log that is open.
#[derive(Debug)]
pub(crate) struct Audit {
    to: SyncSender<Message>,
    left_out: Arc<AtomicU64>,
    all: bool,
}

impl Drop for Audit {
    fn drop(&mut self) {
        WANT_ALL.fetch_sub(usize::from(self.all), Ordering::Relaxed);
    }
}

impl Audit {
    /// Opens the file and starts the thread that writes it.
    ///
    /// # Errors
    /// If the file cannot be opened, or no thread started.
    pub(crate) fn open(place: Place) -> io::Result<Self> {
        let (to, from) = sync_channel(WAITING_MAX);
        let left_out = Arc::new(AtomicU64::new(0));
        let all = place.all;
        let log = LogFile::open(place)?;
        let writer = Writer {
            log,
            left_out: Arc::clone(&left_out),
            text: Vec::new(),
            lines: 0,
            is_failing: false,
        };
        let thread = std::thread::Builder::new().name("postroad-audit".to_owned());
        thread.spawn(move || writer.run(&from))?;
        WANT_ALL.fetch_add(usize::from(all), Ordering::Relaxed);
        Ok(Self { to, left_out, all })
    }

    fn add(&self, record: Record) {
        let is_denied = record.code.is_some_and(is_denial) && !record.started;
        if !self.all && !is_denied {
            return;
        }
        if self.to.try_send(Message::Record(record)).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request is over whose handler was started.
    pub(crate) fn handled(
        &self,
        origin: &Arc<Origin>,
        trace: Option<Trace>,
        took: Option<Duration>,
        error: Option<&Error>,
    ) {
        self.add(Record {
            at: SystemTime::now(),
            who: Who::Known(Arc::clone(origin)),
            code: error.map(Error::code),
            started: true,
            trace,
            took,
        });
    }

    /// A request, or a token, was refused.
    pub(crate) fn refused(&self, peer: &PeerInfo, caller: &Caller, route: &str, error: &Error) {
        self.add(Record {
            at: SystemTime::now(),
            who: Who::Named {
                caller: caller.to_string(),
                address: peer.to_string(),
                route: route.to_owned(),
            },
            code: Some(error.code()),
            started: false,
            trace: error.trace(),
            took: None,
        });
    }

    /// Opens the file anew, after what was handed over before. It is left out if too much waits.
    pub(crate) fn reopen(&self) {
        let _ = self.to.try_send(Message::Reopen);
    }

    /// Ready when everything that was handed over is written, or cannot be.
    pub(crate) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        let mut message = Message::Flush(done);
        // The thread takes something soon, so there will be room.
        while let Err(TrySendError::Full(back)) = self.to.try_send(message) {
            message = back;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let _ = written.await;
    }
}

/// Whether a code says that somebody may not do something.
fn is_denial(code: Code) -> bool {
    code.as_str().starts_with("AUT-")
}

/// A line as it is written.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    caller: &'a str,
    address: &'a str,
    route: &'a str,
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    micros: Option<u64>,
}

#[derive(Serialize)]
struct LeftOut {
    time: String,
    left_out: u64,
}

/// A moment as RFC 3339 writes it, in UTC.
fn time(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since.as_secs(), since.subsec_millis());
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years; a year begins in March, so that the leap day is
    // its last.
    let day = day + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The file, and those of before.
struct LogFile {
    place: Place,
    file: File,
    size: u64,
    /// Whether the last line of the file was begun and could not be written to its end.
    is_cut: bool,
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

impl LogFile {
    fn open(place: Place) -> io::Result<Self> {
        let named = |error: io::Error| {
            let text = format!("{}: {error}", place.file.display());
            io::Error::new(error.kind(), text)
        };
        let (file, size) = open(&place.file).map_err(named)?;
        Ok(Self {
            place,
            file,
            size,
            is_cut: false,
        })
    }

    fn reopen(&mut self) -> io::Result<()> {
        (self.file, self.size) = open(&self.place.file)?;
        self.is_cut = false;
        Ok(())
    }

    fn older(&self, number: u32) -> PathBuf {
        let mut name = self.place.file.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    /// Begins another file if this one is full. What cannot be renamed is written on.
    fn rotate(&mut self) -> io::Result<()> {
        if self.size < self.place.max_size {
            return Ok(());
        }
        // One that is not there need not be moved.
        for number in (1..self.place.keep).rev() {
            let _ = std::fs::rename(self.older(number), self.older(number + 1));
        }
        std::fs::rename(&self.place.file, self.older(1))?;
        self.reopen()
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.rotate().is_err() {
            // This one is written on, and may be renamed when it is twice as large.
            self.size = 0;
        }
        if self.is_cut {
            self.file.write_all(b"\n")?;
            self.is_cut = false;
        }
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(text);
        self.is_cut = written.is_err() && self.file.metadata()?.len() > before;
        self.size += text.len() as u64;
        written
    }
}

/// What the thread has.
struct Writer {
    log: LogFile,
    left_out: Arc<AtomicU64>,
    /// Lines that are not written yet.
    text: Vec<u8>,
    lines: u64,
    is_failing: bool,
}

impl Writer {
    /// Writes until nobody can hand anything over any more.
    fn run(mut self, from: &Receiver<Message>) {
        while let Ok(message) = from.recv() {
            self.take(message);
            while let Ok(message) = from.try_recv() {
                self.take(message);
            }
            self.write();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Record(record) => {
                self.line(&record);
                if self.text.len() >= WRITE_AT {
                    self.write();
                }
            }
            Message::Reopen => {
                self.write();
                let reopened = self.log.reopen();
                self.tell(reopened);
            }
            Message::Flush(done) => {
                self.write();
                // Whoever has asked may have gone.
                let _ = done.send(());
            }
        }
    }

    fn line(&mut self, record: &Record) {
        let Record {
            at,
            who,
            code,
            started,
            trace,
            took,
        } = record;
        let (caller, address, route) = match who {
            Who::Known(origin) => {
                let (caller, address) = (origin.caller.to_string(), origin.peer.to_string());
                (caller, address, origin.route.to_string())
            }
            Who::Named {
                caller,
                address,
                route,
            } => (caller.clone(), address.clone(), route.clone()),
        };
        let decision = match (started, code) {
            (true, None) => "allowed",
            (true, Some(_)) => "failed",
            (false, Some(code)) if is_denial(*code) => "denied",
            (false, _) => "refused",
        };
        self.add(&Line {
            time: time(*at),
            caller: &caller,
            address: &address,
            route: &route,
            decision,
            code: code.as_ref().map(Code::as_str),
            trace: trace.map(|trace| trace.to_string()),
            micros: took.map(|took| took.as_micros() as u64),
        });
    }

    fn add(&mut self, line: &impl Serialize) {
        // A vector takes everything.
        if serde_json::to_writer(&mut self.text, line).is_ok() {
            self.text.push(b'\n');
            self.lines += 1;
        }
    }

    /// Writes the lines, and how many were left out meanwhile.
    fn write(&mut self) {
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            let time = time(SystemTime::now());
            self.add(&LeftOut { time, left_out });
        }
        if self.text.is_empty() {
            return;
        }
        let written = self.log.write(&self.text);
        if written.is_err() {
            // The line about those that were left out is none of them.
            let lines = self.lines - u64::from(left_out > 0);
            self.left_out.fetch_add(left_out + lines, Ordering::Relaxed);
        }
        self.text.clear();
        self.lines = 0;
        self.tell(written);
    }

    /// Logs when writing begins to fail, and when it works again.
    fn tell(&mut self, result: io::Result<()>) {
        let path = self.log.place.file.display();
        match result {
            Err(ref error) if !self.is_failing => tracing::error!(
                target: "postroad::identity", %path, %error,
                "the audit log cannot be written; calls go on, and lines are left out"
            ),
            Ok(()) if self.is_failing => tracing::info!(
                target: "postroad::identity", %path, "the audit log is written again"
            ),
            _ => {}
        }
        self.is_failing = result.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &Path, max_size: u64) -> Place {
        Place {
            file: folder.join("audit.log"),
            max_size,
            keep: 3,
            all: false,
        }
    }

    fn deny(audit: &Audit, route: &str) {
        let peer = PeerInfo::named("test");
        let error = Error::of(Code::FORBIDDEN, "no");
        audit.refused(&peer, &Caller::anonymous(), route, &error);
    }

    #[test]
    fn a_moment_is_written_as_people_read_it() {
        let at = |seconds: u64| time(UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7));
        assert_eq!(at(0), "1970-01-01T00:00:00.007Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_772_323_199), "2026-02-28T23:59:59.007Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.007Z");
    }

    #[tokio::test]
    async fn rotation_loses_no_line_and_keeps_so_many_files() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(Place {
            keep: 100,
            ..place(folder.path(), 1000)
        });
        let audit = audit.unwrap();
        for number in 0..500 {
            deny(&audit, &format!("route/{number}"));
            audit.flush().await;
        }
        let files = std::fs::read_dir(folder.path()).unwrap();
        let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        assert!((20..100).contains(&files.len()), "{}", files.len());
        let text: String = files
            .iter()
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect();
        for number in 0..500 {
            assert_eq!(text.matches(&format!("\"route/{number}\"")).count(), 1);
        }
        let small = tempfile::tempdir().unwrap();
        let audit = Audit::open(place(small.path(), 1)).unwrap();
        for _ in 0..10 {
            deny(&audit, "a");
            audit.flush().await;
        }
        assert_eq!(
            std::fs::read_dir(small.path()).unwrap().count(),
            4,
            "three of before"
        );
    }

    #[tokio::test]
    async fn a_file_that_was_moved_away_is_begun_anew_when_that_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(place(folder.path(), 1 << 20)).unwrap();
        let (path, moved) = (folder.path().join("audit.log"), folder.path().join("moved"));
        deny(&audit, "before");
        audit.flush().await;
        std::fs::rename(&path, &moved).unwrap();
        deny(&audit, "between");
        audit.reopen();
        deny(&audit, "after");
        audit.flush().await;
        let moved = std::fs::read_to_string(moved).unwrap();
        assert!(moved.contains("before") && moved.contains("between"));
        let text = std::fs::read_to_string(path).unwrap();
        assert!(
            text.contains("after") && !text.contains("between"),
            "{text}"
        );
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_disk_that_is_full_costs_lines_and_says_how_many() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(Place {
            file: "/dev/full".into(),
            ..place(folder.path(), 1 << 20)
        });
        let audit = audit.unwrap();
        for _ in 0..5 {
            deny(&audit, "a");
            audit.flush().await;
        }
        assert_eq!(
            audit.left_out.load(Ordering::Relaxed),
            5,
            "none is forgotten"
        );
    }

    #[tokio::test]
    async fn what_is_too_much_is_left_out_and_counted_and_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(place(folder.path(), 1 << 30)).unwrap();
        let many = 200_000;
        for _ in 0..many {
            deny(&audit, "a");
        }
        audit.flush().await;
        deny(&audit, "last");
        audit.flush().await;
        let text = std::fs::read_to_string(folder.path().join("audit.log")).unwrap();
        let mut written = 0;
        let mut left_out = 0;
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            match line["left_out"].as_u64() {
                Some(number) => left_out += number,
                None => written += 1,
            }
        }
        assert_eq!(written + left_out, many + 1, "{left_out} left out");
    }
}
