//! From what a dialect can say to routes, and back: codes, envelopes, fixed routes. The rules are
//! told in `docs/dialects.md`, and both ends use the functions here.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{Dialect, Envelope, EnvelopeError, Metadata, Opened, ReplyFrame, Target};
use crate::payload_codec;

/// The route that a server serves where a dialect's request names none and no table says more.
pub const DEFAULT_ROUTE: &str = "default";

/// What the codes of a dialect are called. Their routes are named `command/0x17`, `opcode/0x01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeKind {
    /// Of the `session` dialect, and of envelopes.
    Command,
    /// Of the `opcode` dialect.
    Opcode,
}

impl CodeKind {
    /// The kind of this dialect's codes.
    #[must_use]
    pub fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Opcode => Self::Opcode,
            _ => Self::Command,
        }
    }

    /// The kind of the codes of the protocol with this name; see
    /// [`Session::protocol`](crate::session::Session::protocol).
    #[must_use]
    pub fn of_protocol(name: &str) -> Self {
        match name == Dialect::Opcode.name() {
            true => Self::Opcode,
            false => Self::Command,
        }
    }

    /// The first part of the names of their routes.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Opcode => "opcode",
        }
    }

    /// The name of a code's route.
    #[must_use]
    pub fn route(self, code: u8) -> String {
        format!("{}/0x{code:02x}", self.word())
    }

    /// What the peer is told about a code without a route.
    #[must_use]
    pub fn no_route(self, code: u8) -> String {
        format!("no route for {} 0x{code:02x}", self.word())
    }
}

/// The number in `command/0x17`, `opcode/23`.
#[must_use]
pub fn parse_code(route: &str) -> Option<u8> {
    let (kind, number) = route.split_once('/')?;
    if kind != CodeKind::Command.word() && kind != CodeKind::Opcode.word() {
        return None;
    }
    match number.strip_prefix("0x") {
        Some(hex) => u8::from_str_radix(hex, 16).ok(),
        None => number.parse().ok(),
    }
}

/// Where a server takes a dialect's request that names no route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination<T> {
    /// To what was found.
    Route(T),
    /// Nowhere in particular: the request is answered with its own payload.
    Echo,
    /// Nowhere; what the peer is told.
    Nothing(String),
}

/// Finds the destination of a dialect's request that has this code, or none.
///
/// A code goes to its own route, else to [`DEFAULT_ROUTE`]. A server that serves any code of this
/// kind knows exactly those, and refuses the others; one that serves none echoes. `look_up` finds a
/// route by its name, `has_codes` says whether there are routes for codes of this kind.
pub fn destination<T>(
    kind: CodeKind,
    code: Option<u8>,
    mut look_up: impl FnMut(&str) -> Option<T>,
    has_codes: impl FnOnce(CodeKind) -> bool,
) -> Destination<T> {
    let own = code.and_then(|code| look_up(&kind.route(code)));
    if let Some(found) = own.or_else(|| look_up(DEFAULT_ROUTE)) {
        return Destination::Route(found);
    }
    match code {
        Some(code) if has_codes(kind) => Destination::Nothing(kind.no_route(code)),
        _ => Destination::Echo,
    }
}

/// How a dialect's frames find their routes at the server, and routes their frames at the client.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    /// Where a frame's route stands.
    pub envelope: Option<Envelope>,
    /// Commands, opcodes or envelope types and their routes.
    pub codes: HashMap<u8, Arc<str>>,
    /// The route of everything that neither says.
    pub fixed: Option<Arc<str>>,
}

/// What a mapping says about a request's route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// It is this one.
    Name(Arc<str>),
    /// The server has to know what this code stands for.
    Code(u8),
    /// Nothing.
    Unsaid,
    /// There is none; what the peer is told.
    Nothing(String),
}

fn has_codes(dialect: Dialect) -> bool {
    matches!(dialect, Dialect::Session | Dialect::Opcode)
}

impl Mapping {
    /// The codec of payloads: a JSON envelope holds JSON; others and plain frames hold bytes.
    pub(crate) fn payload_codec(&self) -> u8 {
        match self.envelope {
            Some(Envelope::Json) => payload_codec::JSON,
            _ => payload_codec::RAW,
        }
    }

