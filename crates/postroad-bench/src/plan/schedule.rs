//! When the calls of an open loop are due. Pure: the same arrival and seed give the same moments,
//! each computed from the call's number, so nothing adds up to a drift.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::mix::Dice;

/// Calls a second that can be asked for.
const RATE_MAX: f64 = 10_000_000.0;
const RATE_MIN: f64 = 0.001;
/// Calls of a burst, and the shortest time from one to the next.
const BURST_MAX: u32 = 50_000;
const BURST_EVERY_MIN: Duration = Duration::from_millis(1);
/// Parts of a rate that changes by steps.
const STEPS_MAX: usize = 1000;
/// The longest of them.
const STEP_MAX: Duration = Duration::from_secs(86_400);

/// How many calls a second, over the measured time. Read from `20000`, a ramp `100..5000`, or steps
/// `1000:10s,5000:20s`; 0.001 to 10 million.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Rate {
    /// Always the same.
    Constant(f64),
    /// From the first to the second, evenly over the whole time.
    Ramp(f64, f64),
    /// Each for its time; the last goes on.
    Steps(Vec<(f64, Duration)>),
}

impl Rate {
    fn check(&self) -> Result<(), String> {
        let is_possible = |rate: &f64| (RATE_MIN..=RATE_MAX).contains(rate);
        let possible = match self {
            Self::Constant(rate) => is_possible(rate),
            Self::Ramp(from, to) => is_possible(from) && is_possible(to),
            Self::Steps(steps) => {
                let is_step = |(rate, time): &(f64, Duration)| is_possible(rate) && !time.is_zero();
                (1..=STEPS_MAX).contains(&steps.len()) && steps.iter().all(is_step)
            }
        };
        if possible {
            Ok(())
        } else {
            Err(format!(
                "{self} calls a second; {RATE_MIN} to {RATE_MAX:.0} are possible, in at most \
                 {STEPS_MAX} steps that take time"
            ))
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    /// Reads `20000`, `100..5000` or `1000:10s,5000:20s`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((from, to)) = text.split_once("..") {
            return Ok(Self::Ramp(rate(from)?, rate(to)?));
        }
        if !text.contains(':') {
            return Ok(Self::Constant(rate(text)?));
        }
        let step = |part: &str| {
            let (calls, time) = part
                .split_once(':')
                .ok_or_else(|| format!("{part:?} is not RATE:TIME; write 1000:10s,5000:20s"))?;
            let time = humantime::parse_duration(time)
                .map_err(|error| format!("{error}; write 250ms, 5s, 2m"))?;
            if time > STEP_MAX {
                return Err(format!("{part:?} lasts over a day"));
            }
            if time.is_zero() {
                return Err(format!("{part:?} lasts no time; write 1000:10s"));
            }
            Ok((rate(calls)?, time))
        };
        let steps = text.split(',').map(step).collect::<Result<Vec<_>, _>>()?;
        if steps.len() > STEPS_MAX {
            return Err(format!("{} steps; at most {STEPS_MAX}", steps.len()));
        }
        Ok(Self::Steps(steps))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(rate) => write!(f, "{rate}"),
            Self::Ramp(from, to) => write!(f, "{from}..{to}"),
            Self::Steps(steps) => {
                let steps = steps.iter().map(|(rate, time)| {
                    format!("{rate}:{}", humantime::format_duration(*time)).replace(' ', "")
                });
                f.write_str(&steps.collect::<Vec<_>>().join(","))
            }
        }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text
        .trim()
        .parse()
        .map_err(|_| format!("{text:?} is not calls a second; write 20000 or 0.5"))?;
    if (RATE_MIN..=RATE_MAX).contains(&rate) {
        Ok(rate)
    } else {
        Err(format!(
            "{text} calls a second; {RATE_MIN} to {RATE_MAX:.0} are possible"
        ))
    }
}

