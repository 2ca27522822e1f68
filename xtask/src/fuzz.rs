//! `cargo xtask fuzz`: coverage-guided fuzzing with the stable compiler.
//!
//! LLVM's own coverage pass is switched on through code generation options, and the program is
//! linked with clang's libFuzzer, so neither a nightly compiler nor a cargo plugin is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell;

const PACKAGE: &str = "postroad-fuzz";
const DEFAULT_SECONDS: u32 = 60;
/// One input that runs longer than this is a finding: every target is meant to be linear.
const SECONDS_PER_INPUT: u32 = 10;

const COVERAGE_FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cpanic=abort",
];

/// Optimised, but with every check on: a silent overflow is what a fuzzer should find.
const PROFILE: &[(&str, &str)] = &[
    ("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only"),
    ("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true"),
    ("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_STRIP", "none"),
];

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    List,
    Fuzz {
        target: String,
        seconds: u32,
        options: Vec<String>,
    },
}

impl Request {
    pub(crate) fn parse(args: &[&str]) -> Result<Self, String> {
        let (args, options) = match args.iter().position(|arg| *arg == "--") {
            Some(at) => (&args[..at], &args[at + 1..]),
            None => (args, &[][..]),
        };
        let (target, seconds) = match args {
            ["--list"] => return Ok(Self::List),
            [target] => (target, DEFAULT_SECONDS),
            [target, "--seconds", text] | ["--seconds", text, target] => {
                let seconds = text
                    .parse()
                    .map_err(|_| format!("--seconds wants a whole number, not `{text}`"))?;
                (target, seconds)
            }
            _ => return Err("fuzz wants a TARGET or --list".to_owned()),
        };
        if target.starts_with('-') {
            return Err(format!("fuzz has no option `{target}`"));
        }
        Ok(Self::Fuzz {
            target: (*target).to_owned(),
            seconds,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        })
    }
}

pub(crate) fn run(request: &Request) -> u8 {
    let done = match request {
        Request::List => targets().map(|names| shell::say(&(names.join("\n") + "\n"))),
        Request::Fuzz {
            target,
            seconds,
            options,
        } => fuzz(target, *seconds, options),
    };
    done.err().unwrap_or(0)
}

/// Asks the fuzz crate itself, so that the names are written in one place only.
fn targets() -> Result<Vec<String>, u8> {
    let output = shell::cargo()
        .args(["run", "--quiet", "--package", PACKAGE, "--", "--list"])
        .stderr(std::process::Stdio::inherit())
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect()),
        Ok(output) => Err(shell::outcome("list fuzz targets", Ok(output.status))),
        Err(error) => Err(shell::outcome("list fuzz targets", Err(error))),
    }
}

fn fuzz(target: &str, seconds: u32, options: &[String]) -> Result<(), u8> {
    let names = targets()?;
    if !names.iter().any(|name| name == target) {
        let known = names.join(", ");
        shell::complain(&format!("no fuzz target `{target}`; there are: {known}"));
        return Err(shell::WRONG_USAGE);
    }
    let runtime = libfuzzer_runtime().ok_or_else(|| {
        shell::complain("clang's libFuzzer is missing: apt-get install clang libclang-rt-14-dev");
        shell::TOOL_MISSING
    })?;
    let home = shell::root().join("target/fuzz");
    let program = build(&home, &runtime)?;
    let finds = folder(home.join("corpus").join(target))?;
    let artifacts = folder(home.join("artifacts").join(target))?;

    let mut command = Command::new(program);
    command
        .current_dir(shell::root())
        .env("POSTROAD_FUZZ_TARGET", target)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={SECONDS_PER_INPUT}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .args(options)
        .arg(finds);
    // libFuzzer writes to the first folder only: the committed corpus is read, never changed.
    let seeds = shell::root().join("fuzz/corpus").join(target);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    passed(shell::outcome(&format!("fuzz {target}"), command.status()))
}

fn passed(code: u8) -> Result<(), u8> {
    if code == 0 { Ok(()) } else { Err(code) }
}

fn folder(path: PathBuf) -> Result<PathBuf, u8> {
    fs::create_dir_all(&path).map_err(|error| {
        shell::complain(&format!("cannot create {}: {error}", path.display()));
        shell::FAILED
    })?;
    Ok(path)
}

/// Where clang keeps the fuzzing runtime; the name depends on how clang was packaged.
fn libfuzzer_runtime() -> Option<PathBuf> {
    let named_by_cpu = format!("libclang_rt.fuzzer-{}.a", std::env::consts::ARCH);
    [named_by_cpu.as_str(), "libclang_rt.fuzzer.a"]
        .into_iter()
        .find_map(|name| {
            let output = Command::new("clang")
                .arg(format!("-print-file-name={name}"))
                .output()
                .ok()?;
            // clang answers with the bare name when it has no such file.
            let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
            (path.is_absolute() && path.is_file()).then_some(path)
        })
}

fn host_triple() -> Result<String, u8> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("-vV")
        .output()
        .map_err(|error| shell::outcome("rustc -vV", Err(error)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| {
        shell::complain("rustc -vV names no host");
        shell::FAILED
    })
}

/// Builds the instrumented program in its own target folder and returns its path.
fn build(home: &Path, runtime: &Path) -> Result<PathBuf, u8> {
    let triple = host_triple()?;
    let mut flags: Vec<String> = COVERAGE_FLAGS
        .iter()
        .map(|flag| (*flag).to_owned())
        .collect();
    flags.push(format!("-Clink-arg={}", runtime.display()));
    flags.push("-Clink-arg=-lstdc++".to_owned());
    let status = shell::cargo()
        .args(["build", "--release", "--package", PACKAGE, "--bin", PACKAGE])
        // Naming the target keeps the flags away from build scripts and procedural macros,
        // which would not link with a second `main`.
        .args(["--target", &triple, "--target-dir"])
        .arg(home)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .envs(PROFILE.iter().copied())
        .status();
    passed(shell::outcome("build the fuzz program", status))?;
    Ok(home.join(triple).join("release").join(PACKAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fuzz(target: &str, seconds: u32, options: &[&str]) -> Result<Request, String> {
        Ok(Request::Fuzz {
            target: target.to_owned(),
            seconds,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        })
    }

    #[test]
    fn target_seconds_and_options_are_read() {
        assert_eq!(Request::parse(&["--list"]), Ok(Request::List));
        assert_eq!(Request::parse(&["frame"]), fuzz("frame", 60, &[]));
        assert_eq!(
            Request::parse(&["frame", "--seconds", "5"]),
            fuzz("frame", 5, &[])
        );
        assert_eq!(
            Request::parse(&["--seconds", "5", "frame", "--", "-runs=1"]),
            fuzz("frame", 5, &["-runs=1"])
        );
    }

    #[test]
    fn wrong_arguments_are_refused_with_a_reason() {
        assert!(Request::parse(&[]).is_err());
        assert!(Request::parse(&["--seconds"]).is_err());
        assert!(Request::parse(&["frame", "--seconds", "-1"]).is_err());
        assert!(Request::parse(&["frame", "other"]).is_err());
    }
}
