//! Law of reach: every Rust file is compiled into something.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Violation;
use super::lexer::Kind;
use super::manifest::Manifest;
use super::source::{Module, Source};
use super::tree::{Tree, parent, resolve};

/// The folders that cargo searches for targets, beside `src`.
const TARGET_FOLDERS: &[&str] = &["src/bin", "tests", "benches", "examples"];

/// Reports files that no `mod` leads to, and marks those that only tests lead to.
pub(crate) fn check(tree: &Tree, sources: &mut [Source<'_>], found: &mut Vec<Violation>) {
    let mut packages = Vec::new();
    let mut walk = Walk::new(sources);
    for (path, text) in tree.with_extension("toml") {
        if path == "Cargo.toml" || path.ends_with("/Cargo.toml") {
            let home = parent(path);
            walk.package(home, &Manifest::parse(text));
            packages.push(home.to_owned());
        }
    }
    let reached = walk.reached;
    for source in sources {
        match reached.get(source.path) {
            Some(only_by_tests) => source.is_test |= only_by_tests,
            None if must_be_reached(tree, &packages, source.path) => {
                let message = "no `mod` declaration leads to this file";
                found.push(Violation::new(source.path, 1, "dead-file", message));
            }
            None => {}
        }
    }
}

/// Files below `src`, and modules shared by tests. Other files below `tests` may be data,
/// such as programs that must not compile.
fn must_be_reached(tree: &Tree, packages: &[String], path: &str) -> bool {
    packages.iter().any(|home| {
        let inside = match home.as_str() {
            "" => Some(path),
            home => path
                .strip_prefix(home)
                .and_then(|rest| rest.strip_prefix('/')),
        };
        let Some(inside) = inside else {
            return false;
        };
        let target = TARGET_FOLDERS
            .iter()
            .any(|folder| inside.starts_with(&format!("{folder}/")));
        let shared = tree.exists(&format!("{}/mod.rs", parent(path)));
        inside.starts_with("src/") || (target && shared)
    })
}

/// A walk along `mod` declarations from the files that cargo compiles.
struct Walk<'s, 'a> {
    sources: BTreeMap<&'a str, &'s Source<'a>>,
    /// Path to whether only tests lead there.
    reached: BTreeMap<String, bool>,
}

impl<'s, 'a> Walk<'s, 'a> {
    fn new(sources: &'s [Source<'a>]) -> Self {
        Self {
            sources: sources.iter().map(|source| (source.path, source)).collect(),
            reached: BTreeMap::new(),
        }
    }

    fn package(&mut self, home: &str, manifest: &Manifest) {
        for fixed in ["build.rs", "src/lib.rs", "src/main.rs"] {
            self.root(home, fixed);
        }
        for path in manifest.target_paths() {
            self.root(home, &path);
        }
        let paths: Vec<&str> = self.sources.keys().copied().collect();
        for folder in TARGET_FOLDERS {
            let prefix = resolve(home, folder).unwrap_or_default() + "/";
            for path in &paths {
                let Some(inside) = path.strip_prefix(&prefix) else {
                    continue;
                };
                // `tests/a.rs` and `tests/a/main.rs` are programs of their own.
                if !inside.contains('/') || inside.split('/').skip(1).eq(["main.rs"]) {
                    self.root("", path);
                }
            }
        }
    }

    fn root(&mut self, home: &str, path: &str) {
        if let Some(path) = resolve(home, path) {
            let folder = parent(&path).to_owned();
            self.visit(path, &folder, false);
        }
    }

    /// Follows the modules of one file, whose own modules live in `folder`.
    fn visit(&mut self, path: String, folder: &str, only_by_tests: bool) {
        let Some(source) = self.sources.get(path.as_str()).copied() else {
            return;
        };
        let only_by_tests = only_by_tests || source.is_test;
        match self.reached.get(&path) {
            // Seen by a way that says as much; the file may still be news as shipped code.
            Some(before) if !before || only_by_tests => return,
            _ => self.reached.insert(path.clone(), only_by_tests),
        };
        let modules = source.modules();
        for module in &modules {
            if module.body.is_none() {
                let inline = enclosing(&modules, module.at);
                let tests = only_by_tests || source.in_test(module.at);
                self.declaration(&path, folder, &inline, module, tests);
            }
        }
        for at in source.find("include!(") {
            if let Some(name) = source.code.get(at + 3)
                && name.kind == Kind::Str
                && let Some(target) = resolve(parent(&path), name.text.trim_matches('"'))
            {
                let tests = only_by_tests || source.in_test(at);
                self.visit(target, folder, tests);
            }
        }
    }

    fn declaration(
        &mut self,
        path: &str,
        folder: &str,
        inline: &[&str],
        module: &Module<'_>,
        tests: bool,
    ) {
        let inner = inline.join("/");
        for given in &module.paths {
            // Relative to the file itself, or, inside inline modules, to their folder.
            let base = if inline.is_empty() {
                parent(path)
            } else {
                folder
            };
            let file = resolve(base, &inner).and_then(|base| resolve(&base, given));
            if let Some(file) = file {
                let folder = parent(&file).to_owned();
                self.visit(file, &folder, tests);
            }
        }
        if module.is_elsewhere {
            return;
        }
        let Some(below) = resolve(folder, &inner).and_then(|at| resolve(&at, module.name)) else {
            return;
        };
        for file in [format!("{below}.rs"), format!("{below}/mod.rs")] {
            self.visit(file, &below, tests);
        }
    }
}

