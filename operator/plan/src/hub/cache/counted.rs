//! A set in which each item counts how often it was added.

use std::borrow::Borrow;
use std::collections::BTreeMap;

/// Items that are in the set as long as they were added more often than removed.
#[derive(Clone, Debug)]
pub struct Counted<T>(BTreeMap<T, usize>);

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord> Counted<T> {
    /// Adds an item once more.
    pub fn add(&mut self, item: T) {
        *self.0.entry(item).or_default() += 1;
    }

    /// Takes an item out once.
    pub fn remove<Q: Ord + ?Sized>(&mut self, item: &Q)
    where
        T: Borrow<Q>,
    {
        if let Some(count) = self.0.get_mut(item) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.0.remove(item);
            }
        }
    }

    /// Whether an item is in the set.
    pub fn contains<Q: Ord + ?Sized>(&self, item: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.0.contains_key(item)
    }

    /// The items, each once.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.keys()
    }

    /// How many different items there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
