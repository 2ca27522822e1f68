//! Law of the snippets: the Rust of a guide that is read from the top stands in an example, which
//! is compiled and run. So what a reader copies works.

use super::Violation;
use super::tree::Tree;

/// A guide, and the example that holds its snippets.
const GUIDES: &[(&str, &str)] = &[
    ("docs/tutorial.md", "crates/postroad/examples/tutorial.rs"),
    ("docs/server.md", "crates/postroad/examples/server_guide.rs"),
];

pub(crate) fn check(tree: &Tree, found: &mut Vec<Violation>) {
    for (guide, example) in GUIDES {
        let Some(text) = tree.text(guide) else {
            continue;
        };
        let code = squeezed(tree.text(example).unwrap_or_default());
        for (line, snippet) in snippets(text) {
            if !code.contains(&squeezed(&snippet)) {
                let message = format!("this snippet does not stand in {example}");
                found.push(Violation::new(guide, line, "snippet", message));
            }
        }
    }
}

/// The Rust blocks of a page, each with the line where it begins.
fn snippets(page: &str) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    let mut lines = (1..).zip(page.lines());
    while let Some((line, text)) = lines.next() {
        if text == "```rust" {
            let code = lines.by_ref().map(|(_, text)| text);
            let code: Vec<&str> = code.take_while(|text| *text != "```").collect();
            all.push((line, code.join("\n")));
        }
    }
    all
}

/// Code without what differs between a page and a program: imports, blanks, and the comma behind
/// the last of several that stand in lines of their own.
fn squeezed(code: &str) -> String {
    let lines = code.lines().filter(|line| !line.trim().starts_with("use "));
    let text: String = lines.flat_map(str::split_whitespace).collect();
    text.replace(",)", ")").replace(",}", "}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snippet_stands_in_its_example_in_whichever_lines() {
        let page = "Say:\n\n```rust\nuse a::b;\n\nlet x = f(1, 2);\n```\n\n```rust\ng();\n```\n";
        let example = "fn main() {\n    let x = f(\n        1,\n        2,\n    );\n}\n";
        let tree = Tree::of(&[(GUIDES[0].0, page), (GUIDES[0].1, example)]);
        let mut found = Vec::new();
        check(&tree, &mut found);
        let lines: Vec<usize> = found.iter().map(|found| found.line).collect();
        assert_eq!(lines, [9], "the second one does not");
    }
}
