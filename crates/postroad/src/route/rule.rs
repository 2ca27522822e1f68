//! What an operator says of routes: who may call them, how many at once, and where they run.
//!
//! A rule is for the routes whose names fit its pattern, and of several the first counts. Rules are
//! settings, so a node's configuration has them as `[[route]]`, and they can be changed while the
//! server runs.

use std::collections::BTreeMap;
use std::time::Duration;

use postroad_proto::units::{permille, time};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{version, word};
use crate::config::{ConfigError, bound, check_time};

/// Whether a route's name fits a pattern: a name, or the beginning of names with `*` at its end. A
/// version fits what its route fits.
#[must_use]
pub(crate) fn fits(pattern: &str, route: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => route.starts_with(beginning),
        None => route == pattern || version::split(route).0 == pattern,
    }
}

/// What is said of the routes whose names fit a pattern.
///
/// ```
/// use std::time::Duration;
///
/// use postroad::route::{Concurrency, RouteRule, Work};
///
/// let mut reports = RouteRule::of("Reports.*");
/// reports.work = Work::Cpu;
/// reports.concurrency = Some(Concurrency::Fixed(8));
/// reports.deadline = Some(Duration::from_secs(30));
/// reports.check().unwrap();
/// ```
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RouteRule {
    /// Which routes: a name, or a beginning and `*`.
    pub name: String,
    /// The highest priority, 0 to 7, of their requests: one that asks for more has this. Default:
    /// any.
    #[serde(default)]
    pub priority: Option<u8>,
    /// How long a request may take that says no deadline itself. Default: for ever.
    #[serde(default, deserialize_with = "some_time")]
    pub deadline: Option<Duration>,
    /// Who may call them: `anonymous`, `any` (everybody who was identified), `role:NAME`,
    /// `subject:NAME`, or the beginning of a SPIFFE id with `*` at its end. Default: nobody, once
    /// any rule of the server says who may.
    #[serde(default)]
    pub allow: Option<Vec<String>>,
    /// Where their handlers run.
    #[serde(default)]
    pub work: Work,
    /// How many of their requests may be at work at once. Default: as the server says.
    #[serde(default)]
    pub concurrency: Option<Concurrency>,
    /// How often they may be called.
    #[serde(default)]
    pub rate: Option<RateRule>,
    /// Shares of the versions of a route, in tenths of a percent: `{ "2" = "10%", "1" = "90%" }`.
    /// The share of a version that is not there goes where requests go without shares: see
    /// [`Router::version`](crate::Router::version).
    #[serde(default, deserialize_with = "shares")]
    pub versions: BTreeMap<String, u32>,
}

/// Where handlers run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Work {
    /// Where their requests are read: for handlers that are quick, or wait for something.
    #[default]
    InPlace,
    /// In the pool of worker threads: for handlers that compute or block.
    Cpu,
}

/// How many requests of a route may be at work at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Concurrency {
    /// As many as the route answers without becoming slow, found out while it serves.
    Auto,
    /// So many.
    Fixed(usize),
}

/// How often routes may be called.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RateRule {
    /// Who has a rate of its own.
    #[serde(default)]
    pub each: Each,
    /// Nanoseconds a request, as `"50/s"` says; at least 1.
    #[serde(rename = "limit", deserialize_with = "interval")]
    pub interval: Duration,
    /// How many may come at once after a silence. Default 1.
    #[serde(default = "one")]
    pub burst: u32,
    /// What becomes of a burst.
    #[serde(default)]
    pub shape: Shape,
}

/// Who has a rate of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Each {
    /// Each route, whoever calls.
    #[default]
    Route,
    /// Each client of each route: by its identity, or by its address while it has none.
    Client,
}

/// What becomes of a burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Shape {
    /// It passes, up to its bound (token bucket).
    #[default]
    Bucket,
    /// Requests pass at even intervals; what comes earlier is refused (leaky bucket).
    Leaky,
}

impl RouteRule {
    /// A rule that says nothing yet.
    #[must_use]
    pub fn of(pattern: impl Into<String>) -> Self {
        Self {
            name: pattern.into(),
            ..Self::default()
        }
    }

