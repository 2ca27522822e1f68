//! The chores of this repository, run as `cargo xtask COMMAND`.

mod counts;
mod fuzz;
mod package;
mod rivals;
mod shell;
mod summary;
mod test;
mod tidy;

use std::env;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

commands:
  tidy                        check the laws that the compiler does not know
  test [--ci]                 cargo test over all crates and features, then tidy;
                              --ci makes a missing external peer a failure
  package [--quick]           pack every crate and test each package by itself;
                              --quick compiles the tests and does not run them
  fuzz --list                 name the fuzz targets
  fuzz TARGET [--seconds N] [-- LIBFUZZER-OPTIONS]
                              fuzz one target with coverage feedback (default 60 s)
  counts [--write]            count what a call costs: instructions, allocations, system calls;
                              fails if it became dearer than counts/counts.txt says
  rivals [--quick] [--rounds N] [--only NAME,NAME] [--group S,T]
                              measure Postroad beside its rivals: see rivals/README.md
  overload [--quick] [--rounds N]
                              offer servers more than they can do, and write docs/overload.md;
                              --quick fails if Postroad lets go of what matters

exit codes: 0 fine, 1 violations or failures, 2 wrong usage, 3 a needed tool is missing;
a failing step's own code is passed on
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let code = match args.as_slice() {
        ["rivals", rest @ ..] => rivals::run(rest),
        ["overload", rest @ ..] => rivals::overload(rest),
        [] | ["help" | "--help" | "-h", ..] | [_, "--help" | "-h"] => {
            shell::say(USAGE);
            0
        }
        ["counts"] => counts::run(false),
        ["counts", "--write"] => counts::run(true),
        ["tidy"] => tidy::run(),
        ["test"] => test::run(false),
        ["test", "--ci"] => test::run(true),
        ["package"] => package::run(false),
        ["package", "--quick"] => package::run(true),
        ["fuzz", rest @ ..] => match fuzz::Request::parse(rest) {
            Ok(request) => fuzz::run(&request),
            Err(problem) => refuse(&problem),
        },
        [command, ..] => refuse(&format!("`{command}` with these arguments is no command")),
    };
    ExitCode::from(code)
}

fn refuse(problem: &str) -> u8 {
    shell::complain(&format!("{problem}\n\n{USAGE}"));
    shell::WRONG_USAGE
}
