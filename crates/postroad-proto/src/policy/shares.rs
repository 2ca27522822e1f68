//! Who is let in once a limit is reached: priorities and clients that have less than their share.
//!
//! Below the limit everybody is let in, so no place stays empty for somebody who does not come. At
//! the limit only those are let in who hold less than what they are guaranteed, so that whoever was
//! first does not keep the others out. That goes beyond the limit, by a bounded number of places:
//! [`Shares::most`] says which.

/// What is guaranteed once a limit is reached.
///
/// # Defaults
/// The highest priority is guaranteed twice the limit, and 6 to 0 are guaranteed 20, 12, 8, 5, 4, 2
/// and 2 % of it; 5 and 6 may go beyond it by a quarter; a client 1 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharesConfig {
    /// What each priority is guaranteed, of a thousand, from 0 to 7. Together they may
    /// be more than the whole, because whoever is served first does not wait longer if others
    /// wait besides. One with 0 is not let in at the limit.
    pub levels_per_mille: [u16; 8],
    /// Priorities from this on are let in beyond their share too, while there is headroom.
    pub top_level: u8,
    /// How far beyond the limit they may go, of a thousand of it, and at least one place.
    pub headroom_per_mille: u16,
    /// What one client is guaranteed, of a thousand. A client that holds more gives way to the
    /// others once the limit is reached.
    pub client_per_mille: u16,
}

impl Default for SharesConfig {
    fn default() -> Self {
        Self {
            levels_per_mille: [20, 20, 40, 50, 80, 120, 200, 2000],
            top_level: 5,
            headroom_per_mille: 250,
            client_per_mille: 10,
        }
    }
}

/// Decides by counts that its caller keeps; it has no state, and every question is a few integer
/// operations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shares {
    config: SharesConfig,
}

/// That part of the limit, and no less than one place if it is anything.
fn part(limit: usize, per_mille: u16) -> usize {
    let whole = limit.saturating_mul(usize::from(per_mille));
    whole.div_ceil(1000)
}

impl Shares {
    /// Shares by this configuration.
    #[must_use]
    pub fn new(config: SharesConfig) -> Self {
        Self { config }
    }

    /// Whether one more request of this priority is let in. `in_level` requests of it are in hand,
    /// `total` of all, and `limit` is what [`limit`](super::AdaptiveLimit::limit) or a fixed limit
    /// says.
    #[must_use]
    pub fn admits(&self, level: u8, in_level: usize, total: usize, limit: usize) -> bool {
        total < limit
            || in_level < self.guaranteed(level, limit)
            || level >= self.config.top_level && total < self.with_headroom(limit)
    }

    /// Whether one more request of a client is let in that has `of_client` in hand: below the limit
    /// always, at it if the client holds less than its share. Both questions have to be answered
    /// with yes; beyond its share of priority a client gets nothing.
    #[must_use]
    pub fn admits_client(&self, of_client: usize, total: usize, limit: usize) -> bool {
        total < limit || of_client < part(limit, self.config.client_per_mille)
    }

    /// The places that a priority is guaranteed; at least one, if its share is not 0.
    #[must_use]
    pub fn guaranteed(&self, level: u8, limit: usize) -> usize {
        part(
            limit,
            self.config.levels_per_mille[usize::from(level.min(7))],
        )
    }

    fn with_headroom(&self, limit: usize) -> usize {
        limit.saturating_add(part(limit, self.config.headroom_per_mille))
    }

    /// The most that is ever in hand if each is let in by [`Self::admits`]: the limit with its
    /// headroom, and all that is guaranteed.
    #[must_use]
    pub fn most(&self, limit: usize) -> usize {
        let guaranteed = (0..8).map(|level| self.guaranteed(level, limit));
        guaranteed.fold(self.with_headroom(limit), usize::saturating_add)
    }
}