/// Names of the inline modules around a token, outermost first.
fn enclosing<'a>(modules: &[Module<'a>], at: usize) -> Vec<&'a str> {
    let around = |body: &Option<Range<usize>>| body.as_ref().is_some_and(|b| b.contains(&at));
    let around = modules.iter().filter(|module| around(&module.body));
    around.map(|module| module.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dead files, and files that only tests lead to.
    fn walk(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let tree = Tree::of(files);
        let mut sources: Vec<_> = tree
            .with_extension("rs")
            .map(|(path, text)| Source::new(path, text))
            .collect();
        let mut found = Vec::new();
        check(&tree, &mut sources, &mut found);
        let dead = found.into_iter().map(|found| found.path).collect();
        let tests = sources.iter().filter(|source| source.is_test);
        (dead, tests.map(|source| source.path.to_owned()).collect())
    }

    #[test]
    fn files_that_nobody_declares_are_dead() {
        let (dead, _) = walk(&[
            ("a/Cargo.toml", ""),
            (
                "a/src/lib.rs",
                "mod b; mod c; mod d { mod e; } #[path = \"odd.rs\"] mod f;",
            ),
            ("a/src/b.rs", "mod g;"),
            ("a/src/b/g.rs", ""),
            ("a/src/c/mod.rs", "mod h;"),
            ("a/src/c/h.rs", ""),
            ("a/src/d/e.rs", ""),
            ("a/src/odd.rs", ""),
            ("a/src/f.rs", "// the module f is odd.rs"),
            ("a/src/bin/tool.rs", ""),
            ("a/src/bin/big/main.rs", "mod part;"),
            ("a/src/bin/big/part.rs", ""),
            ("a/src/g.rs", "// b's g is another file"),
            ("a/src/e.rs", ""),
            ("notes/x.rs", "// belongs to no package"),
        ]);
        assert_eq!(dead, ["a/src/e.rs", "a/src/f.rs", "a/src/g.rs"]);
    }

    #[test]
    fn tests_are_roots_and_share_modules() {
        let (dead, _) = walk(&[
            (
                "Cargo.toml",
                "[[bin]]\nname = \"x\"\npath = \"src/tool/start.rs\"",
            ),
            ("src/tool/start.rs", ""),
            ("tests/one.rs", "mod peers;"),
            ("tests/peers/mod.rs", "mod nats;"),
            ("tests/peers/nats.rs", ""),
            ("tests/unused/mod.rs", ""),
            ("tests/refused/wrong_type.rs", "// data of a test"),
        ]);
        assert_eq!(dead, ["tests/unused/mod.rs"]);
    }

    #[test]
    fn modules_declared_for_tests_are_test_code() {
        let (dead, tests) = walk(&[
            ("a/Cargo.toml", ""),
            (
                "a/src/lib.rs",
                "#[cfg(test)] mod harness; mod b; #[cfg(test)] mod c;",
            ),
            ("a/src/harness.rs", "mod pair;"),
            ("a/src/harness/pair.rs", ""),
            ("a/src/b.rs", "#[cfg_attr(unix, path = \"c.rs\")] mod c;"),
            ("a/src/c.rs", ""),
        ]);
        assert_eq!(dead, [""; 0]);
        assert_eq!(tests, ["a/src/harness.rs", "a/src/harness/pair.rs"]);
    }

    #[test]
    fn modules_that_name_each_other_end() {
        let (dead, _) = walk(&[
            ("Cargo.toml", ""),
            (
                "src/lib.rs",
                "#[path = \"lib.rs\"] mod again; include!(\"part.rs\");",
            ),
            ("src/part.rs", "include!(\"part.rs\");"),
        ]);
        assert_eq!(dead, [""; 0]);
    }
}
