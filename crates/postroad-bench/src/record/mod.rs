//! What is recorded of each call, and which interval it belongs to. Reads no clock: every moment is
//! an argument, in nanoseconds since the load began.

pub(crate) mod ends;
#[cfg(test)]
mod exact;
pub(crate) mod gather;
pub(crate) mod losses;
#[cfg(test)]
mod tests;

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hdrhistogram::Histogram;
use postroad::Bytes;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome};
use crate::report::{Hdr, add_error, add_errors};

/// Longest latency that a histogram holds; longer ones count as this.
const LONGEST: u64 = 3600 * 1_000_000_000;

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST, 3).expect("three digits up to an hour is a valid histogram")
}

/// Five centuries fit.
pub(crate) fn nanos(time: Duration) -> u64 {
    time.as_secs() * 1_000_000_000 + u64::from(time.subsec_nanos())
}

/// All that happened in one interval. Those of several generators add up exactly.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Chunk {
    /// Number of the interval, from 0.
    pub(crate) number: u64,
    pub(crate) due: u64,
    /// Due, and not sent because too many were in flight.
    pub(crate) not_sent: u64,
    /// Those of them that the client refused: more than its connections carry.
    pub(crate) refused: u64,
    /// Due while their connection took none: it was gone, or carried as many as its server allows.
    pub(crate) held: u64,
    /// Failed without having left: for want of a connection, or because it cannot be said.
    pub(crate) stayed: u64,
    /// Sent and failed, by code.
    pub(crate) errors: BTreeMap<String, u64>,
    /// One reason for each of these codes, in words.
    #[serde(default)]
    pub(crate) examples: BTreeMap<String, String>,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    #[serde(with = "packed")]
    pub(crate) latency: Histogram<u64>,
    #[serde(with = "packed")]
    pub(crate) lateness: Histogram<u64>,
    /// When there are several.
    pub(crate) priorities: BTreeMap<u8, Share>,
    /// The longest time in which a generator's calls waited and none was answered, of those times
    /// that ended in it.
    pub(crate) silence: Silence,
    /// Calls that had not ended at its end, by the number of the interval in which they were due.
    pub(crate) waiting: BTreeMap<u64, u64>,
    /// From the beginning of the measurement to the end of the load that this tells of, or to its
    /// last answer if that came later.
    pub(crate) until: Duration,
    /// The same to the last call that has ended, answered or not.
    pub(crate) ended: Duration,
}

/// A time without an answer; one is longer than another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Silence {
    pub(crate) time: Duration,
    /// From the beginning of the measurement.
    pub(crate) since: Duration,
}

/// The calls of one priority.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Share {
    #[serde(with = "packed")]
    pub(crate) latency: Histogram<u64>,
    pub(crate) failed: u64,
    /// Those of them that were sent, by code.
    #[serde(default)]
    pub(crate) errors: BTreeMap<String, u64>,
}

/// Histograms as text.
mod packed {
    use super::{Deserialize, Hdr, Histogram, Serialize};

    pub(crate) fn serialize<S: serde::Serializer>(
        histogram: &Histogram<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Hdr::from(histogram).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Histogram<u64>, D::Error> {
        Hdr::deserialize(deserializer).map(|packed| packed.histogram())
    }
}

/// Letters of an example that are kept.
const EXAMPLE_MAX: usize = 160;

/// A reason as a part of one line: it may be the server's, and hold anything.
fn one_line(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars().take(EXAMPLE_MAX) {
        if letter.is_control() {
            out.extend(letter.escape_default());
        } else {
            out.push(letter);
        }
    }
    if text.chars().nth(EXAMPLE_MAX).is_some() {
        out.push('…');
    }
    out
}

/// Histograms grow to the other's size, so adding cannot fail.
fn add(sum: &mut Histogram<u64>, other: &Histogram<u64>) {
    if !other.is_empty() {
        sum.auto(true);
        sum.add(other)
            .expect("a histogram that resizes takes every value");
    }
}

impl Share {
    fn new() -> Self {
        Self {
            latency: histogram(),
            failed: 0,
            errors: BTreeMap::new(),
        }
    }
}

impl Chunk {
    pub(crate) fn new(number: u64) -> Self {
        Self {
            number,
            due: 0,
            not_sent: 0,
            refused: 0,
            held: 0,
            stayed: 0,
            errors: BTreeMap::new(),
            examples: BTreeMap::new(),
            sent_bytes: 0,
            received_bytes: 0,
            latency: histogram(),
            lateness: histogram(),
            priorities: BTreeMap::new(),
            silence: Silence::default(),
            waiting: BTreeMap::new(),
            until: Duration::ZERO,
            ended: Duration::ZERO,
        }
    }

