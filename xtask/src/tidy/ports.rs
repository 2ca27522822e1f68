//! Law of the ports: all documents use the same port for the same dialect.
//!
//! A reader starts a node from one page and calls it with a line from another, which works only
//! if both mean the same port. The map itself is a table in `docs/dialects.md`.

use super::Violation;
use super::tree::Tree;

/// What an endpoint's scheme ends with, and its port in every example.
const PORTS: &[(&str, &str)] = &[
    ("tcp+auto://", "7400"),
    ("tcp+session://", "7401"),
    ("tcp+sequence://", "7402"),
    ("tcp+opcode://", "7403"),
    ("tcp+priority://", "7404"),
    ("tcp+compact://", "7405"),
    ("tcp+line://", "7406"),
];

pub(crate) fn check(tree: &Tree, found: &mut Vec<Violation>) {
    // Help texts and examples of the crates, but not the wrong ports in the tests below.
    let code = tree.with_extension("rs");
    let code = code.filter(|(path, _)| path.starts_with("crates/"));
    for (path, text) in tree.with_extension("md").chain(code) {
        for (line, text) in (1..).zip(text.lines()) {
            for (scheme, port) in PORTS {
                for said in ports(text, scheme).filter(|said| said != port) {
                    let message = format!("`{scheme}` has port {port} in examples, not {said}");
                    found.push(Violation::new(path, line, "port-map", message));
                }
            }
        }
    }
}

/// The ports of the map's range, 7400 to 7409, that follow `scheme` in a line. Others are some
/// machine's own affair.
fn ports<'a>(line: &'a str, scheme: &'a str) -> impl Iterator<Item = &'a str> {
    line.split(scheme).skip(1).filter_map(|rest| {
        let end = rest.find([' ', '`', '\'', '"', '?', ')']);
        let address = &rest[..end.unwrap_or(rest.len())];
        let (_, port) = address.rsplit_once(':')?;
        (port.len() == 4 && port.starts_with("740")).then_some(port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        check(&Tree::of(&[("docs/a.md", text)]), &mut found);
        found.into_iter().map(|found| found.message).collect()
    }

    #[test]
    fn a_dialect_has_the_same_port_everywhere() {
        let good = "`tcp+line://127.0.0.1:7406` tcp+session://0.0.0.0:7401?crc=arc tcp://a:7405";
        assert_eq!(violations(good), [""; 0]);
        assert_eq!(
            violations("postroad call tcp+line://127.0.0.1:7405 any hello"),
            ["`tcp+line://` has port 7406 in examples, not 7405"]
        );
    }

    #[test]
    fn ports_outside_of_the_map_are_free() {
        assert_eq!(
            violations("tcp+line://127.0.0.1:0 tcp+line://host:9000"),
            [""; 0]
        );
    }
}
