//! The table of routes as it serves.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::admission::Rules;
use crate::router::Table;

/// The table as it serves: what authors have put together, and what an operator says of it.
#[derive(Clone, Default)]
pub(crate) struct Served {
    pub(super) table: Table,
    pub(super) rules: Arc<Rules>,
}

impl Deref for Served {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.table
    }
}

impl DerefMut for Served {
    fn deref_mut(&mut self) -> &mut Table {
        &mut self.table
    }
}
