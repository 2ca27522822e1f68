//! A target in the test's own process that answers each call with its own body, at once: what an
//! engine does for it, it does for every target.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

use postroad::Bytes;
use tokio::sync::watch;

use super::{Call, Connection, Ended, Pipeline, Target};
use crate::error::Error;
use crate::failure::{Failure, Outcome};

/// Answers at once.
#[derive(Clone, Debug)]
pub(crate) struct Prompt {
    /// Calls that a connection carries together.
    pub(crate) in_flight_max: usize,
}

pub(crate) struct Link {
    in_flight_max: usize,
    status: watch::Sender<bool>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    TooMany,
    TooLate,
}

impl Target for Prompt {
    type Connection = Link;

    fn connect(&self) -> impl Future<Output = Result<Link, Error>> + 'static {
        std::future::ready(Ok(Link {
            in_flight_max: self.in_flight_max,
            status: watch::Sender::new(true),
        }))
    }
}

impl Connection for Link {
    type Failure = Trouble;
    type Pipeline = Echoes;
    type Status = bool;

    async fn call(&self, call: &Call<'_>) -> Result<Bytes, Trouble> {
        Ok(call.body.clone())
    }

    async fn send(&self, _call: &Call<'_>) -> Result<(), Trouble> {
        Ok(())
    }

    fn pipeline(&self) -> Echoes {
        Echoes {
            in_flight_max: self.in_flight_max,
            answers: VecDeque::new(),
        }
    }

    fn status(&self) -> watch::Receiver<bool> {
        self.status.subscribe()
    }

    fn is_connected(status: &bool) -> bool {
        *status
    }
}

pub(crate) struct Echoes {
    in_flight_max: usize,
    answers: VecDeque<(u64, Bytes)>,
}

impl Pipeline for Echoes {
    type Failure = Trouble;

    fn set(&mut self, _priority: u8, _timeout: Duration) {}

    fn try_call(&mut self, tag: u64, body: &Bytes) -> Result<(), Trouble> {
        if self.answers.len() >= self.in_flight_max {
            return Err(Trouble::TooMany);
        }
        self.answers.push_back((tag, body.clone()));
        Ok(())
    }

    fn flush(&mut self) {}

    fn poll_next(&mut self, _context: &mut Context<'_>) -> Poll<Option<Ended<Trouble>>> {
        let answer = self.answers.pop_front();
        Poll::Ready(answer.map(|(tag, body)| (tag, Ok(body))))
    }

    fn ready(&self) -> usize {
        self.answers.len()
    }

    fn in_flight(&self) -> usize {
        self.answers.len()
    }
}

impl Failure for Trouble {
    fn code(&self) -> Cow<'_, str> {
        match self {
            Self::TooMany => "FULL".into(),
            Self::TooLate => "LATE".into(),
        }
    }

    fn text(&self) -> String {
        "in a test".to_owned()
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::TooMany => Outcome::Full,
            Self::TooLate => Outcome::Expired,
        }
    }

    fn expired(_last: Option<&Self>, _timeout: Duration) -> Self {
        Self::TooLate
    }
}
