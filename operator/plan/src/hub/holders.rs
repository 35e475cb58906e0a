//! Which parts of sites hold something of a resource, as they have reported it, and which were sent an intent that they have not answered.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::{Kind, OwnerRef};

use crate::model::digest::{Digest, digest_of};
use crate::model::intent::Intent;
use crate::model::report::{Report, SiteReport};
use crate::model::site_key::SiteKey;

/// The parts that hold something, by resource, and the resources by part.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    by_owner: BTreeMap<OwnerRef, BTreeSet<SiteKey>>,
    by_part: BTreeMap<SiteKey, BTreeSet<OwnerRef>>,
    /// The digests of intents that were sent and not answered. They outlive the worker: it may have acted, and ended before it reported that.
    unanswered: BTreeMap<SiteKey, BTreeMap<OwnerRef, Digest>>,
}

impl Holders {
    /// A part was sent an intent: it may hold something of the resource from now on.
    pub fn sent(&mut self, key: &SiteKey, intent: &Intent) {
        self.unanswered.entry(key.clone()).or_default().insert(intent.owner.clone(), digest_of(intent));
    }

    /// A part has reported on a resource. Only a report that answers the last intent tells what became of it.
    pub fn answered(&mut self, key: &SiteKey, report: &Report) {
        let Some(sent) = self.unanswered.get_mut(key) else { return };
        if sent.get(&report.owner) == Some(&report.answers) {
            sent.remove(&report.owner);
            if sent.is_empty() {
                self.unanswered.remove(key);
            }
        }
    }

    /// A part that was not synced before is synced now, so that what it has done before is in its report; `is_sent` tells what it is still to answer.
    pub fn resynced(&mut self, key: &SiteKey, is_sent: impl Fn(&OwnerRef) -> bool) {
        let Some(sent) = self.unanswered.get_mut(key) else { return };
        sent.retain(|owner, _| is_sent(owner));
        if sent.is_empty() {
            self.unanswered.remove(key);
        }
    }

    /// The resources of which a part has not answered the last intent.
    pub fn unanswered_at(&self, key: &SiteKey) -> impl Iterator<Item = &OwnerRef> {
        self.unanswered.get(key).into_iter().flat_map(BTreeMap::keys)
    }

    /// The parts that have not answered the last intent for a resource.
    pub fn unanswered(&self, owner: &OwnerRef) -> impl Iterator<Item = &SiteKey> {
        self.unanswered.iter().filter(move |(_, sent)| sent.contains_key(owner)).map(|(key, _)| key)
    }

    /// The parts that hold something of a resource.
    pub fn of(&self, owner: &OwnerRef) -> BTreeSet<SiteKey> {
        self.by_owner.get(owner).cloned().unwrap_or_default()
    }

    /// Whether a part has reported something of a resource, or was sent it and has not answered.
    pub fn is_evident(&self, owner: &OwnerRef, key: &SiteKey) -> bool {
        let reported = self.by_owner.get(owner).is_some_and(|parts| parts.contains(key));
        reported || self.unanswered.get(key).is_some_and(|sent| sent.contains_key(owner))
    }

    /// The resources of which a part holds something.
    pub fn at(&self, key: &SiteKey) -> impl Iterator<Item = &OwnerRef> {
        self.by_part.get(key).into_iter().flatten()
    }

    /// A part holds something of a resource; returns whether that is new.
    pub fn add(&mut self, key: &SiteKey, owner: &OwnerRef) -> bool {
        self.by_part.entry(key.clone()).or_default().insert(owner.clone());
        self.by_owner.entry(owner.clone()).or_default().insert(key.clone())
    }

    /// Takes in a report of what a part holds; returns the resources for which that has changed. The report of a synced part replaces what was known;
    /// that of any other part is incomplete, and only adds to it. Factories are left out, since their sites are known by name.
    pub fn reported(&mut self, key: &SiteKey, report: &SiteReport) -> Vec<OwnerRef> {
        let mut changed = Vec::new();
        if report.synced {
            changed = self.at(key).filter(|owner| !report.held.contains_key(*owner)).cloned().collect();
            changed.retain(|owner| self.remove(key, owner));
        }
        let resources = report.held.keys().filter(|owner| owner.kind != Kind::AIFactory);
        changed.extend(resources.filter(|owner| self.add(key, owner)).cloned());
        changed
    }

    /// A part holds nothing of a resource; returns whether that is new.
    pub fn remove(&mut self, key: &SiteKey, owner: &OwnerRef) -> bool {
        take(&mut self.by_part, key, owner);
        take(&mut self.by_owner, owner, key)
    }

    /// Forgets what a part holds.
    pub fn remove_part(&mut self, key: &SiteKey) {
        self.unanswered.remove(key);
        for owner in self.by_part.remove(key).into_iter().flatten() {
            take(&mut self.by_owner, &owner, key);
        }
    }
}

fn take<K: Ord, V: Ord>(index: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) -> bool {
    let Some(set) = index.get_mut(key) else { return false };
    let removed = set.remove(value);
    if set.is_empty() {
        index.remove(key);
    }
    removed
}
