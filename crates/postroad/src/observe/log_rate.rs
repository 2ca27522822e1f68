//! A bound on the rate of log lines that peers can cause.
//!
//! Whoever can reach a listener can make it log: by bytes that are wrong, handshakes that fail,
//! connections that are turned away. Without a bound a single peer fills the disk. So of each kind
//! only so many lines a second are written; the others are counted, and their number is written
//! once a second instead.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postroad_proto::Time;

use crate::clock;

/// Lines of one kind that may be written at once, and again in each second.
pub(crate) const LINES_A_SECOND: u32 = 10;
/// How long lines that are left out are counted before their number is written.
pub(crate) const SUMMARY_AFTER: Duration = Duration::from_secs(1);

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is written.
    Write,
    /// It is left out and counted. It is the first since the last summary: whoever is told so has
    /// to write the next one, after [`SUMMARY_AFTER`].
    LeaveOutFirst,
    /// It is left out and counted; a summary is on its way.
    LeaveOut,
}

/// A token bucket for the lines of one kind.
///
/// It holds [`LINES_A_SECOND`] tokens when it is full. Each line takes one, and each tenth of a
/// second gives one back. It has no clock of its own and writes nothing.
#[derive(Debug)]
pub(crate) struct LogRate {
    tokens: u32,
    /// The moment up to which tokens were given back.
    since: Time,
    left_out: u64,
}

impl LogRate {
    /// A full bucket.
    pub(crate) const fn new() -> Self {
        Self {
            tokens: LINES_A_SECOND,
            since: Time(0),
            left_out: 0,
        }
    }

    /// Whether a line may be written now.
    pub(crate) fn ask(&mut self, now: Time) -> Verdict {
        let step = SUMMARY_AFTER / LINES_A_SECOND;
        let steps = now.since(self.since).as_nanos() / step.as_nanos();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        if self.tokens.saturating_add(steps) >= LINES_A_SECOND {
            self.tokens = LINES_A_SECOND;
            self.since = now;
        } else {
            self.tokens += steps;
            self.since = self.since + step * steps;
        }
        if self.tokens > 0 {
            self.tokens -= 1;
            return Verdict::Write;
        }
        self.left_out += 1;
        match self.left_out {
            1 => Verdict::LeaveOutFirst,
            _ => Verdict::LeaveOut,
        }
    }

    /// How many lines were left out since this was asked last.
    pub(crate) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

/// The kinds of lines that peers can cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogKind {
    /// A handshake has failed or taken too long.
    Handshake,
    /// A connection has ended in a way that the peer is to blame for.
    Ended,
    /// A connection was turned away, because there are too many.
    TurnedAway,
    /// The operating system has refused to accept.
    NotAccepted,
    /// A handler has panicked, which a request may bring about.
    Panicked,
    /// One-way messages were dropped.
    Dropped,
    /// A source of instances has changed, cannot be asked, or says what cannot be used.
    Discovery,
    /// Tokens that are not believed.
    Rejected,
    /// All connections together hold too much memory.
    MemoryShort,
    /// The server has another state.
    State,
}

impl LogKind {
    /// How many kinds there are.
    const COUNT: usize = 10;

    /// What is left out, in words.
    fn words(self) -> &'static str {
        match self {
            Self::Handshake => "failed handshakes",
            Self::Ended => "connections that ended by an error",
            Self::TurnedAway => "connections that were turned away",
            Self::NotAccepted => "failures to accept",
            Self::Panicked => "handlers that panicked",
            Self::Dropped => "dropped one-way messages",
            Self::Discovery => "what sources of instances said",
            Self::Rejected => "tokens that were rejected",
            Self::MemoryShort => "times that connections held too much memory",
            Self::State => "changes of the server's state",
        }
    }
}

/// The rates of a server's lines.
#[derive(Clone, Debug)]
pub(crate) struct LogRates(Arc<[Mutex<LogRate>; LogKind::COUNT]>);

impl Default for LogRates {
    fn default() -> Self {
        Self(Arc::new(
            [const { Mutex::new(LogRate::new()) }; LogKind::COUNT],
        ))
    }
}

impl LogRates {
    fn lock(&self, kind: LogKind) -> MutexGuard<'_, LogRate> {
        let rate = &self.0[kind as usize];
        // Nothing in here leaves the rate half-changed when it panics.
        rate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a line of this kind may be written. If not, it is counted, and the number is logged
    /// within a second.
    #[cold]
    pub(crate) fn allow(&self, kind: LogKind) -> bool {
        let verdict = self.lock(kind).ask(clock::now());
        // Outside of a runtime nobody can wait; the number is told with the next summary.
        if verdict == Verdict::LeaveOutFirst
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(self.clone().summarize(kind));
        }
        verdict == Verdict::Write
    }

    async fn summarize(self, kind: LogKind) {
        tokio::time::sleep(SUMMARY_AFTER).await;
        let left_out = self.lock(kind).take_left_out();
        tracing::warn!(
            target: "postroad::server", left_out, of = kind.words(),
            "too many lines of one kind; these were left out of the log"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Time {
        Time(1_000_000_000 + millis * 1_000_000)
    }

    #[test]
    fn a_flood_writes_ten_lines_at_once_and_ten_in_each_second() {
        let mut rate = LogRate::new();
        // 1,000 lines a second for ten seconds.
        let verdicts: Vec<_> = (0..10_000).map(|at| rate.ask(millis(at))).collect();
        let written = verdicts.iter().filter(|said| **said == Verdict::Write);
        assert_eq!(written.count(), 10 + 99);
        let first = verdicts
            .iter()
            .filter(|said| **said == Verdict::LeaveOutFirst);
        assert_eq!(first.count(), 1, "one summary is asked for");
        assert_eq!(rate.take_left_out(), 10_000 - 109);
    }

    #[test]
    fn lines_that_come_now_and_then_are_all_written() {
        let mut rate = LogRate::new();
        for at in 0..1000 {
            assert_eq!(rate.ask(millis(at * 100)), Verdict::Write);
        }
        assert_eq!(rate.take_left_out(), 0);
    }

    #[test]
    fn after_a_summary_the_next_line_that_is_left_out_asks_for_another() {
        let mut rate = LogRate::new();
        for _ in 0..10 {
            assert_eq!(rate.ask(millis(0)), Verdict::Write);
        }
        assert_eq!(rate.ask(millis(0)), Verdict::LeaveOutFirst);
        assert_eq!(rate.ask(millis(1)), Verdict::LeaveOut);
        assert_eq!(rate.take_left_out(), 2);
        assert_eq!(rate.ask(millis(2)), Verdict::LeaveOutFirst);
        assert_eq!(rate.take_left_out(), 1);
    }

    #[test]
    fn after_a_quiet_second_there_is_room_for_ten_lines_again() {
        let mut rate = LogRate::new();
        while rate.ask(millis(0)) == Verdict::Write {}
        let again = (0..20).filter(|_| rate.ask(millis(1000)) == Verdict::Write);
        assert_eq!(again.count(), 10);
    }
}
