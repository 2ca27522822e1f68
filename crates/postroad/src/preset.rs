//! What a connection is tuned for.

use std::fmt;
use std::time::Duration;

use postroad_proto::limits::FRAGMENT_BYTES;
use serde::Deserialize;

/// Longest polling before sleeping. Waking a processor takes tens of microseconds, so a wait that
/// is not over by then is slept through for little more than its cost so far.
pub(crate) const SPIN: Duration = Duration::from_micros(50);

/// What the connections of a server or client are tuned for; the rest follows.
///
/// What each costs is measured in `docs/performance.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Preset {
    /// Sleeps while there is nothing to do; an urgent message waits for at most two fragments of
    /// 16 KiB.
    #[default]
    Default,
    /// Polls for up to 50 µs before sleeping, while an answer is outstanding or a request has just
    /// been answered. A round trip that finds both ends awake takes a tenth of the time on a
    /// machine whose processors sleep; up to that much processor time is spent for each wait, less
    /// where polling does not pay, and none by a process that is idle. For runtimes of one thread:
    /// a server's workers, a client's own.
    LowLatency,
    /// Large messages in fragments of 56 KiB instead of 16: fewer system calls for each byte, and
    /// an urgent message may have to wait for so much more.
    Throughput,
}

impl Preset {
    /// The presets by their names in configuration files and on command lines.
    pub const ALL: [(&'static str, Self); 3] = [
        ("default", Self::Default),
        ("low-latency", Self::LowLatency),
        ("throughput", Self::Throughput),
    ];

    /// Longest polling before sleeping.
    pub(crate) fn spin(self) -> Duration {
        match self {
            Self::LowLatency => SPIN,
            _ => Duration::ZERO,
        }
    }

    /// Payload of one fragment, bytes.
    pub(crate) fn fragment(self) -> usize {
        match self {
            Self::Throughput => 56 * 1024,
            _ => FRAGMENT_BYTES,
        }
    }
}

impl fmt::Display for Preset {
    /// The name in configuration files and on command lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::LowLatency => "low-latency",
            Self::Throughput => "throughput",
        })
    }
}

impl std::str::FromStr for Preset {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, preset)| *preset).ok_or_else(|| {
            format!("no preset {name:?}: there are default, low-latency and throughput")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_read_by_the_names_that_they_show() {
        for (name, preset) in Preset::ALL {
            assert_eq!(
                (preset.to_string().as_str(), name.parse()),
                (name, Ok(preset))
            );
        }
    }
}
