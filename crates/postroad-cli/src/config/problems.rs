//! The mistakes of a configuration, collected so that one look shows all of them.

use std::fmt;
use std::ops::Range;

/// How alike a known word must be to be suggested; 1 is the same word.
const ALIKE: f64 = 0.7;

/// All mistakes of one file, in the order of their places.
#[derive(Debug)]
pub(crate) struct Problems {
    path: String,
    text: String,
    /// What they are called where there are several.
    called: &'static str,
    found: Vec<(Range<usize>, String)>,
}

/// A place in a file; lines and columns count from 1.
struct Position<'a> {
    line: usize,
    column: usize,
    /// The whole line.
    written: &'a str,
}

impl Problems {
    pub(super) fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            called: "mistakes",
            found: Vec::new(),
        }
    }

    /// The same under another name.
    pub(super) fn called(mut self, name: &'static str) -> Self {
        self.called = name;
        self
    }

    /// Adds a mistake at these bytes of the file.
    pub(super) fn add(&mut self, at: Range<usize>, what: &str) {
        self.found.push((at, in_words_of_users(what)));
    }

    /// All of them, if there are any.
    pub(super) fn some(mut self) -> Option<Self> {
        self.found.sort_by_key(|(at, _)| at.start);
        (!self.found.is_empty()).then_some(self)
    }

    /// Each in one line, without the line of the file that it is in.
    pub(crate) fn lines(&self) -> Vec<String> {
        let lines = self.found.iter().map(|(at, what)| self.line(at, what));
        lines.collect()
    }

    fn line(&self, at: &Range<usize>, what: &str) -> String {
        let Position { line, column, .. } = self.position(at);
        format!("{}: line {line}, column {column}: {what}", self.path)
    }

    /// Where this is in the file.
    fn position(&self, at: &Range<usize>) -> Position<'_> {
        let before = self.text.get(..at.start).unwrap_or(&self.text);
        let begin = before.rfind('\n').map_or(0, |end| end + 1);
        Position {
            line: before.matches('\n').count() + 1,
            column: before[begin..].chars().count() + 1,
            written: self.text[begin..].lines().next().unwrap_or_default(),
        }
    }

    /// Fails if there is a mistake.
    pub(super) fn into_result(self) -> Result<(), Self> {
        self.some().map_or(Ok(()), Err)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (at, what)) in self.found.iter().enumerate() {
            let Position {
                line,
                column,
                written,
            } = self.position(at);
            let room = written.chars().count().saturating_sub(column - 1).max(1);
            let marked = self.text.get(at.clone()).unwrap_or_default();
            let carets = "^".repeat(marked.chars().count().clamp(1, room));
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{}", self.line(at, what))?;
            writeln!(f, "{line:>5} | {written}")?;
            write!(f, "      | {}{carets}", " ".repeat(column - 1))?;
        }
        if self.found.len() > 1 {
            write!(f, "\n{} {}", self.found.len(), self.called)?;
        }
        Ok(())
    }
}

/// Replaces the names of Rust's types, which mean nothing to whoever writes a file. A word that is
/// nearly a known one of the same sentence is answered with that one.
pub(super) fn in_words_of_users(what: &str) -> String {
    let mut what = what.trim().to_owned();
    for (theirs, ours) in [
        ("expected usize", "expected a whole number"),
        ("expected u8", "expected a whole number from 0 to 255"),
        ("expected u32", "expected a whole number"),
        (
            "expected a sequence",
            "expected a list, such as [\"one\", \"two\"]",
        ),
        ("a map", "a table"),
        ("unknown field", "unknown key"),
        ("missing field", "missing key"),
    ] {
        what = what.replace(theirs, ours);
    }
    let number = what.strip_prefix("invalid type: integer `");
    let number = number.and_then(|rest| rest.strip_suffix("`, expected a string"));
    if let Some(number) = number {
        what = format!("expected a time with its unit: write \"{number}s\"");
    }
    if let Some(meant) = suggestion(&what) {
        what.push_str(&format!("; did you mean `{meant}`?"));
    }
    what
}

/// The first quoted word of a message is what was written; words after it are what there is.
fn suggestion(what: &str) -> Option<String> {
    if !["unknown", "no ", "there are"]
        .iter()
        .any(|sign| what.contains(sign))
    {
        return None;
    }
    let from = what
        .rfind("unknown")
        .or_else(|| what.rfind(": no "))
        .unwrap_or(0);
    let mut parts = what[from..].splitn(3, ['"', '`']);
    let written = parts.nth(1)?;
    let rest = parts.next()?;
    let words = rest.split(|c: char| !c.is_alphanumeric() && !matches!(c, '-' | '_' | '/'));
    words
        .map(|word| (strsim::jaro_winkler(written, word), word))
        .filter(|(alike, word)| *alike >= ALIKE && *word != written)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word.to_owned())
}
