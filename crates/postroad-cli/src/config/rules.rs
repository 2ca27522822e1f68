//! `[[route]]`: what is said of routes, looked at rule by rule, and put into sentences.

use humantime::format_duration;
use postroad::route::{Concurrency, Each, RateRule, RouteRule, Shape, Work};
use serde::Deserialize;

use super::problems::Problems;
use super::service::at_fault;
use super::source::Source;

/// Looks at every key of every rule by itself, so that no mistake hides another.
pub(super) fn check(source: &Source, rules: &[toml::Value], problems: &mut Problems) {
    for (index, rule) in rules.iter().enumerate() {
        let place = format!("route.{index}");
        let Some(table) = rule.as_table() else {
            problems.add(source.key(&place), "write [[route]] and its keys below");
            continue;
        };
        if !table.contains_key("name") {
            problems.add(source.key(&place), "missing key `name`: which routes");
        }
        let mut sound = named("*");
        for (key, value) in table {
            let mut alone = named("*");
            alone.insert(key.clone(), value.clone());
            match RouteRule::deserialize(alone) {
                Ok(_) => drop(sound.insert(key.clone(), value.clone())),
                Err(error) => problems.add(
                    at_fault(source, &place, key, error.message()),
                    error.message(),
                ),
            }
        }
        bounds(source, &place, sound, problems);
    }
}

/// Takes each value out that is out of its bounds until the rest is within them.
fn bounds(source: &Source, place: &str, mut rule: toml::Table, problems: &mut Problems) {
    while let Ok(read) = RouteRule::deserialize(rule.clone()) {
        let Err(error) = read.check() else {
            return;
        };
        let what = error.to_string();
        let name = what.split(" = ").next().unwrap_or_default();
        let key = name.split('.').next().unwrap_or_default();
        let path = format!("{place}.{name}");
        let at = match source.place(&path) {
            Some(_) => source.value(&path),
            None => source.value(&format!("{place}.{key}")),
        };
        problems.add(at, &what);
        if rule.remove(key).is_none() {
            return;
        }
        let whole = named("*").into_iter().chain(rule);
        rule = whole.collect();
    }
}

/// A rule that says nothing but which routes it is for.
fn named(pattern: &str) -> toml::Table {
    toml::Table::from_iter([("name".to_owned(), pattern.into())])
}

/// Whether the first rule is for every route that the second is for.
pub(super) fn covers(first: &RouteRule, second: &RouteRule) -> bool {
    match (first.name.strip_suffix('*'), second.name.strip_suffix('*')) {
        (Some(wide), Some(narrow)) => narrow.starts_with(wide),
        (None, Some(_)) => false,
        (_, None) => first.fits(&second.name),
    }
}

/// What each rule means, and what becomes of the routes that no rule is for.
pub(super) fn explain(rules: &[RouteRule]) -> Vec<String> {
    let has_allow = rules.iter().any(|rule| rule.allow.is_some());
    let sentences = rules.iter().enumerate();
    let sentences = sentences.map(|(index, rule)| sentence(rule, &rules[..index], has_allow));
    let mut sentences: Vec<_> = sentences.collect();
    if has_allow && !rules.iter().any(|rule| rule.name == "*") {
        sentences.push("(every other): nobody may call it".to_owned());
    }
    sentences
}

fn sentence(rule: &RouteRule, earlier: &[RouteRule], has_allow: bool) -> String {
    let name = &rule.name;
    if let Some(hider) = earlier.iter().find(|other| covers(other, rule)) {
        return format!(
            "{name}: never counts, because {} comes before it",
            hider.name
        );
    }
    let mut says = Vec::new();
    says.push(match name.strip_suffix('*') {
        Some("") => "every route".to_owned(),
        Some(beginning) => format!("every route that begins with {beginning:?}"),
        None => "this route".to_owned(),
    });
    let taken = earlier.iter().filter(|other| covers(rule, other));
    let taken: Vec<_> = taken.map(|other| other.name.as_str()).collect();
    if !taken.is_empty() {
        says[0].push_str(&format!(" but {}", taken.join(", ")));
    }
    says.push(match rule.allow.as_deref() {
        Some([]) => "nobody may call".to_owned(),
        Some(allowed) => format!("{} may call", allowed.join(", ")),
        None if has_allow => "nobody may call, because other rules say who may".to_owned(),
        None => "everybody may call".to_owned(),
    });
    let priority = rule.priority;
    says.extend(priority.map(|most| format!("priority {most} at most")));
    let deadline = rule.deadline.map(format_duration);
    says.extend(deadline.map(|time| format!("{time} for a request that says no deadline")));
    says.extend((rule.work == Work::Cpu).then(|| "runs in the worker threads".to_owned()));
    says.extend(rule.concurrency.map(|most| match most {
        Concurrency::Fixed(most) => format!("{most} at once"),
        _ => "as many at once as it answers without becoming slow".to_owned(),
    }));
    says.extend(rule.rate.as_ref().map(rate));
    let versions = rule.versions.iter();
    says.extend(
        versions.map(|(version, share)| format!("{} to version {version}", percent(*share))),
    );
    format!("{name}: {}", says.join("; "))
}

/// How often, in words.
fn rate(rate: &RateRule) -> String {
    let whom = match rate.each {
        Each::Client => "each client",
        _ => "each route",
    };
    let every = format_duration(rate.interval);
    match rate.shape {
        Shape::Leaky => format!("one request every {every} of {whom}, evenly"),
        _ => {
            let burst = rate.burst;
            format!("one request every {every} of {whom}, and {burst} at once after a silence")
        }
    }
}

fn percent(permille: u32) -> String {
    match permille % 10 {
        0 => format!("{}%", permille / 10),
        tenth => format!("{}.{tenth}%", permille / 10),
    }
}

/// How many at once, as it is written in a file.
pub(super) fn most(most: Concurrency) -> String {
    match most {
        Concurrency::Fixed(most) => most.to_string(),
        _ => "\"auto\"".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(names: &[&str]) -> Vec<RouteRule> {
        names.iter().map(|name| RouteRule::of(*name)).collect()
    }

    #[test]
    fn a_rule_is_hidden_only_by_one_that_is_for_all_of_its_routes() {
        for (first, second, is_hidden) in [
            ("Orders.*", "Orders.place", true),
            ("Orders.*", "Orders.p*", true),
            ("*", "Orders.*", true),
            ("Orders.place", "Orders.place", true),
            ("Orders.p*", "Orders.*", false),
            ("Orders.place", "Orders.*", false),
            ("Orders.place", "Orders.place*", false),
            ("Orders.*", "Order", false),
        ] {
            let rules = rules(&[first, second]);
            assert_eq!(covers(&rules[0], &rules[1]), is_hidden, "{first} {second}");
        }
    }

    #[test]
    fn once_a_rule_says_who_may_call_the_others_let_nobody() {
        let mut open = rules(&["a*", "b"]);
        assert!(
            explain(&open)
                .iter()
                .all(|said| said.contains("everybody may call"))
        );
        open[0].allow = Some(vec!["role:trader".to_owned()]);
        let said = explain(&open);
        assert!(said[0].contains("role:trader may call"), "{said:?}");
        assert!(said[1].contains("nobody may call"), "{said:?}");
        assert_eq!(said[2], "(every other): nobody may call it");
    }
}
