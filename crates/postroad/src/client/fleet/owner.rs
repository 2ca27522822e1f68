//! What the servers say of their routes: the owner of a service knows best what may be called twice
//! and how long it takes.
//!
//! It is asked for on each new connection by the built-in route `postroad/routes`. What the
//! client's own settings and the call itself say goes before it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::Deserialize;

use super::{Fleet, Member};
use crate::endpoint::Protocol;

/// The built-in route that lists the routes.
const ROUTES: &str = "postroad/routes";
/// How long the answer may take. Calls do not wait for it.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Routes of one service that are remembered.
const ROUTES_MAX: usize = 65_536;

/// What a route's owner says of it.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Advice {
    /// Whether it may be called twice.
    #[serde(rename = "idempotent")]
    pub(super) is_idempotent: bool,
    /// How long a caller should wait, milliseconds.
    timeout_ms: Option<u64>,
    /// The highest priority that its requests should have.
    priority_max: Option<u8>,
}

/// A route, as `postroad/routes` lists it.
#[derive(Deserialize)]
struct Listed {
    route: String,
    #[serde(flatten)]
    advice: Advice,
}

/// The advice by route. Routes without any are not in it.
pub(super) type Owner = HashMap<String, Advice>;

impl Advice {
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }

    pub(super) fn priority_max(&self) -> Option<u8> {
        self.priority_max
    }
}

impl Fleet {
    /// Asks a member that has just been connected. Nobody waits for the answer here.
    pub(super) fn ask_owner(self: &Arc<Self>, member: &Arc<Member>) {
        if matches!(member.instance.endpoint.protocol(), Protocol::Native) {
            tokio::spawn(ask(Arc::downgrade(self), Arc::clone(member)));
        }
    }
}

async fn ask(fleet: Weak<Fleet>, member: Arc<Member>) {
    let Some(keeper) = member.keepers().first().cloned() else {
        return;
    };
    let Some(ask) = fleet.upgrade().map(|fleet| fleet.ask) else {
        return;
    };
    // A server that does not tell has no advice.
    let Ok(body) = ask(keeper, ROUTES.to_owned(), TIMEOUT).await else {
        return;
    };
    let Ok(listed) = serde_json::from_slice::<Vec<Listed>>(&body) else {
        return;
    };
    let said = |listed: &Listed| listed.advice != Advice::default();
    let advice = listed.into_iter().filter(said).take(ROUTES_MAX);
    let owner: Owner = advice.map(|listed| (listed.route, listed.advice)).collect();
    if let Some(fleet) = fleet.upgrade()
        && **fleet.owner.load() != owner
    {
        fleet.owner.store(Arc::new(owner));
    }
}
