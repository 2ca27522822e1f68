//! What is shown while a run lasts: a line that changes where somebody watches, and a line now and
//! then where stderr is a file or a pipe.

use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use postroad_bench::{Progress, Watcher};

use crate::signals::Signals;
use crate::terminal::tell;

/// How often the spinner moves.
const TICK: Duration = Duration::from_millis(250);
/// Seconds between lines that stay.
const LINE: f64 = 5.0;
/// How long the end of a run waits for the changing line to be taken away.
const CLEARED_WITHIN: Duration = Duration::from_millis(500);

/// Follows a run for somebody at a terminal, whose Ctrl-C ends it.
///
/// What is shown is written by a thread of its own: a terminal that was stopped, or a pipe that
/// nobody reads, holds up neither the signals nor the end of the run.
pub(super) struct Terminal {
    signals: Signals,
    /// The exit code of the last signal.
    interrupted: Option<ExitCode>,
    /// The newest progress, for the thread; what it has no time for is left out.
    shown: SyncSender<Progress>,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

impl Terminal {
    /// Listens to signals from now on.
    pub(super) fn new(warms_up: bool) -> std::io::Result<Self> {
        let (shown, newest) = sync_channel(1);
        let (ends, ended) = sync_channel(0);
        thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || {
                show(&newest, warms_up);
                drop(ends);
            })?;
        Ok(Self {
            signals: Signals::listen()?,
            interrupted: None,
            shown,
            ended,
        })
    }

    /// Takes the changing line away, for nothing follows it; the exit code of the last signal, if
    /// there was one.
    pub(super) fn end(self) -> Option<ExitCode> {
        drop(self.shown);
        // The answer is always an error: the thread has ended, or it is stuck.
        let _ = self.ended.recv_timeout(CLEARED_WITHIN);
        self.interrupted
    }
}

/// Shows progress until no more comes.
fn show(newest: &Receiver<Progress>, warms_up: bool) {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    if !bar.is_hidden() {
        bar.enable_steady_tick(TICK);
    }
    if warms_up {
        bar.set_message("warming up");
    }
    let mut lines = Lines::default();
    for progress in newest {
        if !bar.is_hidden() {
            bar.set_message(progress.to_string());
        } else if lines.is_due(progress.at.as_secs_f64()) {
            tell(progress);
        }
    }
    bar.finish_and_clear();
}

impl Watcher for Terminal {
    async fn interrupted(&mut self) {
        let code = self.signals.next().await;
        self.interrupted = Some(code);
    }

    fn progress(&mut self, progress: &Progress) {
        // If the thread is stuck, the next one will do as well.
        let _ = self.shown.try_send(progress.clone());
    }
}

/// When a line is due: a log does not need one for each interval.
#[derive(Default)]
struct Lines {
    /// Second of the last one.
    told: f64,
}

impl Lines {
    fn is_due(&mut self, at: f64) -> bool {
        let is_due = at >= self.told + LINE * 0.999;
        if is_due {
            self.told = at;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_every_few_seconds_however_long_intervals_are() {
        for (interval, expected) in [
            (0.1, [5.0, 10.0, 15.0]),
            (2.0, [6.0, 12.0, 18.0]),
            (60.0, [60.0, 120.0, 180.0]),
        ] {
            let mut lines = Lines::default();
            let ends = (1..=1000).map(|number| f64::from(number) * interval);
            let due: Vec<_> = ends.filter(|at| lines.is_due(*at)).take(3).collect();
            let near = |(one, other): (&f64, f64)| (one - other).abs() < 1e-6;
            assert!(due.iter().zip(expected).all(near), "{due:?}");
        }
    }
}
