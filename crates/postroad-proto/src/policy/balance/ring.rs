//! A ring for consistent hashing.

use super::mix;

/// Points of an endpoint of average weight.
const POINTS: u64 = 160;
/// The most points of a whole ring, unless there are more endpoints than that.
const POINTS_MAX: u64 = 1 << 17;

/// Points on a circle, each of an endpoint. A key belongs to the first point behind it, so an
/// endpoint that comes or goes moves the keys before its own points and no others.
#[derive(Debug, Default)]
pub(super) struct Ring(Box<[(u64, u32)]>);

impl Ring {
    /// From the identity and the weight of each endpoint.
    pub(super) fn new(endpoints: &[(u64, u32)]) -> Self {
        let count = endpoints.len() as u64;
        // The points of an endpoint must not depend on the weights of the others more than
        // needed, or a new endpoint would move keys between old ones.
        let greatest = endpoints.iter().map(|(_, weight)| *weight).max();
        let greatest = u64::from(greatest.unwrap_or(0).max(1));
        let most = (POINTS_MAX / count.max(1).next_power_of_two()).clamp(1, POINTS);
        let mut points = Vec::new();
        for (index, (identity, weight)) in endpoints.iter().enumerate() {
            if *weight == 0 {
                continue;
            }
            let own = (most * u64::from(*weight)).div_ceil(greatest);
            points.extend((0..own).map(|n| (mix(mix(*identity) ^ mix(n + 1)), index as u32)));
        }
        points.sort_unstable();
        Self(points.into_boxed_slice())
    }

    /// The endpoints of all points from the key on, once round.
    pub(super) fn from(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let start = self.0.partition_point(|(point, _)| *point < mix(key));
        let (before, behind) = self.0.split_at(start);
        behind
            .iter()
            .chain(before)
            .map(|(_, index)| *index as usize)
    }
}
