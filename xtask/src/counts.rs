//! `cargo xtask counts`: what a call costs, counted exactly, and compared with what it cost when
//! `counts/counts.txt` was written.
//!
//! Instructions are callgrind's, allocations memcheck's, both of one process whose one thread runs
//! both ends; system calls are strace's, of two processes on one processor. Two runs of different
//! lengths are subtracted, so that starting and stopping does not count.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::shell;

const FILE: &str = "counts/counts.txt";
const HEADER: &str = "\
# What a message costs, both ends together: instructions, heap allocations, system calls.
# Written by `cargo xtask counts --write`; CI compares. 64 B, checksum, deadline, TCP.
# `fleet-` is through a list of two servers with all policies that are on by default.
# scenario      in flight  instructions  allocations  system calls
";
/// What is counted, and with how many in flight.
const SCENARIOS: [(&str, u32); 12] = [
    ("call", 1),
    ("blocking", 1),
    ("call", 64),
    ("call", 1000),
    ("pipeline", 64),
    ("pipeline", 1000),
    ("together", 64),
    ("send", 1),
    ("batch", 1),
    ("fleet-call", 1),
    ("fleet-call", 64),
    ("fleet-pipeline", 64),
];
/// Messages of the shorter run; the longer one has twice as many.
const MESSAGES: u32 = 20_000;
/// How much more than written is let through: a part of the instructions, of which two equal runs
/// differ by one to three, and absolute numbers of the others, whose batches depend a little on the
/// scheduler.
const MORE_INSTRUCTIONS: f64 = 0.02;
const MORE_ALLOCATIONS: f64 = 0.1;
const MORE_CALLS: f64 = 0.06;

/// Of one message.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cost {
    instructions: f64,
    allocations: f64,
    system_calls: f64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            instructions,
            allocations,
            system_calls,
        } = self;
        write!(
            f,
            "{instructions:>12.0}  {allocations:>11.3}  {system_calls:>12.3}"
        )
    }
}

impl Cost {
    fn parse(line: &str) -> Option<(String, u32, Self)> {
        let mut words = line.split_whitespace();
        let (scenario, in_flight) = (words.next()?, words.next()?.parse().ok()?);
        let mut number = || words.next()?.parse().ok();
        let cost = Self {
            instructions: number()?,
            allocations: number()?,
            system_calls: number()?,
        };
        Some((scenario.to_owned(), in_flight, cost))
    }

    /// What is dearer than `before` lets through.
    fn dearer(&self, before: &Self) -> Vec<String> {
        let limits = [
            (
                "instructions",
                self.instructions,
                before.instructions * (1.0 + MORE_INSTRUCTIONS),
            ),
            (
                "allocations",
                self.allocations,
                before.allocations + MORE_ALLOCATIONS,
            ),
            (
                "system calls",
                self.system_calls,
                before.system_calls * 1.1 + MORE_CALLS,
            ),
        ];
        let over = limits.into_iter().filter(|(_, now, limit)| now > limit);
        over.map(|(what, now, limit)| format!("{now:.3} {what}, at most {limit:.3} were expected"))
            .collect()
    }
}

pub(crate) fn run(is_to_write: bool) -> u8 {
    for tool in ["valgrind", "strace", "taskset"] {
        if shell::which(tool).is_none() {
            shell::complain(&format!("`{tool}` is not installed: apt install {tool}"));
            return shell::TOOL_MISSING;
        }
    }
    let built = shell::cargo()
        .args(["build", "--release", "--quiet", "-p", "counts"])
        .status();
    let code = shell::outcome("build counts", built);
    if code != 0 {
        return code;
    }
    let program = target().join("release/counts");
    let mut lines = HEADER.to_owned();
    let mut counted = Vec::new();
    for (scenario, in_flight) in SCENARIOS {
        match cost(&program, scenario, in_flight) {
            Ok(cost) => {
                let line = format!("{scenario:<14}  {in_flight:>9}  {cost}\n");
                shell::say(&line);
                lines.push_str(&line);
                counted.push((scenario, in_flight, cost));
            }
            Err(problem) => {
                shell::complain(&format!("{scenario} {in_flight}: {problem}"));
                return shell::FAILED;
            }
        }
    }
    let file = shell::root().join(FILE);
    if is_to_write {
        return match fs::write(&file, lines) {
            Ok(()) => 0,
            Err(error) => {
                shell::complain(&format!("{}: {error}", file.display()));
                shell::FAILED
            }
        };
    }
    compare(&fs::read_to_string(&file).unwrap_or_default(), &counted)
}

fn compare(written: &str, counted: &[(&str, u32, Cost)]) -> u8 {
    let written: Vec<_> = written.lines().filter_map(Cost::parse).collect();
    let mut code = 0;
    for (scenario, in_flight, cost) in counted {
        let is_same =
            |(name, number, _): &&(String, u32, Cost)| name == scenario && number == in_flight;
        let Some((_, _, before)) = written.iter().find(is_same) else {
            shell::complain(&format!("{FILE} says nothing of {scenario} {in_flight}"));
            code = shell::FAILED;
            continue;
        };
        for what in cost.dearer(before) {
            let dearer = format!("{scenario} with {in_flight} in flight became dearer: {what}");
            shell::complain(&dearer);
            code = shell::FAILED;
        }
    }
    if code != 0 {
        shell::complain("if that is worth it: `cargo xtask counts --write`, and say why");
    }
    code
}

