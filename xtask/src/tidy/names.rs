//! Law of names: a name that fits everything says nothing and collects everything.

use super::Violation;
use super::manifest::Manifest;
use super::source::Source;
use super::tree::Tree;

const VAGUE: &[&str] = &[
    "common", "core", "utils", "util", "types", "misc", "helpers", "helper",
];

pub(crate) fn check(tree: &Tree, sources: &[Source<'_>], found: &mut Vec<Violation>) {
    let mut report = |path: &str, line, what: &str, name: &str| {
        let message = format!("{what} called `{name}`: name what it holds");
        found.push(Violation::new(path, line, "vague-name", message));
    };
    for path in tree.paths() {
        for part in path.split('/') {
            let stem = part.split_once('.').map_or(part, |(stem, _)| stem);
            if VAGUE.contains(&stem) {
                report(path, 1, "a file or folder", stem);
            }
        }
    }
    for source in sources {
        // A module in a file of its own is found by the file's name.
        for module in source
            .modules()
            .iter()
            .filter(|module| module.body.is_some())
        {
            if VAGUE.contains(&module.name) {
                report(
                    source.path,
                    source.line_of(module.at),
                    "a module",
                    module.name,
                );
            }
        }
    }
    for (path, text) in tree.with_extension("toml") {
        let manifest = Manifest::parse(text);
        if let Some((line, name)) = manifest.get("package.name")
            && name.split(['-', '_']).any(|part| VAGUE.contains(&part))
        {
            report(path, line, "a crate", name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vague_files_folders_modules_and_crates_are_found() {
        let tree = Tree::of(&[
            ("src/lib.rs", "mod fine {}\nmod util { }"),
            ("src/helpers.rs", ""),
            ("tests/common/mod.rs", ""),
            ("src/common_case.rs", ""),
            ("a/Cargo.toml", "[package]\nname = \"postroad-core\""),
        ]);
        let sources: Vec<_> = tree
            .with_extension("rs")
            .map(|(path, text)| Source::new(path, text))
            .collect();
        let mut found = Vec::new();
        check(&tree, &sources, &mut found);
        found.sort();
        let places: Vec<_> = found
            .iter()
            .map(|found| (found.path.as_str(), found.line))
            .collect();
        assert_eq!(
            places,
            [
                ("a/Cargo.toml", 2),
                ("src/helpers.rs", 1),
                ("src/lib.rs", 2),
                ("tests/common/mod.rs", 1),
            ]
        );
    }
}
