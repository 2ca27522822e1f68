//! Asks each server whether it is well.
//!
//! Alive and ready are two things: a server that answers is alive, and one that answers that it is
//! not ready gets no calls although its connection stays. A server without the route is well, since
//! it has said so.

use std::sync::Arc;

use bytes::Bytes;
use postroad_proto::code::Code;
use serde::Deserialize;

use super::super::policies::HealthPolicy;
use super::{Fleet, Member};
use crate::endpoint::Protocol;
use crate::error::CallError;
use crate::observe::fleet as observe;
use crate::transport::BoxFuture;

/// What the health route answers with.
#[derive(Deserialize)]
struct Health {
    #[serde(default = "yes")]
    ready: bool,
}

fn yes() -> bool {
    true
}

/// How a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Well,
    NotReady,
    Silent,
    /// This end could not ask: that says nothing about the server.
    NotAsked,
}

impl Fleet {
    /// Asks all that are connected. Nobody waits for the answers here.
    pub(super) fn probe_all(self: &Arc<Self>, health: &HealthPolicy) {
        for member in &self.roster.load().members {
            if is_probed(member, health) && member.is_connected() && member.begin_probe() {
                let probe = probe(Arc::downgrade(self), Arc::clone(member), health.clone());
                tokio::spawn(probe);
            }
        }
    }
}

/// Whether a member is asked at all. What a dialect's peer makes of our own route nobody knows, so
/// it is asked only by a route that somebody has chosen for it.
fn is_probed(member: &Member, health: &HealthPolicy) -> bool {
    let is_native = matches!(member.instance.endpoint.protocol(), Protocol::Native);
    is_native || health.route != HealthPolicy::default().route
}

async fn probe(fleet: std::sync::Weak<Fleet>, member: Arc<Member>, health: HealthPolicy) {
    let Some(asking) = ask(&fleet, &member, &health) else {
        return member.end_probe();
    };
    let answer = judge(asking.await);
    member.end_probe();
    let Some(fleet) = fleet.upgrade() else {
        return;
    };
    let has_changed = match answer {
        Answer::Well => member.is_well(),
        Answer::NotReady => member.is_not_ready(),
        Answer::Silent => member.is_silent(health.failures),
        Answer::NotAsked => false,
    };
    if has_changed {
        observe::health(&fleet.target, &member.instance, !member.is_unhealthy());
        fleet.news.notify_waiters();
    }
}

/// Asks a member over its first connection. The fleet is not held while it is waited for.
fn ask(
    fleet: &std::sync::Weak<Fleet>,
    member: &Member,
    health: &HealthPolicy,
) -> Option<BoxFuture<'static, Result<Bytes, CallError>>> {
    let keeper = Arc::clone(member.keepers().first()?);
    let ask = fleet.upgrade()?.ask;
    Some(ask(keeper, health.route.clone(), health.every))
}

fn judge(answer: Result<Bytes, CallError>) -> Answer {
    match answer {
        // Whoever answers in another form has answered.
        Ok(body) => match serde_json::from_slice::<Health>(&body) {
            Ok(Health { ready: false }) => Answer::NotReady,
            _ => Answer::Well,
        },
        Err(CallError::Remote(error)) if error.code() == Code::DRAINING => Answer::NotReady,
        // An error is a sign of life, also if the server has too much to do.
        Err(CallError::Remote(_)) => Answer::Well,
        Err(CallError::Lost { .. } | CallError::Deadline { sent: true, .. }) => Answer::Silent,
        Err(_) => Answer::NotAsked,
    }
}
