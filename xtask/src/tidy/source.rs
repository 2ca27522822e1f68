//! One Rust file as the laws see it: code without comments, and what of it is test code.

use std::ops::Range;

use super::lexer::{Kind, Token, lex};

#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub(crate) path: &'a str,
    pub(crate) text: &'a str,
    /// All tokens but the comments.
    pub(crate) code: Vec<Token<'a>>,
    pub(crate) comments: Vec<Token<'a>>,
    /// The whole file is compiled for tests only.
    pub(crate) is_test: bool,
    test_items: Vec<Range<usize>>,
}

/// A module declared by `mod name;` or `mod name { .. }`.
#[derive(Debug)]
pub(crate) struct Module<'a> {
    /// Index of the name in the code.
    pub(crate) at: usize,
    pub(crate) name: &'a str,
    /// The values of `path = ".."` attributes; several if they depend on the configuration.
    pub(crate) paths: Vec<&'a str>,
    /// One of the paths always holds, so the usual place does not count.
    pub(crate) is_elsewhere: bool,
    /// What lies between the braces, if the module is written inline.
    pub(crate) body: Option<Range<usize>>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(path: &'a str, text: &'a str) -> Self {
        let (comments, code): (Vec<_>, Vec<_>) = lex(text)
            .into_iter()
            .partition(|token| token.kind == Kind::Comment);
        let test_items = test_items(&code);
        let is_test = in_folder(path, &["tests"]) || is_test_only(&code);
        Self {
            path,
            text,
            code,
            comments,
            is_test,
            test_items,
        }
    }

    /// Whether the code token at this index is compiled for tests only.
    pub(crate) fn in_test(&self, index: usize) -> bool {
        self.is_test || self.test_items.iter().any(|item| item.contains(&index))
    }

    /// Examples and benchmarks: they may fail loudly, but they are no tests.
    pub(crate) fn is_demo(&self) -> bool {
        in_folder(self.path, &["examples", "benches"])
    }

    pub(crate) fn line_of(&self, index: usize) -> usize {
        self.code.get(index).map_or(1, |token| token.line)
    }

    pub(crate) fn has_comment(&self, line: usize, mark: &str) -> bool {
        self.comments
            .iter()
            .any(|comment| comment.line == line && comment.text.contains(mark))
    }

    /// Where the tokens of `phrase` stand in the code, whatever the space between them.
    pub(crate) fn find(&self, phrase: &str) -> Vec<usize> {
        let phrase = lex(phrase);
        let windows = self.code.windows(phrase.len().max(1));
        windows
            .enumerate()
            .filter(|(_, window)| {
                window
                    .iter()
                    .zip(&phrase)
                    .all(|(token, wanted)| token.kind == wanted.kind && token.text == wanted.text)
            })
            .map(|(at, _)| at)
            .collect()
    }

    pub(crate) fn modules(&self) -> Vec<Module<'a>> {
        let mut found = Vec::new();
        for (at, token) in self.code.iter().enumerate() {
            let (Some(name), Some(after)) = (self.code.get(at + 1), self.code.get(at + 2)) else {
                break;
            };
            if !token.is("mod") || name.kind != Kind::Ident {
                continue;
            }
            let body = match after.text {
                ";" => None,
                "{" => Some(at + 3..closing(&self.code, at + 2)),
                _ => continue,
            };
            let (paths, is_elsewhere) = path_attributes(&self.code, at);
            found.push(Module {
                at: at + 1,
                name: name.text.trim_start_matches("r#"),
                paths,
                is_elsewhere,
                body,
            });
        }
        found
    }
}

pub(crate) fn in_folder(path: &str, names: &[&str]) -> bool {
    let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
    folders.split('/').any(|folder| names.contains(&folder))
}

/// The index of the bracket that closes the one at `open`, or the end of the code.
pub(crate) fn closing(code: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in code.iter().enumerate().skip(open) {
        if token.kind != Kind::Punct {
            continue;
        }
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    code.len()
}

/// Each `path = "x"` in the attributes before the `mod` at this index, and whether one of
/// them stands outside of `cfg_attr`.
fn path_attributes<'a>(code: &[Token<'a>], keyword: usize) -> (Vec<&'a str>, bool) {
    let start = code[..keyword]
        .iter()
        .rposition(|token| token.is(";") || token.is("{") || token.is("}"))
        .map_or(0, |at| at + 1);
    let mut paths = Vec::new();
    let mut is_elsewhere = false;
    for four in code[start..keyword].windows(4) {
        if four[1].is("path") && four[2].is("=") && four[3].kind == Kind::Str {
            paths.push(four[3].text.trim_matches('"'));
            is_elsewhere |= four[0].is("[");
        }
    }
    (paths, is_elsewhere)
}

