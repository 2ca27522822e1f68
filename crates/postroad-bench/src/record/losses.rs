//! Connections that were lost during a load.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// How often connections were lost. A connection that comes back and is lost again counts twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Losses {
    /// From the beginning of the load to its end, whether or not they came back.
    pub(crate) in_all: u64,
    /// Those that had not come back at the end.
    pub(crate) at_end: u64,
}

impl AddAssign for Losses {
    fn add_assign(&mut self, other: Self) {
        self.in_all += other.in_all;
        self.at_end += other.at_end;
    }
}
