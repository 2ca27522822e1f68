//! From the name, number or code in a request to its route.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;

use postroad_proto::Time;
use postroad_proto::session::RouteRef;

use super::routes::Dispatch;
use crate::caller::Caller;
use crate::driver::Connection;
use crate::error::Error;
use crate::extract::{Origin, Request};
use crate::route::{Route, Starter};
use crate::router::{Table, Unrouted};
use crate::transport::PeerInfo;

/// Where a dialect's requests go that name no route, if there is one of this name.
const DEFAULT: &str = "default";

/// Which routes a request without a name may be for, and what becomes of it if none is there.
struct RouteRule {
    /// The first of these that is in the table.
    candidates: [Option<String>; 2],
    otherwise: Otherwise,
}

/// What becomes of a request whose route is not there.
enum Otherwise {
    /// It is answered with what it has sent.
    Echo,
    /// It is refused with these words.
    Refuse(String),
    /// It is echoed, unless routes are named after codes of this kind: then the author handles
    /// codes, and one that is missing is a mistake.
    EchoUnlessAnyOf { kind: &'static str, refusal: String },
}

/// How a protocol's requests find their routes. All that the server knows of single dialects
/// stands in this function; everything else goes by what it says.
fn rule_of(protocol: &str, asked: &RouteRef) -> RouteRule {
    match asked {
        RouteRef::Code(code) => {
            let kind = match protocol {
                "opcode" => "opcode",
                _ => "command",
            };
            RouteRule {
                candidates: [
                    Some(format!("{kind}/0x{code:02x}")),
                    Some(DEFAULT.to_owned()),
                ],
                otherwise: Otherwise::EchoUnlessAnyOf {
                    kind,
                    refusal: format!("no route for {kind} 0x{code:02x}"),
                },
            }
        }
        RouteRef::Unsaid if protocol == "native" => RouteRule {
            candidates: [None, None],
            otherwise: Otherwise::Refuse("the request names no route".to_owned()),
        },
        RouteRef::Unsaid => RouteRule {
            candidates: [Some(DEFAULT.to_owned()), None],
            otherwise: Otherwise::Echo,
        },
        RouteRef::Name(name) => RouteRule {
            candidates: [Some(name.to_string()), None],
            otherwise: Otherwise::Refuse(format!("no route {name:?}")),
        },
        RouteRef::Number(number) => RouteRule {
            candidates: [None, None],
            otherwise: Otherwise::Refuse(format!("no route {number}")),
        },
    }
}

/// A route as the requests of one connection find it.
pub(super) struct CachedRoute {
    pub(super) route: Arc<Route>,
    pub(super) starter: Box<dyn Starter>,
    /// Filled with each request in turn, so that what is the same for all of them (route, peer,
    /// protocol) is not put together again.
    pub(super) request: Request,
    /// A handler of this route has had to wait for something. Those that come after it get a copy
    /// of their payload, so that they do not keep the read buffer while they wait.
    pub(super) has_waited: bool,
}

/// What a request has found.
enum Found {
    /// The place of a cached route.
    Route(usize),
    Nothing(String),
    Denied(Denied),
}

/// A route that the caller may not call.
pub(super) struct Denied {
    pub(super) route: String,
    pub(super) why: Error,
}

/// Where a request goes.
pub(super) enum Target<'a> {
    Route(&'a mut CachedRoute),
    Nothing(&'a str),
    Denied(&'a Denied),
}

/// The routes that the requests of one connection were for.
///
/// Most connections use few routes again and again. What was found once is kept, also that there
/// is no such route, until the table changes.
pub(super) struct Lookup {
    /// The table that they were found in, which has the rules of who may call them.
    table: Arc<Table>,
    /// Who the peer was when they were found, as [`PeerInfo::identified`] numbers it.
    identified: Option<u32>,
    caller: Caller,
    /// When that ends: then they are looked for once more, and refused.
    expires: Time,
    /// One for each route, by however many numbers it is asked for.
    cached: Vec<CachedRoute>,
    /// What the peer's route numbers stand for. The session bounds how many a peer may have.
    by_number: Vec<Option<Found>>,
    /// The last that was not asked for by number. Only one, because a peer may name as many as it
    /// likes.
    last: Option<(RouteRef, Found)>,
}

impl Lookup {
    pub(super) fn new(table: Arc<Table>) -> Self {
        Self {
            table,
            identified: None,
            caller: Caller::anonymous(),
            expires: Time::NEVER,
            cached: Vec::new(),
            by_number: Vec::new(),
            last: None,
        }
    }

    /// Forgets what was found in a table that was changed since, or for a caller that has become
    /// another.
    pub(super) fn refresh(&mut self, dispatch: &Dispatch, peer: &PeerInfo, now: Time) {
        let table = dispatch.load();
        let is_same = Arc::ptr_eq(&table, &self.table);
        // Read before the caller is: one that changes in between is looked at once more.
        let identified = peer.identified();
        if !is_same || self.identified != Some(identified) || now >= self.expires {
            self.table = Arc::clone(&table);
            self.identified = Some(identified);
            self.caller = peer.caller();
            self.expires = moment_of_expiry(&self.caller, now);
            self.forget();
        }
    }

    pub(super) fn forget(&mut self) {
        self.by_number.clear();
        self.last = None;
        // A starter may keep a handler's future that panics when it is dropped; that must not end
        // the connection.
        let _ = catch_unwind(AssertUnwindSafe(|| self.cached.clear()));
    }

    /// What a request asks for.
    #[inline]
    pub(super) fn find(&mut self, connection: &Connection, asked: &RouteRef) -> Target<'_> {
        let found = match asked {
            RouteRef::Number(number) => {
                let at = usize::from(*number);
                // A client numbers its routes at their first call, so nearly all requests end
                // here.
                if let Some(Some(Found::Route(at))) = self.by_number.get(at) {
                    return Target::Route(&mut self.cached[*at]);
                }
                if self.by_number.get(at).is_none_or(Option::is_none) {
                    self.add_number(connection, *number);
                }
                self.by_number[at].as_ref()
            }
            _ => {
                if self.last.as_ref().is_none_or(|(last, _)| last != asked) {
                    let found = self.find_by_rule(connection, asked);
                    self.last = Some((asked.clone(), found));
                }
                self.last.as_ref().map(|(_, found)| found)
            }
        };
        match found {
            Some(Found::Route(at)) => Target::Route(&mut self.cached[*at]),
            Some(Found::Nothing(what)) => Target::Nothing(what),
            Some(Found::Denied(denied)) => Target::Denied(denied),
            None => Target::Nothing("no route"),
        }
    }

    fn add_number(&mut self, connection: &Connection, number: u16) {
        let at = usize::from(number);
        let name = connection.route_name(number).unwrap_or_default();
        let found = self.find_by_rule(connection, &RouteRef::Name(name));
        if at >= self.by_number.len() {
            self.by_number.resize_with(at + 1, || None);
        }
        self.by_number[at] = Some(found);
    }

    fn find_by_rule(&mut self, connection: &Connection, asked: &RouteRef) -> Found {
        let rule = rule_of(connection.protocol(), asked);
        for name in rule.candidates.iter().flatten() {
            // Whether there is a route is told only to those who may call it.
            if let Err(denied) = self.admit(name)
                && (self.table.get(name).is_some() || matches!(asked, RouteRef::Name(_)))
            {
                return Found::Denied(denied);
            }
            if let Some(at) = self.cached_place(connection, name) {
                return Found::Route(at);
            }
        }
        match rule.otherwise {
            Otherwise::Echo => {
                self.unrouted(connection, || "the request names no route".to_owned())
            }
            Otherwise::Refuse(words) => Found::Nothing(words),
            Otherwise::EchoUnlessAnyOf { kind, refusal } => {
                let has_codes = self.table.names().any(|name| name.starts_with(kind));
                match has_codes {
                    true => Found::Nothing(refusal),
                    false => self.unrouted(connection, || refusal),
                }
            }
        }
    }

    /// What becomes of a request without a route; `refusal` says why it is refused, if it is.
    fn unrouted(&mut self, connection: &Connection, refusal: impl FnOnce() -> String) -> Found {
        match &self.table.unrouted {
            Unrouted::Route(route) => {
                let route = Arc::clone(route);
                let name = route.describes.route.clone();
                match self.admit(&name) {
                    Ok(()) => Found::Route(self.cache(connection, &name, route)),
                    Err(denied) => Found::Denied(denied),
                }
            }
            Unrouted::Refuse => Found::Nothing(refusal()),
        }
    }

    /// Whether the caller may call a route.
    fn admit(&self, name: &str) -> Result<(), Denied> {
        let decided = self
            .table
            .access
            .decide(name, &self.caller, SystemTime::now());
        decided.map_err(|why| Denied {
            route: name.to_owned(),
            why,
        })
    }

    /// The place of a route among the cached ones, where it is put if it is not there yet; `None`
    /// if there is no such route.
    fn cached_place(&mut self, connection: &Connection, name: &str) -> Option<usize> {
        let route = Arc::clone(self.table.get(name)?);
        Some(self.cache(connection, name, route))
    }

    /// The place of a route under this name, where it is kept from now on.
    fn cache(&mut self, connection: &Connection, name: &str, route: Arc<Route>) -> usize {
        // By both: a route that stands in no list may have the name of one that does.
        let is_it = |cached: &CachedRoute| {
            Arc::ptr_eq(&cached.route, &route) && cached.request.route() == name
        };
        if let Some(at) = self.cached.iter().position(is_it) {
            return at;
        }
        let origin = Origin {
            route: name.into(),
            peer: Arc::clone(&connection.peer),
            protocol: connection.protocol(),
            caller: self.caller.clone(),
        };
        self.cached.push(CachedRoute {
            starter: route.starter(),
            request: Request::new(Arc::new(origin)),
            route,
            has_waited: false,
        });
        self.cached.len() - 1
    }
}

/// When a caller expires, if that is not past: one that has expired stays so.
fn moment_of_expiry(caller: &Caller, now: Time) -> Time {
    let left = |expires: SystemTime| expires.duration_since(SystemTime::now()).ok();
    let left = caller.expires().and_then(left);
    left.map_or(Time::NEVER, |left| now + left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(protocol: &str, asked: &RouteRef) -> Vec<String> {
        let rule = rule_of(protocol, asked);
        rule.candidates.into_iter().flatten().collect()
    }

    #[test]
    fn a_code_names_a_route_of_its_dialects_kind_and_then_the_default() {
        let code = RouteRef::Code(0x17);
        assert_eq!(names("session", &code), ["command/0x17", DEFAULT]);
        assert_eq!(names("opcode", &code), ["opcode/0x17", DEFAULT]);
    }

    #[test]
    fn a_request_without_a_route_is_echoed_in_a_dialect_and_refused_in_the_native_protocol() {
        assert_eq!(names("line", &RouteRef::Unsaid), [DEFAULT]);
        let dialect = rule_of("line", &RouteRef::Unsaid).otherwise;
        assert!(matches!(dialect, Otherwise::Echo));
        let native = rule_of("native", &RouteRef::Unsaid).otherwise;
        assert!(matches!(native, Otherwise::Refuse(_)));
    }
}
