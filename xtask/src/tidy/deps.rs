//! Laws of dependencies: each has a reason, and they point one way.

use super::Violation;
use super::manifest::{Manifest, Table};
use super::tree::{Tree, parent};

/// Package, and the packages (with their families, `x-*` and `x_*`) that it must not need.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("postroad-proto", &["tokio", "tracing", "rand", "postroad"]),
    ("postroad-log", &["tokio", "tracing", "postroad"]),
    (
        "postroad",
        &["postroad-cli", "postroad-bench", "postroad-gateway"],
    ),
    ("postroad-bench", &["postroad-cli", "clap", "indicatif"]),
    ("postroad-gateway", &["postroad-cli"]),
];

pub(crate) fn check(tree: &Tree, found: &mut Vec<Violation>) {
    let Some(root) = tree.text("Cargo.toml").map(Manifest::parse) else {
        return;
    };
    reasons(&root, found);
    let members = root.list("workspace.members");
    for (path, text) in tree.with_extension("toml") {
        let is_manifest = path.ends_with("/Cargo.toml");
        if is_manifest
            && members
                .iter()
                .any(|member| matches_member(member, parent(path)))
        {
            let manifest = Manifest::parse(text);
            inheritance(path, &manifest, found);
            direction(path, &manifest, found);
        }
    }
}

/// `crates/*` stands for every folder directly in `crates`.
fn matches_member(member: &str, home: &str) -> bool {
    match member.strip_suffix("/*") {
        Some(folder) => parent(home) == folder,
        None => member == home,
    }
}

fn reasons(root: &Manifest, found: &mut Vec<Violation>) {
    for dependency in root.dependencies() {
        if matches!(dependency.table, Table::Workspace | Table::Normal)
            && !dependency.inherited
            && dependency.comment.is_empty()
        {
            let message = format!("`{}` needs a `# reason` on its line", dependency.package);
            let line = dependency.line;
            found.push(Violation::new(
                "Cargo.toml",
                line,
                "dependency-reason",
                message,
            ));
        }
    }
}

fn inheritance(path: &str, manifest: &Manifest, found: &mut Vec<Violation>) {
    for dependency in manifest.dependencies() {
        if !dependency.inherited {
            let message = format!(
                "`{}` must come from [workspace.dependencies] by `.workspace = true`",
                dependency.package
            );
            let line = dependency.line;
            found.push(Violation::new(path, line, "dependency-reason", message));
        }
    }
}

fn direction(path: &str, manifest: &Manifest, found: &mut Vec<Violation>) {
    let package = manifest.get("package.name").map_or("", |(_, name)| name);
    let rule = FORBIDDEN.iter().find(|(name, _)| *name == package);
    for forbidden in rule.map_or(&[][..], |(_, forbidden)| forbidden) {
        for dependency in manifest.dependencies() {
            if dependency.table == Table::Normal && is_family(&dependency.package, forbidden) {
                let message = format!("`{package}` must not depend on `{}`", dependency.package);
                let line = dependency.line;
                found.push(Violation::new(path, line, "dependency-direction", message));
            }
        }
    }
}

fn is_family(package: &str, family: &str) -> bool {
    let rest = package.strip_prefix(family);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_all(files: &[(&str, &str)]) -> Vec<String> {
        let mut found = Vec::new();
        check(&Tree::of(files), &mut found);
        found
            .iter()
            .map(|found| format!("{}:{} {}", found.path, found.line, found.law))
            .collect()
    }

    #[test]
    fn the_root_gives_a_reason_for_each_dependency() {
        let root = "[workspace.dependencies]\nbytes = \"1\" # slices without copies\nhttp = \"1\"";
        assert_eq!(
            check_all(&[("Cargo.toml", root)]),
            ["Cargo.toml:3 dependency-reason"]
        );
    }

    #[test]
    fn members_inherit_and_others_are_free() {
        let root = "[workspace]\nmembers = [\"crates/*\", \"xtask\"]";
        let wrong = "[dependencies]\na.workspace = true\nb = \"1\"";
        assert_eq!(
            check_all(&[
                ("Cargo.toml", root),
                ("crates/x/Cargo.toml", wrong),
                ("xtask/Cargo.toml", "[dev-dependencies]\nc = \"1\""),
                ("rivals/Cargo.toml", wrong),
            ]),
            [
                "crates/x/Cargo.toml:3 dependency-reason",
                "xtask/Cargo.toml:2 dependency-reason",
            ]
        );
    }

    #[test]
    fn dependencies_point_one_way() {
        let root = "[workspace]\nmembers = [\"crates/*\"]";
        let package = |name: &str, rest: &str| format!("[package]\nname = \"{name}\"\n{rest}");
        let proto = package(
            "postroad-proto",
            "[dependencies]\nbytes.workspace = true\ntokio-util.workspace = true\n\
             [dev-dependencies]\nrand.workspace = true",
        );
        let library = package(
            "postroad",
            "[dependencies]\npostroad-proto.workspace = true\npostroad-cli.workspace = true",
        );
        assert_eq!(
            check_all(&[
                ("Cargo.toml", root),
                ("crates/postroad-proto/Cargo.toml", &proto),
                ("crates/postroad/Cargo.toml", &library),
            ]),
            [
                "crates/postroad-proto/Cargo.toml:5 dependency-direction",
                "crates/postroad/Cargo.toml:5 dependency-direction",
            ]
        );
    }
}
