//! Law of links: what a document points to in this repository is there.

use super::Violation;
use super::tree::{Tree, parent, resolve};

pub(crate) fn check(tree: &Tree, found: &mut Vec<Violation>) {
    for (path, text) in tree.with_extension("md") {
        for (line, link) in links(text) {
            let Some(target) = local_path(&link) else {
                continue;
            };
            let folder = if target.starts_with('/') {
                ""
            } else {
                parent(path)
            };
            let exists = resolve(folder, &target).is_some_and(|target| tree.exists(&target));
            if !exists {
                let message = format!("the link to `{link}` leads nowhere");
                found.push(Violation::new(path, line, "link", message));
            }
        }
    }
}

/// Line and target of every link outside of code.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for (line, text) in (1..).zip(text.lines()) {
        let start = text.trim_start();
        let mark = ["```", "~~~"]
            .into_iter()
            .find(|mark| start.starts_with(mark));
        match (fence, mark) {
            (None, Some(_)) => fence = mark,
            (Some(open), Some(mark)) if open == mark => fence = None,
            (None, None) => {
                let text = without_code(text);
                found.extend(targets(&text).into_iter().map(|target| (line, target)));
            }
            _ => {}
        }
    }
    found
}

/// The line with its `code` blanked out: every second piece between backticks.
fn without_code(line: &str) -> String {
    let pieces = line.split('`').enumerate();
    pieces
        .map(|(at, piece)| if at % 2 == 0 { piece } else { " " })
        .collect()
}

fn targets(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    // `[name]: target`; but `[^1]: text` is a footnote.
    if let Some(("", rest)) = line.trim_start().split_once('[')
        && let Some((name, target)) = rest.split_once("]: ")
        && !name.contains(']')
        && !name.starts_with('^')
    {
        found.push(first_word(target));
    }
    for (at, _) in line.match_indices("](") {
        let rest = &line[at + 2..];
        let mut depth = 1;
        let end = rest.find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        if let Some(end) = end {
            found.push(first_word(&rest[..end]));
        }
    }
    found
}

/// A target without its title: `path "title"` or `<path with spaces>`.
fn first_word(target: &str) -> String {
    let target = target.trim();
    let angled = target
        .strip_prefix('<')
        .and_then(|rest| rest.split_once('>'));
    let plain = || target.split_whitespace().next().unwrap_or("");
    angled.map_or_else(plain, |(inside, _)| inside).to_owned()
}

/// The path of a link into this repository; none for an address or a place on the same page.
fn local_path(link: &str) -> Option<String> {
    let path = link.split(['#', '?']).next().unwrap_or("");
    let scheme = path.split('/').next().unwrap_or("");
    (!path.is_empty() && !scheme.contains(':')).then(|| path.replace("%20", " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(text: &str) -> Vec<usize> {
        let tree = Tree::of(&[("docs/a.md", text), ("docs/b.md", ""), ("c d.md", "")]);
        let mut found = Vec::new();
        check(&tree, &mut found);
        found.iter().map(|found| found.line).collect()
    }

    #[test]
    fn links_to_files_and_folders_are_followed() {
        let good = "[b](b.md) [b](./b.md#part \"title\") ![r](../docs) [s](<../c d.md>)\n\
                    [t](/docs/b.md) [u](../c%20d.md)\n[v]: b.md";
        assert_eq!(broken(good), [0; 0]);
        assert_eq!(broken("[b](b.md)\n[x](x.md)\n[y]: y.md"), [2, 3]);
        assert_eq!(broken("[out](../../etc/passwd)"), [1]);
    }

    #[test]
    fn addresses_places_and_code_are_left_alone() {
        let text = "[a](https://x.org/y) [b](#part) [m](mailto:x@y.z)\n\
                    `[x](x.md)`\n```\n[x](x.md)\n```\n[^1]: a footnote";
        assert_eq!(broken(text), [0; 0]);
    }
}
