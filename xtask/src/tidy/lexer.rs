//! Just enough of Rust's grammar to tell code from comments and strings.
//!
//! Punctuation comes out one character at a time. Malformed input never fails: an unclosed
//! string or comment simply runs to the end of the file.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Comment,
    Str,
    Char,
    Lifetime,
    Number,
    Ident,
    Punct,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
    /// The line where the token starts, from 1.
    pub(crate) line: usize,
}

impl Token<'_> {
    pub(crate) fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Ident | Kind::Punct) && self.text == text
    }

    /// The lines that the token covers.
    pub(crate) fn lines(&self) -> std::ops::RangeInclusive<usize> {
        self.line..=self.line + self.text.matches('\n').count()
    }
}

pub(crate) fn lex(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    loop {
        let trimmed = rest.trim_start();
        line += newlines(&rest[..rest.len() - trimmed.len()]);
        if trimmed.is_empty() {
            return tokens;
        }
        let (kind, length) = next(trimmed);
        let (text, after) = trimmed.split_at(length);
        tokens.push(Token { kind, text, line });
        line += newlines(text);
        rest = after;
    }
}

fn newlines(text: &str) -> usize {
    text.matches('\n').count()
}

/// Kind and length in bytes of the token at the start of `rest`, which is not empty.
fn next(rest: &str) -> (Kind, usize) {
    if rest.starts_with("//") {
        return (Kind::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Kind::Comment, block_comment(rest));
    }
    if let Some(length) = string(rest) {
        return (Kind::Str, length);
    }
    if let Some(token) = quote(rest) {
        return token;
    }
    let Some(first) = rest.chars().next() else {
        return (Kind::Punct, rest.len());
    };
    if first.is_ascii_digit() {
        (Kind::Number, number(rest))
    } else if starts_ident(first) {
        let raw = if rest.starts_with("r#") { 2 } else { 0 };
        (Kind::Ident, raw + ident(&rest[raw..]))
    } else {
        (Kind::Punct, first.len_utf8())
    }
}

fn starts_ident(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

fn ident(rest: &str) -> usize {
    rest.find(|c: char| c != '_' && !c.is_alphanumeric())
        .unwrap_or(rest.len())
}

/// `1.5` is one number, but `1..5` and `1.max(5)` start with the number `1`.
fn number(rest: &str) -> usize {
    let whole = ident(rest);
    let fraction = rest[whole..].strip_prefix('.').unwrap_or("");
    if fraction.starts_with(|c: char| c.is_ascii_digit()) {
        whole + 1 + ident(fraction)
    } else {
        whole
    }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    let bytes = rest.as_bytes();
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Length of the string literal of any flavour at the start of `rest`.
fn string(rest: &str) -> Option<usize> {
    let prefix = rest.find(|c| !matches!(c, 'b' | 'c' | 'r')).unwrap_or(0);
    if !matches!(&rest[..prefix], "" | "b" | "c" | "r" | "br" | "cr") {
        return None;
    }
    let raw = rest[..prefix].ends_with('r');
    let hashes = rest[prefix..].bytes().take_while(|b| *b == b'#').count();
    let body = prefix + hashes + 1;
    if (!raw && hashes > 0) || !rest[prefix + hashes..].starts_with('"') {
        return None;
    }
    if !raw {
        return Some(body + escaped_end(&rest[body..], b'"'));
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let end = rest[body..].find(&close).map(|at| body + at + close.len());
    Some(end.unwrap_or(rest.len()))
}

/// Length up to and with the closing `quote`, stepping over backslash escapes.
fn escaped_end(body: &str, quote: u8) -> usize {
    let mut escaped = false;
    for (at, byte) in body.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if byte == quote => return at + 1,
            _ => {}
        }
    }
    body.len()
}

/// A character literal or a lifetime: `'a'` is the one, `'a` the other.
fn quote(rest: &str) -> Option<(Kind, usize)> {
    let open = if rest.starts_with("b'") { 2 } else { 1 };
    let body = rest.strip_prefix("b'").or(rest.strip_prefix('\''))?;
    let first = body.chars().next()?;
    if first == '\\' {
        return Some((Kind::Char, open + escaped_end(body, b'\'')));
    }
    if body[first.len_utf8()..].starts_with('\'') {
        return Some((Kind::Char, open + first.len_utf8() + 1));
    }
    starts_ident(first).then(|| (Kind::Lifetime, open + ident(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(Kind, &str)> {
        let tokens = lex(text);
        tokens
            .into_iter()
            .map(|token| (token.kind, token.text))
            .collect()
    }

    #[test]
    fn lifetimes_are_not_characters() {
        assert_eq!(
            kinds("&'a 'b' '\\'' '\\u{41}' b'x' 'static '_"),
            [
                (Kind::Punct, "&"),
                (Kind::Lifetime, "'a"),
                (Kind::Char, "'b'"),
                (Kind::Char, "'\\''"),
                (Kind::Char, "'\\u{41}'"),
                (Kind::Char, "b'x'"),
                (Kind::Lifetime, "'static"),
                (Kind::Lifetime, "'_"),
            ]
        );
        assert_eq!(kinds("'ä'"), [(Kind::Char, "'ä'")]);
        assert_eq!(kinds("'\"'"), [(Kind::Char, "'\"'")]);
    }

    #[test]
    fn strings_of_every_flavour_are_one_token() {
        for text in [
            r#""plain \" { quote""#,
            r##"r#"raw " inside"#"##,
            r#"r"C:\""#,
            r#"b"bytes""#,
            r##"br#"raw bytes"#"##,
            r#"c"text""#,
            "\"two\nlines\"",
        ] {
            assert_eq!(kinds(text), [(Kind::Str, text)]);
        }
    }

    #[test]
    fn identifiers_that_look_like_string_prefixes_stay_identifiers() {
        for text in ["r", "b", "br", "crate", "rb", "r#fn", "ä_1"] {
            assert_eq!(kinds(text), [(Kind::Ident, text)]);
        }
    }

    #[test]
    fn comments_nest_and_hide_their_content() {
        assert_eq!(
            kinds("/* a /* \" */ b */ x // \"y\n// z"),
            [
                (Kind::Comment, "/* a /* \" */ b */"),
                (Kind::Ident, "x"),
                (Kind::Comment, "// \"y"),
                (Kind::Comment, "// z"),
            ]
        );
    }

    #[test]
    fn numbers_leave_ranges_and_methods_alone() {
        let texts: Vec<_> = kinds("1.5 1..5 1.max 0xff_u8")
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        assert_eq!(
            texts,
            ["1.5", "1", ".", ".", "5", "1", ".", "max", "0xff_u8"]
        );
    }

    #[test]
    fn lines_are_counted_through_tokens_of_many_lines() {
        let tokens = lex("a\n/* b\n*/ c\n\"d\ne\" f");
        let lines: Vec<_> = tokens.iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5]);
        assert_eq!(tokens[1].lines(), 2..=3);
    }

    #[test]
    fn broken_input_runs_to_the_end_and_never_panics() {
        for text in [
            "\"open",
            "/* open",
            "r#\"open\"",
            "'",
            "b'",
            "'\\",
            "r#",
            "\\",
        ] {
            let length: usize = lex(text).iter().map(|token| token.text.len()).sum();
            assert_eq!(length, text.len(), "{text}");
        }
    }
}
