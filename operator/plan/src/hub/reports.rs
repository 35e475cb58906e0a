//! The latest reports of sites about pools and grants, with the sums that status shows, updated with each report.

mod awaited;
mod tally;
mod used;

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::OwnerRef;

use super::cache::Cache;
use crate::model::report::{Detail, Report};
use crate::model::site_key::SiteKey;
use crate::model::visits::Visits;
use awaited::Awaited;
use tally::Tallies;
use used::Used;

pub use tally::SiteTally;

/// The latest report of each part of a site about each resource.
#[derive(Clone, Debug, Default)]
pub struct ReportIndex {
    by_owner: BTreeMap<OwnerRef, BTreeMap<SiteKey, Report>>,
    by_part: BTreeMap<SiteKey, BTreeSet<OwnerRef>>,
    awaited: Awaited,
    tallies: Tallies,
    used: Used,
    visits: Visits,
}

impl ReportIndex {
    /// How many items its lookups have passed over.
    pub fn visits(&self) -> &Visits {
        &self.visits
    }

    /// Stores a report.
    pub fn put(&mut self, cache: &Cache, key: &SiteKey, report: Report) {
        let owner = report.owner.clone();
        self.awaited.answered(&owner, key);
        let before = tally::share(self.by_owner.get(&owner), key);
        self.by_part.entry(key.clone()).or_default().insert(owner.clone());
        self.by_owner.entry(owner.clone()).or_default().insert(key.clone(), report);
        let after = tally::share(self.by_owner.get(&owner), key);
        self.tallies.replace(key, before, after);
        self.recount(cache, &owner);
    }

    /// Updates the sums of what a grant has used, since it may name other pools now.
    pub fn recount(&mut self, cache: &Cache, owner: &OwnerRef) {
        let Some(grant) = cache.grant(owner) else { return };
        let reports = self.by_owner.get(owner).into_iter().flatten();
        self.used.set(owner, grant, self.visits.of(reports));
    }

    /// Forgets all reports about a resource, and that any are awaited.
    pub fn remove(&mut self, owner: &OwnerRef) {
        self.awaited.replace(owner, BTreeSet::new());
        self.used.forget(owner);
        let keys: Vec<SiteKey> = self.visits.of(self.by_owner.get(owner).into_iter().flat_map(BTreeMap::keys)).cloned().collect();
        for key in &keys {
            self.take(owner, key);
            if let Some(owners) = self.by_part.get_mut(key) {
                owners.remove(owner);
            }
        }
    }

    /// Forgets all reports of a part.
    pub fn remove_part(&mut self, cache: &Cache, key: &SiteKey) {
        self.awaited.forget_part(key);
        for owner in self.by_part.remove(key).unwrap_or_default() {
            self.visits.add(1);
            self.take(&owner, key);
            self.recount(cache, &owner);
        }
    }

    /// Forgets the report of a part about a resource.
    fn take(&mut self, owner: &OwnerRef, key: &SiteKey) {
        let before = tally::share(self.by_owner.get(owner), key);
        if let Some(reports) = self.by_owner.get_mut(owner) {
            reports.remove(key);
            if reports.is_empty() {
                self.by_owner.remove(owner);
            }
        }
        self.tallies.replace(key, before, tally::share(self.by_owner.get(owner), key));
    }

    /// The report of a part about a resource.
    pub fn get(&self, owner: &OwnerRef, key: &SiteKey) -> Option<&Report> {
        self.by_owner.get(owner)?.get(key)
    }

    /// The reports about a resource.
    pub fn about(&self, owner: &OwnerRef) -> impl Iterator<Item = (&SiteKey, &Report)> {
        self.visits.of(self.by_owner.get(owner).into_iter().flatten())
    }

    /// Whether a report of a part says that members of some grant still have access there.
    pub fn any_access(&self, key: &SiteKey) -> bool {
        let owners = self.visits.of(self.by_part.get(key).into_iter().flatten());
        owners.filter_map(|owner| self.get(owner, key)).any(|report| matches!(&report.detail, Detail::Grant(detail) if !detail.access_removed))
    }

    /// The sums over the pools and grants at a site, in all its parts.
    pub fn tally(&self, key: &SiteKey) -> SiteTally {
        self.tallies.at(key)
    }

    /// Device-seconds that grants have used of a pool; `None` where no site counts.
    pub fn used(&self, pool: &OwnerRef) -> Option<i64> {
        self.visits.of(self.used.by_part(pool)).map(|(_, seconds)| seconds).reduce(i64::saturating_add)
    }

    /// Device-seconds that grants have used of a pool, by the part that has counted them.
    pub fn used_by_part(&self, pool: &OwnerRef) -> BTreeMap<SiteKey, i64> {
        self.visits.of(self.used.by_part(pool)).map(|(key, seconds)| (key.clone(), seconds)).collect()
    }

    /// Sets which parts were sent a resource: a report of each of them is awaited until it is there.
    pub fn await_reports(&mut self, owner: &OwnerRef, told: impl IntoIterator<Item = SiteKey>) {
        let reports = self.by_owner.get(owner);
        let silent = told.into_iter().filter(|key| !reports.is_some_and(|reports| reports.contains_key(key)));
        let silent = self.visits.of(silent).collect();
        self.awaited.replace(owner, silent);
    }

    /// The part has a new worker, which was sent nothing yet.
    pub fn await_nothing_of(&mut self, key: &SiteKey) {
        self.awaited.forget_part(key);
    }

    /// Whether a part has reported on everything that it was sent.
    pub fn has_answered(&self, key: &SiteKey) -> bool {
        self.awaited.is_empty(key)
    }
}

#[cfg(test)]
mod tests;
