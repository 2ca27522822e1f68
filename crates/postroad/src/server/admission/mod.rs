//! What rules say of a route, as its requests meet it.
//!
//! ```text
//!  request -> priority, deadline -> rate -> limit -> worker, if it computes -> handler
//!                                    |        |
//!                                 refused    waits in the room, or is refused
//! ```
//!
//! A route that no rule is for has no [`Guard`], and its requests pay for none of this.

mod client;
mod limit;
mod rates;
mod workers;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::Rate;

pub(super) use client::ClientKey;
pub(super) use limit::{Limit, Permit, Waiting};
use rates::Rates;
pub(super) use workers::Workers;

use crate::caller::Caller;
use crate::route::{Concurrency, Description, RouteRule, Work};
use crate::transport::PeerInfo;

/// What is said of a route, as one connection keeps it.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) guard: Option<Arc<Guard>>,
    /// Whether its requests have more to pass than a priority.
    pub(super) is_gated: bool,
    priority_max: u8,
    deadline: Option<Duration>,
    /// The rate of the connection's client.
    rate: Option<Arc<Rate>>,
}

impl Applied {
    pub(super) fn of(
        guard: Option<Arc<Guard>>,
        peer: &PeerInfo,
        caller: &Caller,
        now: Time,
    ) -> Self {
        let said = guard.as_deref();
        let rates = said.and_then(|guard| guard.rates.as_ref());
        Self {
            is_gated: said.is_some_and(Guard::is_gated),
            priority_max: said.map_or(7, Guard::priority_max),
            deadline: said.and_then(Guard::deadline),
            rate: rates.map(|rates| rates.of(ClientKey::of(peer, caller.subject()), now)),
            guard,
        }
    }

    /// Gives a request the priority and the deadline that the rule has for it.
    #[inline]
    pub(super) fn apply(&self, priority: &mut u8, deadline: &mut Time, now: Time) {
        *priority = (*priority).min(self.priority_max);
        if *deadline == Time::NEVER
            && let Some(most) = self.deadline
        {
            *deadline = now + most;
        }
    }

    /// Lets one request pass by the rate.
    ///
    /// # Errors
    /// When the next may.
    pub(super) fn take_rate(&self, now: Time) -> Result<(), Duration> {
        let rates = self.guard.as_deref().and_then(|guard| guard.rates.as_ref());
        match (rates, &self.rate) {
            (Some(rates), Some(rate)) => rates.take(rate, now),
            _ => Ok(()),
        }
    }
}

/// What a rule says of one route, and what is at work of it.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) rule: RouteRule,
    priority_max: u8,
    pub(super) limit: Option<Arc<Limit>>,
    pub(super) rates: Option<Rates>,
    pub(super) workers: Option<Arc<Workers>>,
}

impl Guard {
    fn new(
        rule: RouteRule,
        declared: &Description,
        otherwise: Option<Concurrency>,
        workers: &Arc<Workers>,
    ) -> Self {
        let concurrency = rule.concurrency.or(otherwise);
        let is_cpu = rule.work == Work::Cpu || declared.work == Work::Cpu;
        Self {
            priority_max: rule.priority.or(declared.priority_max).unwrap_or(7),
            limit: concurrency.map(|concurrency| match concurrency {
                Concurrency::Fixed(most) => Limit::of(most),
                Concurrency::Auto => Limit::adaptive(),
            }),
            rates: rule.rate.as_ref().map(Rates::new),
            workers: is_cpu.then(|| Arc::clone(workers)),
            rule,
        }
    }

    /// The highest priority of the route's requests.
    pub(super) fn priority_max(&self) -> u8 {
        self.priority_max
    }

    /// How long a request may take that says nothing itself.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.rule.deadline
    }

    /// Whether its requests have more to pass than a priority.
    pub(super) fn is_gated(&self) -> bool {
        let has_gate = self.limit.is_some() || self.rates.is_some() || self.workers.is_some();
        has_gate || self.rule.deadline.is_some()
    }
}

/// The rules of a server, and the guards that were made of them.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(super) list: Vec<RouteRule>,
    /// Of routes that no rule gives a number.
    pub(super) concurrency: Option<Concurrency>,
    pub(super) workers: Arc<Workers>,
    /// By route, made when the first connection asks for it.
    guards: Mutex<HashMap<Arc<str>, Option<Arc<Guard>>>>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            concurrency: None,
            workers: Workers::of(1),
            guards: Mutex::default(),
        }
    }
}

impl Rules {
    pub(super) fn new(
        list: Vec<RouteRule>,
        concurrency: Option<Concurrency>,
        workers: Arc<Workers>,
    ) -> Self {
        Self {
            list,
            concurrency,
            workers,
            guards: Mutex::default(),
        }
    }

