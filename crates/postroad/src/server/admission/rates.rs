//! How often routes may be called, by all together or by each client.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::{Rate, RateConfig, RateExceeded};

use super::ClientKey;
use crate::route::{Each, RateRule, Shape};

/// Clients whose rates are remembered. What more than these do within their bursts is counted
/// together, by their hash.
const CLIENTS_MAX: usize = 65_536;

/// Full of clients, they are looked through no more often: a flood of new ones must not pay for it
/// each time.
const SWEEP_AFTER: Duration = Duration::from_secs(1);

/// The rate of one rule for one route.
#[derive(Debug)]
pub(crate) struct Rates {
    config: RateConfig,
    each: Each,
    /// Of all clients, or of those that found no room among `clients`.
    shared: Arc<Rate>,
    clients: Mutex<Clients>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Clients {
    rates: HashMap<u64, Arc<Rate>>,
    /// When those that are as good as new were forgotten last.
    swept: Time,
}

impl Rates {
    pub(crate) fn new(rule: &RateRule) -> Self {
        let shape = match rule.shape {
            Shape::Leaky => postroad_proto::policy::Shape::Leaky,
            _ => postroad_proto::policy::Shape::Bucket,
        };
        Self {
            config: RateConfig {
                nanos_each: u64::try_from(rule.interval.as_nanos()).unwrap_or(u64::MAX),
                burst: rule.burst,
                shape,
            },
            each: rule.each,
            shared: Arc::default(),
            clients: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// The rate of a client, which its connection keeps.
    pub(crate) fn of(&self, client: ClientKey<'_>, now: Time) -> Arc<Rate> {
        if self.each == Each::Route {
            return Arc::clone(&self.shared);
        }
        let key = self.hasher.hash_one(client);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let Clients { rates, swept } = &mut *clients;
        if rates.len() >= CLIENTS_MAX && !rates.contains_key(&key) {
            if now.since(*swept) >= SWEEP_AFTER {
                *swept = now;
                // Who asks no more, and whose connections have gone, is as good as new.
                rates.retain(|_, rate| Arc::strong_count(rate) > 1 || !rate.is_idle(now));
            }
            if rates.len() >= CLIENTS_MAX {
                return Arc::clone(&self.shared);
            }
        }
        Arc::clone(rates.entry(key).or_default())
    }

    /// Lets one request pass by a client's rate.
    ///
    /// # Errors
    /// When the next may.
    pub(crate) fn take(&self, rate: &Rate, now: Time) -> Result<(), Duration> {
        let taken = rate.take(&self.config, now, 1);
        taken.map_err(|exceeded| match exceeded {
            RateExceeded::Wait(wait) => wait,
            RateExceeded::Never { .. } => Duration::from_nanos(self.config.nanos_each),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::PeerInfo;

    fn rates(each: &str) -> Rates {
        let rule = format!("name = 'a'\nrate = {{ each = '{each}', limit = '10/s', burst = 2 }}");
        let rule: crate::route::RouteRule = toml::from_str(&rule).expect("it is right");
        Rates::new(&rule.rate.expect("it has one"))
    }

    fn client<'a>(address: &str, subject: Option<&'a str>) -> ClientKey<'a> {
        let address: std::net::SocketAddr = address.parse().expect("an address");
        ClientKey::of(&PeerInfo::from(address), subject)
    }

    #[test]
    fn each_client_has_its_own_rate_by_its_name_or_its_address() {
        let (rates, now) = (rates("client"), Time(1_000_000_000));
        let one = rates.of(client("10.0.0.1:5", None), now);
        let again = rates.of(client("10.0.0.1:6", None), now);
        let other = rates.of(client("10.0.0.2:5", None), now);
        let named = rates.of(client("10.0.0.1:5", Some("desk")), now);
        assert!(Arc::ptr_eq(&one, &again), "another port is the same client");
        for rate in [&one, &other, &named] {
            assert!(rates.take(rate, now).is_ok() && rates.take(rate, now).is_ok());
            let wait = rates.take(rate, now).expect_err("the burst is used up");
            assert_eq!(wait, Duration::from_millis(100));
        }
    }

    #[test]
    fn a_rate_of_the_route_is_for_all_clients_together() {
        let (rates, now) = (rates("route"), Time(1_000_000_000));
        let one = rates.of(client("10.0.0.1:5", None), now);
        let other = rates.of(client("10.0.0.2:5", None), now);
        assert!(rates.take(&one, now).is_ok() && rates.take(&other, now).is_ok());
        assert!(rates.take(&one, now).is_err());
    }

    #[test]
    fn a_flood_of_clients_takes_no_more_memory_than_the_bound() {
        let (rates, mut now) = (rates("client"), Time(1_000_000_000));
        for n in 0..CLIENTS_MAX * 2 {
            let rate = rates.of(client("10.0.0.1:5", Some(&n.to_string())), now);
            let _ = rates.take(&rate, now);
        }
        assert_eq!(
            rates
                .clients
                .lock()
                .expect("no test has panicked")
                .rates
                .len(),
            CLIENTS_MAX
        );
        now = now + Duration::from_secs(10);
        let late = rates.of(client("10.0.0.1:5", Some("late")), now);
        assert!(
            !Arc::ptr_eq(&late, &rates.shared),
            "the idle ones were forgotten"
        );
    }
}
