//! What is shown while a run lasts: a line that changes where somebody watches, and a line now and
//! then where stderr is a file or a pipe.

use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use postroad_bench::{Progress, Watcher};

use crate::signals::Signals;
use crate::terminal::tell;

/// How often the spinner moves.
const TICK: Duration = Duration::from_millis(250);
/// Seconds between lines that stay.
const LINE: f64 = 5.0;

/// Follows a run for somebody at a terminal, whose Ctrl-C ends it.
pub(super) struct Terminal {
    signals: Signals,
    /// The exit code of the last signal.
    interrupted: Option<ExitCode>,
    bar: ProgressBar,
    lines: Lines,
}

impl Terminal {
    /// Listens to signals from now on.
    pub(super) fn new(warms_up: bool) -> std::io::Result<Self> {
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
        Ok(Self {
            signals: Signals::listen()?,
            interrupted: None,
            bar,
            lines: Lines::default(),
        })
    }

    /// The exit code of the last signal, if there was one.
    pub(super) fn code(&self) -> Option<ExitCode> {
        self.interrupted
    }

    /// Takes the changing line away: nothing follows it.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watcher for Terminal {
    async fn interrupted(&mut self) {
        let code = self.signals.next().await;
        self.interrupted = Some(code);
    }

    fn progress(&mut self, progress: &Progress) {
        if !self.bar.is_hidden() {
            self.bar.set_message(progress.to_string());
        } else if self.lines.is_due(progress.at.as_secs_f64()) {
            tell(progress);
        }
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
