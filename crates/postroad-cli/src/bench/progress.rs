//! What is shown while a run lasts: a line that changes where somebody watches, and a line now and
//! then where stderr is a file or a pipe.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::plan::Plan;
use super::recorder::Chunk;
use crate::terminal::tell;

/// How often the spinner moves.
const TICK: Duration = Duration::from_millis(250);
/// Seconds between lines that stay.
const LINE: f64 = 5.0;

pub(super) struct Progress {
    bar: ProgressBar,
    seconds: f64,
    interval: f64,
    lines: Lines,
}

impl Progress {
    pub(super) fn new(plan: &Plan) -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        if !plan.warmup.is_zero() {
            bar.set_message("warming up");
        }
        let seconds = plan.duration.as_secs_f64();
        let interval = plan.interval.as_secs_f64();
        Self {
            bar,
            seconds,
            interval,
            lines: Lines::default(),
        }
    }

    /// Rate and percentiles of the last interval: a mean would hide what happens now.
    pub(super) fn show(&mut self, last: &Chunk, before: &Chunk) {
        let at = (self.interval * (last.number + 1) as f64).min(self.seconds);
        if !self.bar.is_hidden() {
            self.bar.set_message(self.text(at, last, before));
        } else if self.lines.is_due(at) {
            tell(self.text(at, last, before));
        }
    }

    fn text(&self, at: f64, last: &Chunk, before: &Chunk) -> String {
        let nanos = |quantile| Duration::from_nanos(last.latency.value_at_quantile(quantile));
        // Without an answer there is no latency, least of all a short one.
        let latency = match last.answered() {
            0 => "no answer".to_owned(),
            _ => format!(
                "p50 {:.1?}  p99 {:.1?}  max {:.1?}",
                nanos(0.5),
                nanos(0.99),
                Duration::from_nanos(last.latency.max())
            ),
        };
        let begun = self.interval * last.number as f64;
        let digits = usize::from(self.interval.min(self.seconds).fract() > 0.0);
        let (due, ended) = (before.due + last.due, |chunk: &Chunk| {
            chunk.answered() + chunk.failed()
        });
        format!(
            "{at:.digits$} of {:.digits$} s  {:.0} calls/s  {latency}  {} failed  {} waited for",
            self.seconds,
            last.answered() as f64 / (at - begun).max(1e-9),
            before.failed() + last.failed(),
            due.saturating_sub(ended(before) + ended(last)),
        )
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
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
