//! Whether a run has kept what it was asked to keep.

use super::{Report, units};

/// What is to be said of a run as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It kept every threshold, and nothing speaks against its numbers.
    Kept,
    /// No threshold was asked for, and the numbers are not to be believed; why.
    Doubtful(String),
    /// Nothing was measured, or not all of it; why.
    Failed(String),
    /// A threshold was missed or a stop condition was met; which.
    Missed(String),
    /// A threshold can be called neither kept nor missed, because the run is invalid or incomplete;
    /// why.
    Undecided(String),
}

impl Report {
    /// What is to be said of the run. An invalid run can neither keep nor miss a threshold; one
    /// without an answer can miss it, and cannot keep it.
    pub fn verdict(&self) -> Verdict {
        let is_judged = !self.thresholds.is_empty() || self.stopped.is_some();
        if self.answered == 0 && !is_judged {
            return Verdict::Failed(unanswered(self));
        }
        let missed = missed(self);
        let doubt = doubt(self);
        if self.answered > 0
            && let Some(doubt) = &doubt
        {
            return match (is_judged, self.validity.complete) {
                (true, _) => {
                    let all = std::iter::once(doubt.clone()).chain(missed);
                    Verdict::Undecided(all.collect::<Vec<_>>().join("; "))
                }
                (false, false) => Verdict::Failed(doubt.clone()),
                (false, true) => Verdict::Doubtful(doubt.clone()),
            };
        }
        match (missed, doubt) {
            (Some(missed), _) => Verdict::Missed(missed),
            (None, Some(doubt)) if is_judged => Verdict::Undecided(doubt),
            _ => Verdict::Kept,
        }
    }
}

/// The stop condition that was met, or else the thresholds that were missed.
fn missed(report: &Report) -> Option<String> {
    if let Some(why) = &report.stopped {
        return Some(format!("stopped: {why}"));
    }
    let thresholds = report.thresholds.iter();
    let missed = thresholds.filter(|threshold| threshold.missed);
    let missed: Vec<_> = missed
        .map(|each| format!("--{} {}: {}", each.name, each.limit, each.measured))
        .collect();
    (!missed.is_empty()).then(|| format!("missed {}", missed.join(", ")))
}

/// What became of all calls, when none was answered.
fn unanswered(report: &Report) -> String {
    let errors = report.errors.iter();
    let mut all: Vec<_> = errors
        .map(|(code, count)| {
            let count = units::count(*count);
            match report.examples.get(code) {
                Some(example) => format!("{count} {code} ({example})"),
                None => format!("{count} {code}"),
            }
        })
        .collect();
    if report.not_sent > 0 {
        all.push(format!("{} not sent", units::count(report.not_sent)));
    }
    let lost = report.workers.iter();
    all.extend(lost.filter_map(|worker| {
        let why = worker.lost.as_ref()?;
        Some(format!("worker {} was lost: {why}", worker.name))
    }));
    if all.is_empty() {
        all.push("none was due in the measured time".to_owned());
    }
    format!("no call was answered: {}", all.join(", "))
}

/// Why the numbers are not to be believed.
fn doubt(report: &Report) -> Option<String> {
    let validity = &report.validity;
    let word = match (validity.valid, validity.complete) {
        (true, true) => return None,
        (false, _) => "invalid",
        (true, false) => "incomplete",
    };
    Some(format!(
        "the run is {word}: {}",
        validity.reasons.join("; ")
    ))
}
