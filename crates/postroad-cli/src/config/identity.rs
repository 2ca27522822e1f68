//! `[identity]`: how it is found out who calls, and where that is written down.

use std::ops::Range;

use postroad::identity::IdentityConfig;
use serde::Deserialize;

use super::source::Source;

/// Looks at the section as a whole, whose single keys have been looked at: what is out of its
/// bounds is told with its place.
pub(super) fn check(
    source: &Source,
    section: &toml::Value,
    wrong: &mut dyn FnMut(Range<usize>, &str),
) {
    let Ok(identity) = IdentityConfig::deserialize(section.clone()) else {
        return;
    };
    let Err(error) = identity.check() else {
        return;
    };
    let what = error.to_string();
    // The error begins with the path of the key.
    let path = what.split(" = ").next().unwrap_or_default();
    let at = match source.place(path) {
        Some(_) => source.value(path),
        None => source.key("identity"),
    };
    wrong(at, &what);
}
