//! The program `postroad`: data on stdout, everything else on stderr, one table of exit codes.

mod args;
mod commands;
mod config;
mod demo;
mod exit;
mod layout;
mod logging;
#[cfg(all(target_os = "linux", feature = "jemalloc"))]
mod memory;
#[cfg(not(all(target_os = "linux", feature = "jemalloc")))]
#[path = "memory_absent.rs"]
mod memory;
mod signals;
mod terminal;
mod times;
mod unreachable;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};
use exit::Failed;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let style = terminal::Style::new(arguments.color, &std::io::stderr());
    let result = logging::start(&arguments, style).and_then(|_log| run(arguments));
    result.unwrap_or_else(|failed| {
        failed.print(style);
        failed.code()
    })
}

fn run(arguments: Arguments) -> Result<ExitCode, Failed> {
    let color = arguments.color;
    match arguments.command {
        Command::Serve(serve) => commands::serve::run(&serve),
        Command::Call(call) => commands::call::run(&call),
        Command::Ls(ls) => commands::ls::run(&ls),
        Command::Probe(probe) => commands::probe::run(&probe),
        Command::Decode(decode) => commands::decode::run(&decode, color),
        Command::Bench(bench) => commands::bench::run(&bench, color),
        Command::Demo(demo) => demo::run(&demo, color),
        Command::DemoNode(node) => demo::node::run(&node),
        Command::Config(config) => commands::config::run(&config),
        Command::Completions { shell } => {
            commands::completions::run(shell);
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { dir } => commands::man::run(&dir),
    }
}
