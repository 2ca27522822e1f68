//! Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2016).

use super::Candidate;

/// Points of an endpoint with the largest weight.
const POINTS: u64 = 100;

/// Points on a circle. A key belongs to the next point; when one endpoint of `n` comes or goes, one
/// key of `n` moves.
#[derive(Debug, Default)]
pub(super) struct Ring(Vec<(u64, u32)>);

impl Ring {
    pub(super) fn new<'a>(list: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let list: Vec<_> = list.collect();
        let largest = list.iter().map(|(_, weight)| *weight).max().unwrap_or(1);
        let mut points = Vec::new();
        for (place, (name, weight)) in list.iter().enumerate() {
            let mine = (POINTS * u64::from(*weight)).div_ceil(u64::from(largest.max(1)));
            let base = hash(name.as_bytes());
            points.extend((0..mine).map(|point| (mix(base ^ mix(point + 1)), place as u32)));
        }
        points.sort_unstable();
        Self(points)
    }

    /// The endpoint of this key: the first behind it that is usable, and has room. One has room as
    /// long as it has no more than a quarter above its share of the calls in flight.
    pub(super) fn pick<C: Candidate>(
        &self,
        key: &[u8],
        list: &[impl AsRef<C>],
        is_usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let key = mix(hash(key));
        let from = self.0.partition_point(|(point, _)| *point < key);
        let (before, after) = self.0.split_at(from);
        let places = || after.iter().chain(before).map(|(_, place)| *place as usize);
        let in_flight = |at: usize| u64::from(list[at].as_ref().load().in_flight());
        let usable = || (0..list.len()).filter(|at| is_usable(*at));
        let all: u64 = usable().map(in_flight).sum();
        let room = ((all + 1) * 5).div_ceil(usable().count().max(1) as u64 * 4);
        let has_room = |at: &usize| in_flight(*at) < room;
        let of_key = places().find(|at| is_usable(*at));
        match of_key {
            Some(at) if has_room(&at) => Some(at),
            _ => places()
                .find(|at| is_usable(*at) && has_room(at))
                .or(of_key),
        }
    }
}

/// FNV-1a: the same in every version and on every machine, so that all clients agree.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The finalizer of splitmix64: spreads numbers that are close to each other over all bits.
fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}
