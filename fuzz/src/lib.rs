//! Fuzz targets.
#![forbid(unsafe_code)]

/// Runs one input; a panic is a finding.
pub type Target = fn(&[u8]);

/// Name and function of every target; the corpus is in `corpus/NAME`.
pub const TARGETS: &[(&str, Target)] = &[];

/// The target called `name`.
pub fn target(name: &str) -> Option<Target> {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.map(|(_, run)| *run)
}
