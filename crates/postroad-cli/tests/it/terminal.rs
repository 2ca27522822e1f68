//! What is shown where stdout is a terminal.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use crate::support::{Node, postroad, run, signal, text, wait};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Both ends of a new terminal: that of whoever looks at it, and that of a program.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&ours).expect("it is ours");
    unlockpt(&ours).expect("it is ours");
    let name = ptsname(&ours, Vec::new()).expect("it has a name");
    let name = name.into_string().expect("an ASCII name");
    let mut options = OpenOptions::new();
    let theirs = options.read(true).write(true).open(name);
    (File::from(ours), theirs.expect("its other end"))
}

/// Runs the program with a terminal as stdout; what the terminal gets, with its line ends as `\n`.
fn on_a_terminal(arguments: &[&str]) -> String {
    let (mut ours, theirs) = terminal();
    let mut command = postroad();
    command.args(arguments).env("NO_COLOR", "1");
    command.stdout(theirs).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program was built");
    // Only the child has the other end now, so that its end is the end of what can be read.
    drop(command);
    let mut shown = Vec::new();
    // Linux reports the end of a terminal as an error.
    let _ = ours.read_to_end(&mut shown);
    child.wait().expect("it ends");
    text(&shown).replace("\r\n", "\n")
}

#[test]
fn a_node_on_a_terminal_greets_once_and_says_what_to_try() {
    let (ours, theirs) = terminal();
    let mut command = postroad();
    command.args(["serve", "--listen", "tcp+line://127.0.0.1:0"]);
    command.args(["--listen", "tcp+auto://127.0.0.1:0"]);
    command.stdout(theirs.try_clone().expect("a copy"));
    command.stderr(theirs).env("NO_COLOR", "1");
    let mut node = command.spawn().expect("the program was built");
    drop(command);
    let mut lines = BufReader::new(ours).lines().map_while(Result::ok);
    let mut shown = Vec::new();
    for line in lines.by_ref() {
        shown.push(line);
        if shown.last().is_some_and(|line| line.contains("Ctrl-C")) {
            break;
        }
    }
    let tried = shown
        .iter()
        .find_map(|line| line.strip_prefix("try: postroad call "));
    let tried = tried
        .and_then(|rest| rest.split(' ').next())
        .expect("a URL");
    assert_eq!(
        text(&run(&["call", tried, "postroad/echo", "1"]).stdout),
        "1\n"
    );
    signal(&node, "TERM");
    shown.extend(lines);
    assert_eq!(wait(&mut node).code(), Some(0));
    let greeted = shown.iter().filter(|line| line.contains("tcp+line://"));
    assert_eq!(greeted.count(), 1, "{shown:?}");
    let is_logged = shown
        .iter()
        .any(|line| line.contains("finishing what was accepted"));
    assert!(is_logged, "{shown:?}");
}

#[test]
fn a_terminal_shows_the_value_that_was_sent() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    for (sent, shown) in [
        ("12345678901234567890123", "12345678901234567890123\n"),
        ("18446744073709551616", "18446744073709551616\n"),
        (
            "[1.10,1.2345678901234567890e22]",
            "[\n  1.10,\n  1.2345678901234567890e22\n]\n",
        ),
        ("{\"z\":1,\"a\":2}", "{\n  \"z\": 1,\n  \"a\": 2\n}\n"),
    ] {
        let arguments = ["call", &node.tcp(), "postroad/echo", sent];
        assert_eq!(on_a_terminal(&arguments), shown);
        assert_eq!(text(&run(&arguments).stdout), format!("{sent}\n"));
    }
}

#[test]
fn an_answer_cannot_steer_the_terminal() {
    let node = Node::start(&["tcp://127.0.0.1:0", "tcp+line://127.0.0.1:0"]);
    let line = format!("tcp+line://{}", node.addresses[1]);
    let steering = "\x1b]0;owned\x07\x1b[2J\u{9b}1m\u{202e}gone";
    let shown = "\\u001b]0;owned\\u0007\\u001b[2J\\u009b1m\\u202egone\n";
    let arguments = ["call", &line, "x", steering];
    assert_eq!(on_a_terminal(&arguments), shown);
    assert_eq!(text(&run(&arguments).stdout), format!("{steering}\n"));
    let json = "{\"a\":\"\u{9b}2J\u{7f}\"}";
    let arguments = ["call", &node.tcp(), "postroad/echo", json];
    let shown = on_a_terminal(&arguments);
    assert_eq!(shown, "{\n  \"a\": \"\\u009b2J\\u007f\"\n}\n");
}

#[test]
fn a_reader_that_has_seen_enough_of_an_answer_ends_the_call_quietly() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let program = env!("CARGO_BIN_EXE_postroad");
    let script = format!(
        "head -c 2999998 /dev/zero | tr '\\0' 1 | \
         {program} call {} postroad/echo - --raw | head -c 5",
        node.tcp()
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .output();
    let output = output.expect("sh is there");
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        ("11111".to_owned(), String::new())
    );
}
