//! `cargo xtask tidy`: the repository's laws that neither the compiler nor clippy knows.
//!
//! Each law is a function from the files in memory to its violations; nothing here needs the
//! code to compile, so tidy also speaks about a tree that is half written.

mod circles;
mod deps;
mod front;
mod imports;
mod lexer;
mod links;
mod manifest;
mod modules;
mod musts;
mod names;
mod placement;
mod ports;
mod reach;
mod sizes;
mod snippets;
mod source;
#[cfg(test)]
mod tests;
mod tree;
mod words;

use std::fmt;

use crate::shell;
use source::Source;
use tree::Tree;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) message: String,
    pub(crate) law: &'static str,
}

impl Violation {
    fn new(path: &str, line: usize, law: &'static str, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            message: message.into(),
            law,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            message,
            law,
        } = self;
        write!(f, "{path}:{line}: {message} ({law})")
    }
}

/// Checks the repository and prints what it finds; returns the exit code.
pub(crate) fn run() -> u8 {
    let tree = match Tree::read(&shell::root()) {
        Ok(tree) => tree,
        Err(error) => {
            shell::complain(&format!("cannot list the repository's files: {error}"));
            return shell::FAILED;
        }
    };
    let mut violations = Vec::new();
    let sources = sources(&tree, &mut violations);
    check(&tree, &sources, &mut violations);
    let files = tree.with_extension("rs").count();
    let lines: String = violations
        .iter()
        .map(|found| format!("{found}\n"))
        .collect();
    let count = violations.len();
    shell::say(&placement::report(&sources));
    shell::say(&format!("{lines}tidy: {files} files, {count} violations\n"));
    if count == 0 { 0 } else { shell::FAILED }
}

/// The Rust files. It is known of each whether only tests lead to it, and reported if nothing does.
fn sources<'t>(tree: &'t Tree, found: &mut Vec<Violation>) -> Vec<Source<'t>> {
    let mut sources: Vec<Source<'_>> = tree
        .with_extension("rs")
        .map(|(path, text)| Source::new(path, text))
        .collect();
    reach::check(tree, &mut sources, found);
    sources
}

/// Adds all other violations, and orders them by place.
fn check(tree: &Tree, sources: &[Source<'_>], found: &mut Vec<Violation>) {
    for path in &tree.unreadable {
        found.push(Violation::new(
            path,
            1,
            "readable",
            "this file is not UTF-8 text",
        ));
    }
    for source in sources {
        sizes::check(source, found);
        words::check(source, found);
    }
    circles::check(sources, found);
    front::check(sources, found);
    names::check(tree, sources, found);
    deps::check(tree, found);
    links::check(tree, found);
    musts::check(tree, found);
    ports::check(tree, found);
    snippets::check(tree, found);
    found.sort();
    // A ban can match an import both as written and as expanded.
    found.dedup();
}
