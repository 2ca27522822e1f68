//! Why a call went where it went: a record that is made for the calls that somebody asks about.
//!
//! Policies take an `Option<&mut Why>`. With `None`, as for nearly all calls, nothing is written
//! and nothing allocated.

use std::fmt;
use std::time::Duration;

use crate::Time;
use crate::text::Printable;

/// The most candidates that a record holds of one pick; more are counted.
pub const WHY_CANDIDATES_MAX: usize = 64;
/// The most steps that a record holds; later ones are counted.
pub const WHY_STEPS_MAX: usize = 256;

/// An endpoint that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Its place in the list of endpoints.
    pub index: usize,
    /// How it scored, less is better; `None` if it was passed over.
    pub score: Option<u64>,
    /// Why it was passed over, if it was.
    pub passed_over: Option<&'static str>,
}

/// One thing that was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A balancer looked for an endpoint.
    Pick {
        /// The balancer's name.
        by: &'static str,
        /// Whom it looked at, in this order.
        considered: Vec<Considered>,
        /// How many more it looked at.
        more: usize,
        /// Whom it picked.
        picked: Option<usize>,
    },
    /// An attempt was made, or ended.
    Attempt {
        /// 0 is the first.
        attempt: u8,
        /// The place of the endpoint in the list.
        index: usize,
        /// What happened, for a person.
        what: String,
    },
    /// A breaker, a budget, a limit or the like said something.
    Verdict {
        /// Who.
        by: &'static str,
        /// What, for a person.
        what: String,
    },
}

/// The record of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Why {
    began: Option<Time>,
    steps: Vec<(Duration, Step)>,
    more: usize,
    names: Vec<String>,
}

impl Why {
    /// An empty record; moments are told from `began` on.
    #[must_use]
    pub fn new(began: Time) -> Self {
        Self {
            began: Some(began),
            ..Self::default()
        }
    }

    /// Names of the endpoints by their places in the list, for people. Without them the places are
    /// shown.
    pub fn set_names(&mut self, names: Vec<String>) {
        self.names = names;
    }

    /// Notes what was decided.
    pub fn note(&mut self, now: Time, step: Step) {
        if self.steps.len() < WHY_STEPS_MAX {
            let since = now.since(self.began.unwrap_or(now));
            self.steps.push((since, step));
        } else {
            self.more += 1;
        }
    }

    /// Notes what a breaker, a budget or a limit said.
    pub fn verdict(&mut self, now: Time, by: &'static str, what: impl fmt::Display) {
        let what = what.to_string();
        self.note(now, Step::Verdict { by, what });
    }

    /// All steps, each with the time since the call began.
    #[must_use]
    pub fn steps(&self) -> &[(Duration, Step)] {
        &self.steps
    }

    fn name(&self, index: usize) -> Name<'_> {
        Name(self.names.get(index).map(String::as_str), index)
    }
}

struct Name<'a>(Option<&'a str>, usize);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => Printable(name).fmt(f),
            None => write!(f, "endpoint {}", self.1),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (since, step) in &self.steps {
            write!(f, "{:>10.3} ms  ", since.as_secs_f64() * 1e3)?;
            match step {
                Step::Pick {
                    by,
                    considered,
                    more,
                    picked,
                } => {
                    match picked {
                        Some(index) => writeln!(f, "{by} picked {}", self.name(*index))?,
                        None => writeln!(f, "{by} found no endpoint")?,
                    }
                    for one in considered {
                        write!(f, "{:15}{}: ", "", self.name(one.index))?;
                        match (one.score, one.passed_over) {
                            (_, Some(reason)) => writeln!(f, "{reason}")?,
                            (Some(score), None) => writeln!(f, "score {score}")?,
                            (None, None) => writeln!(f, "usable")?,
                        }
                    }
                    if *more > 0 {
                        writeln!(f, "{:15}and {more} more", "")?;
                    }
                }
                Step::Attempt {
                    attempt,
                    index,
                    what,
                } => {
                    let (name, what) = (self.name(*index), Printable(what));
                    writeln!(f, "attempt {attempt} on {name}: {what}")?;
                }
                Step::Verdict { by, what } => writeln!(f, "{by}: {}", Printable(what))?,
            }
        }
        if self.more > 0 {
            writeln!(f, "{:15}and {} more steps", "", self.more)?;
        }
        Ok(())
    }
}
