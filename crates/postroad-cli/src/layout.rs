//! Answers as they are shown on a terminal: JSON laid out, with its values as they were sent, and
//! nothing in them that a terminal obeys.

use std::fmt::Write as _;

/// Depth down to which JSON is laid out: beyond, indentation would be most of the text.
const DEPTH_MAX: usize = 100;

/// JSON over several lines. Numbers, strings and the order of keys stay as they were sent.
///
/// `None` if it is no JSON, or too deep to be read by people anyway.
pub(crate) fn json(bytes: &[u8]) -> Option<String> {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).ok()?;
    let text = std::str::from_utf8(bytes).ok()?;
    let mut out = String::with_capacity(text.len() * 2);
    let (mut depth, mut is_string, mut is_escaped, mut is_opened) = (0, false, false, false);
    for c in text.chars() {
        if is_string {
            push(&mut out, c);
            is_string = is_escaped || c != '"';
            is_escaped = c == '\\' && !is_escaped;
            continue;
        }
        let is_closing = matches!(c, '}' | ']');
        if c.is_ascii_whitespace() {
            continue;
        }
        // An empty object or array stays on its line.
        if is_opened && !is_closing {
            line(&mut out, depth);
        }
        if is_closing {
            depth -= 1;
            if !is_opened {
                line(&mut out, depth);
            }
        }
        out.push(c);
        is_opened = matches!(c, '{' | '[');
        match c {
            '{' | '[' => depth += 1,
            ',' => line(&mut out, depth),
            ':' => out.push(' '),
            _ => is_string = c == '"',
        }
        if depth > DEPTH_MAX {
            return None;
        }
    }
    Some(out)
}

fn line(out: &mut String, depth: usize) {
    out.push('\n');
    (0..depth).for_each(|_| out.push_str("  "));
}

/// Text as it is but for what a terminal would obey; bytes that are no text as `\x9b`.
pub(crate) fn visible(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' | '\t' => out.push(c),
                _ => push(&mut out, c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Adds a character, written out if it moves the cursor, sets colours or titles, or turns the
/// direction of what follows around. All of these have four digits.
fn push(out: &mut String, c: char) {
    let turns = matches!(c,
        '\u{061C}' | '\u{200E}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || turns {
        let _ = write!(out, "\\u{:04x}", u32::from(c));
    } else {
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_laid_out_and_its_values_stay() {
        let sent = r#" {"z":1.10,"a":[1e400, 12345678901234567890123],
            "s":"a\"[,:{ \\","e":{ },"f":[ ]}"#;
        let shown = "{\n  \"z\": 1.10,\n  \"a\": [\n    1e400,\n    12345678901234567890123\n  ],\n\
             \x20 \"s\": \"a\\\"[,:{ \\\\\",\n  \"e\": {},\n  \"f\": []\n}";
        assert_eq!(json(sent.as_bytes()).as_deref(), Some(shown));
        assert_eq!(json(b"12").as_deref(), Some("12"));
        assert_eq!(json(b"{\"a\":"), None);
    }

    #[test]
    fn json_that_is_too_deep_is_not_laid_out() {
        let deep = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(json(deep(100).as_bytes()).is_some());
        assert_eq!(json(deep(101).as_bytes()), None);
    }

    #[test]
    fn what_a_terminal_obeys_is_written_out() {
        let sent = "a\x1b]0;t\x07\x7f\u{9b}2J\u{202e}b\r\n\tgrüße";
        let shown = "a\\u001b]0;t\\u0007\\u007f\\u009b2J\\u202eb\\u000d\n\tgrüße";
        assert_eq!(visible(sent.as_bytes()), shown);
        assert_eq!(visible(b"a\x9b2J"), "a\\x9b2J");
        let quoted = json("\"\u{9b}2J\u{7f}\"".as_bytes());
        assert_eq!(quoted.as_deref(), Some("\"\\u009b2J\\u007f\""));
    }
}
