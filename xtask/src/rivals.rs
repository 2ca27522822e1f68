//! `cargo xtask rivals` and `cargo xtask overload`: Postroad measured beside its rivals, in a
//! workspace of their own.

use crate::shell;

/// Runs the program of the `rivals` folder, which builds what it needs.
pub(crate) fn run(arguments: &[&str]) -> u8 {
    let mut cargo = shell::cargo();
    cargo.current_dir(shell::root().join("rivals"));
    cargo.args([
        "run",
        "--release",
        "--quiet",
        "--locked",
        "--package",
        "rivals",
        "--",
    ]);
    shell::outcome("rivals", cargo.args(arguments).status())
}

/// Offers servers more than they can do.
pub(crate) fn overload(arguments: &[&str]) -> u8 {
    run(&[&["overload"], arguments].concat())
}
