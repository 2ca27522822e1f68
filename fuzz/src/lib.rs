//! Fuzz targets: every decoder, and sequences of session operations.
#![forbid(unsafe_code)]

mod decoders;
mod operations;

/// Runs one input; a panic is a finding.
pub type Target = fn(&[u8]);

/// Name and function of every target; the corpus is in `corpus/NAME`.
pub const TARGETS: &[(&str, Target)] = &[
    ("opening", decoders::opening),
    ("frame", decoders::frame),
    ("parts", decoders::parts),
    ("error_body", decoders::error_body),
    ("dialects", decoders::dialects),
    ("envelopes", decoders::envelopes),
    ("explain", decoders::explain),
    ("server_bytes", operations::server_bytes),
    ("client_bytes", operations::client_bytes),
    ("operations", operations::operations),
];

/// The target called `name`.
pub fn target(name: &str) -> Option<Target> {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.map(|(_, run)| *run)
}
