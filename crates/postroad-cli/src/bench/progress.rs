//! What is shown while a run lasts, where somebody watches.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::plan::Plan;
use super::recorder::Chunk;

/// How often the spinner moves.
const TICK: Duration = Duration::from_millis(250);

pub(super) struct Progress {
    bar: ProgressBar,
    seconds: f64,
    interval: f64,
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
        }
    }

    /// Rate and percentiles of the last interval: a mean would hide what happens now.
    pub(super) fn show(&self, last: &Chunk, before: &Chunk) {
        if self.bar.is_hidden() {
            return;
        }
        let at = |quantile| Duration::from_nanos(last.latency.value_at_quantile(quantile));
        self.bar.set_message(format!(
            "{:.0} of {:.0} s  {:.0} calls/s  p50 {:.1?}  p99 {:.1?}  max {:.1?}  {} failed",
            self.interval * (last.number + 1) as f64,
            self.seconds,
            last.answered() as f64 / self.interval,
            at(0.5),
            at(0.99),
            Duration::from_nanos(last.latency.max()),
            before.failed() + last.failed(),
        ));
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
