//! How many connections there are: none to servers that nobody needs, one to the others, more where
//! one cannot write all that is to be sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::{Breaker, PoolCounts};

use super::{Fleet, Member, draw};
use crate::clock;

/// For how long a call keeps a fleet awake.
const ACTIVE: Duration = Duration::from_secs(10);
/// Ticks for which a connection has to be unable to write all before there is another one.
const SATURATED: u32 = 3;

impl Fleet {
    /// Connects to as many servers as may be connected; those that were chosen before stay chosen.
    pub(super) fn choose_members(&self) {
        if self.policies.pool.idle == 0 && self.is_idle(clock::now()) {
            return;
        }
        self.wake_all();
    }

    /// Connects to all servers, or as many as may be connected. Of more, each client draws its own,
    /// and while some of those cannot be reached, others take their places: as many are tried
    /// besides as may be connected.
    pub(super) fn wake_all(&self) {
        let most = self.policies.pool.connections;
        let (roster, now) = (self.roster.load(), clock::now());
        let mut members: Vec<&Arc<Member>> = roster.members.iter().collect();
        if members.len() > most {
            members.sort_by_cached_key(|member| {
                // Those that are connected, or being tried, stay.
                (member.connections() == 0, draw(self.seed, member.identity))
            });
        }
        let (mut places, mut tries) = (most, most.saturating_mul(2));
        for member in members {
            if places == 0 || tries == 0 {
                return;
            }
            member.wake(self);
            tries -= 1;
            places -= usize::from(takes_place(member, now));
        }
    }

    /// The same for a caller that waits: of those who come together, one does it for all.
    pub(super) fn wake_for_caller(&self) {
        let now = clock::now_coarse();
        if self.woken.swap(now.0, Ordering::Relaxed) != now.0 {
            self.wake_all();
        }
    }

    /// Lets connections go that are more than there may be: servers that could not be reached had
    /// others in their places, and have come back.
    fn shed(&self, now: Time) {
        let most = self.policies.pool.connections;
        let roster = self.roster.load();
        let members = roster.members.iter();
        let mut connected: Vec<_> = members
            .filter(|member| member.is_connected() && takes_place(member, now))
            .collect();
        if connected.len() <= most {
            return;
        }
        connected.sort_by_cached_key(|member| draw(self.seed, member.identity));
        for member in connected.split_off(most) {
            member.leave();
        }
    }

    /// While too few servers can be reached and as many as may be are tried, some that cannot be
    /// reached are left, so that others are tried.
    fn rotate(&self, now: Time) {
        let most = self.policies.pool.connections;
        let roster = self.roster.load();
        let awake = roster
            .members
            .iter()
            .filter(|member| member.connections() > 0);
        if roster.members.len() <= 2 * most || awake.clone().count() < 2 * most {
            return;
        }
        let failed = awake.filter(|member| member.has_failed());
        let mut failed: Vec<_> = failed.collect();
        failed.sort_by_cached_key(|member| draw(now.0, member.identity));
        for member in failed.into_iter().take(1 + most / 10) {
            member.leave();
        }
    }

    /// A caller waits: servers that cannot be reached are tried sooner than they would be.
    pub(super) fn ask_for_attempts(&self) {
        for member in &self.roster.load().members {
            for keeper in member.keepers().iter() {
                keeper.wanted.notify_one();
            }
        }
    }

    /// Whether no call was made lately.
    fn is_idle(&self, now: Time) -> bool {
        let last = Time(self.calls.load(Ordering::Relaxed));
        last + ACTIVE <= now
    }

    pub(super) fn look_after_pool(&self, now: Time) {
        if self.is_idle(now) {
            self.rest(now);
        } else {
            self.rotate(now);
            self.wake_all();
        }
        self.shed(now);
        let (roster, pool) = (self.roster.load(), self.policies.pool.config());
        let mut connections: usize = roster.members.iter().map(|m| m.connections()).sum();
        for member in &roster.members {
            member.replace_old(&pool, now);
            let saturated = member.saturated();
            if saturated >= SATURATED && connections < pool.connections {
                connections += 1;
                member.add_connection();
            } else if saturated == 0 && member.calm_for() >= pool.idle_timeout {
                member.drop_extra();
            }
        }
    }

    /// Lets connections go that nobody has used for long, except for the few that are kept.
    fn rest(&self, now: Time) {
        let pool = self.policies.pool.config();
        let roster = self.roster.load();
        let awake = roster.members.iter().filter(|member| member.is_connected());
        let mut counts = PoolCounts {
            open: awake.clone().count(),
            ..PoolCounts::default()
        };
        for member in awake {
            let idle_for = now.since(member.last_used());
            if member.load.in_flight() == 0 && pool.closes_idle(&counts, idle_for) {
                counts.open -= 1;
                member.leave();
            }
        }
    }
}

/// Whoever cannot be reached, or takes no calls now, is in nobody's place.
fn takes_place(member: &Member, now: Time) -> bool {
    let is_open = |breaker: &Breaker| !breaker.would_admit(now);
    !member.has_failed()
        && member.is_available(now)
        && !member.breaker.as_ref().is_some_and(is_open)
}
