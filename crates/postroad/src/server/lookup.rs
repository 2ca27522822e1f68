//! From the name, number or code in a request to its route.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;

use postroad_proto::Time;
use postroad_proto::dialect::routes::{CodeKind, Destination, destination};
use postroad_proto::session::RouteRef;

use super::admission::{Applied, ClientKey};
use super::routes::Dispatch;
use super::served::Served;
use super::versions;
use crate::caller::Caller;
use crate::clock;
use crate::driver::Connection;
use crate::error::Error;
use crate::extract::{Origin, Request};
use crate::route::{Route, Starter};
use crate::router::Unrouted;
use crate::transport::PeerInfo;

/// What the peer is told whose request names no route.
const UNNAMED: &str = "the request names no route";

fn no_route(name: &str) -> String {
    format!("no route {name:?}")
}

/// What the peer has defined this number as; the session lets no others come.
fn route_name(connection: &Connection, number: u16) -> Arc<str> {
    connection.route_name(number).unwrap_or_default()
}

/// A route as the requests of one connection find it.
pub(super) struct CachedRoute {
    pub(super) route: Arc<Route>,
    pub(super) starter: Box<dyn Starter>,
    /// What a rule says of it.
    pub(super) rule: Applied,
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
    /// The route that a number was defined as is not there. Its words are put together each time:
    /// a peer may define many such numbers, and would have them all kept.
    NotThere,
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
    Nothing(Cow<'a, str>),
    Denied(&'a Denied),
}

/// The routes that the requests of one connection were for.
///
/// Most connections use few routes again and again. What was found once is kept, also that there
/// is no such route, until the table changes.
pub(super) struct Lookup {
    /// The table that they were found in, which has the rules of who may call them.
    table: Arc<Served>,
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
    pub(super) fn new(table: Arc<Served>) -> Self {
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
            Some(Found::Nothing(what)) => Target::Nothing(what.into()),
            Some(Found::Denied(denied)) => Target::Denied(denied),
            Some(Found::NotThere) | None => Target::Nothing(match asked {
                RouteRef::Number(number) => no_route(&route_name(connection, *number)).into(),
                _ => "no route".into(),
            }),
        }
    }

    fn add_number(&mut self, connection: &Connection, number: u16) {
        let at = usize::from(number);
        let name = route_name(connection, number);
        let found = self.find_by_name(connection, &name);
        let found = found.unwrap_or(Found::NotThere);
        if at >= self.by_number.len() {
            self.by_number.resize_with(at + 1, || None);
        }
        self.by_number[at] = Some(found);
    }

    /// The route of this name, or that the caller may not call it, whether it is there or not.
    fn find_by_name(&mut self, connection: &Connection, name: &str) -> Option<Found> {
        if let Err(denied) = self.admit(name) {
            return Some(Found::Denied(denied));
        }
        let table = Arc::clone(&self.table);
        let caller = self.caller.clone();
        let client = ClientKey::of(&connection.peer, caller.subject());
        let route = versions::choose(&table, name, &client)?;
        let chosen = &route.describes.route;
        // A rule may say of one version who may call it.
        if chosen != name
            && let Err(denied) = self.admit(chosen)
        {
            return Some(Found::Denied(denied));
        }
        let at = self.cache(connection, chosen, Arc::clone(route));
        Some(Found::Route(at))
    }

    fn find_by_rule(&mut self, connection: &Connection, asked: &RouteRef) -> Found {
        let code = match asked {
            RouteRef::Name(name) => {
                let found = self.find_by_name(connection, name);
                return found.unwrap_or_else(|| Found::Nothing(no_route(name)));
            }
            RouteRef::Number(number) => return Found::Nothing(format!("no route {number}")),
            RouteRef::Code(code) => Some(*code),
            RouteRef::Unsaid => None,
        };
        if code.is_none() && connection.names_routes() {
            return Found::Nothing(UNNAMED.to_owned());
        }
        let table = Arc::clone(&self.table);
        let has_codes = |kind: CodeKind| table.names().any(|name| name.starts_with(kind.word()));
        let kind = CodeKind::of_protocol(connection.protocol());
        let look_up = |name: &str| {
            // Whether there is a route is told only to those who may call it.
            table
                .has(name)
                .then(|| self.find_by_name(connection, name))?
        };
        match destination(kind, code, look_up, has_codes) {
            Destination::Route(found) => found,
            Destination::Nothing(words) => Found::Nothing(words),
            Destination::Echo => self.unrouted(connection, || match code {
                Some(code) => kind.no_route(code),
                None => UNNAMED.to_owned(),
            }),
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
        let guard = self.table.rules.guard(&origin.route, &route.describes);
        self.cached.push(CachedRoute {
            rule: Applied::of(guard, &connection.peer, &self.caller, clock::now()),
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
