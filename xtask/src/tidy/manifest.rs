//! Just enough of TOML to read dependencies and their comments, line by line.

/// One `key = value`, which may go over several lines.
#[derive(Debug)]
struct Entry {
    line: usize,
    /// The table's name and the key, taken apart at the dots.
    path: Vec<String>,
    value: String,
    comment: String,
}

#[derive(Debug, Default)]
pub(crate) struct Manifest {
    entries: Vec<Entry>,
    tables: Vec<(usize, Vec<String>, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Workspace,
    Normal,
    Dev,
    Build,
}

#[derive(Debug)]
pub(crate) struct Dependency {
    pub(crate) line: usize,
    pub(crate) table: Table,
    /// The package's name, even if the manifest gives it another one.
    pub(crate) package: String,
    pub(crate) inherited: bool,
    pub(crate) comment: String,
}

impl Manifest {
    pub(crate) fn parse(text: &str) -> Self {
        let mut manifest = Self::default();
        let mut table: Vec<String> = Vec::new();
        let mut lines = (1..).zip(text.lines());
        while let Some((line, text)) = lines.next() {
            let (code, comment) = split_comment(text);
            let code = code.trim();
            if code.starts_with('[') {
                table = split_key(code.trim_matches(['[', ']']));
                manifest
                    .tables
                    .push((line, table.clone(), comment.to_owned()));
                continue;
            }
            let Some((key, value)) = code.split_once('=') else {
                continue;
            };
            let mut value = value.trim().to_owned();
            let mut comment = comment.to_owned();
            while depth(&value) > 0 {
                let Some((_, text)) = lines.next() else { break };
                let (code, more) = split_comment(text);
                value.push_str(code.trim());
                comment.push_str(more);
            }
            let path = table.iter().cloned().chain(split_key(key)).collect();
            manifest.entries.push(Entry {
                line,
                path,
                value,
                comment,
            });
        }
        manifest
    }

    /// The line and value of one key, such as `package.name`.
    pub(crate) fn get(&self, key: &str) -> Option<(usize, &str)> {
        let wanted = split_key(key);
        let entry = self.entries.iter().find(|entry| entry.path == wanted)?;
        Some((entry.line, entry.value.trim_matches(['"', '\''])))
    }

    /// The strings in an array, such as `workspace.members`.
    pub(crate) fn list(&self, key: &str) -> Vec<&str> {
        let text = self.get(key).map_or("", |(_, text)| text);
        text.split('"').skip(1).step_by(2).collect()
    }

    /// Explicit `path`s of libraries, programs, tests and the like.
    pub(crate) fn target_paths(&self) -> Vec<String> {
        let targets = ["lib", "bin", "test", "bench", "example"];
        let entries = self.entries.iter().filter(|entry| {
            entry.path.len() == 2
                && targets.contains(&entry.path[0].as_str())
                && entry.path[1] == "path"
        });
        let values = entries.map(|entry| entry.value.trim_matches(['"', '\'']).to_owned());
        let build = self.get("package.build").map(|(_, path)| path.to_owned());
        values.chain(build).collect()
    }

