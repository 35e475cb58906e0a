//! What a part of a site was sent last: the desired set, of which only changes are sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::OwnerRef;

use crate::model::intent::Intent;

/// The intents and tombstones that a part was sent.
#[derive(Clone, Debug, Default)]
pub struct SentSet {
    intents: BTreeMap<OwnerRef, Arc<Intent>>,
    tombstones: BTreeSet<OwnerRef>,
    /// The serial of an intent that is sent for the first time: greater than that of any intent that was withdrawn, or that a former worker was sent.
    first_serial: i64,
}

impl SentSet {
    /// Gives an intent without a serial the one under which it was sent, or is to be sent: an intent that comes back after another one is not answered
    /// by a report from before, since the part may have acted on the one in between.
    pub fn number(&self, intent: &mut Intent) {
        let Some(last) = self.intents.get(&intent.owner) else {
            intent.serial = self.first_serial;
            return;
        };
        intent.serial = last.serial;
        if **last != *intent {
            intent.serial += 1;
        }
    }

    /// Takes in an intent; gives it where it is to be sent, since the part was sent another one or a tombstone.
    pub fn put(&mut self, intent: &Intent) -> Option<Arc<Intent>> {
        if self.intents.get(&intent.owner).is_some_and(|sent| **sent == *intent) {
            return None;
        }
        let sent = Arc::new(intent.clone());
        self.intents.insert(intent.owner.clone(), sent.clone());
        self.tombstones.remove(&intent.owner);
        Some(sent)
    }

    /// What a new worker was sent: nothing yet. What the former one has reported answers nothing that the new one is sent.
    pub fn of_next_worker(&self) -> Self {
        let next = self.intents.values().map(|sent| sent.serial + 1).max();
        Self { first_serial: self.first_serial.max(next.unwrap_or_default()), ..Self::default() }
    }

    /// Forgets the intent of a resource; whether there was one.
    pub fn withdraw(&mut self, owner: &OwnerRef) -> bool {
        let Some(sent) = self.intents.remove(owner) else { return false };
        self.first_serial = self.first_serial.max(sent.serial + 1);
        true
    }

    /// Replaces the intent of a resource by a tombstone; whether that is new.
    pub fn bury(&mut self, owner: &OwnerRef) -> bool {
        let is_new = self.tombstones.insert(owner.clone());
        if is_new {
            self.withdraw(owner);
        }
        is_new
    }

    /// Forgets the tombstones of resources that are not held.
    pub fn retain_tombstones(&mut self, is_held: impl Fn(&OwnerRef) -> bool) {
        self.tombstones.retain(is_held);
    }

    /// The intent of a resource that the part has.
    pub fn get(&self, owner: &OwnerRef) -> Option<&Arc<Intent>> {
        self.intents.get(owner)
    }

    /// Whether the part has an intent of this resource.
    pub fn contains(&self, owner: &OwnerRef) -> bool {
        self.intents.contains_key(owner)
    }

    /// The resources that the part has an intent of.
    pub fn owners(&self) -> impl Iterator<Item = &OwnerRef> {
        self.intents.keys()
    }

    /// All intents.
    pub fn intents(&self) -> &BTreeMap<OwnerRef, Arc<Intent>> {
        &self.intents
    }

    /// All tombstones.
    pub fn tombstones(&self) -> &BTreeSet<OwnerRef> {
        &self.tombstones
    }
}
