//! Who is there: the servers of a fleet in the order in which they are asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use postroad_proto::Time;
use postroad_proto::policy::{Ask, Balance, Balancer, Candidate, Load};

use super::member::Member;

/// Shares of the calls by tag, in tenths of a percent.
pub(super) type Tags = BTreeMap<String, u32>;

/// The servers at one moment. It is made anew when the list or the settings change.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// A tier gets calls only if no server of those before it can take one.
    tiers: Vec<Tier>,
    /// All of them.
    pub(super) members: Vec<Arc<Member>>,
    /// The rank of each.
    ranks: Vec<u32>,
}

/// Servers of equal rank.
#[derive(Debug)]
struct Tier {
    /// Those with a share of their own by their tag, and behind them the rest.
    groups: Vec<Group>,
}

/// Servers that share a part of the calls.
#[derive(Debug)]
struct Group {
    /// Tenths of a percent of the calls; of the last group, what is left.
    share: u32,
    balancer: Balancer,
    members: Vec<Arc<Member>>,
}

impl Candidate for Member {
    fn load(&self) -> &Load {
        &self.load
    }

    fn weight(&self) -> u32 {
        self.instance.weight
    }

    fn identity(&self) -> u64 {
        self.identity
    }

    fn may_take(&self, now: Time) -> bool {
        self.is_available(now)
            && self
                .breaker
                .as_ref()
                .is_none_or(|breaker| breaker.would_admit(now))
            && self.is_connected()
    }
}

impl Roster {
    /// Orders members, of which each has the rank of its tier.
    pub(super) fn new(ranked: Vec<(u32, Arc<Member>)>, balance: Balance, tags: &Tags) -> Self {
        let members = ranked
            .iter()
            .map(|(_, member)| Arc::clone(member))
            .collect();
        let all_ranks: Vec<u32> = ranked.iter().map(|(rank, _)| *rank).collect();
        let mut ranks = all_ranks.clone();
        ranks.sort_unstable();
        ranks.dedup();
        let of_rank = |rank: u32| {
            let of_it = ranked.iter().filter(move |(other, _)| *other == rank);
            of_it.map(|(_, member)| Arc::clone(member)).collect()
        };
        let tier = |rank| Tier::new(of_rank(rank), balance, tags);
        let tiers = ranks.into_iter().map(tier).collect();
        Self {
            tiers,
            members,
            ranks: all_ranks,
        }
    }

    /// The same servers with other shares.
    pub(super) fn with_tags(&self, balance: Balance, tags: &Tags) -> Self {
        let members = self.members.iter().map(Arc::clone);
        let ranked = self.ranks.iter().copied().zip(members).collect();
        Self::new(ranked, balance, tags)
    }

    /// The server that gets the next call. Those in `avoid` are taken only if there is no other
    /// that can.
    pub(super) fn pick(
        &self,
        key: Option<u64>,
        avoid: Option<&Member>,
        random: &mut impl FnMut() -> u64,
        now: Time,
    ) -> Option<&Arc<Member>> {
        let mut last = None;
        for tier in &self.tiers {
            match tier.pick(key, avoid, random, now) {
                Some(member) if is_it(avoid, member) => {
                    last.get_or_insert(member);
                }
                Some(member) => return Some(member),
                None => {}
            }
        }
        last.or_else(|| self.pick_anyway(random, now))
    }

    /// When no server can take a call, one that was put aside, or does not answer its probes, is
    /// better than none, and after those one that says that it is not ready. One whose breaker is
    /// open is not.
    #[cold]
    fn pick_anyway(&self, random: &mut impl FnMut() -> u64, now: Time) -> Option<&Arc<Member>> {
        let (before, from) = self.members.split_at(match self.members.len() {
            0 => 0,
            many => random() as usize % many,
        });
        let mut members = from.iter().chain(before);
        let can_be_asked = |member: &&Arc<Member>| member.can_be_asked(now);
        let is_ready = |member: &&Arc<Member>| can_be_asked(member) && !member.says_not_ready();
        members
            .clone()
            .find(is_ready)
            .or_else(|| members.find(can_be_asked))
    }
}

/// Whether this is the member to avoid.
fn is_it(avoid: Option<&Member>, member: &Arc<Member>) -> bool {
    avoid.is_some_and(|avoid| avoid.is_same(member))
}

impl Tier {
    fn new(members: Vec<Arc<Member>>, balance: Balance, tags: &Tags) -> Self {
        let mut rest = members;
        let mut groups = Vec::new();
        for (tag, share) in tags {
            let (of_it, others) = rest
                .into_iter()
                .partition::<Vec<_>, _>(|member| member.instance.tag.as_deref() == Some(tag));
            groups.push(Group::new(*share, of_it, balance));
            rest = others;
        }
        groups.push(Group::new(1000, rest, balance));
        groups.retain(|group| !group.members.is_empty());
        Self { groups }
    }

    /// Draws a group by its share, and a server of it; of another group, if that one has none.
    fn pick(
        &self,
        key: Option<u64>,
        avoid: Option<&Member>,
        random: &mut impl FnMut() -> u64,
        now: Time,
    ) -> Option<&Arc<Member>> {
        if let [only] = &self.groups[..] {
            return only.pick(key, avoid, random, now);
        }
        // Calls with equal keys are in the same group too.
        let drawn = key.map_or_else(&mut *random, |key| key >> 20) % 1000;
        let mut drawn = drawn as u32;
        let chosen = self.groups.iter().position(|group| {
            let is_it = drawn < group.share;
            drawn = drawn.saturating_sub(group.share);
            is_it
        });
        let chosen = chosen.unwrap_or(self.groups.len() - 1);
        let (before, from) = self.groups.split_at(chosen);
        let mut last = None;
        for group in from.iter().chain(before) {
            match group.pick(key, avoid, random, now) {
                // Before it is taken after all, the other groups are asked.
                Some(member) if is_it(avoid, member) => {
                    last.get_or_insert(member);
                }
                Some(member) => return Some(member),
                None => {}
            }
        }
        last
    }
}

impl Group {
    fn new(share: u32, members: Vec<Arc<Member>>, balance: Balance) -> Self {
        let balancer = Balancer::new(balance, &members);
        Self {
            share,
            balancer,
            members,
        }
    }

    fn pick(
        &self,
        key: Option<u64>,
        avoid: Option<&Member>,
        random: &mut impl FnMut() -> u64,
        now: Time,
    ) -> Option<&Arc<Member>> {
        let avoid = avoid.and_then(|avoid| {
            let mut members = self.members.iter();
            members.position(|member| member.is_same(avoid))
        });
        let ask = Ask { key, avoid, now };
        let picked = self.balancer.pick(&self.members, &ask, random, None);
        picked.map(|at| &self.members[at])
    }
}
