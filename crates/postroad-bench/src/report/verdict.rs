//! Whether a run has kept what it was asked to keep.

use super::{Report, units};

/// What is to be said of a run as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It kept every threshold, and nothing speaks against its numbers.
    Kept,
    /// No threshold was asked for, and the numbers are not to be believed; why.
    Doubtful(String),
    /// Nothing was measured, or not all of it, or most calls failed; why.
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
        if self.failed > self.answered && !is_judged {
            return Verdict::Failed(mostly_failed(self));
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

/// What became of the calls of a run of which the smaller part was answered.
fn mostly_failed(report: &Report) -> String {
    let all = report.answered + report.failed;
    let share = 100.0 * report.failed as f64 / all as f64;
    let (failed, all) = (units::count(report.failed), units::count(all));
    let reasons = reasons(report);
    format!("MOST CALLS FAILED, {failed} of {all} ({share:.1} %): {reasons}")
}

/// What became of all calls, when none was answered.
fn unanswered(report: &Report) -> String {
    format!("no call was answered: {}", reasons(report))
}

/// How many calls failed for which reason.
fn reasons(report: &Report) -> String {
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
    all.join(", ")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use crate::report::Silence;

    #[test]
    fn a_run_in_which_most_calls_failed_has_failed_and_says_how_many() {
        let mut report = example::open_run(1);
        assert_eq!(report.verdict(), Verdict::Kept);
        report.failed = report.answered * 2;
        let Verdict::Failed(why) = report.verdict() else {
            panic!("it has failed: {:?}", report.verdict());
        };
        assert!(why.starts_with("MOST CALLS FAILED"), "{why}");
        assert!(
            why.contains("66.7 %") && why.contains("it goes away"),
            "{why}"
        );
    }

    #[test]
    fn a_silence_is_a_share_of_the_time_that_was_measured() {
        let mut report = example::open_run(1);
        // The last callers gave up four seconds after the end.
        report.seconds = 3.0;
        report.silence = Silence {
            seconds: 6.0,
            since: 1.0,
        };
        let warnings = report.warnings().join("\n");
        assert!(
            warnings.contains("nothing was answered for 2.0 s, from second 1.0 on"),
            "{warnings}"
        );
        assert!(warnings.contains("67 % of the measured time"), "{warnings}");
    }
}
