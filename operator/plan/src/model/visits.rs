//! Counts the items that lookups visit, so that a test can show that the cost of a change does not grow with the number of stored items.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many items were visited so far. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Visits(Arc<AtomicU64>);

impl Visits {
    /// Adds this many items.
    pub fn add(&self, items: usize) {
        self.0.fetch_add(items as u64, Ordering::Relaxed);
    }

    /// Counts each item that is taken from `items`.
    pub fn of<I: Iterator>(&self, items: I) -> impl Iterator<Item = I::Item> {
        items.inspect(|_| self.add(1))
    }

    /// The items that were visited since this began.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
