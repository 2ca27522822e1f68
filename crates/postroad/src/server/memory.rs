//! The worst memory that one connection can make a server hold.

use super::ServerConfig;
use super::lanes::BYTES_MAX;
use crate::driver::READ_MAX;

impl ServerConfig {
    /// The worst memory that one connection can make the server hold, bytes: in its session
    /// ([`Limits::memory_max`](postroad_proto::limits::Limits::memory_max)), in the buffer that it
    /// is read into, in its part of the run queue, and in requests whose handlers wait.
    ///
    /// What handlers allocate themselves is not in it, nor what a transport keeps, such as TLS or
    /// the kernel.
    ///
    /// ```
    /// let mut config = postroad::ServerConfig::default();
    /// let before = config.connection_memory_max();
    /// config.connection.limits.outbox_max /= 2;
    /// assert!(config.connection_memory_max() < before);
    /// ```
    #[must_use]
    pub fn connection_memory_max(&self) -> usize {
        let limits = &self.connection.limits;
        // The size of a request is not known to be too much before it has come, so one goes beyond
        // each bound.
        let queued = BYTES_MAX + limits.max_message;
        let waiting = limits.assembly_max + limits.max_message;
        limits.memory_max() + READ_MAX + queued + waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_a_connection_is_what_the_documentation_says() {
        // SECURITY.md and docs/configuration.md tell both numbers.
        let config = ServerConfig::default();
        let session = config.connection.limits.memory_max();
        let all = config.connection_memory_max();
        assert_eq!((session >> 20, all >> 20), (132, 232));
    }
}
