//! Law of circles: the modules that stand beside each other in a crate have an order.
//!
//! An arrow goes from a module to each module that *defines* an item it names, by `use` or by a
//! path; names are followed through re-exports to their definition, so a re-export is no arrow for
//! those who import by it. A module counts together with all that is below it. The arrows between
//! the children of one parent must not form a circle, at every level of the crate.
//!
//! There is no arrow between a module and those below it: `transport/mod.rs` may define the trait
//! that `transport/tcp.rs` implements, and make a `Tcp` itself. From outside they are one thing,
//! and it is the arrows of that one thing that count. Test code has no arrows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Violation;
use super::imports::import_at;
use super::lexer::{Kind, Token};
use super::modules::Modules;
use super::source::Source;

/// Where a module first names an item of another, what it writes there, and where the item is.
#[derive(Clone, Debug)]
struct Arrow<'a> {
    file: &'a str,
    line: usize,
    text: String,
    target: &'a str,
}

/// From module to module; both have the same parent.
type Arrows<'a> = BTreeMap<String, BTreeMap<String, Arrow<'a>>>;

pub(crate) fn check(sources: &[Source<'_>], found: &mut Vec<Violation>) {
    let by_path: BTreeMap<_, _> = sources.iter().map(|source| (source.path, source)).collect();
    for source in sources {
        let is_root = ["src/lib.rs", "src/main.rs"]
            .iter()
            .any(|root| source.path == *root || source.path.ends_with(&format!("/{root}")));
        if is_root {
            let modules = Modules::of(source.path, &by_path);
            report(&arrows(&modules), found);
        }
    }
}

fn arrows<'a>(modules: &Modules<'_, 'a>) -> Arrows<'a> {
    let mut arrows = Arrows::new();
    for (index, module) in modules.all.iter().enumerate() {
        for mention in mentions(modules, index) {
            for target in modules.definers(index, &mention.path) {
                let target = &modules.all[target];
                let both = module.path.iter().zip(&target.path);
                let shared = both.take_while(|(one, other)| one == other).count();
                let (Some(from), Some(to)) =
                    (module.path.get(..=shared), target.path.get(..=shared))
                else {
                    // One is above the other, or they are the same.
                    continue;
                };
                let from = arrows.entry(from.join("::")).or_default();
                from.entry(to.join("::")).or_insert_with(|| Arrow {
                    file: module.source.path,
                    line: module.source.line_of(mention.at),
                    text: mention.path.join("::"),
                    target: target.source.path,
                });
            }
        }
    }
    arrows
}

/// A path as it is written in a module.
struct Mention<'a> {
    at: usize,
    path: Vec<&'a str>,
}

fn mentions<'a>(modules: &Modules<'_, 'a>, index: usize) -> Vec<Mention<'a>> {
    let module = &modules.all[index];
    let code = &module.source.code;
    let mut found = Vec::new();
    let mut at = module.body.start;
    while at < module.body.end {
        let inner = modules.all.iter().find(|inner| {
            inner.source.path == module.source.path
                && inner.body.start == at
                && inner.body.len() < module.body.len()
        });
        if let Some(inner) = inner {
            // An inline module speaks for itself.
            at = inner.body.end + 1;
        } else if module.source.in_test(at) {
            at += 1;
        } else if code[at].is("use") {
            let imports = import_at(code, at);
            let end = imports.last().map_or(at, |import| import.at);
            let paths = imports.into_iter().map(|import| import.path);
            found.extend(paths.map(|path| Mention { at, path }));
            at = end.max(at) + 1;
        } else {
            let path = path_at(code, at);
            let width = path.len().max(1) * 3 - 2;
            if path.len() > 1 || (path.len() == 1 && module.has_globs()) {
                found.push(Mention { at, path });
            }
            at += width;
        }
    }
    found
}

/// The path `a::b::c` at this index; empty if there is none.
fn path_at<'a>(code: &[Token<'a>], mut at: usize) -> Vec<&'a str> {
    let mut path = Vec::new();
    while let Some(token) = code.get(at)
        && token.kind == Kind::Ident
    {
        path.push(token.text);
        let is_longer = [1, 2]
            .iter()
            .all(|n| code.get(at + n).is_some_and(|t| t.is(":")));
        if !is_longer {
            break;
        }
        at += 3;
    }
    path
}

