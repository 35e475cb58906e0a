//! Which reports are awaited.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::OwnerRef;

use crate::model::site_key::SiteKey;

/// Resources that a part was sent and has not reported on yet.
#[derive(Clone, Debug, Default)]
pub struct Awaited {
    by_part: BTreeMap<SiteKey, BTreeSet<OwnerRef>>,
    by_owner: BTreeMap<OwnerRef, BTreeSet<SiteKey>>,
}

impl Awaited {
    /// These parts, and no others, are to report on a resource.
    pub fn replace(&mut self, owner: &OwnerRef, keys: BTreeSet<SiteKey>) {
        for key in self.by_owner.remove(owner).into_iter().flatten() {
            self.take(&key, owner);
        }
        for key in &keys {
            self.by_part.entry(key.clone()).or_default().insert(owner.clone());
        }
        if !keys.is_empty() {
            self.by_owner.insert(owner.clone(), keys);
        }
    }

    /// A part has reported on a resource.
    pub fn answered(&mut self, owner: &OwnerRef, key: &SiteKey) {
        self.take(key, owner);
        if let Some(keys) = self.by_owner.get_mut(owner) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_owner.remove(owner);
            }
        }
    }

    /// Nothing is awaited of a part.
    pub fn forget_part(&mut self, key: &SiteKey) {
        for owner in self.by_part.remove(key).into_iter().flatten() {
            self.answered(&owner, key);
        }
    }

    /// Whether nothing is awaited of a part.
    pub fn is_empty(&self, key: &SiteKey) -> bool {
        !self.by_part.contains_key(key)
    }

    fn take(&mut self, key: &SiteKey, owner: &OwnerRef) {
        if let Some(owners) = self.by_part.get_mut(key) {
            owners.remove(owner);
            if owners.is_empty() {
                self.by_part.remove(key);
            }
        }
    }
}
