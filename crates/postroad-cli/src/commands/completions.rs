//! `postroad completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Arguments;
use crate::terminal::say;

pub(crate) fn run(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "postroad", &mut script);
    // Whoever reads the first lines only is not wrong.
    say(String::from_utf8_lossy(&script).trim_end());
}