fn report(arrows: &Arrows<'_>, found: &mut Vec<Violation>) {
    let mut told: BTreeSet<&str> = BTreeSet::new();
    for start in arrows.keys() {
        if told.contains(start.as_str()) {
            continue;
        }
        let Some(circle) = shortest_circle(arrows, start) else {
            continue;
        };
        let knot = reachable(arrows, start).into_iter();
        let knot = knot.filter(|module| reachable(arrows, module).contains(start.as_str()));
        let knot: Vec<&str> = knot.collect();
        let first = &arrows[circle[0]][circle[1]];
        let message = message(arrows, &circle, &knot);
        found.push(Violation::new(first.file, first.line, "circle", message));
        told.extend(knot);
    }
}

/// The fewest arrows that lead from a module back to it, as the modules on the way.
fn shortest_circle<'m>(arrows: &'m Arrows<'_>, start: &'m str) -> Option<Vec<&'m str>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(module) = queue.pop_front() {
        for next in arrows.get(module).into_iter().flat_map(BTreeMap::keys) {
            if next == start {
                let mut circle = vec![start, module];
                while let Some(before) = came_from.get(circle[circle.len() - 1]) {
                    circle.push(before);
                }
                circle.reverse();
                return Some(circle);
            }
            if !came_from.contains_key(next.as_str()) {
                came_from.insert(next, module);
                queue.push_back(next);
            }
        }
    }
    None
}

fn reachable<'m>(arrows: &'m Arrows<'_>, start: &str) -> BTreeSet<&'m str> {
    let mut found = BTreeSet::new();
    let mut open = vec![start];
    while let Some(module) = open.pop() {
        for next in arrows.get(module).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(next.as_str()) {
                open.push(next);
            }
        }
    }
    found
}

