//! What can be typed.

pub(crate) mod bench;
mod examples;
mod probe;

pub(crate) use probe::{Probe, Probed};

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use postroad_proto::dialect::{Crc, Dialect};
use postroad_proto::units::parse_size;

use crate::config::AdminListen;
use crate::terminal::{Color, Output};
use crate::times::duration;

/// Heading of the flags that every command has; it stands last.
const GLOBAL: &str = "Global options";

/// Calls nodes by hand, explains frames, tests servers under load, and runs a node to try things
/// with.
///
/// It speaks Postroad's own protocol and six dialects of the Message Communication Protocol. Not
/// built yet: acknowledged delivery, publish and subscribe, streams.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 69 nobody answers there, 78 wrong configuration, 98
/// a threshold cannot be judged because the run is invalid or incomplete, 99 a threshold was
/// missed, 130 and 143 after Ctrl-C and SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "postroad", version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// When to use colours.
    #[arg(
        long, global = true, value_enum, default_value_t = Color::Auto,
        help_heading = GLOBAL, display_order = 900
    )]
    pub(crate) color: Color,
    /// What to log on stderr: error, warn, info, debug, trace, or a filter such as
    /// postroad::call=debug.
    #[arg(long, global = true, value_name = "FILTER", help_heading = GLOBAL, display_order = 900)]
    pub(crate) log: Option<String>,
    /// How to log.
    #[arg(
        long, global = true, value_enum, default_value_t = LogFormat::Text,
        help_heading = GLOBAL, display_order = 900
    )]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node with built-in routes, to test clients, dialects, certificates and load against.
    ///
    /// Without options it listens on tcp+auto://127.0.0.1:7400. It does not run services of your
    /// own: they are programs written with the library, and all other commands work with them too.
    #[command(after_long_help = examples::SERVE)]
    Serve(Serve),
    /// Call a route and print its answer.
    #[command(after_long_help = examples::CALL)]
    Call(Call),
    /// List the routes of a node and their types.
    #[command(after_long_help = examples::LS)]
    Ls(Ls),
    /// Ask a node how it does: whether it lives, is ready, or has been started.
    ///
    /// Exits with 0 if so, with 1 if not, and with 69 if nobody answers.
    #[command(after_long_help = examples::PROBE)]
    Probe(Probe),
    /// Explain a frame field by field, and show where it goes wrong.
    #[command(after_long_help = examples::DECODE)]
    Decode(Decode),
    /// Test a server under load: rate, latency, errors, and what a call costs.
    #[command(after_long_help = examples::BENCH)]
    Bench(Box<bench::Bench>),
    /// See it all at work: a node, two services, clients of every dialect, a server killed under
    /// load.
    #[command(after_long_help = examples::DEMO)]
    Demo(Demo),
    #[command(hide = true)]
    DemoNode(DemoNode),
    /// Look at a configuration file.
    #[command(subcommand, after_long_help = examples::CONFIG)]
    Config(Config),
    /// Print completions for a shell.
    #[command(after_long_help = examples::COMPLETIONS)]
    Completions { shell: Shell },
    /// Write manual pages, one for each command.
    #[command(after_long_help = examples::MAN)]
    Man {
        /// Folder to write them to.
        #[arg(long)]
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Configuration file, or a key such as etcd://127.0.0.1:2379/postroad/node1; by default
    /// postroad.toml of this folder, if it is there. A change of it is taken while the node runs;
    /// see docs/configuration.md.
    #[arg(long, short, value_name = "FILE|URL")]
    pub(crate) config: Option<PathBuf>,
    /// Endpoint to listen on, instead of the configuration's; may be repeated.
    #[arg(long, short, value_name = "URL")]
    pub(crate) listen: Vec<String>,
    /// Threads with a reactor of their own; by default one a core.
    #[arg(long)]
    pub(crate) workers: Option<usize>,
    /// Where to tell health and metrics over HTTP, instead of the configuration's or of
    /// http://127.0.0.1:7490: http://127.0.0.1:PORT, unix:///PATH or off.
    #[arg(long, value_name = "URL")]
    pub(crate) admin: Option<AdminListen>,
    /// Add routes to practise on, which sleep, spin, fail, count and answer with many bytes; see
    /// docs/practice.md.
    #[arg(long)]
    pub(crate) practice: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Call {
    /// Target, such as tcp://127.0.0.1:7400, tcp+line://127.0.0.1:7406 or
    /// etcd://127.0.0.1:2379/orders, or the name of a service of the configuration file.
    pub(crate) target: String,
    /// Route, such as postroad/echo or Greeter.hello; for dialects also command/0x17, opcode/1.
    pub(crate) route: String,
    /// The payload as JSON, @FILE for that of a file, - or @- for stdin; without one null is sent.
    /// Dialects without an envelope send its bytes as they are.
    #[arg(allow_hyphen_values = true)]
    pub(crate) payload: Option<String>,
    /// Time for the call, from looking up the name to the answer; by default that of the service,
    /// or 5s.
    #[arg(long, value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Configuration file that says what a service is; by default postroad.toml of this folder.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Say on stderr why the call went where it went.
    #[arg(long)]
    pub(crate) explain: bool,
    /// 0 to 7, 7 most urgent.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=7), default_value_t = 3)]
    pub(crate) priority: u8,
    /// Key and value to send along; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) metadata: Vec<String>,
    /// Token that says who calls; better in the environment than here, where every user of the
    /// machine can read it.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "POSTROAD_TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<Secret>,
    /// File with the token.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Send and wait for no answer.
    #[arg(long)]
    pub(crate) one_way: bool,
    /// Send the payload's bytes as they are, not as JSON.
    #[arg(long)]
    pub(crate) raw: bool,
    /// Give the call a trace and print its id on stderr: the server's log has the same.
    #[arg(long)]
    pub(crate) trace: bool,
    /// The largest answer to accept, such as 64MiB; by default 16MiB, of a dialect 1MiB.
    #[arg(long, value_name = "SIZE", value_parser = message_size)]
    pub(crate) max_message: Option<usize>,
}

/// A text that is shown nowhere.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) String);

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// The bounds of `max_message` in a node's configuration.
fn message_size(text: &str) -> Result<usize, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    let is_within = (1 << 10..=1 << 30).contains(&size);
    is_within
        .then_some(size)
        .ok_or_else(|| "1KiB to 1GiB".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Target, of which one node is asked, or the name of a service of the configuration file.
    pub(crate) target: String,
    /// Time for all, from looking up the name to the answer; by default that of the service, or 5s.
    #[arg(long, value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Configuration file that says what a service is; by default postroad.toml of this folder.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

fn dialects() -> PossibleValuesParser {
    let native = std::iter::once("native");
    PossibleValuesParser::new(native.chain(Dialect::ALL.map(Dialect::name)))
}

#[derive(Debug, Args)]
pub(crate) struct Decode {
    /// What to read it as; by default as its magic says.
    #[arg(long, value_parser = dialects())]
    pub(crate) dialect: Option<String>,
    /// Checksum of the session dialect.
    #[arg(long, default_value = "ibm-3740", value_parser = Crc::ALL.map(Crc::name))]
    pub(crate) crc: String,
    /// Bytes of the priority dialect's header.
    #[arg(long, default_value = "10", value_parser = ["9", "10", "12"])]
    pub(crate) header: String,
    /// Read it as the answer that a client gets, not as a request.
    #[arg(long)]
    pub(crate) answer: bool,
    /// Whether native frames end with a checksum; by default as it fits.
    #[arg(long)]
    pub(crate) checksum: Option<bool>,
    /// Hexadecimal digits, a file of bytes or of hexadecimal digits, or - for stdin.
    pub(crate) input: String,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// End by itself, with exit code 0 only if everything that it claims was seen.
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoNode {
    /// Endpoints to listen on.
    #[arg(long)]
    pub(crate) listen: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Check a file as `serve --config FILE` would, and start nothing.
    #[command(after_long_help = examples::CHECK)]
    Check {
        /// The file, or a key such as etcd://127.0.0.1:2379/postroad/node1.
        file: PathBuf,
    },
    /// Print every key with its value and where that comes from: file, variable or default.
    #[command(after_long_help = examples::PRINT)]
    Print {
        /// The file, or a key such as etcd://127.0.0.1:2379/postroad/node1; by default
        /// postroad.toml of this folder. Without any, what a node does that is told nothing.
        file: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_help_names_what_is_not_built_and_what_serve_is_for() {
        let help = Arguments::command().render_long_help().to_string();
        // The help is wrapped, so a sentence may go over several lines.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            help.contains("Not built yet: acknowledged delivery"),
            "{help}"
        );
        assert!(help.contains("Run a node with built-in routes"), "{help}");
    }
}
