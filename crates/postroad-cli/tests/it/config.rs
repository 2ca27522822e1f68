//! `postroad config`: what a configuration says that is wrong, without effect, or in effect.

use std::path::Path;
use std::process::Output;

use crate::support::{Node, postroad, run, text};

fn written(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("it is written");
    file
}

fn config(command: &str, file: &Path, variables: &[(&str, &str)]) -> Output {
    let mut program = postroad();
    program.args(["config", command]).arg(file);
    let variables = variables.iter().copied();
    program.envs(variables).output().expect("it was built")
}

#[test]
fn what_leads_nowhere_or_has_no_effect_is_warned_of() {
    let file = written(
        "[connection]\nheartbeat = \"10s\"\n\
         [[listen]]\nurl = \"tcp+session://127.0.0.1:1\"\n\
         codes = { \"1\" = \"postroad/ehco\", \"2\" = \"practice/sleep\" }\n\
         [[listen]]\nurl = \"tcp+line://127.0.0.1:2\"\ncodes = { \"1\" = \"postroad/echo\" }\n",
    );
    let output = config("check", file.path(), &[]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for words in [
        "line 2, column 1: no effect: only native connections heed it",
        "line 5, column 9: unknown route \"postroad/ehco\"",
        "did you mean `postroad/echo`?",
        "\"practice/sleep\" is there with `serve --practice` only",
        "line 8, column 9: no effect: requests of tcp+line://127.0.0.1:2 have no codes",
        "4 warnings",
    ] {
        assert!(said.contains(words), "{words:?} in {said}");
    }
    let file = written("[[listen]]\nurl = \"tcp://127.0.0.1:1\"\ncodes = { \"1\" = \"a\" }\n");
    let said = text(&config("check", file.path(), &[]).stderr);
    assert!(
        said.contains("no effect: tcp://127.0.0.1:1 is native"),
        "{said}"
    );
    let file = written("[[listen]]\nurl = \"tcp+session://127.0.0.1:1?route=postroad/echo\"\n");
    let said = text(&config("check", file.path(), &[]).stderr);
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn the_routes_that_are_known_are_those_that_a_node_lists() {
    let node = Node::with(&["--practice", "--listen", "tcp://127.0.0.1:0"], 1);
    let listed = text(&run(&["ls", &node.tcp()]).stdout);
    let file = written("[[listen]]\nurl = \"tcp+line://127.0.0.1:1?route=x\"\n");
    let said = text(&config("check", file.path(), &[]).stderr);
    let routes = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let routes: Vec<_> = routes.collect();
    assert!(routes.len() > 2, "{listed}");
    for route in &routes {
        assert!(said.contains(route), "{route} in {said}");
    }
    let practice = routes.iter().filter(|route| route.starts_with("practice/"));
    assert_eq!(
        said.matches("practice/").count(),
        practice.count(),
        "{said}"
    );
}

#[cfg(feature = "tls")]
#[test]
fn a_certificate_that_soon_expires_is_warned_of() {
    use crate::support::has_peer;

    if !has_peer("openssl", "openssl") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args([
            "-noenc", "-subj", "/CN=x", "-days", "5", "-keyout", "k.pem", "-out", "c.pem",
        ])
        .current_dir(&folder)
        .output();
    assert!(made.expect("openssl is there").status.success());
    let at = folder.path().display();
    let file = written(&format!(
        "[[listen]]\nurl = \"tls://127.0.0.1:1?cert={at}/c.pem&key={at}/k.pem\"\n"
    ));
    let said = text(&config("check", file.path(), &[]).stderr);
    assert!(
        said.contains("line 2, column 7") && said.contains("expires on"),
        "{said}"
    );
}

#[test]
fn all_mistakes_of_the_environment_are_shown_at_once_with_their_variables() {
    let file = written("[limits]\nmax_calls = 5\n");
    let variables = [
        ("POSTROAD_SERVER_DRAIN", "5s"),
        ("POSTROAD_SERVER__DRIAN", "5s"),
        ("POSTROAD_SERVER__DRAIN", "soon"),
        ("POSTROAD_LIMITS__MAX_CALLS", "70000"),
        ("POSTROAD_LIMITS__MAX_MESSAGE", "128MiB"),
        ("POSTROAD_LISTEN__URL", "tcp://h:1"),
        ("POSTROAD_TEST_PEERS", "skip"),
    ];
    let output = config("check", file.path(), &variables);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    for words in [
        "POSTROAD_SERVER_DRAIN: write POSTROAD_SERVER__DRAIN, with two underscores",
        "POSTROAD_SERVER__DRIAN: unknown key `drian`",
        "did you mean `drain`?",
        "POSTROAD_SERVER__DRAIN: \"soon\" is not a time",
        "POSTROAD_LIMITS__MAX_CALLS: max_calls = 70000 is out of bounds",
        "POSTROAD_LIMITS__MAX_MESSAGE: assembly_max",
        "POSTROAD_LISTEN__URL: listeners are set by the file",
    ] {
        assert!(said.contains(words), "{words:?} in {said}");
    }
    assert!(!said.contains("TEST_PEERS"), "{said}");
}

#[test]
fn the_configuration_in_effect_is_printed_with_the_origin_of_each_value() {
    let file = written(
        "[server]\ndrain = \"20s\"\n[[listen]]\nurl = \"tcp+session://127.0.0.1:1\"\n\
         codes = { \"24\" = \"postroad/routes\", \"0x17\" = \"postroad/echo\" }\n",
    );
    let variables = [
        ("POSTROAD_LIMITS__MAX_CALLS", "7"),
        ("POSTROAD_CONNECTION__CHECKSUM", "true"),
    ];
    let printed = config("print", file.path(), &variables);
    let said = text(&printed.stdout);
    let line = |begin: &str| {
        let line = said.lines().find(|line| line.starts_with(begin));
        line.unwrap_or_else(|| panic!("{begin} in {said}"))
            .to_owned()
    };
    assert!(line("drain = \"20s\"").ends_with(":2"), "{said}");
    assert!(
        line("max_calls = 7 ").ends_with("# POSTROAD_LIMITS__MAX_CALLS"),
        "{said}"
    );
    assert!(
        line("checksum = true").ends_with("# POSTROAD_CONNECTION__CHECKSUM"),
        "{said}"
    );
    assert!(
        line("max_requests = 10000").ends_with("# default"),
        "{said}"
    );
    assert!(line("[[listen]]").ends_with(":3"), "{said}");
    let codes = "codes = { \"0x17\" = \"postroad/echo\", \"0x18\" = \"postroad/routes\" }";
    assert!(said.contains(codes), "{said}");
    // It is a configuration itself, and says the same.
    let again = written(&said);
    let printed = text(&config("print", again.path(), &[]).stdout);
    let values = |text: &str| -> Vec<_> {
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default());
        lines.map(|line| line.trim_end().to_owned()).collect()
    };
    assert_eq!(values(&said), values(&printed));
}

#[test]
fn an_unknown_option_is_answered_with_all_of_its_url() {
    for (url, known) in [
        (
            "tcp+session://h:1?crd=arc",
            "tcp+session has crc, envelope, route, heartbeat",
        ),
        ("tcp://h:1?crd=arc", "tcp has none"),
        (
            "tcp+line://h:1?crd=arc",
            "tcp+line has envelope, route, heartbeat",
        ),
    ] {
        let output = run(&["call", url, "x"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(
            text(&output.stderr).contains(known),
            "{}",
            text(&output.stderr)
        );
    }
}