fn message(arrows: &Arrows<'_>, circle: &[&str], knot: &[&str]) -> String {
    let names: Vec<_> = circle.iter().map(|name| format!("`{name}`")).collect();
    let mut text = format!("these modules go in a circle: {}", names.join(" -> "));
    for two in circle.windows(2) {
        let arrow = &arrows[two[0]][two[1]];
        let (file, line, target) = (arrow.file, arrow.line, arrow.target);
        text.push_str(&format!(
            "\n    {file}:{line} uses `{}` of {target}",
            arrow.text
        ));
    }
    let others = knot.iter().filter(|module| !circle.contains(module));
    let others: Vec<_> = others.map(|module| format!("`{module}`")).collect();
    if !others.is_empty() {
        let others = others.join(", ");
        text.push_str(&format!("\n  on further circles with them: {others}"));
    }
    text.push_str(
        "\n  move what both sides need to the side that is used by the other, \
         or into a module of its own that uses neither",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::Tree;

    /// The circles of a crate, as the names in them.
    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let found = violations(files).into_iter();
        let firsts = found.map(|found| found.message.lines().next().unwrap_or("").to_owned());
        firsts
            .map(|line| {
                line.replace("these modules go in a circle: ", "")
                    .replace('`', "")
            })
            .collect()
    }

    fn violations(files: &[(&str, &str)]) -> Vec<Violation> {
        let tree = Tree::of(files);
        let sources: Vec<_> = tree
            .with_extension("rs")
            .map(|(path, text)| Source::new(path, text))
            .collect();
        let mut found = Vec::new();
        check(&sources, &mut found);
        found
    }

    #[test]
    fn modules_that_use_each_other_are_named_file_by_file() {
        let found = violations(&[
            ("a/src/lib.rs", "mod one; mod two; mod three;"),
            ("a/src/one.rs", "\nuse crate::two::{Two, three};"),
            (
                "a/src/two.rs",
                "pub struct Two; fn f() { crate::three::make() }",
            ),
            ("a/src/three.rs", "use super::one::One; pub fn make() {}"),
        ]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].path.as_str(), found[0].line), ("a/src/one.rs", 2));
        let lines: Vec<_> = found[0].message.lines().map(str::trim).collect();
        assert_eq!(
            lines[..4],
            [
                "these modules go in a circle: `one` -> `two` -> `three` -> `one`",
                "a/src/one.rs:2 uses `crate::two::Two` of a/src/two.rs",
                "a/src/two.rs:1 uses `crate::three::make` of a/src/three.rs",
                "a/src/three.rs:1 uses `super::one::One` of a/src/one.rs",
            ]
        );
    }

    #[test]
    fn a_re_export_is_followed_to_what_it_means() {
        let root = "mod one; mod two; pub use one::One; pub use two::Two;";
        let one = ("src/one.rs", "use crate::Two; pub struct One;");
        assert_eq!(
            circles(&[
                ("src/lib.rs", root),
                one,
                ("src/two.rs", "use super::One as Other; pub struct Two;"),
            ]),
            ["one -> two -> one"]
        );
        let harmless = ("src/two.rs", "pub struct Two;");
        assert_eq!(circles(&[("src/lib.rs", root), one, harmless]), [""; 0]);
    }

    #[test]
    fn a_module_counts_with_all_that_is_below_it() {
        assert_eq!(
            circles(&[
                ("src/lib.rs", "mod one; mod two;"),
                ("src/one/mod.rs", "mod deep; pub mod part { pub fn f() {} }"),
                ("src/one/deep.rs", "fn f() { crate::two::f() }"),
                (
                    "src/two.rs",
                    "use crate::one::part; pub fn f() { part::f() }"
                ),
            ]),
            ["one -> two -> one"]
        );
    }

    #[test]
    fn children_have_an_order_and_may_use_their_parent_which_uses_them() {
        let parent = "pub trait Line {} mod tcp; mod unix; fn f() { tcp::Tcp; unix::Unix; }";
        let tcp = "use super::Line; pub struct Tcp; impl Line for Tcp {}";
        let unix = "use super::{Line, tcp::Tcp}; pub struct Unix(Tcp);";
        let files = |tcp| {
            circles(&[
                ("src/lib.rs", "mod line;"),
                ("src/line.rs", parent),
                ("src/line/tcp.rs", tcp),
                ("src/line/unix.rs", unix),
            ])
        };
        assert_eq!(files(tcp), [""; 0]);
        let back = format!("{tcp} fn g(_: &super::unix::Unix) {{}}");
        assert_eq!(files(&back), ["line::tcp -> line::unix -> line::tcp"]);
    }

    #[test]
    fn globs_aliases_and_uses_within_functions_are_arrows() {
        for text in [
            "use crate::one::*; fn f(_: One) {}",
            "use crate::one as first; fn f(_: first::One) {}",
            "fn f() { use crate::one::One; }",
            "macro_rules! m { () => { $crate::one::One } }",
            "use super::one::made_by_a_macro;",
        ] {
            let files = [
                ("src/main.rs", "mod one; mod two;"),
                ("src/one.rs", "use crate::two::Two; pub struct One;"),
                ("src/two.rs", &format!("pub struct Two; {text}")),
            ];
            assert_eq!(circles(&files), ["one -> two -> one"], "{text}");
        }
    }

    #[test]
    fn tests_comments_other_crates_and_mere_globs_are_no_arrows() {
        for text in [
            "mod empty {}",
            "#[cfg(test)] mod tests { use crate::one::One; }",
            "/// [`One`](crate::one::One)\nfn f() {}",
            "use one::One; fn f() { \"crate::one::One\"; }",
            "use crate::one::*; fn f() {}",
            "use crate::one;",
        ] {
            let files = [
                ("src/lib.rs", "mod one; mod two;"),
                ("src/one.rs", "use crate::two::Two; pub struct One;"),
                ("src/two.rs", &format!("pub struct Two; {text}")),
            ];
            assert_eq!(circles(&files), [""; 0], "{text}");
        }
    }

    #[test]
    fn files_that_take_turns_to_be_a_module_all_count() {
        let found = circles(&[
            (
                "src/lib.rs",
                "#[cfg_attr(not(x), path = \"absent.rs\")] mod tls; mod two;",
            ),
            ("src/tls.rs", "pub struct Tls;"),
            ("src/absent.rs", "use crate::two::Two; pub struct Tls;"),
            ("src/two.rs", "use crate::tls::Tls; pub struct Two;"),
        ]);
        assert_eq!(found, ["tls -> two -> tls"]);
    }

    #[test]
    fn half_written_code_ends() {
        for text in [
            "use crate::",
            "use crate::two::{self",
            "pub use self::X; use X as Y; Y::z",
        ] {
            circles(&[
                ("src/lib.rs", &format!("mod two; {text}")),
                ("src/two.rs", text),
            ]);
        }
    }
}