    pub(crate) fn answered(&self) -> u64 {
        self.latency.len()
    }

    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().sum::<u64>() + self.not_sent
    }

    /// Calls that have ended and that a server may have seen.
    pub(crate) fn sent(&self) -> u64 {
        self.answered() + self.failed() - self.not_sent - self.stayed
    }

    /// Calls that are due and have not ended; nothing says so of an interval alone.
    pub(crate) fn unfinished(&self) -> u64 {
        self.due.saturating_sub(self.answered() + self.failed())
    }

    /// Takes in the same interval of another generator.
    pub(crate) fn join(&mut self, other: &Self) {
        self.add(other);
        for (number, calls) in &other.waiting {
            *self.waiting.entry(*number).or_default() += calls;
        }
    }

    /// Takes in all that has happened in another interval; who waited at its end is its own.
    pub(crate) fn add(&mut self, other: &Self) {
        self.due += other.due;
        self.not_sent += other.not_sent;
        self.refused += other.refused;
        self.held += other.held;
        self.stayed += other.stayed;
        add_errors(&mut self.errors, &other.errors);
        for (code, text) in &other.examples {
            let example = self.examples.entry(code.clone());
            example.or_insert_with(|| text.clone());
        }
        // Codes that do not fit any more are counted together.
        self.examples
            .retain(|code, _| self.errors.contains_key(code));
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        add(&mut self.latency, &other.latency);
        add(&mut self.lateness, &other.lateness);
        for (priority, share) in &other.priorities {
            let sum = self.priorities.entry(*priority).or_insert_with(Share::new);
            add(&mut sum.latency, &share.latency);
            sum.failed += share.failed;
            add_errors(&mut sum.errors, &share.errors);
        }
        self.silence = self.silence.max(other.silence);
        self.until = self.until.max(other.until);
        self.ended = self.ended.max(other.ended);
    }
}

/// A call, as far as it has to be known when it has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) bytes: usize,
    pub(crate) priority: u8,
}

/// Records calls that were due within the measured time.
pub(crate) struct Recorder {
    start: u64,
    end: u64,
    interval: u64,
    by_priority: bool,
    current: RefCell<Current>,
}

/// How long calls have waited since the last answer.
#[derive(Default)]
struct Quiet {
    /// The longest such time, and when it began.
    longest: (u64, u64),
    /// When the first of them was made.
    since: u64,
    /// From when on some have waited all the time, and for how long others had before.
    from: u64,
    before: u64,
}

impl Quiet {
    /// A call is made, and no other waits.
    fn begins(&mut self, now: u64) {
        if self.before == 0 {
            self.since = now;
        }
        self.from = now;
    }

    /// No call waits any more, and none was answered.
    fn pauses(&mut self, now: u64) {
        self.before += now.saturating_sub(self.from);
        self.from = now;
    }

    /// A call was answered; others may wait.
    #[inline]
    fn ends(&mut self, now: u64, start: u64) {
        let time = self.before + now.saturating_sub(self.from);
        if time > self.longest.0 {
            self.longest = (time, self.since.saturating_sub(start));
        }
        (self.since, self.from, self.before) = (now, now, 0);
    }
}

struct Current {
    chunk: Chunk,
    /// End of its interval.
    until: u64,
    /// When its last call was answered, and when its last one ended, from the beginning of the
    /// measurement.
    answered_at: u64,
    ended_at: u64,
    quiet: Quiet,
    /// Calls that have not ended: those that were due in this interval, and in others.
    fresh: u64,
    older: BTreeMap<u64, u64>,
    finished: VecDeque<Chunk>,
}

