//! Laws of size: what does not fit on a screen does not fit in a head.

use super::Violation;
use super::lexer::{Kind, Token};
use super::source::{Source, closing};

const MAX_FILE_LINES: usize = 700;
const MAX_FUNCTION_LINES: usize = 70;
const MAX_COLUMNS: usize = 100;

pub(crate) fn check(source: &Source<'_>, found: &mut Vec<Violation>) {
    let lines = source.text.lines().count();
    if lines > MAX_FILE_LINES {
        let message = format!("{lines} lines; a file has at most {MAX_FILE_LINES}");
        found.push(Violation::new(source.path, lines, "file-size", message));
    }
    for (line, name, lines) in functions(&source.code) {
        if lines > MAX_FUNCTION_LINES {
            let message =
                format!("`{name}` has {lines} lines; a function has at most {MAX_FUNCTION_LINES}");
            found.push(Violation::new(source.path, line, "function-size", message));
        }
    }
    for (line, text) in (1..).zip(source.text.lines()) {
        let columns = text.chars().count();
        if columns > MAX_COLUMNS && !is_address(source, line, text) {
            let message = format!("{columns} columns; a line has at most {MAX_COLUMNS}");
            found.push(Violation::new(source.path, line, "line-width", message));
        }
    }
}

/// Line, name and length of every function with a body.
fn functions<'a>(code: &[Token<'a>]) -> Vec<(usize, &'a str, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + 2 < code.len() {
        if code[at].is("macro_rules") && code[at + 1].is("!") {
            // A macro's body is a pattern of functions and not one itself.
            at = closing(code, at + 3);
        } else if code[at].is("fn")
            && code[at + 1].kind == Kind::Ident
            && let Some(end) = body_end(code, at + 2)
        {
            let lines = end.line - code[at].line + 1;
            found.push((code[at].line, code[at + 1].text, lines));
        }
        at += 1;
    }
    found
}

/// The brace that closes the body of the function whose signature goes on at `at`.
fn body_end<'c, 'a>(code: &'c [Token<'a>], mut at: usize) -> Option<&'c Token<'a>> {
    loop {
        let token = code.get(at)?;
        if token.is("{") {
            return code.get(closing(code, at));
        } else if token.is(";") {
            return None;
        } else if token.is("(") || token.is("[") {
            at = closing(code, at);
        }
        at += 1;
    }
}

/// Addresses cannot be broken: a comment of one address, or a string with an address in it.
fn is_address(source: &Source<'_>, line: usize, text: &str) -> bool {
    let text = text.trim_start();
    if text.starts_with("//") {
        let words = text.trim_start_matches(['/', '!', ' ']);
        return words.contains("://") && !words.trim().contains(' ');
    }
    source.code.iter().any(|token| {
        token.kind == Kind::Str && token.lines().contains(&line) && text.contains("://")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laws(text: &str) -> Vec<(usize, &'static str)> {
        let mut found = Vec::new();
        check(&Source::new("src/lib.rs", text), &mut found);
        found.iter().map(|found| (found.line, found.law)).collect()
    }

    #[test]
    fn a_file_of_701_lines_is_too_long() {
        assert_eq!(laws(&"//\n".repeat(700)), []);
        assert_eq!(laws(&"//\n".repeat(701)), [(701, "file-size")]);
    }

    #[test]
    fn a_function_is_measured_from_fn_to_its_brace() {
        let function = |body: usize| format!("\nfn f() {{\n{}}}\n", "x;\n".repeat(body));
        assert_eq!(laws(&function(68)), []);
        assert_eq!(laws(&function(69)), [(2, "function-size")]);
    }

    #[test]
    fn braces_in_strings_and_characters_do_not_end_a_function() {
        let noise = "'{'; \"}\"; r#\"}\"#; /* } */ // }\n";
        let text = format!("fn f<'a>() {{ {} }}\nfn g() {{}}", noise.repeat(71));
        assert_eq!(laws(&text), [(1, "function-size")]);
    }

    #[test]
    fn functions_without_a_body_types_and_macros_are_skipped() {
        let long = "x;\n".repeat(90);
        assert_eq!(laws(&format!("trait T {{ fn f(a: [u8; 4]); {long} }}")), []);
        assert_eq!(laws(&format!("type F = fn(u8); mod m {{ {long} }}")), []);
        assert_eq!(
            laws(&format!(
                "macro_rules! m {{ () => {{ fn f() {{ {long} }} }} }}"
            )),
            []
        );
    }

    #[test]
    fn columns_are_characters_and_addresses_are_exempt() {
        assert_eq!(laws(&format!("// {}", "ä".repeat(97))), []);
        assert_eq!(laws(&format!("// {}", "ä".repeat(98))), [(1, "line-width")]);
        let address = format!("https://example.org/{}", "a".repeat(90));
        assert_eq!(laws(&format!("/// <{address}>")), []);
        assert_eq!(laws(&format!("const A: &str = \"{address}\";")), []);
        assert_eq!(laws(&format!("// see {address}")), [(1, "line-width")]);
    }
}
