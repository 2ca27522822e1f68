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
fn all_mistakes_of_rules_are_shown_at_once_each_with_its_place() {
    let file = written(
        "[server]\nconcurrency = 0\n[workers]\ncpu = 9999\n\
         [[route]]\nname = \"a*b\"\npriority = 8\nprio = 3\nrate = { limit = 50 }\n\
         [[route]]\nname = \"x\"\ndeadline = 5\nallow = \"role:a\"\nrate = { limt = \"5/s\" }\n\
         versions = { \"1\" = \"50%\" }\nwork = \"gpu\"\n\
         [[route]]\nrate = { limit = \"5/s\", shape = \"leaky\", burst = 4 }\n",
    );
    let output = config("check", file.path(), &[]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    for words in [
        "line 2, column 15: concurrency = 0 is out of bounds",
        "line 4, column 7: workers.cpu = 9999 is out of bounds: 1 to 1024",
        "line 6, column 8: name = \"a*b\" is out of bounds",
        "line 7, column 12: priority = 8 is out of bounds: 0 to 7",
        "line 8, column 1: unknown key `prio`",
        "line 9, column 8: expected a rate such as \"50/s\"",
        "line 12, column 12: expected a time with its unit: write \"5s\"",
        "line 13, column 9: invalid type: string \"role:a\", expected a list",
        "line 14, column 10: unknown key `limt`",
        "line 15, column 12: versions = 50.0% is out of bounds",
        "line 16, column 8: unknown variant `gpu`",
        "line 17, column 1: missing key `name`",
        "line 18, column 50: rate.burst = 4 is out of bounds",
        "13 mistakes",
    ] {
        assert!(said.contains(words), "{words:?} in {said}");
    }
}

#[test]
fn rules_are_explained_in_sentences_and_one_that_can_never_count_is_warned_of() {
    let file = written(
        "[[route]]\nname = \"practice/*\"\nallow = [\"role:tester\"]\npriority = 5\n\
         deadline = \"500ms\"\nwork = \"cpu\"\n\
         [[route]]\nname = \"practice/sleep\"\n[[route]]\nname = \"*\"\nconcurrency = \"auto\"\n",
    );
    let output = config("check", file.path(), &[]);
    let said = text(&output.stdout);
    for sentence in [
        "route practice/*: every route that begins with \"practice/\"; role:tester may call; \
         priority 5 at most; 500ms for a request that says no deadline; runs in the worker threads",
        "route practice/sleep: never counts, because practice/* comes before it",
        "route *: every route but practice/*, practice/sleep; nobody may call, because other rules \
         say who may; as many at once as it answers without becoming slow",
    ] {
        assert!(said.contains(sentence), "{sentence:?} in {said}");
    }
    let warned = text(&output.stderr);
    assert!(
        warned.contains("line 8, column 8: can never count: the rule \"practice/*\""),
        "{warned}"
    );
    let file = written("[[route]]\nname = \"Orders.*\"\n");
    let warned = text(&config("check", file.path(), &[]).stderr);
    assert!(
        warned.contains("line 2, column 8: unknown route \"Orders.*\""),
        "{warned}"
    );
}

#[test]
fn rules_and_worker_threads_are_printed_as_a_file_that_says_the_same() {
    let file = written(
        "[server]\nconcurrency = 50\nshed = true\n[workers]\ncpu = 3\n\
         [[route]]\nname = \"practice/*\"\nrate = { limit = \"50/s\", burst = 200 }\n",
    );
    let variables = [
        ("POSTROAD_WORKERS__CPU", "5"),
        ("POSTROAD_SERVER__SHED", "false"),
        ("POSTROAD_SERVER__CONCURRENCY", "auto"),
    ];
    let printed = text(&config("print", file.path(), &variables).stdout);
    let has = |begin: &str, end: &str| {
        let mut lines = printed.lines();
        lines.any(|line| line.starts_with(begin) && line.ends_with(end))
    };
    assert!(has("cpu = 5 ", "# POSTROAD_WORKERS__CPU"), "{printed}");
    assert!(has("shed = false ", "# POSTROAD_SERVER__SHED"), "{printed}");
    let concurrency = "concurrency = \"auto\" ";
    assert!(
        has(concurrency, "# POSTROAD_SERVER__CONCURRENCY"),
        "{printed}"
    );
    assert!(has("[[route]]", ":6") && has("name = ", ":7"), "{printed}");
    let again = written(&printed);
    let output = config("check", again.path(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("one request every 20ms of each route, and 200 at once"),
        "{}",
        text(&output.stdout)
    );
    for (name, words) in [
        (
            "POSTROAD_ROUTE__NAME",
            "rules of routes are set by the file",
        ),
        ("POSTROAD_WORKERS__CPU", "workers.cpu = 0 is out of bounds"),
    ] {
        let said = text(&config("check", file.path(), &[(name, "0")]).stderr);
        assert!(said.contains(&format!("{name}: {words}")), "{said}");
    }
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