    /// Whether the rule is for this route.
    #[must_use]
    pub fn fits(&self, route: &str) -> bool {
        fits(&self.name, route)
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// The first that does not hold: its name, its value and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        let (name, beginning) = (&self.name, self.name.trim_end_matches('*'));
        let holds = !name.is_empty() && !beginning.contains('*') && name.len() <= 255;
        let allowed = "the name of a route, or a beginning and `*`";
        bound(holds, "name", name, allowed)?;
        let priority = self.priority.unwrap_or(0);
        bound(priority <= 7, "priority", priority, "0 to 7")?;
        let least = Duration::from_millis(1);
        if let Some(deadline) = self.deadline {
            check_time("deadline", deadline, least, "1 ms to a day")?;
        }
        if let Some(Concurrency::Fixed(most)) = self.concurrency {
            let holds = (1..=1_000_000).contains(&most);
            bound(holds, "concurrency", most, "\"auto\", or 1 to 1000000")?;
        }
        if let Some(rate) = &self.rate {
            let burst = rate.burst;
            let holds = (1..=1_000_000).contains(&burst);
            bound(holds, "rate.burst", burst, "1 to 1000000")?;
            let even = rate.shape == Shape::Bucket || burst == 1;
            let allowed = "1, because a leaky bucket lets no burst pass";
            bound(even, "rate.burst", burst, allowed)?;
        }
        let mut words = self.allow.iter().flatten();
        if let Some(word) = words.find(|word| !word::is_word(word)) {
            bound(false, "allow", word, word::WORDS)?;
        }
        let mut versions = self.versions.keys();
        if let Some(wrong) = versions.find(|version| !version::is_name(version)) {
            bound(false, "versions", wrong, version::NAMES)?;
        }
        if !self.versions.is_empty() {
            let whole: u32 = self.versions.values().sum();
            let allowed = "shares of 100% together";
            let shown = format_args!("{}.{}%", whole / 10, whole % 10);
            bound(whole == 1000, "versions", shown, allowed)?;
        }
        Ok(())
    }
}

fn one() -> u32 {
    1
}

fn some_time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    time::deserialize(from).map(Some)
}

fn shares<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, u32>, D::Error> {
    #[derive(Deserialize)]
    struct Share(#[serde(deserialize_with = "permille::deserialize")] u32);
    let shares = BTreeMap::<String, Share>::deserialize(from)?;
    let shares = shares.into_iter();
    Ok(shares.map(|(version, share)| (version, share.0)).collect())
}

/// The time between two requests of a rate such as `50/s`, `10/m`, `1000/h`.
fn interval<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a rate such as \"50/s\"")]
    enum Written {
        Text(String),
    }
    let Written::Text(text) = Written::deserialize(from)?;
    let wrong = || {
        de::Error::custom(format!(
            "{text:?} is not a rate; write \"50/s\", \"10/m\" or \"1000/h\""
        ))
    };
    let (number, unit) = text.split_once('/').ok_or_else(wrong)?;
    let number: u32 = number.trim().parse().map_err(|_| wrong())?;
    let unit = match unit.trim() {
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        _ => return Err(wrong()),
    };
    unit.checked_div(number)
        .filter(|each| !each.is_zero())
        .ok_or_else(wrong)
}

impl<'de> Deserialize<'de> for Concurrency {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a number, or \"auto\"")]
        enum Written {
            Fixed(usize),
            Word(Word),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        enum Word {
            Auto,
        }
        match Written::deserialize(from)? {
            Written::Fixed(most) => Ok(Self::Fixed(most)),
            Written::Word(Word::Auto) => Ok(Self::Auto),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_operators_write_it() {
        let rule: RouteRule = toml::from_str(
            "name = 'Reports.*'\nwork = 'cpu'\nconcurrency = 8\ndeadline = '500ms'\n\
             rate = { each = 'client', limit = '50/s', burst = 200 }\n\
             versions = { '2' = '10%', '1' = '90%' }\nallow = ['role:trader']",
        )
        .expect("it is right");
        rule.check().expect("its bounds hold");
        assert!(rule.fits("Reports.daily") && !rule.fits("Orders.place"));
        let plain = RouteRule::of("Orders.place");
        assert!(plain.fits("Orders.place@2") && !plain.fits("Orders.placed"));
        let version = RouteRule::of("Orders.place@2");
        assert!(version.fits("Orders.place@2") && !version.fits("Orders.place"));
        let rate = rule.rate.expect("it has one");
        assert_eq!(rate.interval, Duration::from_millis(20));
        assert_eq!((rate.each, rate.shape), (Each::Client, Shape::Bucket));
        let auto: RouteRule =
            toml::from_str("name = 'a'\nconcurrency = 'auto'").expect("it is right");
        assert_eq!(auto.concurrency, Some(Concurrency::Auto));
    }

    #[test]
    fn what_is_wrong_in_a_rule_is_named() {
        for (text, words) in [
            ("name = ''", "name"),
            ("name = 'a*b'", "beginning and `*`"),
            ("name = 'a'\npriority = 8", "0 to 7"),
            ("name = 'a'\nconcurrency = 0", "1 to 1000000"),
            ("name = 'a'\nversions = { '1' = '50%' }", "100% together"),
            ("name = 'a'\nversions = { 'a@1' = '100%' }", "characters"),
            (
                "name = 'a'\nrate = { limit = '5/s', burst = 9, shape = 'leaky' }",
                "no burst",
            ),
        ] {
            let rule: RouteRule = toml::from_str(text).expect("it can be read");
            let error = rule.check().expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        for text in ["5", "0/s", "5/d", "-1/s"] {
            let written = format!("name = 'a'\nrate = {{ limit = '{text}' }}");
            let error = toml::from_str::<RouteRule>(&written).expect_err(text);
            assert!(error.to_string().contains("is not a rate"), "{error}");
        }
    }
}
