//! What the end of a call says about its endpoint.

use super::Ending;

/// What a breaker, a balancer or an ejection makes of an ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The endpoint works; an error that a handler answers with is a sign of life.
    Success,
    /// The endpoint did not do its part.
    Failure,
    /// Nothing can be told: the caller gave up, or nobody answers such a message.
    Unknown,
}

impl Verdict {
    /// What this ending says; see [`Ending::is_failure`].
    #[must_use]
    pub fn of(ending: &Ending) -> Self {
        match ending {
            Ending::Answered => Self::Success,
            Ending::Handed | Ending::GivenUp => Self::Unknown,
            Ending::NotSent { .. } if !ending.is_failure() => Self::Unknown,
            _ if ending.is_failure() => Self::Failure,
            _ => Self::Success,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::{Code, Retry};

    #[test]
    fn what_the_caller_did_says_nothing_about_the_endpoint() {
        let never = Retry::Never;
        let (code, here) = (Code::OVERLOADED, Retry::Here);
        for (ending, verdict) in [
            (Ending::Answered, Verdict::Success),
            (Ending::GivenUp, Verdict::Unknown),
            (Ending::Handed, Verdict::Unknown),
            (Ending::NotSent { retry: never }, Verdict::Unknown),
            (Ending::NotSent { retry: here }, Verdict::Failure),
            (Ending::Lost { sent: true }, Verdict::Failure),
            (Ending::Refused { code, retry: never }, Verdict::Success),
            (Ending::Refused { code, retry: here }, Verdict::Failure),
        ] {
            assert_eq!(Verdict::of(&ending), verdict, "{ending:?}");
        }
    }
}
