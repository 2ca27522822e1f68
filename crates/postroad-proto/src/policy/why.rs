//! Why a call went where it went: plain data that is filled in only for calls that ask for it.

use std::fmt;
use std::time::Duration;

use super::retry::NoRetry;

/// What was decided for one call, in order.
#[derive(Clone, Debug, Default)]
pub struct Why {
    /// The decisions, each with the time since the call was made.
    pub steps: Vec<(Duration, Step)>,
}

/// An endpoint that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Its URL.
    pub endpoint: String,
    /// Its cost in nanoseconds of expected waiting, as [`super::Load::cost`] tells it.
    pub cost: u64,
    /// Its calls in flight.
    pub in_flight: u32,
    /// Why it cannot take the call; `None` if it can.
    pub refused: Option<&'static str>,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// An endpoint was chosen, or none, by a way to balance.
    Picked {
        /// Which attempt, 1 the first.
        attempt: u8,
        /// The way to balance.
        way: &'static str,
        /// All that were considered.
        considered: Vec<Considered>,
        /// The one that was chosen.
        chosen: Option<String>,
    },
    /// The call waits for an endpoint that can take it.
    Waits(String),
    /// An attempt has ended so.
    Ended {
        /// Which attempt.
        attempt: u8,
        /// How, in words.
        outcome: String,
    },
    /// It is sent again after this time.
    Again(Duration),
    /// It is not sent again.
    NotAgain(NoRetry),
    /// A second endpoint is asked, because the first takes longer than this.
    Hedged(Duration),
    /// The second endpoint is not asked, for this reason.
    NotHedged(&'static str),
    /// A policy has refused the call.
    Refused(String),
}

impl Why {
    /// Adds a decision.
    pub fn add(&mut self, at: Duration, step: Step) {
        self.steps.push((at, step));
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in &self.steps {
            writeln!(f, "{:>8.1} ms  {step}", at.as_secs_f64() * 1000.0)?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Picked {
                attempt,
                way,
                considered,
                chosen,
            } => {
                let chosen = chosen.as_deref().unwrap_or("none");
                write!(
                    f,
                    "attempt {attempt}: {chosen}, by {way} of {}",
                    considered.len()
                )?;
                considered
                    .iter()
                    .try_for_each(|one| write!(f, "\n             {one}"))
            }
            Self::Waits(why) => write!(f, "waits: {why}"),
            Self::Ended { attempt, outcome } => write!(f, "attempt {attempt}: {outcome}"),
            Self::Again(after) => write!(f, "sent again after {after:.0?}"),
            Self::NotAgain(why) => write!(f, "not sent again: {why}"),
            Self::Hedged(after) => write!(f, "no answer after {after:.1?}: a second endpoint too"),
            Self::NotHedged(why) => write!(f, "no second endpoint: {why}"),
            Self::Refused(why) => write!(f, "refused here: {why}"),
        }
    }
}

impl fmt::Display for Considered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cost = Duration::from_nanos(self.cost);
        write!(
            f,
            "{}  cost {cost:.1?}, {} in flight",
            self.endpoint, self.in_flight
        )?;
        match self.refused {
            Some(why) => write!(f, ", not now: {why}"),
            None => Ok(()),
        }
    }
}
