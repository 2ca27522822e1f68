//! Tokens that another library has made, a node that believes them, and who presents them.

use std::process::Command;

use serde_json::Value;

use crate::support::{Node, peer, postroad, root, run, text};

/// Whether Python can make tokens.
fn has_pyjwt() -> bool {
    let found = Command::new("python3")
        .args(["-c", "import jwt, cryptography"])
        .output();
    let is_there = found.is_ok_and(|output| output.status.success());
    if !is_there {
        let wants = std::env::var("POSTROAD_TEST_PEERS").unwrap_or_default();
        assert_ne!(
            wants, "require",
            "PyJWT is missing: pip install pyjwt cryptography"
        );
        eprintln!("NOT RUN: PyJWT is missing; pip install pyjwt cryptography");
    }
    is_there
}

#[test]
fn tokens_of_another_library_are_believed_and_forged_ones_are_not() {
    if !has_pyjwt() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let script = root().join("tests/peers/tokens.py");
    let made = peer(Command::new("python3").arg(script).arg(folder.path()));
    let tokens: Value = serde_json::from_str(&made).expect("it prints JSON");
    let token = |name: &str| tokens[name].as_str().expect("a token").to_owned();
    let at = folder.path().display();
    let config = format!(
        "[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[identity]\n\
         jwt = {{ issuer = \"https://id.example\", audience = \"orders\", \
         jwks = \"file://{at}/jwks.json\" }}\n\
         audit = {{ file = \"{at}/audit.log\" }}\n"
    );
    let file = folder.path().join("node.toml");
    std::fs::write(&file, config).expect("it is written");
    let node = Node::with(&["--config", &file.display().to_string()], 1);
    let url = node.tcp();
    for name in ["RS256", "ES256", "EdDSA"] {
        let output = run(&["call", &url, "postroad/identify", "--token", &token(name)]);
        let said = text(&output.stdout);
        assert!(
            said.contains("\"ada\"") && said.contains("trader"),
            "{name}: {said}"
        );
    }
    for (name, words) in [
        ("none", "AUT-E-401"),
        ("hs256_with_public_key", "another algorithm"),
        ("expired", "AUT-E-498"),
        ("wrong_aud", "not for \"orders\""),
    ] {
        // From a file and from the environment as well.
        let path = folder.path().join("token");
        std::fs::write(&path, token(name)).expect("it is written");
        let in_file = [
            "call",
            &url,
            "postroad/echo",
            "--token-file",
            &path.display().to_string(),
        ];
        let output = run(&in_file);
        let said = text(&output.stderr);
        assert!(
            !output.status.success() && said.contains(words),
            "{name}: {said}"
        );
        let mut called = postroad();
        called.args(["--log", "trace", "call", &url, "postroad/echo"]);
        let output = called
            .env("POSTROAD_TOKEN", token(name))
            .output()
            .expect("it was built");
        let said = text(&output.stderr);
        assert!(
            !output.status.success() && said.contains(words),
            "{name}: {said}"
        );
        assert!(!said.contains(&token(name)), "the token is shown");
    }
    let log = std::fs::read_to_string(folder.path().join("audit.log")).expect("it is there");
    assert!(log.contains("\"denied\""), "{log}");
}

#[test]
fn a_section_of_identity_is_checked_with_places_and_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("node.toml");
    let write = |text: &str| std::fs::write(&file, text).expect("it is written");
    let path = file.display().to_string();
    write(
        "[identity]\njwt = { issuer = \"a\", audience = \"b\", jwks = \"https://id/k\" }\n\
         adit = { file = \"x\" }\n",
    );
    let said = text(&run(&["config", "check", &path]).stderr);
    assert!(
        said.contains("line 3, column 1") && said.contains("did you mean `audit`?"),
        "{said}"
    );
    write("[identity]\njwt = { issuer = \"a\", audience = \"b\", jwks = \"https://id/k\" }\n");
    let said = text(&run(&["config", "check", &path]).stderr);
    assert!(
        said.contains("line 2, column") && said.contains("file:///PATH"),
        "{said}"
    );
    write("[identity]\naudit = { file = \"/tmp/a\", which = \"denied\", max_size = \"1MiB\" }\n");
    let output = run(&["config", "print", &path]);
    let said = text(&output.stdout);
    assert!(
        said.contains("[identity]") && said.contains("\"denied\""),
        "{said}"
    );
    write("[service.a]\ntarget = \"tcp://127.0.0.1:1\"\ntoken_file = \"/run/token\"\n");
    let said = text(&run(&["config", "print", &path]).stdout);
    assert!(said.contains("token_file = \"/run/token\""), "{said}");
}