impl Current {
    #[inline]
    fn roll(&mut self, now: u64, interval: u64) -> &mut Chunk {
        while now >= self.until {
            let chunk = self.take();
            self.finished.push_back(chunk);
            self.until += interval;
        }
        &mut self.chunk
    }

    fn waits(&self) -> bool {
        self.fresh > 0 || !self.older.is_empty()
    }

    /// A call has failed; perhaps no other waits.
    fn pause_if_idle(&mut self, now: u64) {
        if !self.waits() {
            self.quiet.pauses(now);
        }
    }

    fn take(&mut self) -> Chunk {
        let next = Chunk::new(self.chunk.number + 1);
        let mut chunk = std::mem::replace(&mut self.chunk, next);
        if self.fresh > 0 {
            self.older
                .insert(chunk.number, std::mem::take(&mut self.fresh));
        }
        chunk.waiting = self.older.clone();
        let (time, since) = std::mem::take(&mut self.quiet.longest);
        chunk.silence = Silence {
            time: Duration::from_nanos(time),
            since: Duration::from_nanos(since),
        };
        chunk.until = Duration::from_nanos(std::mem::take(&mut self.answered_at));
        chunk.ended = Duration::from_nanos(std::mem::take(&mut self.ended_at));
        chunk
    }
}

impl Recorder {
    /// The measurement begins at `start` of the load.
    pub(crate) fn new(
        start: Duration,
        duration: Duration,
        interval: Duration,
        by_priority: bool,
    ) -> Self {
        Self {
            start: nanos(start),
            end: nanos(start + duration),
            interval: nanos(interval),
            by_priority,
            current: RefCell::new(Current {
                chunk: Chunk::new(0),
                until: nanos(start + interval),
                answered_at: 0,
                ended_at: 0,
                quiet: Quiet::default(),
                fresh: 0,
                older: BTreeMap::new(),
                finished: VecDeque::new(),
            }),
        }
    }

    /// When the last call may be due.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Whether a call that is due then is measured.
    #[inline]
    pub(crate) fn counts(&self, due: u64) -> bool {
        (self.start..self.end).contains(&due)
    }

    /// A call was taken up.
    #[inline]
    pub(crate) fn due(&self, due: u64, now: u64) {
        self.all_due(due, now, 1);
    }

    /// So many calls were taken up that were due together.
    #[inline]
    pub(crate) fn all_due(&self, due: u64, now: u64, calls: u64) {
        if !self.counts(due) {
            return;
        }
        let mut current = self.current.borrow_mut();
        current.roll(now, self.interval).due += calls;
        if !current.waits() {
            current.quiet.begins(now);
        }
        if due >= current.until - self.interval {
            current.fresh += calls;
        } else {
            let number = self.interval_of(due);
            *current.older.entry(number).or_default() += calls;
        }
    }

    /// The number of the interval in which a call was due.
    fn interval_of(&self, due: u64) -> u64 {
        (due - self.start) / self.interval
    }

    /// A call that was due then has ended.
    #[inline]
    fn waits_no_more(&self, due: u64, current: &mut Current) {
        if due >= current.until - self.interval {
            current.fresh = current.fresh.saturating_sub(1);
        } else if let Some(calls) = current.older.get_mut(&self.interval_of(due)) {
            *calls -= 1;
            if *calls == 0 {
                current.older.remove(&self.interval_of(due));
            }
        }
    }

    /// It leaves, later than it was due.
    #[inline]
    pub(crate) fn late(&self, due: u64, now: u64) {
        if self.counts(due) {
            let mut current = self.current.borrow_mut();
            let chunk = current.roll(now, self.interval);
            chunk.lateness.saturating_record(now.saturating_sub(due));
        }
    }

    /// It has to wait for a connection that takes it.
    pub(crate) fn held(&self, due: u64, now: u64) {
        if self.counts(due) {
            self.current.borrow_mut().roll(now, self.interval).held += 1;
        }
    }

