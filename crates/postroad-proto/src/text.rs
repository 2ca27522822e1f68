//! Text of a peer, made fit to be shown and to be stored.

use std::fmt;

/// Text of a peer as it may stand in a log or on a terminal: control characters are written out, so
/// that nobody can forge a line or move the cursor.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() || is_invisible(c) {
                write!(f, "{}", c.escape_default())?;
            } else {
                fmt::Write::write_char(f, c)?;
            }
        }
        Ok(())
    }
}

/// Characters that are not seen but change what is: separators of lines, marks that turn the
/// direction of what follows around, characters without width, and tags, which can hide a whole
/// message in a word that looks innocent.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}'
        | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}'
        | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}' | '\u{E0000}'..='\u{E0FFF}')
}

/// Text that a peer has sent as bytes, as it may be stored and logged: [`Printable`], and together
/// with the number of bytes that are left out at most `max` bytes and a few words.
#[must_use]
pub fn printable_within(bytes: &[u8], max: usize) -> String {
    // Every byte becomes at least one, so what is beyond can be left out before it is decoded.
    // Three bytes more, because a character may begin before the end and end behind it.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(max.saturating_add(3))]);
    let mut shown = String::new();
    let mut is_cut = bytes.len() > max;
    for c in text.chars() {
        let mut buffer = [0; 4];
        let next = Printable(c.encode_utf8(&mut buffer)).to_string();
        if shown.len() + next.len() > max {
            is_cut = true;
            break;
        }
        shown.push_str(&next);
    }
    if is_cut {
        shown.push_str(&format!(" [cut; {} bytes in all]", bytes.len()));
    }
    shown
}

/// The longest beginning of `text` of at most `max` bytes that ends at a character.
#[must_use]
pub fn cut_at_char(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_written_out() {
        let hidden = "a\u{61C}b\u{200B}c\u{E0041}d\u{FEFF}e\u{AD}f\u{202E}g\u{1b}[31m";
        let shown = Printable(hidden).to_string();
        assert_eq!(
            shown,
            "a\\u{61c}b\\u{200b}c\\u{e0041}d\\u{feff}e\\u{ad}f\\u{202e}g\\u{1b}[31m"
        );
        let seen = "Zürich, 東京, 🙂 and שלום";
        assert_eq!(Printable(seen).to_string(), seen);
    }

    #[test]
    fn a_long_text_of_a_peer_is_cut_after_it_was_written_out() {
        assert_eq!(printable_within(b"short", 512), "short");
        let shown = printable_within(&[1; 65_000], 512);
        assert!(shown.starts_with("\\u{1}\\u{1}"), "{shown}");
        assert!(shown.ends_with(" [cut; 65000 bytes in all]"), "{shown}");
        assert!(shown.len() < 560, "{}", shown.len());
        // Neither a cut character nor bytes that are no text are a reason to fail.
        let long = "é".repeat(300);
        assert!(printable_within(long.as_bytes(), 511).len() < 560);
        assert_eq!(printable_within(&[b'a', 0xFF], 512), "a\u{FFFD}");
    }
}
