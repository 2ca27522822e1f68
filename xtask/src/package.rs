//! `cargo xtask package`: every crate can be published, and its package stands by itself.
//!
//! A package is only what lies in its crate's folder. A test that reads a file beside that folder
//! passes in the repository and does not compile in the package, and nobody notices before it is
//! published. So the packages are made, unpacked into a workspace of their own, and tested there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell;

/// Files that every package has.
const NEEDED: &[&str] = &["README.md", "LICENSE-APACHE", "LICENSE-MIT"];
/// Keys that every manifest of a published crate has. A registry shows them.
const KEYS: &[&str] = &[
    "\ndescription = ",
    "\nkeywords = ",
    "\ncategories = ",
    "\n[package.metadata.docs.rs]",
];
/// As in the repository's own workspace, so that dependencies that are built already are used.
const PROFILE: &str = "[profile.dev]\nopt-level = 1\ndebug = \"line-tables-only\"\n";

/// Checks and packs all crates; then tests each package, or with `quick` only compiles its tests.
pub(crate) fn run(quick: bool) -> u8 {
    let root = shell::root();
    let names = match crates(&root) {
        Ok(names) => names,
        Err(problem) => return failed(&problem),
    };
    let problems: Vec<String> = names
        .iter()
        .flat_map(|name| problems_of(&root, name))
        .collect();
    if !problems.is_empty() {
        return failed(&problems.join("\n"));
    }
    let packages = names.iter().flat_map(|name| ["--package", name]);
    let status = shell::cargo()
        .args(["package", "--no-verify", "--allow-dirty", "--quiet"])
        .args(packages)
        .status();
    let code = shell::outcome("cargo package", status);
    if code != 0 {
        return code;
    }
    match unpack(&root, &names) {
        Ok(folder) => try_packages(&root, &folder, &names, quick),
        Err(problem) => failed(&problem),
    }
}

fn failed(problem: &str) -> u8 {
    shell::complain(problem);
    shell::FAILED
}

/// Every folder of `crates` is a crate that is published under the folder's name.
fn crates(root: &Path) -> Result<Vec<String>, String> {
    let folder = root.join("crates");
    let entries =
        fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// What stands between a crate and a good page in a registry.
fn problems_of(root: &Path, name: &str) -> Vec<String> {
    let folder = root.join("crates").join(name);
    let mut problems = Vec::new();
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    for key in KEYS.iter().filter(|key| !manifest.contains(**key)) {
        problems.push(format!("crates/{name}/Cargo.toml lacks `{}`", key.trim()));
    }
    for file in NEEDED.iter().filter(|file| !folder.join(file).is_file()) {
        problems.push(format!("crates/{name}/{file} is missing"));
    }
    for file in ["LICENSE-APACHE", "LICENSE-MIT"] {
        // A link into the root, or a copy that has not gone its own way.
        let (own, common) = (fs::read(folder.join(file)), fs::read(root.join(file)));
        if let (Ok(own), Ok(common)) = (own, common)
            && own != common
        {
            problems.push(format!("crates/{name}/{file} differs from the root's"));
        }
    }
    problems
}

/// Unpacks the packages into a workspace in which they find each other, as in a registry.
fn unpack(root: &Path, names: &[String]) -> Result<PathBuf, String> {
    let target = target(root);
    let folder = target.join("packages");
    // What an earlier run has left must not stand in for what a package lacks now.
    let _ = fs::remove_dir_all(&folder);
    let problem = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(problem)?;
    let version = version(root)?;
    for name in names {
        let archive = target.join(format!("package/{name}-{version}.crate"));
        let status = Command::new("tar")
            .arg("-xzf")
            .arg(&archive)
            .arg("-C")
            .arg(&folder)
            .status();
        if shell::outcome("tar", status) != 0 {
            return Err(format!("{} cannot be unpacked", archive.display()));
        }
    }
    fs::write(folder.join("Cargo.toml"), workspace(names, &version)).map_err(problem)?;
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).map_err(problem)?;
    Ok(folder)
}

/// The target folder that cargo uses for this repository.
fn target(root: &Path) -> PathBuf {
    let given = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    given.unwrap_or_else(|| root.join("target"))
}

/// The version that all crates share.
fn version(root: &Path) -> Result<String, String> {
    let manifest = fs::read_to_string(root.join("Cargo.toml"))
        .map_err(|error| format!("Cargo.toml: {error}"))?;
    let line = manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = "));
    let version = line.map(|version| version.trim_matches('"').to_owned());
    version.ok_or_else(|| "Cargo.toml has no line `version = ..`".to_owned())
}

/// The manifest of the workspace of unpacked packages.
fn workspace(names: &[String], version: &str) -> String {
    let members: Vec<String> = names
        .iter()
        .map(|name| format!("\"{name}-{version}\""))
        .collect();
    let patches: Vec<String> = names
        .iter()
        .map(|name| format!("{name} = {{ path = \"{name}-{version}\" }}\n"))
        .collect();
    format!(
        "[workspace]\nresolver = \"3\"\nmembers = [{}]\n\n[patch.crates-io]\n{}\n{PROFILE}",
        members.join(", "),
        patches.concat(),
    )
}

fn try_packages(root: &Path, folder: &Path, names: &[String], quick: bool) -> u8 {
    let cargo = |arguments: &[&str]| {
        let mut command = shell::cargo();
        command
            .args(arguments)
            .args(["--all-features", "--manifest-path"])
            .arg(folder.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(target(root));
        command
    };
    if quick {
        let mut check = cargo(&["check", "--workspace", "--all-targets"]);
        return shell::outcome("cargo check of the packages", check.status());
    }
    for name in names {
        shell::say(&format!("== the package {name} by itself\n"));
        let status = cargo(&["test", "--package", name]).status();
        let code = shell::outcome(&format!("cargo test of the package {name}"), status);
        if code != 0 {
            return code;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_of_this_repository_is_ready_for_a_registry() {
        let root = shell::root();
        let names = crates(&root).expect("the crates are there");
        assert!(names.contains(&"postroad".to_owned()));
        let problems: Vec<String> = names
            .iter()
            .flat_map(|name| problems_of(&root, name))
            .collect();
        assert_eq!(problems, [""; 0]);
    }

    #[test]
    fn a_crate_that_lacks_something_is_told_what() {
        let root = shell::root();
        let problems = problems_of(&root, "no-such-crate");
        let lacks = "crates/no-such-crate/Cargo.toml lacks `keywords =`";
        assert!(problems.contains(&lacks.to_owned()), "{problems:?}");
        let missing = "crates/no-such-crate/README.md is missing";
        assert!(problems.contains(&missing.to_owned()), "{problems:?}");
    }

    #[test]
    fn packages_find_each_other_in_a_workspace_of_their_own() {
        let names = ["a".to_owned(), "b".to_owned()];
        let text = workspace(&names, "0.1.0");
        assert!(
            text.contains("members = [\"a-0.1.0\", \"b-0.1.0\"]"),
            "{text}"
        );
        assert!(text.contains("b = { path = \"b-0.1.0\" }"), "{text}");
    }
}
