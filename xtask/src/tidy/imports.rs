//! What a file imports, with the braces of `use` written out, so that no ban can be dodged
//! by the way an import is grouped.

use super::lexer::Token;
use super::source::{Source, closing};

/// A path that a `use` brings in, with every `{..}` written out, and where it ends.
pub(crate) struct Import<'a> {
    pub(crate) at: usize,
    pub(crate) path: Vec<&'a str>,
    /// The name given by `as`; without one, the path's last part is the name.
    pub(crate) alias: Option<&'a str>,
}

pub(crate) fn imports<'a>(code: &[Token<'a>]) -> Vec<Import<'a>> {
    let uses = code.iter().enumerate().filter(|(_, token)| token.is("use"));
    uses.flat_map(|(at, _)| import_at(code, at)).collect()
}

/// What the `use` at this index imports.
pub(crate) fn import_at<'a>(code: &[Token<'a>], at: usize) -> Vec<Import<'a>> {
    let mut found = Vec::new();
    // `use<'a>` in a return type imports nothing.
    if !code.get(at + 1).is_some_and(|next| next.is("<")) {
        import_tree(code, at + 1, &[], &mut found);
    }
    found
}

/// Reads one branch of a `use` and returns the index after it.
fn import_tree<'a>(
    code: &[Token<'a>],
    mut at: usize,
    prefix: &[&'a str],
    found: &mut Vec<Import<'a>>,
) -> usize {
    let mut path = prefix.to_vec();
    let mut alias = None;
    while let Some(token) = code.get(at) {
        match token.text {
            ":" => {}
            "{" => {
                let end = closing(code, at);
                at += 1;
                while at < end {
                    at = import_tree(code, at, &path, found) + 1;
                }
                return end + 1;
            }
            "," | ";" | "}" => break,
            "as" => {
                at += 1;
                alias = code.get(at).map(|name| name.text);
            }
            text => path.push(text),
        }
        at += 1;
    }
    let at_end = at.saturating_sub(1);
    found.push(Import {
        at: at_end,
        path,
        alias,
    });
    at
}

/// Where a path is written out or imported in pieces.
pub(crate) fn mentions(source: &Source<'_>, imports: &[Import<'_>], phrase: &str) -> Vec<usize> {
    let parts: Vec<&str> = phrase.split("::").collect();
    let imported = imports
        .iter()
        .filter(|import| {
            import
                .path
                .windows(parts.len())
                .any(|window| window == parts)
        })
        .map(|import| import.at);
    source.find(phrase).into_iter().chain(imported).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let source = Source::new("src/lib.rs", text);
        let found = imports(&source.code);
        found.iter().map(|import| import.path.join("::")).collect()
    }

    #[test]
    fn groups_are_written_out() {
        assert_eq!(
            paths("use std::{fs::{self, File}, io as disk, net::*}; use a::b as _;"),
            [
                "std::fs::self",
                "std::fs::File",
                "std::io",
                "std::net::*",
                "a::b"
            ]
        );
        assert_eq!(paths("pub use ::std::io;"), ["std::io"]);
        assert_eq!(paths("fn f<'a>() -> impl T + use<'a> {}"), [""; 0]);
    }

    #[test]
    fn broken_imports_end() {
        for text in [
            "use",
            "use a::{",
            "use a::{b,",
            "use {{{",
            "use a as",
            "use {,,}",
        ] {
            paths(text);
        }
    }

    #[test]
    fn a_path_is_found_written_out_or_imported_in_pieces() {
        let source = Source::new("src/lib.rs", "use std::{io}; std::io::Read; my_std::io;");
        assert_eq!(
            mentions(&source, &imports(&source.code), "std::io").len(),
            2
        );
    }
}
