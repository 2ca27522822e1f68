//! Asks each server whether it is well.
//!
//! Alive and ready are two things: a server that answers is alive, and one that answers that it is
//! not ready gets no calls although its connection stays. A server without the route is well, since
//! it has said so.

use std::sync::Arc;

use postroad_proto::code::Code;
use serde::Deserialize;

use super::super::call::CallBuilder;
use super::super::channel::Channel;
use super::super::policies::HealthPolicy;
use super::super::values::DefaultCodec;
use super::{Fleet, Member};
use crate::error::CallError;
use crate::observe::fleet as observe;

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
}

impl Fleet {
    /// Asks all that are connected. Nobody waits for the answers here.
    pub(super) fn probe_all(self: &Arc<Self>, health: &HealthPolicy) {
        for member in &self.roster.load().members {
            if member.is_connected() && member.begin_probe() {
                let probe = probe(Arc::downgrade(self), Arc::clone(member), health.clone());
                tokio::spawn(probe);
            }
        }
    }
}

async fn probe(fleet: std::sync::Weak<Fleet>, member: Arc<Member>, health: HealthPolicy) {
    let answer = ask(&member, &health).await;
    member.end_probe();
    let Some(fleet) = fleet.upgrade() else {
        return;
    };
    let has_changed = match answer {
        Answer::Well => member.probed(true, health.failures),
        Answer::NotReady => member.probed(false, 1),
        Answer::Silent => member.probed(false, health.failures),
    };
    if has_changed {
        observe::health(&fleet.target, &member.instance, !member.is_unhealthy());
        fleet.news.notify_waiters();
    }
}

async fn ask(member: &Member, health: &HealthPolicy) -> Answer {
    let keepers = member.keepers();
    let Some(keeper) = keepers.first() else {
        return Answer::Silent;
    };
    let channel = Channel::new(Arc::clone(keeper));
    let call = CallBuilder::new(&channel, DefaultCodec::Json, &health.route);
    // It goes before what it is asked about.
    let answer = call
        .priority(7)
        .timeout(health.every)
        .call::<_, Health>(&())
        .await;
    match answer {
        Ok(health) if health.ready => Answer::Well,
        Ok(_) => Answer::NotReady,
        Err(CallError::Remote(error)) if error.code() == Code::DRAINING => Answer::NotReady,
        // It has answered: another route, another form, an error of its own.
        Err(CallError::Remote(error)) if error.code() == Code::NOT_FOUND => Answer::Well,
        Err(CallError::Codec(_)) => Answer::Well,
        Err(_) => Answer::Silent,
    }
}