    /// Takes a request out of its envelope, if it has one.
    pub(crate) fn unwrap_request(
        &self,
        dialect: Dialect,
        code: u8,
        payload: Bytes,
    ) -> Result<Opened, EnvelopeError> {
        if let Some(envelope) = self.envelope {
            return envelope.open(payload);
        }
        let target = match has_codes(dialect) {
            true => Target::Code(code),
            false => Target::Unsaid,
        };
        Ok(Opened {
            target,
            metadata: Metadata::new(),
            payload,
            reply: ReplyFrame::Bare,
        })
    }

    /// The route of a request: in the envelope, in the code table, or the fixed one.
    pub(crate) fn route_of(&self, dialect: Dialect, target: &Target) -> Mapped {
        let fixed = || self.fixed.clone().map(Mapped::Name);
        match target {
            Target::Name(name) => Mapped::Name(name.as_str().into()),
            Target::Code(code) if self.is_unknown(*code) => {
                Mapped::Nothing(CodeKind::of(dialect).no_route(*code))
            }
            Target::Code(code) => {
                let named = self.codes.get(code).cloned().map(Mapped::Name);
                named.or_else(fixed).unwrap_or(Mapped::Code(*code))
            }
            Target::Unsaid => fixed().unwrap_or(Mapped::Unsaid),
        }
    }

    /// A listener with a table and no fixed route knows exactly the codes of its table.
    fn is_unknown(&self, code: u8) -> bool {
        !self.codes.is_empty() && self.fixed.is_none() && !self.codes.contains_key(&code)
    }

    /// The code of a route: the table's, or that of a name such as `command/0x17`. Dialects without
    /// codes have none, and say 1 where a frame has a field for it. An error tells the caller what
    /// to do.
    pub(crate) fn code_of(&self, dialect: Dialect, route: &str) -> Result<u8, String> {
        let needs_code = match self.envelope {
            None => has_codes(dialect),
            Some(envelope) => envelope == Envelope::MsgPack,
        };
        let named = self.codes.iter().find(|(_, name)| ***name == *route);
        match named.map(|(code, _)| *code).or_else(|| parse_code(route)) {
            Some(code) => Ok(code),
            None if needs_code => Err(format!(
                "route {route:?} has no code here; name one, as in command/0x17"
            )),
            None => Ok(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(code: Option<u8>, served: &[&str]) -> Destination<String> {
        let look_up = |name: &str| served.contains(&name).then(|| name.to_owned());
        let has_codes = |kind: CodeKind| served.iter().any(|name| name.starts_with(kind.word()));
        destination(CodeKind::Command, code, look_up, has_codes)
    }

    #[test]
    fn a_code_goes_to_its_route_then_to_the_default_then_nowhere_or_back() {
        let route = |name: &str| Destination::Route(name.to_owned());
        let both = ["command/0x17", DEFAULT_ROUTE];
        assert_eq!(find(Some(0x17), &both), route("command/0x17"));
        assert_eq!(find(Some(0x18), &both), route(DEFAULT_ROUTE));
        assert_eq!(find(None, &both), route(DEFAULT_ROUTE));
        let nothing = Destination::Nothing("no route for command 0x18".to_owned());
        assert_eq!(find(Some(0x18), &both[..1]), nothing);
        assert_eq!(find(None, &both[..1]), Destination::Echo);
        assert_eq!(find(Some(0x18), &["opcode/0x18"]), Destination::Echo);
    }

    #[test]
    fn names_of_codes_are_read_as_they_are_made() {
        for kind in [CodeKind::Command, CodeKind::Opcode] {
            assert_eq!(parse_code(&kind.route(0x1f)), Some(0x1f));
        }
        assert_eq!(CodeKind::of_protocol("opcode"), CodeKind::Opcode);
        assert_eq!(CodeKind::of_protocol("session"), CodeKind::Command);
        assert_eq!(parse_code("opcode/23"), Some(23));
        assert_eq!(parse_code("service/1"), None);
        assert_eq!(parse_code("command/0x100"), None);
    }
}
