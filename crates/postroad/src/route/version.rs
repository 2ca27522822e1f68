//! Several versions of a route side by side: how they are named, and which is the newest.

/// What stands between the name of a route and its version.
const MARK: char = '@';

/// The name of one version of a route.
pub(crate) fn name_of(route: &str, version: &str) -> String {
    format!("{route}{MARK}{version}")
}

/// The name of a route without its version, and the version if there is one.
pub(crate) fn split(route: &str) -> (&str, Option<&str>) {
    match route.rsplit_once(MARK) {
        Some((plain, version)) if is_name(version) => (plain, Some(version)),
        _ => (route, None),
    }
}

/// What a version may be called, in words.
pub(crate) const NAMES: &str = "1 to 32 of the characters A-Z, a-z, 0-9, `.`, `-` and `_`";

/// Whether a version may have this name.
pub(crate) fn is_name(version: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    (1..=32).contains(&version.len()) && version.chars().all(is_allowed)
}

/// What versions are compared by: the parts between dots, as numbers where they are numbers.
pub(crate) fn age(version: &str) -> Vec<Result<u64, &str>> {
    let parts = version.split('.');
    parts.map(|part| part.parse().map_err(|_| part)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers_where_they_are_numbers() {
        let mut versions = ["10", "2", "1.10", "1.9", "1"];
        versions.sort_by_key(|version| age(version));
        assert_eq!(versions, ["1", "1.9", "1.10", "2", "10"]);
    }

    #[test]
    fn a_version_is_what_stands_behind_the_last_mark() {
        assert_eq!(split("Orders.place"), ("Orders.place", None));
        let topic = "user@home/login";
        assert_eq!(split(topic), (topic, None), "no version has a `/`");
        assert_eq!(split(&name_of(topic, "2")), (topic, Some("2")));
        assert!(is_name("2.1") && !is_name("") && !is_name("a@b") && !is_name("2*"));
    }
}
