//! How many connections each address has.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who is counted as one: an address of IPv4, or a network of 64 bits of IPv6, all of which one
/// host has to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Host {
    V4(u32),
    V6(u64),
}

impl Host {
    fn of(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => Self::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

/// The addresses that have connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses(Arc<Mutex<HashMap<Host, usize>>>);

impl Addresses {
    fn lock(&self) -> MutexGuard<'_, HashMap<Host, usize>> {
        // Nothing in here leaves the map half-changed when it panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection while what this returns lives; with it the number that its address has
    /// now.
    pub(super) fn enter(&self, address: SocketAddr) -> (Counted, usize) {
        let host = Host::of(address);
        let many = {
            let mut all = self.lock();
            let many = all.entry(host).or_default();
            *many += 1;
            *many
        };
        let addresses = self.clone();
        (Counted { addresses, host }, many)
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub(super) struct Counted {
    addresses: Addresses,
    host: Host,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.addresses.lock();
        if let Some(many) = all.get_mut(&self.host) {
            *many -= 1;
            if *many == 0 {
                all.remove(&self.host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_host_until_they_end_and_then_nothing_is_kept() {
        let addresses = Addresses::default();
        let enter = |text: &str| addresses.enter(text.parse().expect("an address"));
        let (first, one) = enter("127.0.0.1:1");
        let (second, two) = enter("[::ffff:127.0.0.1]:2");
        let (other, alone) = enter("127.0.0.2:1");
        assert_eq!((one, two, alone), (1, 2, 1));
        drop(second);
        let (again, two) = enter("127.0.0.1:3");
        let (v6, one) = enter("[2001:db8::1]:1");
        let (same, both) = enter("[2001:db8::ffff:2]:1");
        let (far, another) = enter("[2001:db8:0:1::1]:1");
        assert_eq!((two, one, both, another), (2, 1, 2, 1));
        drop((first, other, again, v6, same, far));
        assert!(addresses.lock().is_empty());
    }
}