    pub(crate) fn dependencies(&self) -> Vec<Dependency> {
        let mut found: Vec<(String, Dependency)> = Vec::new();
        // `[dependencies.name]` opens a dependency; its keys follow as entries.
        let opened = self.tables.iter().filter_map(|(line, path, comment)| {
            let (table, name, rest) = split_dependency(path)?;
            rest.is_empty()
                .then_some((*line, table, name, "", "", comment.as_str()))
        });
        let entries = self.entries.iter().filter_map(|entry| {
            let (table, name, rest) = split_dependency(&entry.path)?;
            let key = rest.first().map_or("", String::as_str);
            let value = entry.value.as_str();
            Some((entry.line, table, name, key, value, entry.comment.as_str()))
        });
        for (line, table, name, key, value, comment) in opened.chain(entries) {
            let known = found
                .iter()
                .position(|(known, dependency)| known == name && dependency.table == table);
            let at = known.unwrap_or_else(|| {
                let dependency = Dependency {
                    line,
                    table,
                    package: name.to_owned(),
                    inherited: false,
                    comment: String::new(),
                };
                found.push((name.to_owned(), dependency));
                found.len() - 1
            });
            let dependency = &mut found[at].1;
            dependency.comment.push_str(comment);
            dependency.inherited |= setting(key, value, "workspace") == Some("true");
            if let Some(package) = setting(key, value, "package") {
                dependency.package = package.to_owned();
            }
        }
        found
            .into_iter()
            .map(|(_, dependency)| dependency)
            .collect()
    }
}

/// The table, the dependency's name, and what follows the name in the key.
fn split_dependency(path: &[String]) -> Option<(Table, &str, &[String])> {
    let at = path
        .iter()
        .position(|part| part.ends_with("dependencies"))?;
    let table = match path[at].as_str() {
        "dependencies" if path[0] == "workspace" => Table::Workspace,
        "dependencies" => Table::Normal,
        "dev-dependencies" => Table::Dev,
        "build-dependencies" => Table::Build,
        _ => return None,
    };
    let (name, rest) = path.get(at + 1..)?.split_first()?;
    Some((table, name, rest))
}

/// `wanted` from `key = value`, or, where there is no key, from an inline table.
fn setting<'v>(key: &str, value: &'v str, wanted: &str) -> Option<&'v str> {
    if key == wanted {
        return Some(value.trim_matches('"'));
    }
    let inner = value.strip_prefix('{').filter(|_| key.is_empty())?;
    let inner = inner.trim_end_matches('}');
    inner.split(',').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        (name.trim() == wanted).then(|| value.trim().trim_matches('"'))
    })
}

/// Yields the characters outside of strings, with their places.
fn outside_strings(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut quote = None;
    let mut escaped = false;
    text.char_indices().filter(move |(_, c)| {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if *c == '\\' => escaped = true,
            Some(open) if *c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(*c),
            None => return true,
        }
        false
    })
}

fn split_comment(line: &str) -> (&str, &str) {
    match outside_strings(line).find(|(_, c)| *c == '#') {
        Some((at, _)) => (&line[..at], line[at + 1..].trim()),
        None => (line, ""),
    }
}

/// How many brackets are still open.
fn depth(value: &str) -> usize {
    outside_strings(value).fold(0, |depth: usize, (_, c)| match c {
        '[' | '{' => depth + 1,
        ']' | '}' => depth.saturating_sub(1),
        _ => depth,
    })
}

fn split_key(key: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut start = 0;
    let dots = outside_strings(key)
        .filter(|(_, c)| *c == '.')
        .map(|(at, _)| at);
    for end in dots.chain([key.len()]) {
        parts.push(key[start..end].trim().trim_matches(['"', '\'']).to_owned());
        start = end + 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_dependency_is_read() {
        let manifest = Manifest::parse(
            r#"
[workspace.dependencies]
a = "1" # plain # and more
b = { version = "1", features = [
    "x", # why x
] }
[dependencies]
c.workspace = true
d = { workspace = true, features = ["y#z"] }
[target.'cfg(unix)'.dependencies]
e = { package = "real", version = "1" }
[dev-dependencies.f] # reason
version = "1"
"#,
        );
        let found: Vec<_> = manifest
            .dependencies()
            .into_iter()
            .map(|d| (d.line, d.table, d.package, d.inherited, d.comment))
            .collect();
        let row = |line, table, name: &str, inherited, comment: &str| {
            (line, table, name.to_owned(), inherited, comment.to_owned())
        };
        assert_eq!(
            found,
            [
                row(12, Table::Dev, "f", false, "reason"),
                row(3, Table::Workspace, "a", false, "plain # and more"),
                row(4, Table::Workspace, "b", false, "why x"),
                row(8, Table::Normal, "c", true, ""),
                row(9, Table::Normal, "d", true, ""),
                row(11, Table::Normal, "real", false, ""),
            ]
        );
    }

    #[test]
    fn keys_and_lists_are_read() {
        let manifest = Manifest::parse(
            "[package]\nname = \"x\"\n[workspace]\nmembers = [\n\"a/*\", # b\n\"c\"]",
        );
        assert_eq!(manifest.get("package.name"), Some((2, "x")));
        assert_eq!(manifest.list("workspace.members"), ["a/*", "c"]);
        assert_eq!(manifest.get("package.version"), None);
    }

    #[test]
    fn broken_manifests_never_panic() {
        for text in [
            "[",
            "a = [",
            "= 1",
            "[dependencies]\n = 1",
            "[dependencies.]",
            "a = \"\\",
        ] {
            drop(Manifest::parse(text).dependencies());
        }
    }
}
