//! Which version of a route a request goes to.
//!
//! ```text
//!  request for NAME, client -> a point between 0 and 1000
//!
//!  shares of the rule, the newest version first:   |-- "2": 10% --|-------- "1": 90% --------|
//! ```
//!
//! The point depends on the client alone: so a client has the same version of all routes of a
//! service, at every server that has these shares, and one that has the newest keeps it while its
//! share grows.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::admission::ClientKey;
use super::served::Served;
use crate::observe::node;
use crate::route::{Route, RouteRule, version};

/// All clients, as shares are told: in tenths of a percent.
const WHOLE: u64 = 1000;

/// The route that a client's request of this name goes to, if there is one.
///
/// What names a version goes there. The share of a version that is not there goes where requests
/// go without shares: to the route without a version, or to the newest.
pub(super) fn choose<'a>(
    table: &'a Served,
    name: &str,
    client: &ClientKey<'_>,
) -> Option<&'a Arc<Route>> {
    let versions = table.versions(name);
    let Some((_, newest)) = versions.first() else {
        return table.get(name);
    };
    let chosen = table.rules.rule(name).and_then(|rule| {
        let version = share_of(rule, point(client))?;
        versions.iter().find(|(known, _)| *known == version)
    });
    let otherwise = || table.get(name).unwrap_or(newest);
    Some(chosen.map_or_else(otherwise, |(_, route)| route))
}

/// Where a client stands among all.
fn point(client: &ClientKey<'_>) -> u64 {
    // Without a seed, so that all servers of a service agree.
    let mut hasher = DefaultHasher::new();
    client.hash(&mut hasher);
    hasher.finish() % WHOLE
}

/// The version in whose share a point lies.
fn share_of(rule: &RouteRule, point: u64) -> Option<&str> {
    let mut shares: Vec<_> = rule.versions.iter().collect();
    shares.sort_by_key(|(version, _)| std::cmp::Reverse(version::age(version)));
    let mut end = 0;
    let mut shares = shares.into_iter();
    let found = shares.find(|(_, share)| {
        end += u64::from(**share);
        point < end
    });
    found.map(|(version, _)| version.as_str())
}

/// Warns of shares whose version no route has: once for each, with the routes that lack it.
pub(super) fn warn_of_missing(table: &Served) {
    for rule in &table.rules.list {
        for version in rule.versions.keys() {
            let lacking = table.lacking(version, |name| {
                let counts = table.rules.rule(name);
                counts.is_some_and(|counts| std::ptr::eq(counts, rule))
            });
            if let Some(first) = lacking.first() {
                node::missing_version(&rule.name, version, first, lacking.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_that_grows_keeps_the_clients_that_it_had() {
        let rule = |text: &str| -> RouteRule {
            let text = format!("name = 'a'\nversions = {text}");
            toml::from_str(&text).expect("it is right")
        };
        let few = rule("{ '10' = '10%', '9' = '90%' }");
        let many = rule("{ '10' = '40%', '9' = '60%' }");
        let newest = |rule: &RouteRule| -> Vec<u64> {
            let points = 0..WHOLE;
            points
                .filter(|point| share_of(rule, *point) == Some("10"))
                .collect()
        };
        let (few, many) = (newest(&few), newest(&many));
        assert_eq!((few.len(), many.len()), (100, 400));
        assert!(few.iter().all(|point| many.contains(point)));
    }
}
