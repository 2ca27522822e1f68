//! What the scenarios of the policies share: a virtual clock, random numbers from a seed, and calls
//! to simulated endpoints.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::{
    Ask, Balance, Balancer, Candidate, Ending, Load, LoadConfig, Outcome, Random, Timing, hash_key,
};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MS;

/// An endpoint whose calls take so long and end so.
pub(crate) struct Endpoint {
    pub(crate) load: Load,
    pub(crate) weight: u32,
    pub(crate) identity: u64,
    pub(crate) is_up: bool,
    pub(crate) takes: u64,
    pub(crate) ending: Ending,
}

impl Candidate for Endpoint {
    fn load(&self) -> &Load {
        &self.load
    }

    fn weight(&self) -> u32 {
        self.weight
    }

    fn identity(&self) -> u64 {
        self.identity
    }

    fn may_take(&self, _: Time) -> bool {
        self.is_up
    }
}

/// Endpoints whose calls take 10 ms and succeed.
pub(crate) fn endpoints(count: usize) -> Vec<Endpoint> {
    let endpoint = |index: usize| Endpoint {
        load: Load::new(LoadConfig::default()),
        weight: 1,
        identity: hash_key(format!("10.0.0.{index}:7400").as_bytes()),
        is_up: true,
        takes: 10 * MS,
        ending: Ending::Answered,
    };
    (0..count).map(endpoint).collect()
}

pub(crate) fn outcome(ending: Ending, took: u64) -> Outcome {
    let timing = Timing {
        began: Time(0),
        took: Duration::from_nanos(took),
    };
    Outcome {
        ending,
        timing: Some(timing),
    }
}

/// Calls in flight, by when they end.
#[derive(Default)]
pub(crate) struct Fleet {
    flying: BinaryHeap<Reverse<(u64, usize, u64)>>,
}

impl Fleet {
    /// Calls at an even rate from `from` to `to`, and says how many each endpoint got.
    pub(crate) fn run(
        &mut self,
        balancer: &Balancer,
        endpoints: &[Endpoint],
        rate: u64,
        (from, to): (u64, u64),
        random: &mut Random,
    ) -> Vec<u64> {
        let mut got = vec![0; endpoints.len()];
        let timeout = Some(Duration::from_millis(250));
        for call in 0..(to - from) * rate / SECOND {
            let now = from + call * SECOND / rate;
            while let Some(Reverse((end, index, took))) = self.flying.peek().copied() {
                if end > now {
                    break;
                }
                self.flying.pop();
                let endpoint = &endpoints[index];
                let outcome = outcome(endpoint.ending, took);
                endpoint.load.finish(Time(end), &outcome, timeout, None);
            }
            let ask = Ask {
                now: Time(now),
                ..Ask::default()
            };
            let picked = balancer.pick(endpoints, &ask, || random.bits(), None);
            if let Some(index) = picked {
                got[index] += 1;
                endpoints[index].load.start();
                let took = endpoints[index].takes;
                self.flying.push(Reverse((now + took, index, took)));
            }
        }
        got
    }
}

/// The share of the last endpoint, percent.
pub(crate) fn share_of_last(got: &[u64]) -> f64 {
    let all: u64 = got.iter().sum();
    got[got.len() - 1] as f64 * 100.0 / all as f64
}

pub(crate) fn balancer(balance: Balance, endpoints: &[Endpoint]) -> Balancer {
    Balancer::new(balance, endpoints)
}
