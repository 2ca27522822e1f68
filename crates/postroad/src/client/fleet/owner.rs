//! What the servers say of their routes: the owner of a service knows best what may be called twice
//! and how long it takes.
//!
//! It is asked for on each new connection by the built-in route `postroad/routes`. What the
//! client's own settings and the call itself say goes before it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::Deserialize;

use super::advice::{Advice, Owner};
use super::{Fleet, Member};
use crate::endpoint::Protocol;

/// The built-in route that lists the routes.
const ROUTES: &str = "postroad/routes";
/// How long the answer may take. Calls do not wait for it.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Routes of one server that are remembered.
const ROUTES_MAX: usize = 4_096;

/// A route, as `postroad/routes` lists it.
#[derive(Deserialize)]
struct Listed {
    route: String,
    #[serde(flatten)]
    advice: Advice,
}

impl Fleet {
    /// Puts together what the connected members say.
    pub(super) fn merge_owners(&self) {
        let roster = self.roster.load();
        let connected = roster.members.iter().filter(|member| member.is_connected());
        let told: Vec<_> = connected.map(|member| member.owner.load_full()).collect();
        let merged = merge(told.iter().map(Option::as_deref));
        if **self.owner.load() != merged {
            self.owner.store(Arc::new(merged));
        }
    }

    /// Asks a member that has just been connected. Nobody waits for the answer here.
    pub(super) fn ask_owner(self: &Arc<Self>, member: &Arc<Member>) {
        if matches!(member.instance.endpoint.protocol(), Protocol::Native) {
            tokio::spawn(ask(Arc::downgrade(self), Arc::clone(member)));
            self.merge_owners();
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
    let listed = listed.into_iter().take(ROUTES_MAX);
    let owner: Owner = listed.map(|listed| (listed.route, listed.advice)).collect();
    member.owner.store(Some(Arc::new(owner)));
    if let Some(fleet) = fleet.upgrade() {
        fleet.merge_owners();
    }
}

/// What all say of each route. It may be called twice only if everybody who has it says so, and
/// everybody has told; of two times the longer one counts, of two priorities the higher one.
fn merge<'a>(told: impl Iterator<Item = Option<&'a Owner>>) -> Owner {
    let mut merged = Owner::new();
    let mut have_all_told = true;
    for owner in told {
        let Some(owner) = owner else {
            have_all_told = false;
            continue;
        };
        for (route, advice) in owner {
            let known = merged.entry(route.clone()).or_insert(*advice);
            known.is_idempotent &= advice.is_idempotent;
            known.timeout_ms = known.timeout_ms.max(advice.timeout_ms);
            known.priority_max = known.priority_max.max(advice.priority_max);
        }
    }
    for advice in merged.values_mut() {
        advice.is_idempotent &= have_all_told;
    }
    merged.retain(|_, advice| *advice != Advice::default());
    merged
}
