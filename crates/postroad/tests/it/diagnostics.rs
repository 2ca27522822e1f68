//! What the compiler tells an author whose handler or service is wrong.
//!
//! Each file of `tests/ui` is compiled by itself and must not compile. Its lines `//~ TEXT` are
//! texts of ours that the compiler has to show. How it shows them, and what it adds, is its own
//! affair and changes with it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::support::Tested;

/// The library as it was built for this test: of those beside it the one that was made last.
fn library(folder: &Path) -> Tested<PathBuf> {
    let mut newest: Option<(SystemTime, PathBuf)> = None;
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with("libpostroad-") || !name.ends_with(".rlib") {
            continue;
        }
        let made = fs::metadata(&path)?.modified()?;
        if newest.as_ref().is_none_or(|(time, _)| *time < made) {
            newest = Some((made, path));
        }
    }
    Ok(newest.ok_or("the library was built")?.1)
}

#[test]
fn mistakes_are_explained_where_they_are_made() -> Tested {
    let program = env::current_exe()?;
    let folder = program.parent().ok_or("a program is in a folder")?;
    let library = library(folder)?;
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui");
    let out = tempfile::tempdir()?;
    let mut tried = 0;
    for case in fs::read_dir(&cases)? {
        let case = case?.path();
        let compiled = Command::new(&rustc)
            .args(["--edition", "2024", "--emit", "obj", "--color", "never"])
            .arg("--out-dir")
            .arg(out.path())
            .arg("-L")
            .arg(format!("dependency={}", folder.display()))
            .arg("--extern")
            .arg(format!("postroad={}", library.display()))
            .arg(&case)
            .output()?;
        let told = String::from_utf8_lossy(&compiled.stderr);
        let name = case.display();
        assert!(!compiled.status.success(), "{name} compiles");
        let source = fs::read_to_string(&case)?;
        let wanted: Vec<&str> = source
            .lines()
            .filter_map(|line| line.strip_prefix("//~ "))
            .collect();
        assert!(!wanted.is_empty(), "{name} expects nothing");
        for text in wanted {
            assert!(
                told.contains(text),
                "{name} does not say {text:?} but\n{told}"
            );
        }
        tried += 1;
    }
    assert!(tried >= 10, "{tried} cases in {}", cases.display());
    Ok(())
}
