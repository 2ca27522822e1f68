//! A bound on what wrong signatures cost.
//!
//! To look at a signature takes a processor 50 to 100 microseconds. So of each address only so many
//! that turn out wrong are looked at; after that its tokens are refused unseen for a while. Whoever
//! comes from another address does not notice.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postroad_proto::Time;

/// Wrong signatures of one address that are looked at at once.
const AT_ONCE: u32 = 20;
/// After how long one more is looked at.
const EVERY: Duration = Duration::from_millis(500);
/// Addresses that are remembered. Those beyond share one account.
const ADDRESSES_MAX: usize = 4096;

/// Whom a wrong signature is laid to: an address, of IPv6 the network that one customer has, or
/// whoever has no address, or all who find no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Who {
    Network(IpAddr),
    NoAddress,
    Others,
}

fn who(address: Option<IpAddr>) -> Who {
    match address.map(|address| address.to_canonical()) {
        None => Who::NoAddress,
        Some(IpAddr::V6(address)) => {
            let network = u128::from(address) >> 64 << 64;
            Who::Network(IpAddr::V6(network.into()))
        }
        Some(address) => Who::Network(address),
    }
}

/// What an address has used up: when it will be as if it had done nothing.
#[derive(Debug, Default)]
pub(super) struct Strikes(Mutex<HashMap<Who, Time>>);

impl Strikes {
    fn lock(&self) -> MutexGuard<'_, HashMap<Who, Time>> {
        // Nothing in here leaves the map half-changed when it panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long this address has to wait before a signature of it is looked at.
    ///
    /// # Errors
    /// The time that is left.
    pub(super) fn ask(&self, address: Option<IpAddr>, now: Time) -> Result<(), Duration> {
        let all = self.lock();
        let who = room(&all, who(address));
        let clear_at = all.get(&who).copied().unwrap_or(now);
        drop(all);
        let left = clear_at.since(now);
        match left.checked_sub(EVERY * (AT_ONCE - 1)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(()),
        }
    }

    /// A signature of this address was wrong.
    pub(super) fn add(&self, address: Option<IpAddr>, now: Time) {
        let mut all = self.lock();
        let mut who = room(&all, who(address));
        if who == Who::Others {
            all.retain(|_, clear_at| *clear_at > now);
            who = room(&all, self::who(address));
        }
        let clear_at = all.entry(who).or_insert(now);
        // Never longer than what uses all of it up: many may be looked at at the same time.
        *clear_at = ((*clear_at).max(now) + EVERY).min(now + EVERY * AT_ONCE);
    }
}

/// Whose account is asked and charged: there is room for so many.
fn room(all: &HashMap<Who, Time>, who: Who) -> Who {
    match all.len() >= ADDRESSES_MAX && !all.contains_key(&who) {
        true => Who::Others,
        false => who,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000_000_000_000);

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn an_address_has_so_many_at_once_and_then_one_after_the_other() {
        let strikes = Strikes::default();
        let (bad, good) = (address("10.0.0.1"), address("10.0.0.2"));
        let mut looked_at = 0;
        while strikes.ask(bad, NOW).is_ok() {
            strikes.add(bad, NOW);
            looked_at += 1;
        }
        assert_eq!(looked_at, AT_ONCE);
        assert!(strikes.ask(good, NOW).is_ok(), "others do not notice");
        assert!(strikes.ask(bad, NOW).is_err_and(|wait| wait <= EVERY));
        let later = NOW + EVERY;
        assert!(strikes.ask(bad, later).is_ok());
        strikes.add(bad, later);
        assert!(strikes.ask(bad, later).is_err());
        assert!(strikes.ask(bad, later + EVERY * AT_ONCE).is_ok());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_mapped_ones_are_ipv4() {
        let strikes = Strikes::default();
        for host in 0..AT_ONCE {
            strikes.add(address(&format!("2001:db8::{host:x}")), NOW);
        }
        assert!(strikes.ask(address("2001:db8::ffff"), NOW).is_err());
        assert!(strikes.ask(address("2001:db8:0:1::1"), NOW).is_ok());
        (0..AT_ONCE).for_each(|_| strikes.add(address("::ffff:10.0.0.1"), NOW));
        assert!(strikes.ask(address("10.0.0.1"), NOW).is_err());
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory() {
        let strikes = Strikes::default();
        for host in 0..20_000_u32 {
            strikes.add(Some(IpAddr::V4(host.into())), NOW);
        }
        assert!(strikes.lock().len() <= ADDRESSES_MAX + 1);
    }
}