/// A file that starts with `#![cfg(test)]`.
fn is_test_only(code: &[Token<'_>]) -> bool {
    let mut at = 0;
    while at + 2 < code.len() && code[at].is("#") && code[at + 1].is("!") {
        let end = closing(code, at + 2);
        if code.get(at + 3..end).is_some_and(means_test) {
            return true;
        }
        at = end + 1;
    }
    false
}

/// Items under `#[cfg(test)]`, `#[test]` or an attribute like `#[tokio::test]`.
fn test_items(code: &[Token<'_>]) -> Vec<Range<usize>> {
    let mut items = Vec::new();
    for at in 0..code.len().saturating_sub(1) {
        if code[at].is("#") && code[at + 1].is("[") {
            let end = closing(code, at + 1);
            if code.get(at + 2..end).is_some_and(means_test) {
                items.push(at..item_end(code, end + 1));
            }
        }
    }
    items
}

/// Whether what is inside `#[..]` marks test code.
fn means_test(attribute: &[Token<'_>]) -> bool {
    let Some(first) = attribute.first() else {
        return false;
    };
    if !first.is("cfg") {
        // The path in front of any arguments: `tokio::test(start_paused = true)`.
        let path = attribute.iter().take_while(|token| !token.is("("));
        return path.last().is_some_and(|token| token.is("test"));
    }
    // `not(test)` marks the opposite, and `any(test, x)` also compiles without tests.
    let has = |word: &str| attribute.iter().any(|token| token.is(word));
    has("test") && !has("not") && !has("any")
}

/// One past the last token of the item whose attributes end before `start`.
fn item_end(code: &[Token<'_>], start: usize) -> usize {
    const KEYWORDS: &[&str] = &[
        "fn", "mod", "impl", "struct", "enum", "trait", "use", "const", "static", "type", "let",
    ];
    let mut at = start;
    let mut is_item = false;
    while let Some(token) = code.get(at) {
        match token.text {
            "{" if token.kind == Kind::Punct => return closing(code, at) + 1,
            "(" | "[" if token.kind == Kind::Punct => at = closing(code, at),
            ";" => return at + 1,
            // A field, variant or argument ends at its comma or with the list it is in.
            "," if !is_item => return at + 1,
            "}" | ")" => return at,
            text => is_item |= token.kind == Kind::Ident && KEYWORDS.contains(&text),
        }
        at += 1;
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The identifiers named `mark` in test code, as a string of `t` (test) and `-`.
    fn marks(text: &str) -> String {
        let source = Source::new("src/lib.rs", text);
        let marks = source.find("mark").into_iter();
        marks
            .map(|at| if source.in_test(at) { 't' } else { '-' })
            .collect()
    }

    #[test]
    fn items_under_test_attributes_are_test_code() {
        assert_eq!(
            marks("fn a() { mark } #[cfg(test)] mod t { mark } mark"),
            "-t-"
        );
        assert_eq!(marks("#[test] fn a<A, B>(x: [u8; 2]) { mark } mark"), "t-");
        assert_eq!(
            marks("#[tokio::test(start_paused = true)] async fn a() { mark }"),
            "t"
        );
        assert_eq!(marks("#[cfg(test)] #[allow(x)] use mark; mark"), "t-");
        assert_eq!(marks("struct S { #[cfg(test)] mark: A, mark: B }"), "t-");
        assert_eq!(marks("#![cfg(test)] mark"), "t");
    }

    #[test]
    fn code_that_is_also_compiled_without_tests_is_not_test_code() {
        assert_eq!(marks("#[cfg(not(test))] fn a() { mark }"), "-");
        assert_eq!(marks("#[cfg(any(test, fuzzing))] fn a() { mark }"), "-");
        assert_eq!(marks("#[cfg(feature = \"test\")] fn a() { mark }"), "-");
    }

    #[test]
    fn phrases_ignore_space_strings_and_comments() {
        let source = Source::new("a.rs", "a :: b; \"a::b\"; /* a::b */ a::\nb; a::bc");
        assert_eq!(source.find("a::b").len(), 2);
    }

    #[test]
    fn modules_are_found_with_paths_and_bodies() {
        let source = Source::new(
            "a.rs",
            "mod a; #[cfg_attr(x, path = \"x.rs\")] #[path = \"y.rs\"] pub(crate) mod b;
             mod c { mod d; }",
        );
        let modules = source.modules();
        let names: Vec<_> = modules.iter().map(|module| module.name).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        assert_eq!(modules[0].paths, [""; 0]);
        assert_eq!(modules[1].paths, ["x.rs", "y.rs"]);
        assert!(!modules[0].is_elsewhere && modules[1].is_elsewhere);
        assert!(modules[2].body.is_some() && modules[3].body.is_none());
    }
}