    /// It cannot leave: too many are in flight.
    pub(crate) fn not_sent(&self, due: u64, now: u64, sent: Sent) {
        if self.counts(due) {
            let mut current = self.current.borrow_mut();
            let chunk = current.roll(now, self.interval);
            chunk.not_sent += 1;
            self.failed_of(chunk, sent, None);
            self.waits_no_more(due, &mut current);
            current.pause_if_idle(now);
        }
    }

    fn failed_of(&self, chunk: &mut Chunk, sent: Sent, code: Option<&str>) {
        if self.by_priority {
            let share = chunk.priorities.entry(sent.priority);
            let share = share.or_insert_with(Share::new);
            share.failed += 1;
            if let Some(code) = code {
                add_error(&mut share.errors, code, 1);
            }
        }
    }

    /// It has ended.
    pub(crate) fn ended<F: Failure>(
        &self,
        due: u64,
        now: u64,
        sent: Sent,
        result: &Result<Bytes, F>,
    ) {
        match result {
            Ok(answer) => self.answered(due, now, sent, answer.len()),
            Err(error) => self.failed(due, now, sent, error),
        }
    }

    /// A call that was due then has an answer of so many bytes now.
    #[inline]
    pub(crate) fn answered(&self, due: u64, now: u64, sent: Sent, received: usize) {
        if !self.counts(due) {
            return;
        }
        let mut current = self.ended_at(due, now);
        current.answered_at = now - self.start;
        current.quiet.ends(now, self.start);
        let chunk = &mut current.chunk;
        let latency = now.saturating_sub(due);
        chunk.latency.saturating_record(latency);
        chunk.sent_bytes += sent.bytes as u64;
        chunk.received_bytes += received as u64;
        if self.by_priority {
            let share = chunk.priorities.entry(sent.priority);
            let share = share.or_insert_with(Share::new);
            share.latency.saturating_record(latency);
        }
    }

    /// A call that was due then has failed now.
    #[cold]
    pub(crate) fn failed(&self, due: u64, now: u64, sent: Sent, error: &impl Failure) {
        if !self.counts(due) {
            return;
        }
        let mut current = self.ended_at(due, now);
        let chunk = &mut current.chunk;
        match error.outcome() {
            // It never left, so it says nothing about the server.
            Outcome::Full => {
                chunk.not_sent += 1;
                chunk.refused += 1;
                self.failed_of(chunk, sent, None);
            }
            outcome => {
                let code = error.code();
                self.failed_of(chunk, sent, Some(&code));
                // The text is made once an interval for each code: failures may be many.
                if add_error(&mut chunk.errors, &code, 1) && chunk.errors.contains_key(&*code) {
                    let text = one_line(&error.text());
                    chunk.examples.insert(code.into_owned(), text);
                }
                chunk.stayed += u64::from(outcome != Outcome::Left);
            }
        }
        current.pause_if_idle(now);
    }

    /// What is counted now, when a call that was due then has ended.
    #[inline]
    fn ended_at(&self, due: u64, now: u64) -> RefMut<'_, Current> {
        let mut current = self.current.borrow_mut();
        current.roll(now, self.interval);
        current.ended_at = now - self.start;
        self.waits_no_more(due, &mut current);
        current
    }

    /// The next interval that is over, in order and without holes.
    pub(crate) fn next_finished(&self, now: u64) -> Option<Chunk> {
        let mut current = self.current.borrow_mut();
        current.roll(now, self.interval);
        current.finished.pop_front()
    }

    /// All that is left, when the load is over. A server that answers late is not faster for it:
    /// what was due is divided by the time until its last answer.
    pub(crate) fn rest(&self, now: u64) -> Vec<Chunk> {
        let mut current = self.current.borrow_mut();
        let over = now.min(self.end);
        // An interval that would begin with the end of the load is empty.
        if over > self.start {
            current.roll(over - 1, self.interval);
        }
        if !current.waits() {
            current.quiet.from = now;
        }
        current.quiet.ends(now, self.start);
        let over = over.saturating_sub(self.start);
        current.answered_at = current.answered_at.max(over);
        current.ended_at = current.ended_at.max(over);
        let mut rest: Vec<_> = current.finished.drain(..).collect();
        rest.push(current.take());
        rest
    }
}
