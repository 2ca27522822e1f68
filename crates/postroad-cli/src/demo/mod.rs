//! `postroad demo`: everything that the first version claims, seen to happen.

mod fleet;
pub(crate) mod node;
mod overload;
mod process;
mod story;

use crate::terminal::say;
use std::process::ExitCode;

use crate::args::Demo;
use crate::commands::runtime;
use crate::exit::{self, Failed};
use crate::signals::Signals;
use crate::terminal::{Color, Style};
use process::Node;
use story::Story;

pub(crate) fn run(demo: &Demo, color: Color) -> Result<ExitCode, Failed> {
    let style = Style::new(color, &std::io::stdout());
    runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        let told = tokio::select! {
            told = play(style) => told?,
            code = signals.next() => return Ok(code),
        };
        let (node, is_as_claimed) = told;
        if !demo.once {
            stay(&node, style);
            signals.next().await;
            say("\nThe node has ended. Goodbye.");
        }
        drop(node);
        Ok(ExitCode::from(if is_as_claimed { 0 } else { exit::FAILED }))
    })
}

async fn play(style: Style) -> Result<(Node, bool), Failed> {
    let mut story = Story::new(style);
    say(style.bold("1. A node with two services, and listeners for every dialect"));
    let mut node = Node::start().await?;
    say(format_args!("   process {} listens on", node.id()));
    node.urls()
        .iter()
        .for_each(|url| say(format_args!("     {url}")));
    story.services(&node).await;
    story.dialects(&node).await;
    story.deadlines(&node).await;
    story.priorities(&node).await;
    story.killed_under_load(&mut node).await?;
    story.restarted_gracefully(&mut node).await?;
    story.fleet().await?;
    story.overloaded(&node).await?;
    let is_as_claimed = story.end();
    Ok((node, is_as_claimed))
}

/// What to try by hand.
fn stay(node: &Node, style: Style) {
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "postroad".to_owned());
    let native = node.url("native");
    let line = node
        .url("line")
        .replace("tcp+line://", "")
        .replace(':', " ");
    say(format_args!(
        "\n{}",
        style.bold("The node stays until Ctrl-C. In another terminal:")
    ));
    say(format_args!("   {program} ls {native}"));
    say(format_args!(
        "   {program} call {native} Stock.count '{{\"item\": \"nails\"}}'"
    ));
    say(format_args!(
        "   {program} call {native} Orders.place '{{\"item\": \"unicorns\"}}'"
    ));
    say(format_args!("   echo hello | nc -q1 {line}"));
    say(format_args!("   {program} bench {native}"));
}