/// How calls arrive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Arrival {
    /// Evenly spaced, as out of a leaky bucket.
    Constant(Rate),
    /// Independently of each other, as from many users: the gaps are exponential.
    Poisson(Rate),
    Burst(Burst),
    /// Bursts on top of a rate; neither knows of the other.
    Both(Box<Self>, Burst),
}

/// So many at once, each time, as from a token bucket that is filled once a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Burst {
    /// Calls at once, 1 to 50,000.
    pub calls: u32,
    /// From one burst to the next, at least a millisecond.
    pub every: Duration,
}

impl Burst {
    fn check(self) -> Result<(), String> {
        if self.calls == 0 || self.calls > BURST_MAX || self.every < BURST_EVERY_MIN {
            return Err(format!(
                "a burst of {self}; 1 to {BURST_MAX} calls, at most once in {BURST_EVERY_MIN:?}"
            ));
        }
        Ok(())
    }
}

impl fmt::Display for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} calls at once every {:?}", self.calls, self.every)
    }
}

impl Arrival {
    /// Refuses bursts and rates that no flag takes, but that a program or a coordinator may ask
    /// for.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Self::Constant(rate) | Self::Poisson(rate) => rate.check(),
            Self::Burst(burst) => burst.check(),
            Self::Both(base, burst) => base.check().and_then(|()| burst.check()),
        }
    }

    /// Time that the steps take, if it is steps.
    pub(crate) fn time(&self) -> Option<Duration> {
        match self {
            Self::Constant(Rate::Steps(steps)) | Self::Poisson(Rate::Steps(steps)) => {
                Some(steps.iter().map(|(_, time)| *time).sum())
            }
            Self::Both(base, _) => base.time(),
            _ => None,
        }
    }

    /// Whether the rate grows over the measured time.
    pub(crate) fn is_ramp(&self) -> bool {
        match self {
            Self::Constant(rate) | Self::Poisson(rate) => matches!(rate, Rate::Ramp { .. }),
            Self::Both(base, _) => base.is_ramp(),
            Self::Burst(_) => false,
        }
    }

    /// Calls due a second, as a mean over the measured time.
    pub(crate) fn rate_mean(&self, duration: Duration) -> f64 {
        match self {
            Self::Constant(rate) | Self::Poisson(rate) => {
                let seconds = duration.as_secs_f64().max(1e-9);
                Profile::new(rate, Duration::ZERO, duration).calls(seconds) / seconds
            }
            Self::Burst(burst) => f64::from(burst.calls) / burst.every.as_secs_f64(),
            Self::Both(base, burst) => {
                base.rate_mean(duration) + Self::Burst(*burst).rate_mean(duration)
            }
        }
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(rate) => write!(f, "constant {rate} calls/s"),
            Self::Poisson(rate) => write!(f, "Poisson {rate} calls/s"),
            Self::Burst(burst) => write!(f, "{burst}"),
            Self::Both(base, burst) => write!(f, "{base} and {burst}"),
        }
    }
}

/// A rate over time, as straight pieces, and its integral.
#[derive(Clone, Debug)]
struct Profile {
    pieces: Vec<Piece>,
}

/// Seconds and calls are of its beginning; the last piece goes on at its last rate.
#[derive(Clone, Copy, Debug)]
struct Piece {
    at: f64,
    calls: f64,
    seconds: f64,
    from: f64,
    to: f64,
}

impl Piece {
    fn slope(&self) -> f64 {
        (self.to - self.from) / self.seconds
    }

    /// Calls until `seconds` after its beginning.
    fn integral(&self, seconds: f64) -> f64 {
        seconds * (self.from + 0.5 * self.slope() * seconds)
    }

    /// Seconds after its beginning until so many calls: the root of a quadratic, in the form that
    /// does not cancel when the slope is small.
    fn seconds_until(&self, calls: f64) -> f64 {
        if self.from == self.to {
            return calls / self.from;
        }
        let root = (self.from * self.from + 2.0 * self.slope() * calls).max(0.0);
        2.0 * calls / (self.from + root.sqrt())
    }
}

