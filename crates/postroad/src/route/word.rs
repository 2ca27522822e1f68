//! The words of `allow`: who is meant by them.

use std::fmt;

use crate::caller::Caller;

/// What a word of `allow` may be.
pub(super) const WORDS: &str = "`anonymous`, `any`, `role:NAME`, `subject:NAME`, or `spiffe://...` with or without a `*` at \
     its end";

/// Who is meant by a word of `allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Anonymous,
    Any,
    Role(String),
    Subject(String),
    /// A SPIFFE id.
    Spiffe(String),
    /// The beginning of SPIFFE ids.
    SpiffeUnder(String),
}

impl Word {
    pub(super) fn read(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        let word = match kind {
            "anonymous" if text == kind => Self::Anonymous,
            "any" if text == kind => Self::Any,
            "role" if !name.is_empty() => Self::Role(name.to_owned()),
            "subject" if !name.is_empty() => Self::Subject(name.to_owned()),
            "spiffe" => {
                let (id, is_beginning) = match text.strip_suffix('*') {
                    Some(beginning) => (beginning, true),
                    None => (text, false),
                };
                // A beginning within the name of the trust domain would let in other domains.
                let path = id.strip_prefix("spiffe://")?;
                let has_domain = path.find('/').is_some_and(|end| end > 0);
                let is_whole = !is_beginning && !path.is_empty();
                if id.contains('*') || !(has_domain || is_whole) {
                    return None;
                }
                match is_beginning {
                    true => Self::SpiffeUnder(id.to_owned()),
                    false => Self::Spiffe(id.to_owned()),
                }
            }
            _ => return None,
        };
        Some(word)
    }

    pub(super) fn admits(&self, caller: &Caller) -> bool {
        match self {
            Self::Anonymous => true,
            Self::Any => !caller.is_anonymous(),
            Self::Role(role) => caller.has_role(role),
            Self::Subject(subject) => caller.subject() == Some(subject),
            Self::Spiffe(id) => caller.spiffe_ids().any(|has| has == id),
            Self::SpiffeUnder(beginning) => {
                caller.spiffe_ids().any(|has| has.starts_with(&**beginning))
            }
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Any => f.write_str("any"),
            Self::Role(role) => write!(f, "role:{role}"),
            Self::Subject(subject) => write!(f, "subject:{subject}"),
            Self::Spiffe(id) => f.write_str(id),
            Self::SpiffeUnder(beginning) => write!(f, "{beginning}*"),
        }
    }
}

/// Whether a word of `allow` is one.
pub(super) fn is_word(text: &str) -> bool {
    Word::read(text).is_some()
}