    /// The first rule that is for this route.
    pub(super) fn rule(&self, route: &str) -> Option<&RouteRule> {
        self.list.iter().find(|rule| rule.fits(route))
    }

    /// The guard of a route, if anything is said of it by a rule, or by its author. The same for
    /// all connections.
    pub(super) fn guard(&self, route: &Arc<str>, declared: &Description) -> Option<Arc<Guard>> {
        let is_declared = declared.priority_max.is_some() || declared.work == Work::Cpu;
        if self.list.is_empty() && self.concurrency.is_none() && !is_declared {
            return None;
        }
        let mut guards = self.guards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guard) = guards.get(route) {
            return guard.clone();
        }
        let rule = self.rule(route);
        let is_said = rule.is_some() || self.concurrency.is_some() || is_declared;
        let guard = is_said.then(|| {
            let rule = rule.cloned().unwrap_or_else(|| RouteRule::of("*"));
            Arc::new(Guard::new(rule, declared, self.concurrency, &self.workers))
        });
        guards.insert(Arc::clone(route), guard.clone());
        guard
    }

    /// Takes over the guards of rules that are still the same: what is at work by them counts on,
    /// and rates are not forgotten.
    pub(super) fn inherit(&self, old: &Self) {
        if self.concurrency != old.concurrency {
            return;
        }
        let kept = old.guards.lock().unwrap_or_else(PoisonError::into_inner);
        let mut guards = self.guards.lock().unwrap_or_else(PoisonError::into_inner);
        for (route, guard) in kept.iter() {
            let is_same = guard.as_ref().map(|guard| &guard.rule);
            if is_same.is_some() && is_same == self.rule(route) {
                guards.insert(Arc::clone(route), guard.clone());
            }
        }
    }

    /// The limits that there are, by route: how many may be at work, are, and wait.
    pub(super) fn limits(&self) -> Vec<(Arc<str>, [usize; 3])> {
        let guards = self.guards.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = guards.iter().filter_map(|(route, guard)| {
            let limit = guard.as_ref()?.limit.as_ref()?;
            Some((Arc::clone(route), limit.counts()))
        });
        let mut limits: Vec<_> = limits.collect();
        limits.sort();
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::RouteOptions;

    fn rules(text: &str) -> Rules {
        #[derive(serde::Deserialize)]
        struct File {
            route: Vec<RouteRule>,
        }
        let file: File = toml::from_str(text).expect("it is right");
        Rules::new(file.route, None, Workers::of(2))
    }

    fn plain() -> Description {
        RouteOptions::new().into_description("a", Default::default)
    }

    #[test]
    fn what_an_author_declares_counts_unless_a_rule_says_otherwise() {
        let declared = RouteOptions::new().priority_max(5).cpu();
        let declared = declared.into_description("a", Default::default);
        let none = Rules::default();
        let guard = none
            .guard(&Arc::from("a"), &declared)
            .expect("it is declared");
        assert!(guard.priority_max() == 5 && guard.workers.is_some());
        let rules = rules("[[route]]\nname = 'a'\npriority = 2");
        let guard = rules
            .guard(&Arc::from("a"), &declared)
            .expect("it has a rule");
        assert!(guard.priority_max() == 2 && guard.workers.is_some());
    }

    #[test]
    fn the_first_rule_that_fits_counts_and_a_route_without_has_no_guard() {
        let rules = rules(
            "[[route]]\nname = 'Orders.get'\npriority = 7\n[[route]]\nname = 'Orders.*'\n\
             priority = 2\nwork = 'cpu'",
        );
        let guard = |route: &str| rules.guard(&Arc::from(route), &plain());
        assert_eq!(
            guard("Orders.get").map(|guard| guard.priority_max()),
            Some(7)
        );
        let place = guard("Orders.place").expect("it has a rule");
        assert!(place.priority_max() == 2 && place.is_gated());
        assert!(guard("Stock.count").is_none());
        let again = guard("Orders.place").expect("it has a rule");
        assert!(Arc::ptr_eq(&place, &again), "all connections share it");
    }

    #[test]
    fn guards_of_rules_that_stay_the_same_are_kept() {
        let text = "[[route]]\nname = 'a'\nconcurrency = 1\n[[route]]\nname = 'b'\nconcurrency = 1";
        let old = rules(text);
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        let (old_a, old_b) = (old.guard(&a, &plain()), old.guard(&b, &plain()));
        let new = rules(&text.replace("'b'\nconcurrency = 1", "'b'\nconcurrency = 2"));
        new.inherit(&old);
        let same = |one: Option<Arc<Guard>>, other: Option<Arc<Guard>>| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(&one, &other),
            _ => false,
        };
        assert!(same(new.guard(&a, &plain()), old_a) && !same(new.guard(&b, &plain()), old_b));
    }
}