impl Profile {
    fn new(rate: &Rate, warmup: Duration, duration: Duration) -> Self {
        let mut profile = Self { pieces: Vec::new() };
        let first = match rate {
            Rate::Constant(rate) | Rate::Ramp(rate, _) => *rate,
            Rate::Steps(steps) => steps.first().map_or(RATE_MIN, |step| step.0),
        };
        profile.add(warmup, first, first);
        match rate {
            Rate::Constant(rate) => profile.add(duration, *rate, *rate),
            Rate::Ramp(from, to) => profile.add(duration, *from, *to),
            Rate::Steps(steps) => {
                for (rate, time) in steps {
                    profile.add(*time, *rate, *rate);
                }
            }
        }
        if let Some(last) = profile.pieces.last().copied() {
            profile.add(Duration::from_secs(1), last.to, last.to);
        }
        profile
    }

    fn add(&mut self, time: Duration, from: f64, to: f64) {
        if time.is_zero() {
            return;
        }
        let (at, calls) = self.pieces.last().map_or((0.0, 0.0), |last| {
            (
                last.at + last.seconds,
                last.calls + last.integral(last.seconds),
            )
        });
        let seconds = time.as_secs_f64();
        self.pieces.push(Piece {
            at,
            calls,
            seconds,
            from,
            to,
        });
    }

    /// The last piece that begins at or before what `is_before` accepts.
    fn piece(&self, is_before: impl Fn(&Piece) -> bool) -> &Piece {
        let after = self.pieces.partition_point(is_before);
        &self.pieces[after.saturating_sub(1)]
    }

    /// Calls due until `seconds`.
    fn calls(&self, seconds: f64) -> f64 {
        let piece = self.piece(|piece| piece.at <= seconds);
        piece.calls + piece.integral(seconds - piece.at)
    }

    /// When so many calls are due.
    fn seconds_until(&self, calls: f64) -> f64 {
        let piece = self.piece(|piece| piece.calls <= calls);
        piece.at + piece.seconds_until(calls - piece.calls)
    }
}

/// The moments at which calls are due, from the beginning of the load. Without an end.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    kind: Kind,
    number: u64,
}

#[derive(Clone, Debug)]
enum Kind {
    Even(Profile),
    Random {
        profile: Profile,
        dice: Dice,
        /// Sum of exponential gaps of mean 1: the moment in a time in which one call is due a
        /// second.
        sum: f64,
    },
    Burst(Burst),
    /// The earlier of both, each with the moment that it has ready.
    Both([Ready; 2]),
}

/// A schedule that has been looked one call ahead of.
#[derive(Clone, Debug)]
struct Ready {
    schedule: Box<Schedule>,
    next: Option<Duration>,
}

impl Ready {
    fn new(mut schedule: Schedule) -> Self {
        let next = schedule.next();
        let schedule = Box::new(schedule);
        Self { schedule, next }
    }

    fn take(&mut self) -> Option<Duration> {
        std::mem::replace(&mut self.next, self.schedule.next())
    }
}

impl Schedule {
    /// A rate that changes does so from the end of the warm-up on.
    pub(crate) fn new(arrival: &Arrival, seed: u64, warmup: Duration, duration: Duration) -> Self {
        let kind = match arrival {
            Arrival::Constant(rate) => Kind::Even(Profile::new(rate, warmup, duration)),
            Arrival::Poisson(rate) => Kind::Random {
                profile: Profile::new(rate, warmup, duration),
                dice: Dice::new(seed, 0),
                sum: 0.0,
            },
            Arrival::Burst(burst) => Kind::Burst(*burst),
            Arrival::Both(base, burst) => {
                let of = |arrival: &Arrival| Self::new(arrival, seed, warmup, duration);
                Kind::Both([of(base), of(&Arrival::Burst(*burst))].map(Ready::new))
            }
        };
        Self { kind, number: 0 }
    }

