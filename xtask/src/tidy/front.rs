//! Law of the front door: the names at the library's root are few enough to be read at once.

use super::Violation;
use super::imports::import_at;
use super::source::{Source, closing};

const ROOT: &str = "crates/postroad/src/lib.rs";
const HOME: &str = "crates/postroad/src/";
const NAMES_MAX: usize = 40;

/// Keywords before the name of a public item.
const ITEMS: &[&str] = &[
    "mod", "struct", "enum", "union", "trait", "type", "fn", "const", "static",
];

pub(crate) fn check(sources: &[Source<'_>], found: &mut Vec<Violation>) {
    let mut names = Vec::new();
    for source in sources {
        if source.path == ROOT {
            root_names(source, &mut names, found);
        }
        if source.path.starts_with(HOME) {
            // These are at the root wherever they are written.
            let exports = source.find("macro_rules!").into_iter().filter(|at| {
                let before = &source.code[at.saturating_sub(4)..*at];
                before.iter().any(|token| token.is("macro_export"))
            });
            names.extend(exports.filter_map(|at| Some(source.code.get(at + 2)?.text)));
        }
    }
    if names.len() > NAMES_MAX {
        let message = format!(
            "{} names at the library's root; it has at most {NAMES_MAX}. Leave a name in the \
             public module that it belongs to, or hide it. They are: {}",
            names.len(),
            names.join(", ")
        );
        found.push(Violation::new(ROOT, 1, "root-names", message));
    }
}

/// Public items and re-exports, but not what is inside of braces.
fn root_names<'a>(source: &Source<'a>, names: &mut Vec<&'a str>, found: &mut Vec<Violation>) {
    let code = &source.code;
    let mut at = 0;
    while at < code.len() {
        if code[at].is("{") {
            at = closing(code, at) + 1;
            continue;
        }
        let is_public = code[at].is("pub") && !code.get(at + 1).is_some_and(|next| next.is("("));
        if !is_public || source.in_test(at) {
            at += 1;
            continue;
        }
        let mut next = at + 1;
        if code.get(next).is_some_and(|token| token.is("use")) {
            for import in import_at(code, next) {
                let name = import.alias.or(import.path.last().copied()).unwrap_or("");
                if name == "*" {
                    let message = "`pub use ..::*` at the library's root: name what it exports";
                    let line = source.line_of(at);
                    found.push(Violation::new(ROOT, line, "root-names", message));
                }
                names.push(name);
                next = next.max(import.at);
            }
        } else {
            // `pub const fn name`: the name follows the last keyword.
            let is = |at: usize, words: &[&str]| {
                let token = code.get(at);
                token.is_none_or(|token| words.iter().any(|word| token.is(word)))
            };
            while !is(next, ITEMS) || (next + 1 < code.len() && is(next + 1, &["fn"])) {
                next += 1;
            }
            next += 1;
            names.extend(code.get(next).map(|name| name.text));
        }
        at = next + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(files: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter();
        let sources: Vec<_> = files.map(|(path, text)| Source::new(path, text)).collect();
        let mut found = Vec::new();
        check(&sources, &mut found);
        found.into_iter().map(|found| found.message).collect()
    }

    #[test]
    fn the_forty_first_name_is_refused_and_all_are_listed() {
        let many: Vec<_> = (0..36).map(|n| format!("A{n}")).collect();
        let text = format!(
            "mod hidden; pub(crate) use a::B; pub mod codec; pub use x::{{{}, y as Z}};
             pub use serde; pub struct One {{ pub field: u8 }} #[cfg(test)] pub fn f() {{}}",
            many.join(", ")
        );
        assert_eq!(messages(&[(ROOT, &text)]), [""; 0]);
        let macros = (
            "crates/postroad/src/deep/macros.rs",
            "#[macro_export] macro_rules! last { () => {} } macro_rules! own { () => {} }",
        );
        let found = messages(&[(ROOT, &text), macros]);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("41 names"), "{}", found[0]);
        assert!(found[0].contains("codec, A0, A1,"), "{}", found[0]);
        assert!(
            found[0].ends_with("A35, Z, serde, One, last"),
            "{}",
            found[0]
        );
    }

    #[test]
    fn items_of_every_kind_are_one_name_each_and_globs_are_refused() {
        let text = "pub const fn f() {} pub async fn g() {} pub const A: u8 = 1; pub use a::*;";
        assert_eq!(
            messages(&[(ROOT, text)]),
            ["`pub use ..::*` at the library's root: name what it exports"]
        );
        let source = Source::new(ROOT, text);
        let mut names = Vec::new();
        root_names(&source, &mut names, &mut Vec::new());
        assert_eq!(names, ["f", "g", "A", "*"]);
        for text in [
            "pub",
            "pub use",
            "pub use a::{",
            "pub fn",
            "{",
            "pub struct",
        ] {
            messages(&[(ROOT, text)]);
        }
    }
}
