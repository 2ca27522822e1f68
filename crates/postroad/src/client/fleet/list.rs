//! The list has changed: who stays, who comes, who goes.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use postroad_proto::Time;
use postroad_proto::policy::{Breaker, Candidate, Ejector};

use super::roster::{Roster, Tags};
use super::{Fleet, Member};
use crate::clock;
use crate::discovery::Instance;
use crate::observe::fleet as observe;
use crate::transport::Use;

/// Ranks of standby servers begin here, behind all priorities of the others.
const STANDBY: u32 = 1 << 16;

impl Fleet {
    /// Takes a list: servers that are in it already keep their connections and what is known of
    /// them, others come, and those that are not in it any more end after their calls in flight.
    pub(super) fn set_list(&self, primary: &[Instance], standby: &[Instance]) {
        let before = self.roster.load_full();
        let mut known: BTreeMap<&str, &Arc<Member>> = BTreeMap::new();
        for member in &before.members {
            known.insert(member.instance.endpoint.url(), member);
        }
        let is_first = before.members.is_empty();
        let ranked = primary
            .iter()
            .map(|instance| (u32::from(instance.priority), instance));
        let reserve = standby
            .iter()
            .map(|instance| (STANDBY + u32::from(instance.priority), instance));
        let members = ranked.chain(reserve).filter_map(|(rank, instance)| {
            let member = match known.remove(instance.endpoint.url()) {
                Some(member) if member.instance == *instance => Arc::clone(member),
                Some(member) => Arc::new(member.changed(instance.clone())),
                None => Arc::new(self.join(instance, is_first)?),
            };
            Some((rank, member))
        });
        let tags = self.tags();
        let roster = Roster::new(members.collect(), self.policies.balance, &tags);
        observe::list(&self.target, before.members.len(), roster.members.len());
        let gone: Vec<_> = known.into_values().map(Arc::clone).collect();
        self.roster.store(Arc::new(roster));
        drop(tags);
        gone.iter().for_each(|member| member.leave());
        self.merge_owners();
        self.choose_members();
        self.news.notify_waiters();
    }

    /// Gives servers with these tags other shares, from the next call on.
    pub(in crate::client) fn set_tags(&self, tags: Tags) {
        let mut shares = self.tags();
        *shares = tags;
        let roster = self.roster.load();
        let roster = roster.with_tags(self.policies.balance, &shares);
        self.roster.store(Arc::new(roster));
    }

    /// The shares, which are held while a roster is made of them.
    fn tags(&self) -> MutexGuard<'_, Tags> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member for a server that is new, unless nobody can dial it.
    fn join(&self, instance: &Instance, is_first: bool) -> Option<Member> {
        let transport = self.transports.get(&instance.endpoint);
        let checked = transport.and_then(|transport| {
            transport.check(&instance.endpoint, Use::Dial)?;
            Ok(Arc::clone(transport))
        });
        let transport = match checked {
            Ok(transport) => transport,
            Err(error) => {
                observe::unusable(&self.target, instance, &error);
                return None;
            }
        };
        let breaker = self.policies.breaker_config().map(Breaker::new);
        let member = Member::new(instance.clone(), transport, self, breaker);
        if !is_first {
            // It comes to a fleet at work.
            member.load.became_healthy(clock::now());
        }
        Some(member)
    }

    /// Compares the members' rates of success, and puts those aside that do far worse.
    pub(super) fn sweep(&self, ejector: &Ejector, now: Time) {
        let roster = self.roster.load();
        let ejected = ejector.sweep(
            &roster.members,
            |member| &member.outlier,
            |member| member.may_take(now),
            now,
            rand::random,
        );
        if ejected > 0 {
            observe::swept(&self.target, ejected);
        }
    }
}