    /// The part `part` of `parts`: together they are the whole, call by call.
    pub(crate) fn part(self, part: usize, parts: usize) -> impl Iterator<Item = Duration> {
        self.skip(part).step_by(parts.max(1))
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let number = self.number;
        self.number += 1;
        match &mut self.kind {
            Kind::Even(profile) => {
                Duration::try_from_secs_f64(profile.seconds_until(number as f64)).ok()
            }
            Kind::Random { profile, dice, sum } => {
                *sum -= (1.0 - dice.unit()).ln();
                Duration::try_from_secs_f64(profile.seconds_until(*sum)).ok()
            }
            Kind::Burst(burst) => {
                let number = number / u64::from(burst.calls.max(1));
                let nanos = burst.every.as_nanos() * u128::from(number);
                u64::try_from(nanos).ok().map(Duration::from_nanos)
            }
            Kind::Both([base, bursts]) => match (base.next, bursts.next) {
                (Some(due), Some(burst)) if burst < due => bursts.take(),
                (None, _) => bursts.take(),
                _ => base.take(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(arrival: &Arrival, duration: Duration) -> Schedule {
        Schedule::new(arrival, 11, Duration::ZERO, duration)
    }

    fn constant(text: &str) -> Arrival {
        Arrival::Constant(text.parse().unwrap())
    }

    fn burst(calls: u32, every: Duration) -> Burst {
        Burst { calls, every }
    }

    fn before(arrival: &Arrival, duration: Duration, end: Duration) -> usize {
        schedule(arrival, duration)
            .take_while(|due| *due < end)
            .count()
    }

    #[test]
    fn a_constant_rate_does_not_drift_in_an_hour() {
        for rate in [1.0, 3.0, 7_777.0, 0.3] {
            let number = (rate * 3600.0) as usize;
            let arrival = Arrival::Constant(Rate::Constant(rate));
            let due = schedule(&arrival, SECOND).nth(number).unwrap();
            let exact = number as f64 / rate;
            assert!((due.as_secs_f64() - exact).abs() < 2e-9, "{rate}: {due:?}");
        }
    }

    #[test]
    fn a_poisson_process_has_its_mean_and_its_variance() {
        let arrival = Arrival::Poisson(Rate::Constant(1000.0));
        // Calls in each of 4000 windows of 10 ms: mean 10, variance 10.
        let mut windows = vec![0_u32; 4000];
        for due in schedule(&arrival, 40 * SECOND).take_while(|due| *due < 40 * SECOND) {
            windows[(due.as_micros() / 10_000) as usize] += 1;
        }
        let mean = windows.iter().sum::<u32>() as f64 / 4000.0;
        let squares = windows
            .iter()
            .map(|calls| (f64::from(*calls) - mean).powi(2));
        let variance = squares.sum::<f64>() / 3999.0;
        // Four standard errors: of the mean sqrt(10 / 4000), of the variance sqrt(210 / 4000).
        assert!((mean - 10.0).abs() < 0.2, "{mean}");
        assert!((variance - 10.0).abs() < 0.92, "{variance}");
    }

    #[test]
    fn a_ramp_is_the_integral_of_its_rate() {
        let (arrival, duration) = (constant("100..5000"), 10 * SECOND);
        for seconds in [1_u32, 5, 10] {
            let time = f64::from(seconds);
            let exact = 100.0 * time + 245.0 * time * time;
            let calls = before(&arrival, duration, seconds * SECOND);
            assert!((calls as f64 - exact).abs() <= 1.0, "{calls} {exact}");
        }
        assert_eq!(arrival.rate_mean(duration), 2550.0);
        let down = before(&constant("5000..100"), duration, duration);
        assert!(down.abs_diff(25_500) <= 1, "{down}");
        // A random ramp: the same mean, with the deviation of a count.
        let random = Arrival::Poisson("100..5000".parse().unwrap());
        let calls = before(&random, duration, duration);
        assert!((calls as f64 - 25_500.0).abs() < 4.0 * 25_500_f64.sqrt());
    }

    #[test]
    fn steps_follow_each_other_and_the_last_goes_on() {
        let arrival = constant("10:1s,100:2s,1:1s");
        let total = 4 * SECOND;
        assert_eq!(arrival.time(), Some(total));
        let seen = [1, 3, 4, 6].map(|seconds| before(&arrival, total, seconds * SECOND));
        assert_eq!(seen, [10, 210, 211, 213]);
    }

    #[test]
    fn a_burst_is_due_at_once() {
        let arrival = Arrival::Burst(burst(3, SECOND / 2));
        let due: Vec<_> = schedule(&arrival, SECOND).take(7).collect();
        let millis = [0, 0, 0, 500, 500, 500, 1000].map(Duration::from_millis);
        assert_eq!(due, millis);
        assert_eq!(arrival.rate_mean(SECOND), 6.0);
    }

    #[test]
    fn bursts_come_on_top_of_a_rate_and_leave_it_as_it_is() {
        let base = constant("4:1s,2:1s");
        let both = Arrival::Both(Box::new(base.clone()), burst(2, SECOND * 3 / 4));
        let due: Vec<_> = schedule(&both, 2 * SECOND).take(12).collect();
        let millis = [0, 0, 0, 250, 500, 750, 750, 750, 1000, 1500, 1500, 1500];
        assert_eq!(due, millis.map(Duration::from_millis));
        let of_rate = schedule(&base, 2 * SECOND).take(6);
        assert!(of_rate.into_iter().all(|moment| due.contains(&moment)));
        assert_eq!(both.time(), Some(2 * SECOND));
        assert_eq!(both.rate_mean(2 * SECOND), 3.0 + 2.0 / 0.75);
        let text = "constant 4:1s,2:1s calls/s and 2 calls at once every 750ms";
        assert_eq!(both.to_string(), text);
    }

    #[test]
    fn a_rate_changes_only_after_the_warm_up() {
        let arrival = constant("10..1000");
        let due: Vec<_> = Schedule::new(&arrival, 0, 2 * SECOND, 5 * SECOND)
            .take_while(|due| *due < 2 * SECOND)
            .collect();
        assert_eq!(due.len(), 20);
        assert_eq!(due[19], Duration::from_millis(1900));
    }

    #[test]
    fn parts_are_the_whole_and_moments_never_go_back() {
        for arrival in [
            constant("777"),
            constant("50..900"),
            constant("10:1s,500:1s"),
            Arrival::Poisson(Rate::Constant(300.0)),
            Arrival::Burst(burst(5, SECOND / 10)),
            Arrival::Both(Box::new(constant("777")), burst(5, SECOND / 10)),
        ] {
            let whole: Vec<_> = schedule(&arrival, 2 * SECOND).take(900).collect();
            assert!(whole.is_sorted(), "{arrival}");
            let mut parts: Vec<_> = (0..3)
                .flat_map(|part| schedule(&arrival, 2 * SECOND).part(part, 3).take(300))
                .collect();
            parts.sort();
            assert_eq!(whole, parts, "{arrival}");
        }
    }

    #[test]
    fn a_rate_reads_as_it_prints_and_a_wrong_one_says_what_to_write() {
        for text in ["20000", "0.5", "100..5000", "1000:10s,5000:1m30s"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for (text, says) in [
            ("0", "0 calls a second; 0.001 to 10000000"),
            ("-1..5", "0.001 to 10000000"),
            ("nan", "0.001 to 10000000"),
            ("fast", "write 20000 or 0.5"),
            ("10:1s,20", "write 1000:10s"),
            ("10:0s", "lasts no time"),
            ("10:soon", "write 250ms, 5s, 2m"),
        ] {
            let error = text.parse::<Rate>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
