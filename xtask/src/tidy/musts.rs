//! Law of the protocol: each numbered rule of `docs/protocol.md` is named where it is checked.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::tree::Tree;

const PROTOCOL: &str = "docs/protocol.md";
const LAW: &str = "protocol-must";

pub(crate) fn check(tree: &Tree, found: &mut Vec<Violation>) {
    let Some(protocol) = tree.text(PROTOCOL) else {
        return;
    };
    let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
    for (line, text) in (1..).zip(protocol.lines()) {
        let Some(number) = rule(text) else {
            continue;
        };
        if let Some(first) = rules.get(number) {
            let message = format!("{number} is already the rule on line {first}");
            found.push(Violation::new(PROTOCOL, line, LAW, message));
        } else {
            rules.insert(number, line);
        }
    }
    let mut named = BTreeSet::new();
    // Peers in another language check rules as well.
    let code = tree.with_extension("rs").chain(tree.with_extension("py"));
    for (path, text) in code {
        if !(path.starts_with("crates/") || path.starts_with("tests/")) {
            continue;
        }
        for (line, text) in (1..).zip(text.lines()) {
            // A test names its rules in its own name: `.._m_016`.
            let text = text.replace("_m_", " M-");
            for number in numbers(&text) {
                named.insert(number.to_owned());
                if !rules.contains_key(number) {
                    let message = format!("{PROTOCOL} has no rule {number}");
                    found.push(Violation::new(path, line, LAW, message));
                }
            }
        }
    }
    for (number, line) in rules {
        if !named.contains(number) {
            let message = format!("{number} is named by no test or source file");
            found.push(Violation::new(PROTOCOL, line, LAW, message));
        }
    }
}

/// The number that a line defines: it stands in bold before the rule's text.
fn rule(line: &str) -> Option<&str> {
    let line = line.trim_start_matches([' ', '-', '*', '>', '|', '+']);
    let number = numbers(line).next()?;
    let after = line.strip_prefix(number)?.trim_start_matches(['.', ':']);
    after.starts_with("**").then_some(number)
}

/// Every `M-` with digits that is not the tail of a longer word.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("M-").filter_map(|(at, mark)| {
        let joined = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let rest = &text[at + mark.len()..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let alone = !text[..at].ends_with(joined);
        (alone && digits > 0).then(|| &text[at..at + mark.len() + digits])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(protocol: &str, code: &str) -> Vec<String> {
        let protocol = format!("{protocol}\n**M-77** Only the Python peer names this rule.");
        let tree = Tree::of(&[
            (PROTOCOL, &protocol),
            ("crates/a/tests/b.rs", code),
            ("tests/peers/d.py", "# M-77"),
            ("xtask/src/c.rs", "// M-999"),
        ]);
        let mut found = Vec::new();
        check(&tree, &mut found);
        found
            .iter()
            .map(|found| format!("{}:{} {}", found.path, found.line, found.message))
            .collect()
    }

    #[test]
    fn rules_are_unique_and_named() {
        let protocol = "**M-1** A frame MUST be.\n- **M-002.** It MUST end, see **M-1**.\n\
                        | **M-3** | MUST |";
        assert_eq!(
            violations(protocol, "// M-1\nfn it_ends_m_002_m_3() {}"),
            [""; 0]
        );
        assert_eq!(
            violations("**M-1** a\n**M-1** b", "// M-1"),
            ["docs/protocol.md:2 M-1 is already the rule on line 1"]
        );
        assert_eq!(
            violations("**M-1** a", "// see FM-1 and M-x"),
            ["docs/protocol.md:1 M-1 is named by no test or source file"]
        );
    }

    #[test]
    fn numbers_without_a_rule_are_refused() {
        assert_eq!(
            violations("**M-1** a, not **M-2**", "// M-1\n// M-2"),
            ["crates/a/tests/b.rs:2 docs/protocol.md has no rule M-2"]
        );
    }

    #[test]
    fn without_a_protocol_there_is_no_law() {
        let mut found = Vec::new();
        check(&Tree::of(&[("crates/a.rs", "// M-1")]), &mut found);
        assert_eq!(found, []);
    }
}
