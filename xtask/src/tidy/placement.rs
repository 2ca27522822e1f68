//! No law, but a count: attributes that tell the compiler where code has to go.
//!
//! Each is a claim that somebody knows better than the compiler. `cargo xtask counts` shows
//! whether that is so; the number shows whether the claims become more.

use std::collections::BTreeMap;

use super::source::Source;

const ATTRIBUTES: &[&str] = &[
    "#[inline]",
    "#[inline(always)]",
    "#[inline(never)]",
    "#[cold]",
];

/// A line for each crate that places code by hand, with how often it does.
pub(crate) fn report(sources: &[Source<'_>]) -> String {
    let mut crates: BTreeMap<&str, [usize; ATTRIBUTES.len()]> = BTreeMap::new();
    for source in sources {
        let Some((home, _)) = source.path.split_once("/src/") else {
            continue;
        };
        for (attribute, text) in ATTRIBUTES.iter().enumerate() {
            let found = source.find(text).into_iter();
            let count = found.filter(|at| !source.in_test(*at)).count();
            if count > 0 {
                crates.entry(home).or_default()[attribute] += count;
            }
        }
    }
    let line = |(home, counts): (&str, [usize; ATTRIBUTES.len()])| {
        let parts = ATTRIBUTES.iter().zip(counts);
        let parts = parts.filter(|(_, count)| *count > 0);
        let parts: Vec<_> = parts.map(|(text, n)| format!("{n} {text}")).collect();
        format!("placed by hand in {home}: {}\n", parts.join(", "))
    };
    crates.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_place_code_are_counted_for_each_crate() {
        let files = [
            ("a/src/lib.rs", "#[inline] fn f() {} #[cold] fn g() {}"),
            (
                "a/src/b.rs",
                "#[inline]\n#[must_use] fn f() {} // #[inline]",
            ),
            ("b/src/lib.rs", "#[inline(never)] fn f() {}"),
            (
                "c/src/lib.rs",
                "#[cfg(test)] mod tests { #[inline] fn f() {} }",
            ),
            ("d/src/lib.rs", "\"#[cold]\""),
        ];
        let sources = files.map(|(path, text)| Source::new(path, text));
        assert_eq!(
            report(&sources),
            "placed by hand in a: 2 #[inline], 1 #[cold]\n\
             placed by hand in b: 1 #[inline(never)]\n"
        );
    }
}
