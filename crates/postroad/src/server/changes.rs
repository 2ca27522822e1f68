//! What is different between two configurations of a server, key by key.

use std::time::Duration;

use super::ServerConfig;
use crate::config::{Change, Effect};
use crate::route::{Concurrency, RateRule, RouteRule, Work};

/// What is said where nothing is set.
const NONE: &str = "none";

/// A key, its value, and from when on another value would count.
type Setting = (&'static str, String, Effect);

/// Every setting that differs.
pub(super) fn changes(from: &ServerConfig, to: &ServerConfig) -> Vec<Change> {
    let all = |config| settings(config).into_iter().chain(of_identity(config));
    let pairs = all(from).zip(all(to));
    let differ = pairs.filter(|((_, from, _), (_, to, _))| from != to);
    let mut changes: Vec<_> = differ
        .map(|((key, from, effect), (_, to, _))| Change::new(key, from, to, effect))
        .collect();
    of_rules(&from.rules, &to.rules, &mut changes);
    changes
}

/// Who is believed, and where it is written down.
fn of_identity(config: &ServerConfig) -> Vec<Setting> {
    let identity = &config.identity;
    let jwt = identity.jwt.as_ref().map(|jwt| format!("{jwt:?}"));
    let audit = identity.audit.as_ref().map(|audit| format!("{audit:?}"));
    vec![
        ("identity.jwt", or_none(jwt), Effect::NextStart),
        ("identity.audit", or_none(audit), Effect::NextStart),
    ]
}

/// Every setting but the rules of routes and the identity.
fn settings(config: &ServerConfig) -> Vec<Setting> {
    let (connection, limits) = (&config.connection, &config.connection.limits);
    let number = |value: usize| value.to_string();
    let some = |value: Option<usize>| or_none(value);
    let time = |value: Duration| format!("{value:?}");
    let (now, new) = (Effect::Now, Effect::NewConnections);
    vec![
        ("server.workers", some(config.workers), Effect::NextStart),
        (
            "server.max_connections",
            number(config.max_connections),
            now,
        ),
        (
            "server.max_connections_per_address",
            some(config.max_connections_per_address),
            now,
        ),
        ("server.memory_max", some(config.memory_max), now),
        ("server.max_requests", number(config.max_requests), now),
        ("server.lameduck", time(config.lameduck), now),
        ("server.drain", time(config.drain), now),
        (
            "server.concurrency",
            or_none(config.concurrency.map(most)),
            now,
        ),
        ("server.shed", config.shed.to_string(), now),
        ("workers.cpu", some(config.cpu_workers), now),
        ("connection.preset", connection.preset.to_string(), new),
        ("connection.heartbeat", time(connection.heartbeat), new),
        ("connection.handshake", time(connection.handshake), new),
        ("connection.read_stall", time(connection.read_stall), new),
        ("connection.write_stall", time(connection.write_stall), new),
        ("connection.idle", or_none(connection.idle.map(time)), new),
        ("connection.checksum", or_none(connection.checksum), new),
        (
            "connection.accepts_credentials",
            connection.accepts_credentials.to_string(),
            new,
        ),
        (
            "connection.versions",
            format!("{:?}", connection.versions),
            new,
        ),
        ("limits.max_frame", number(limits.max_frame), new),
        ("limits.max_message", number(limits.max_message), new),
        ("limits.max_calls", number(limits.max_calls), new),
        ("limits.max_routes", number(limits.max_routes), new),
        (
            "limits.max_dialect_payload",
            number(limits.max_dialect_payload),
            new,
        ),
        ("limits.outbox_pause", number(limits.outbox_pause), new),
        ("limits.outbox_max", number(limits.outbox_max), new),
        ("limits.assembly_max", number(limits.assembly_max), new),
        ("limits.assemblies", number(limits.assemblies), new),
    ]
}

/// What is different between two lists of rules. A rule is known by its pattern; of several with
/// one pattern only the first counts.
fn of_rules(from: &[RouteRule], to: &[RouteRule], changes: &mut Vec<Change>) {
    let find = |rules: &[RouteRule], name: &str| -> Option<RouteRule> {
        rules.iter().find(|rule| rule.name == name).cloned()
    };
    let mut change = |key: String, from: String, to: String| {
        changes.push(Change::new(key, from, to, Effect::Now));
    };
    for rule in distinct(from) {
        if find(to, &rule.name).is_none() {
            change(key(rule), whole(rule), NONE.to_owned());
        }
    }
    for rule in distinct(to) {
        let Some(before) = find(from, &rule.name) else {
            change(key(rule), NONE.to_owned(), whole(rule));
            continue;
        };
        for ((name, from), (_, to)) in said(&before).into_iter().zip(said(rule)) {
            if from != to {
                change(format!("{}.{name}", key(rule)), from, to);
            }
        }
    }
    let order = |rules: &[RouteRule], others: &[RouteRule]| {
        let kept = distinct(rules).filter(|rule| find(others, &rule.name).is_some());
        let names: Vec<_> = kept.map(|rule| rule.name.clone()).collect();
        names.join(", ")
    };
    let (before, after) = (order(from, to), order(to, from));
    if before != after {
        change("route (their order)".to_owned(), before, after);
    }
}

/// The first rule of each pattern.
fn distinct(rules: &[RouteRule]) -> impl Iterator<Item = &RouteRule> {
    let is_first = |at: usize, name: &str| !rules[..at].iter().any(|rule| rule.name == name);
    let rules = rules.iter().enumerate();
    let first = rules.filter(move |(at, rule)| is_first(*at, &rule.name));
    first.map(|(_, rule)| rule)
}

fn key(rule: &RouteRule) -> String {
    format!("route.{:?}", rule.name)
}

/// All that a rule says, in one line.
fn whole(rule: &RouteRule) -> String {
    let nothing = said(&RouteRule::of(""));
    let says = said(rule).into_iter().zip(nothing);
    let says = says.filter(|((_, says), (_, nothing))| says != nothing);
    let says: Vec<_> = says
        .map(|((key, value), _)| format!("{key} = {value}"))
        .collect();
    format!("{{ {} }}", says.join(", "))
}

/// Each key of a rule with its value.
fn said(rule: &RouteRule) -> [(&'static str, String); 7] {
    let work = match rule.work {
        Work::InPlace => "in-place",
        Work::Cpu => "cpu",
    };
    let deadline = rule.deadline.map(|time| format!("{time:?}"));
    let allow = rule.allow.as_ref().map(|who| format!("{who:?}"));
    let shares = rule.versions.iter();
    let shares: Vec<_> = shares
        .map(|(version, share)| format!("{version:?} = {}.{}%", share / 10, share % 10))
        .collect();
    let versions = (!shares.is_empty()).then(|| shares.join(", "));
    [
        ("priority", or_none(rule.priority)),
        ("deadline", or_none(deadline)),
        ("allow", or_none(allow)),
        ("work", work.to_owned()),
        ("concurrency", or_none(rule.concurrency.map(most))),
        ("rate", or_none(rule.rate.as_ref().map(rate))),
        ("versions", or_none(versions)),
    ]
}

fn rate(rate: &RateRule) -> String {
    let (each, shape, burst) = (rate.each, rate.shape, rate.burst);
    let every = rate.interval;
    let text = format!("one every {every:?} each {each:?}, burst {burst}, {shape:?}");
    text.to_lowercase()
}

fn most(most: Concurrency) -> String {
    match most {
        Concurrency::Auto => "auto".to_owned(),
        Concurrency::Fixed(most) => most.to_string(),
    }
}

fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(from: &[RouteRule], to: &[RouteRule]) -> Vec<String> {
        let config = |rules: &[RouteRule]| ServerConfig {
            rules: rules.to_vec(),
            ..ServerConfig::default()
        };
        let changes = changes(&config(from), &config(to));
        changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_that_come_go_change_and_move_are_each_told() {
        let (mut a, b, c) = (RouteRule::of("a"), RouteRule::of("b"), RouteRule::of("c*"));
        assert_eq!(shown(&[], &[]), [""; 0]);
        let before = [a.clone(), b.clone()];
        a.priority = Some(5);
        a.deadline = Some(Duration::from_millis(250));
        assert_eq!(
            shown(&before, &[c.clone(), b.clone(), a.clone()]),
            [
                "route.\"c*\": none -> {  }",
                "route.\"a\".priority: none -> 5",
                "route.\"a\".deadline: none -> 250ms",
                "route (their order): a, b -> b, a",
            ]
        );
        assert_eq!(
            shown(&[a], &[]),
            ["route.\"a\": { priority = 5, deadline = 250ms } -> none"]
        );
    }

    #[test]
    fn only_what_differs_is_told_with_its_effect() {
        let from = ServerConfig::default();
        let mut to = from.clone();
        to.workers = Some(4);
        to.max_connections = 10;
        to.connection.limits.max_calls = 5;
        let changes = changes(&from, &to);
        let shown: Vec<_> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "server.workers: none -> 4 (takes effect at the next start)",
                "server.max_connections: 65536 -> 10",
                "limits.max_calls: 1000 -> 5 (for new connections)",
            ]
        );
    }
}
