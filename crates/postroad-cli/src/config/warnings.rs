//! What a configuration says that has no effect, or leads nowhere: a node starts with it all the
//! same.

use postroad::config::{Dialect, Envelope};
use postroad::route::RouteRule;
use postroad::transport::Transports;
use postroad::{Endpoint, Protocol};

use super::problems::Problems;
use super::rules::covers;
use super::source::Source;

/// The routes that `serve` has.
const BUILT_IN: [&str; 4] = [
    "postroad/echo",
    "postroad/health",
    "postroad/identify",
    "postroad/routes",
];
/// Those that `serve --practice` adds.
const PRACTICE: [&str; 5] = [
    "practice/count",
    "practice/fail",
    "practice/size",
    "practice/sleep",
    "practice/spin",
];

/// Keys that only native connections heed.
const NATIVE_KEYS: [&str; 6] = [
    "connection.heartbeat",
    "connection.checksum",
    "limits.max_frame",
    "limits.max_message",
    "limits.max_routes",
    "limits.assemblies",
];

/// Looks at the listeners and rules of a file, in its order, and at its keys.
pub(super) fn find(source: &Source, listeners: &[Endpoint], rules: &[RouteRule]) -> Problems {
    let mut found = source.problems().called("warnings");
    for (index, endpoint) in listeners.iter().enumerate() {
        let mut warn = |key: &str, what: String| {
            let at = source.value(&format!("listen.{index}.{key}"));
            found.add(at, &what);
        };
        mapping(endpoint, &mut warn);
        let transports = Transports::default();
        let transport = transports.get(endpoint).ok();
        if let Some(what) = transport.and_then(|transport| transport.warning(endpoint)) {
            warn("url", what);
        }
    }
    never_counting(source, rules, &mut found);
    versions(source, rules, &mut found);
    let is_native = |endpoint: &Endpoint| !matches!(endpoint.protocol(), Protocol::Dialect(_));
    let is_dialect = |endpoint: &Endpoint| !matches!(endpoint.protocol(), Protocol::Native);
    if !listeners.is_empty() && !listeners.iter().any(is_native) {
        for key in NATIVE_KEYS {
            if source.place(key).is_some() {
                let what = "no effect: only native connections heed it, and no listener has any";
                found.add(source.key(key), what);
            }
        }
    }
    let key = "limits.max_dialect_payload";
    if !listeners.is_empty() && !listeners.iter().any(is_dialect) && source.place(key).is_some() {
        let what = "no effect: only dialects heed it, and no listener speaks one";
        found.add(source.key(key), what);
    }
    found
}

/// Warns of rules that can never count: an earlier one is for all of their routes, or there are
/// none.
fn never_counting(source: &Source, rules: &[RouteRule], found: &mut Problems) {
    for (index, rule) in rules.iter().enumerate() {
        let at = || source.value(&format!("route.{index}.name"));
        if let Some(hider) = rules[..index].iter().position(|other| covers(other, rule)) {
            let place = source.place(&format!("route.{hider}.name"));
            let place = place.unwrap_or_else(|| "before it".to_owned());
            let earlier = &rules[hider].name;
            let what = format!(
                "can never count: the rule {earlier:?} ({place}) is for all routes that {:?} is \
                 for, and the first that fits counts",
                rule.name
            );
            found.add(at(), &what);
        } else if !BUILT_IN
            .iter()
            .chain(&PRACTICE)
            .any(|known| rule.fits(known))
        {
            let (built_in, practice) = (BUILT_IN.join(", "), PRACTICE.join(", "));
            let what = format!(
                "unknown route {:?}: there are {built_in}; with --practice also {practice}",
                rule.name
            );
            found.add(at(), &what);
        }
    }
}

/// Warns of shares for versions: no route of this program has any.
fn versions(source: &Source, rules: &[RouteRule], found: &mut Problems) {
    for (index, rule) in rules.iter().enumerate() {
        if !rule.versions.is_empty() {
            let at = source.value(&format!("route.{index}.versions"));
            found.add(
                at,
                "no effect: of each route of `serve` there is one version",
            );
        }
    }
}

/// Which route a listener's requests come to.
fn mapping(endpoint: &Endpoint, warn: &mut impl FnMut(&str, String)) {
    let mapping = endpoint.mapping();
    if matches!(endpoint.protocol(), Protocol::Native) {
        for (key, is_set) in [
            ("codes", !mapping.codes.is_empty()),
            ("route", mapping.fixed.is_some()),
            ("envelope", mapping.envelope.is_some()),
        ] {
            if is_set {
                let what = format!("no effect: {endpoint} is native, whose requests name routes");
                warn(key, what);
            }
        }
        return;
    }
    let says_codes = match endpoint.protocol() {
        Protocol::Native => false,
        Protocol::Auto => true,
        Protocol::Dialect(codec) => matches!(codec.dialect, Dialect::Session | Dialect::Opcode),
    };
    let says_codes = match mapping.envelope {
        Some(envelope) => envelope == Envelope::MsgPack,
        None => says_codes,
    };
    if !says_codes && !mapping.codes.is_empty() {
        warn(
            "codes",
            format!("no effect: requests of {endpoint} have no codes"),
        );
    }
    let fixed = mapping.fixed.iter().map(|route| ("route", route));
    let codes = mapping.codes.values().map(|route| ("codes", route));
    for (key, route) in fixed.chain(codes) {
        let route = route.as_ref();
        if PRACTICE.contains(&route) {
            warn(
                key,
                format!("{route:?} is there with `serve --practice` only"),
            );
        } else if !BUILT_IN.contains(&route) {
            let (built_in, practice) = (BUILT_IN.join(", "), PRACTICE.join(", "));
            let what = format!(
                "unknown route {route:?}: there are {built_in}; with --practice also {practice}"
            );
            warn(key, what);
        }
    }
}
