//! What another configuration changes.

use std::fmt;

/// A setting of a running server that has another value now, or will have it.
///
/// It is shown as one line: `server.drain: 25s -> 10s`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// Section and key as a node's file has them, such as `server.drain`.
    pub key: String,
    /// The value that counted until now.
    pub from: String,
    /// The value that was asked for.
    pub to: String,
    /// From when on it counts.
    pub effect: Effect,
}

/// From when on a changed setting counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// From now on, for everything.
    Now,
    /// For connections that are opened from now on. Those that are open keep what they agreed on.
    NewConnections,
    /// When the server is started again: until then the value before counts.
    NextStart,
}

impl Change {
    /// A change of this key.
    pub fn new(
        key: impl Into<String>,
        from: impl Into<String>,
        to: impl Into<String>,
        effect: Effect,
    ) -> Self {
        let (key, from, to) = (key.into(), from.into(), to.into());
        Self {
            key,
            from,
            to,
            effect,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, from, to, .. } = self;
        write!(f, "{key}: {from} -> {to}")?;
        match self.effect {
            Effect::Now => Ok(()),
            Effect::NewConnections => f.write_str(" (for new connections)"),
            Effect::NextStart => f.write_str(" (takes effect at the next start)"),
        }
    }
}
