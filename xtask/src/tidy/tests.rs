//! All laws together: a repository that breaks each of them, and one that breaks none.

use super::*;

fn laws(files: &[(&str, &str)]) -> Vec<&'static str> {
    let tree = Tree::of(files);
    let mut found = Vec::new();
    let sources = sources(&tree, &mut found);
    check(&tree, &sources, &mut found);
    let mut laws: Vec<_> = found.iter().map(|found| found.law).collect();
    laws.sort_unstable();
    laws.dedup();
    laws
}

#[test]
fn each_law_is_reported_when_it_is_broken() {
    let long_file = "//\n".repeat(701);
    let long_function = format!("fn f() {{\n{}}}\n", "x;\n".repeat(70));
    let wide_line = format!("// {}", "a".repeat(100));
    let package = "[package]\nname = \"postroad-proto\"\n[dependencies]\ntokio.workspace = true";
    let found = laws(&[
        (
            "Cargo.toml",
            "[workspace]\nmembers = [\"crates/*\"]\n[workspace.dependencies]\ntokio = \"1\"",
        ),
        ("README.md", "[gone](gone.md)"),
        ("docs/protocol.md", "**M-1** Nobody names this."),
        ("crates/postroad-proto/Cargo.toml", package),
        (
            "crates/postroad/Cargo.toml",
            "[package]\nname = \"postroad\"",
        ),
        (
            "crates/postroad-proto/src/lib.rs",
            "mod size; mod long; mod wide; mod words; mod types {}",
        ),
        ("crates/postroad-proto/src/size.rs", &long_file),
        ("crates/postroad-proto/src/long.rs", &long_function),
        ("crates/postroad-proto/src/wide.rs", &wide_line),
        ("crates/postroad-proto/src/dead.rs", ""),
        (
            "crates/postroad/src/lib.rs",
            "mod one; mod two; pub use x::*;",
        ),
        ("crates/postroad/src/one.rs", "use crate::two::Two;"),
        ("crates/postroad/src/two.rs", "use crate::one::One;"),
        (
            "crates/postroad-proto/src/words.rs",
            "fn f() { Instant::now(); unbounded_channel(); unsafe {} x.unwrap(); x.expect(\"x\"); }
             // TODO
             #[ignore] #[test] fn g() { thread::sleep(d) }",
        ),
    ]);
    let expected = [
        "circle",
        "dead-file",
        "dependency-direction",
        "dependency-reason",
        "expect",
        "file-size",
        "function-size",
        "ignored-test",
        "line-width",
        "link",
        "protocol-must",
        "pure",
        "root-names",
        "sleep",
        "unbounded",
        "unfinished",
        "unsafe",
        "unwrap",
        "vague-name",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_tidy_repository_has_no_violations() {
    let found = laws(&[
        (
            "Cargo.toml",
            "[workspace]\nmembers = [\"crates/*\"]\n[workspace.dependencies]\nbytes = \"1\" # why",
        ),
        ("README.md", "[the protocol](docs/protocol.md)"),
        ("docs/protocol.md", "**M-1** A frame MUST end."),
        (
            "crates/postroad-proto/Cargo.toml",
            "[package]\nname = \"postroad-proto\"\n[dependencies]\nbytes.workspace = true",
        ),
        (
            "crates/postroad-proto/src/lib.rs",
            "mod frame; #[cfg(test)] mod harness;",
        ),
        (
            "crates/postroad-proto/src/frame.rs",
            "//! M-1\nfn f(now: Instant) {}",
        ),
        (
            "crates/postroad-proto/src/harness.rs",
            "fn f() { x.unwrap() }",
        ),
    ]);
    assert_eq!(found, [""; 0]);
}

#[test]
fn a_violation_is_printed_with_its_place_and_law() {
    let violation = Violation::new("src/a.rs", 7, "unsafe", "`unsafe` is forbidden");
    assert_eq!(
        violation.to_string(),
        "src/a.rs:7: `unsafe` is forbidden (unsafe)"
    );
}