/// Where cargo builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), PathBuf::from)
}

fn cost(program: &Path, scenario: &str, in_flight: u32) -> Result<Cost, String> {
    let each = |count: &dyn Fn(u32) -> Result<u64, String>| -> Result<f64, String> {
        let (short, long) = (count(MESSAGES)?, count(2 * MESSAGES)?);
        Ok((long as f64 - short as f64).max(0.0) / f64::from(MESSAGES))
    };
    Ok(Cost {
        instructions: each(&|messages| {
            let tool = ["--tool=callgrind", "--callgrind-out-file=/dev/null"];
            valgrind(program, &tool, (scenario, messages, in_flight), "refs:")
        })?,
        allocations: each(&|messages| {
            let tool = ["--tool=memcheck", "--leak-check=no"];
            valgrind(
                program,
                &tool,
                (scenario, messages, in_flight),
                "heap usage:",
            )
        })?,
        system_calls: each(&|messages| system_calls(program, scenario, messages, in_flight))?,
    })
}

/// The number behind `mark` in what valgrind says.
fn valgrind(
    program: &Path,
    tool: &[&str],
    (scenario, messages, in_flight): (&str, u32, u32),
    mark: &str,
) -> Result<u64, String> {
    let output = Command::new("valgrind")
        .args(tool)
        .arg(program)
        .args([scenario, &messages.to_string(), &in_flight.to_string()])
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stderr);
    let said = || format!("valgrind: {}", text.lines().last().unwrap_or_default());
    if !output.status.success() {
        return Err(said());
    }
    let number = text.split_once(mark).map(|(_, rest)| rest.trim_start());
    let number = number
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or_else(said)?;
    number.replace(',', "").parse().map_err(|_| said())
}

/// A server that is ended when nobody needs it any more.
struct Traced(Child);

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// System calls of both ends, as two processes on one processor.
fn system_calls(
    program: &Path,
    scenario: &str,
    messages: u32,
    in_flight: u32,
) -> Result<u64, String> {
    let name = format!("postroad-counts-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let (served, loaded) = (folder.join("serve"), folder.join("load"));
    let traced = |file: &Path, arguments: &[&str]| {
        let mut command = Command::new("taskset");
        command.args(["-c", "0", "strace", "-f", "-c", "-U", "calls,name", "-o"]);
        command.arg(file).arg(program).args(arguments);
        command
    };
    let mut server = traced(&served, &["serve", "tcp://127.0.0.1:0"]);
    let server = server.stdout(Stdio::piped()).stdin(Stdio::piped()).spawn();
    let mut server = Traced(server.map_err(|error| error.to_string())?);
    let mut address = String::new();
    if let Some(out) = server.0.stdout.take() {
        let read = BufReader::new(out).read_line(&mut address);
        read.map_err(|error| error.to_string())?;
    }
    let url = format!("tcp://{}", address.trim());
    let (messages, in_flight) = (messages.to_string(), in_flight.to_string());
    let loading = traced(&loaded, &["load", &url, scenario, &messages, &in_flight]).output();
    let loading = loading.map_err(|error| error.to_string())?;
    if !loading.status.success() {
        return Err(String::from_utf8_lossy(&loading.stderr).into_owned());
    }
    // The server ends by itself when its input does, and strace writes its count.
    drop(server.0.stdin.take());
    server.0.wait().map_err(|error| error.to_string())?;
    let total = |file: &Path| -> Result<u64, String> {
        let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
        let line = text.lines().find(|line| line.contains("total"));
        let number = line.and_then(|line| line.split_whitespace().next());
        let number = number.and_then(|number| number.parse().ok());
        number.ok_or_else(|| format!("{}: no total", file.display()))
    };
    let sum = total(&served)? + total(&loaded)?;
    let _ = fs::remove_dir_all(&folder);
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost {
        instructions: 3500.0,
        allocations: 0.02,
        system_calls: 0.1,
    };

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let line = format!("{:<14}  {:>9}  {COST}", "call", 64);
        assert_eq!(Cost::parse(&line), Some(("call".to_owned(), 64, COST)));
        assert_eq!(Cost::parse("# scenario"), None);
    }

    #[test]
    fn what_became_dearer_is_named_and_what_became_cheaper_is_not() {
        let dearer = Cost {
            instructions: 3571.0,
            allocations: 1.02,
            ..COST
        };
        assert_eq!(dearer.dearer(&COST).len(), 2);
        assert!(COST.dearer(&dearer).is_empty());
        assert_eq!(compare("", &[("call", 64, COST)]), shell::FAILED);
    }
}
