//! One client of the simulated fleet: the policies in the order in which the library uses them.

use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::code::Code;
use postroad_proto::policy::{
    Again, Ask, Balance, Balancer, Breaker, BreakerConfig, Budget, BudgetConfig, Candidate,
    Ejector, Ending, Failed, Hedge, HedgeConfig, Load, LoadConfig, NoRetry, Outcome, Outlier,
    OutlierConfig, Permit, Random, RetryConfig, Throttle, ThrottleConfig, Timing, Verdict,
};

/// Which policies the clients of a simulation have.
#[derive(Clone, Copy)]
pub(super) struct Policies {
    pub(super) balance: Balance,
    pub(super) is_on: bool,
}

/// What a client knows of one server.
pub(super) struct Member {
    pub(super) server: usize,
    pub(super) is_connected: bool,
    load: Load,
    breaker: Option<Breaker>,
    outlier: Outlier,
}

impl Member {
    fn new(server: usize, policies: Policies) -> Self {
        let breaker = policies.is_on.then(BreakerConfig::default);
        Self {
            server,
            is_connected: true,
            load: Load::new(LoadConfig::default()),
            breaker: breaker.map(Breaker::new),
            outlier: Outlier::new(),
        }
    }
}

impl Candidate for Member {
    fn load(&self) -> &Load {
        &self.load
    }

    fn identity(&self) -> u64 {
        self.server as u64
    }

    fn may_take(&self, now: Time) -> bool {
        let admits = |breaker: &Breaker| breaker.would_admit(now);
        self.is_connected
            && !self.outlier.is_ejected(now)
            && self.breaker.as_ref().is_none_or(admits)
    }
}

/// A server that was picked for an attempt.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) server: usize,
    permit: Option<Permit>,
}

pub(super) struct Client {
    policies: Policies,
    pub(super) members: Vec<Member>,
    balancer: Balancer,
    budget: Budget,
    pub(super) hedge: Option<Hedge>,
    throttle: Option<Throttle>,
    retry: Option<RetryConfig>,
    ejector: Option<Ejector>,
    random: Random,
}

impl Client {
    pub(super) fn new(servers: usize, policies: Policies, seed: u64) -> Self {
        let members: Vec<_> = (0..servers)
            .map(|server| Member::new(server, policies))
            .collect();
        let is_on = policies.is_on;
        Self {
            policies,
            balancer: Balancer::new(policies.balance, &members),
            members,
            budget: Budget::new(BudgetConfig::default()),
            hedge: is_on.then(|| Hedge::new(HedgeConfig::default())),
            throttle: is_on.then(|| Throttle::new(ThrottleConfig::default())),
            retry: is_on.then(RetryConfig::default),
            ejector: is_on.then(|| Ejector::new(OutlierConfig::default())),
            random: Random::new(seed),
        }
    }

    /// A longer list has come: who was in it already keeps what is known of it.
    pub(super) fn set_list(&mut self, servers: usize, now: Time) {
        for server in self.members.len()..servers {
            let member = Member::new(server, self.policies);
            member.load.became_healthy(now);
            self.members.push(member);
        }
        self.balancer = Balancer::new(self.policies.balance, &self.members);
    }

    /// A connection was opened or has ended.
    pub(super) fn set_connected(&mut self, server: usize, is_connected: bool, now: Time) {
        // A server that is not in the client's list yet is not connected to.
        let Some(member) = self.members.get_mut(server) else {
            return;
        };
        if is_connected && !member.is_connected {
            member.load.became_healthy(now);
        }
        member.is_connected = is_connected;
    }

    /// Whether a call may be made at all.
    pub(super) fn admit(&mut self, now: Time) -> bool {
        self.budget.note_call(now);
        let Some(throttle) = &self.throttle else {
            return true;
        };
        throttle.admit(now, 3, || self.random.bits()).is_ok()
    }

    /// A server that takes an attempt now.
    pub(super) fn pick(&mut self, avoid: Option<usize>, now: Time) -> Option<Place> {
        let ask = Ask {
            key: None,
            avoid,
            now,
        };
        let random = || self.random.bits();
        let server = self.balancer.pick(&self.members, &ask, random, None)?;
        let member = &self.members[server];
        let permit = match &member.breaker {
            Some(breaker) => Some(breaker.admit(now).ok()?),
            None => None,
        };
        member.load.start();
        Some(Place { server, permit })
    }

    /// An attempt has ended.
    pub(super) fn finish(&mut self, place: Place, ending: Ending, began: Time, now: Time) {
        let member = &self.members[place.server];
        let took = now.since(began);
        let timing = Some(Timing { began, took });
        let verdict = Verdict::of(&ending);
        let outcome = Outcome { ending, timing };
        member.load.finish(now, &outcome, None, None);
        if let Some(hedge) = &self.hedge
            && verdict != Verdict::Failure
        {
            hedge.observe(now, took);
        }
        if let (Some(throttle), Ending::Refused { code, .. }) = (&self.throttle, ending)
            && code == Code::OVERLOADED
        {
            throttle.refused(now);
        }
        if let (Some(breaker), Some(permit)) = (&member.breaker, place.permit) {
            breaker.finish(now, permit, verdict);
        }
        let in_a_row = member.outlier.observe(verdict);
        if let Some(ejector) = &self.ejector
            && ejector.is_enough(in_a_row)
        {
            ejector.eject(
                &self.members,
                place.server,
                |one| &one.outlier,
                |one| one.may_take(now),
                now,
                self.random.bits(),
            );
        }
    }

    /// Compares the servers, as is done every ten seconds.
    pub(super) fn sweep(&mut self, now: Time) {
        if let Some(ejector) = &self.ejector {
            ejector.sweep(
                &self.members,
                |one| &one.outlier,
                |one| one.may_take(now),
                now,
                || self.random.bits(),
            );
        }
    }

    pub(super) fn has_other(&self, than: usize, now: Time) -> bool {
        let mut others = self.members.iter();
        others.any(|one| one.server != than && one.may_take(now))
    }

    /// What becomes of a call whose attempt at this server has failed.
    pub(super) fn judge(
        &mut self,
        failed: &Failed,
        at: usize,
        now: Time,
    ) -> Result<Again, NoRetry> {
        let retry = self.retry.ok_or(NoRetry::AttemptsUsed)?;
        let again = retry.decide(now, failed, &self.budget, self.random.bits())?;
        let is_first = failed.sent <= 1 && self.has_other(at, now);
        Ok(Again {
            after: if is_first {
                Duration::ZERO
            } else {
                again.after
            },
            ..again
        })
    }

    /// Whether a second server is asked for an idempotent call that takes long.
    pub(super) fn may_hedge(&self, at: usize, now: Time) -> bool {
        let decide = |hedge: &Hedge| hedge.decide(now, true, false, &self.budget).is_ok();
        self.has_other(at, now) && self.hedge.as_ref().is_some_and(decide)
    }
}
