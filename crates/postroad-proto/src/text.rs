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

/// Line separators, and marks that turn the direction of what follows around.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200E}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// The longest beginning of `text` of at most `max` bytes that ends at a character.
#[must_use]
pub fn cut_at_char(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
