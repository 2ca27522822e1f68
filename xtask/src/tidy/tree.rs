//! The files of the repository, held in memory so that every law is a function of text.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

/// Files whose content a law reads; of all others only the name matters.
const READ: &[&str] = &["rs", "md", "toml", "py"];

/// Path from the root, with `/` between folders, to content.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    files: BTreeMap<String, String>,
    /// Files that should be text and are not.
    pub(crate) unreadable: Vec<String>,
}

impl Tree {
    /// Everything that git tracks or would track; without git, everything but build output.
    pub(crate) fn read(root: &Path) -> io::Result<Self> {
        let paths = match git_files(root) {
            Some(paths) => paths,
            None => walk(root)?,
        };
        let mut tree = Self::default();
        for path in paths {
            let file = root.join(&path);
            // git still lists a file that was deleted a moment ago.
            if !file.is_file() {
                continue;
            }
            if !READ.contains(&extension(&path)) {
                tree.files.insert(path, String::new());
                continue;
            }
            match fs::read_to_string(&file) {
                Ok(text) => drop(tree.files.insert(path, text)),
                Err(_) => tree.unreadable.push(path),
            }
        }
        Ok(tree)
    }

    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter();
        Self {
            files: files
                .map(|(path, text)| ((*path).into(), (*text).into()))
                .collect(),
            unreadable: Vec::new(),
        }
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    pub(crate) fn with_extension(&self, wanted: &str) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter(move |(path, _)| extension(path) == wanted)
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// Whether there is a file, or a folder with a file in it, at this path.
    pub(crate) fn exists(&self, path: &str) -> bool {
        if path.is_empty() || self.files.contains_key(path) {
            return true;
        }
        let folder = format!("{path}/");
        let mut after = self.files.range(folder.clone()..);
        after
            .next()
            .is_some_and(|(first, _)| first.starts_with(&folder))
    }
}

fn extension(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// The folder that a file is in; empty for the root.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// `relative` as seen from `folder`, without `.` and `..`; none if it leaves the repository.
pub(crate) fn resolve(folder: &str, relative: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(relative.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn git_files(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "-co", "--exclude-standard"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let paths = text.split('\0').filter(|path| !path.is_empty());
    output
        .status
        .success()
        .then(|| paths.map(str::to_owned).collect())
}

fn walk(root: &Path) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = resolve(&folder, &name).unwrap_or(name.clone());
            let kind = entry.file_type()?;
            if kind.is_file() {
                files.push(path);
            } else if kind.is_dir() && name != "target" && name != ".git" {
                folders.push(path);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_exist_when_they_hold_a_file() {
        let tree = Tree::of(&[("a/b/c.rs", ""), ("a.md", "")]);
        assert!(tree.exists("a") && tree.exists("a/b") && tree.exists("a/b/c.rs"));
        assert!(!tree.exists("a/b/c") && !tree.exists("b"));
    }

    #[test]
    fn relative_paths_stay_inside() {
        assert_eq!(resolve("a/b", "../c.md").as_deref(), Some("a/c.md"));
        assert_eq!(resolve("", "./c.md").as_deref(), Some("c.md"));
        assert_eq!(resolve("a", "../../c.md"), None);
    }
}
