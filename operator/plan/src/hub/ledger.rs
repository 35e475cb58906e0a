//! How much of a grant's budget each site may still let it use.
//!
//! A site that does not answer may have any limit in force that was ever assigned to it, unless the site has confirmed a later one. So the limit of a
//! site is lowered at once, and raised only so far that the sum of all that every site may use stays within what was granted. Slurm never ends a
//! running job when a limit is lowered, so what running jobs have reserved counts as used.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::digest::digest_of;
use crate::model::intent::{Body, Desired, Intent};
use crate::model::report::{Detail, Report};
use crate::model::site_key::{Part, SiteKey};

/// The account of one grant: by name of its entry, what was assigned to each site and may be in force there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    entries: BTreeMap<String, BTreeMap<SiteKey, Share>>,
    /// Sites that are known not to answer.
    cut: BTreeSet<SiteKey>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Share {
    /// Device-minutes that were assigned last.
    assigned: i64,
    /// How often the assigned value has changed: a report about an earlier assignment confirms nothing.
    serial: u64,
    /// Device-seconds that the site may let the grant use in total if no further message reaches it.
    may: i64,
    /// The same without limits that may have been assigned before the hub began to keep this account.
    known: i64,
    /// Device-seconds used and reserved by the last report.
    held: i64,
}

/// What is known of a site from before the hub began to keep this account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recalled {
    /// What was assigned to it.
    pub former: Former,
    /// Device-minutes that were used there by the last status.
    pub used: i64,
}

/// What was assigned to a site before the hub began to keep this account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Former {
    /// Nothing beyond its present part.
    Part,
    /// Status named this limit in device-minutes, and the grant has not changed since.
    Limit(i64),
    /// Status named this limit, or none, and another may have been assigned since.
    Unsure(Option<i64>),
}

impl Ledger {
    /// Sets which sites do not answer. Their limits can not be lowered, so that all that was assigned to them counts as spent.
    pub fn unreachable(&mut self, sites: BTreeSet<SiteKey>) {
        self.cut = sites;
    }

    /// Decides how many device-minutes of an entry are assigned to each site, with the serial of the assignment. `total` is what was granted,
    /// `wanted` how it is to be split. `recalled` is used for entries that the account does not have yet, and names every site that may hold
    /// something.
    pub fn settle(
        &mut self,
        entry: &str,
        total: i64,
        wanted: &BTreeMap<SiteKey, i64>,
        recalled: &BTreeMap<SiteKey, Recalled>,
    ) -> BTreeMap<SiteKey, (i64, u64)> {
        let shares = self.entries.entry(entry.to_owned()).or_insert_with(|| recall(wanted, recalled));
        for key in wanted.keys() {
            shares.entry(key.clone()).or_default();
        }
        let targets = targets(total, wanted, shares, &self.cut);
        let target = |key: &SiteKey| targets.get(key).copied().unwrap_or(0);
        for (key, share) in shares.iter_mut() {
            if share.assigned > target(key) {
                share.assign(target(key));
            }
        }
        let keys: Vec<SiteKey> = targets.keys().cloned().collect();
        for key in keys {
            let others = shares.iter().filter(|(other, _)| **other != key).map(|(_, share)| share.counts()).fold(0, i64::saturating_add);
            let room = seconds(total).saturating_sub(others).max(0) / 60;
            let goal = target(&key).min(room);
            if let Some(share) = shares.get_mut(&key).filter(|share| share.assigned < goal) {
                share.assign(goal);
            }
        }
        wanted.keys().filter_map(|key| shares.get(key).map(|share| (key.clone(), (share.assigned, share.serial)))).collect()
    }

    /// Records a site's report about an assignment: the limit that was read back there, and what is used and reserved in device-seconds, read after
    /// the limit. Returns whether more may be free now. A report about an earlier assignment changes nothing.
    pub fn record(&mut self, entry: &str, key: &SiteKey, serial: u64, limit: Option<i64>, held: Option<i64>) -> bool {
        let Some(shares) = self.entries.get_mut(entry) else { return false };
        let share = shares.entry(key.clone()).or_default();
        if share.serial != serial {
            return false;
        }
        let before = (share.may, share.held);
        let limit = seconds(limit.unwrap_or(0).max(share.assigned));
        match held {
            Some(held) => {
                share.held = held;
                share.may = limit.max(held);
                share.known = share.may;
            }
            None => {
                share.may = share.may.max(limit);
                share.known = share.known.max(limit);
            }
        }
        before != (share.may, share.held)
    }

    /// Records the reports of sites about the intents that they were sent last. Returns whether the grant is to be projected again.
    pub fn apply_reports(&mut self, sites: &BTreeMap<SiteKey, Intent>, about: &BTreeMap<SiteKey, &Report>) -> bool {
        let mut moved = false;
        for (key, intent) in sites {
            let Some(report) = about.get(key).filter(|report| report.uid == intent.uid && report.answers == digest_of(intent)) else { continue };
            let (Body::Grant(body), Detail::Grant(detail)) = (&intent.body, &report.detail) else { continue };
            // An intent with `keep` sets no limit: the one that was in force before still is.
            if body.keep {
                continue;
            }
            let held = |entry: &str| detail.usage.get(entry).filter(|usage| !usage.stale).map(|usage| usage.used.saturating_add(usage.reserved));
            // A Kubernetes site that reports no usage of an entry has nothing of it there, so that the last known use stays.
            let silent = |entry: &str| key.part == Part::Kubernetes && !detail.usage.contains_key(entry);
            let mut named = BTreeSet::new();
            let ended = matches!(body.desired, Desired::Ended { .. });
            for pool in &body.pools {
                named.insert(pool.entry.as_str());
                let limit = match pool.partition {
                    // A locked QOS lets nothing start, and keeps the limit that it had. It will be opened with the limit that is assigned now.
                    Some(_) if detail.access_removed => Some(pool.budget.device_minutes),
                    Some(_) => detail.slurm.as_ref().and_then(|slurm| slurm.entries.get(&pool.entry)).and_then(|entry| entry.limit),
                    // Until access is gone there, more may start.
                    None if ended && !detail.access_removed => continue,
                    // The report answers this intent, so its limit is in force.
                    None => Some(pool.budget.device_minutes),
                };
                let known = || self.entries.get(&pool.entry).and_then(|shares| shares.get(key)).map_or(0, |share| share.held);
                let held = held(&pool.entry).or_else(|| silent(&pool.entry).then(known));
                moved |= self.record(&pool.entry, key, pool.budget.serial, limit, held);
            }
            // Entries that the intent does not name any more: once access or the pool is gone there, nothing starts, and what was used stays used.
            let closed = detail.access_removed || (key.part == Part::Kubernetes && report.settled);
            for (entry, shares) in self.entries.iter_mut().filter(|(entry, _)| closed && !named.contains(entry.as_str())) {
                if let Some(share) = shares.get_mut(key)
                    && let Some(held) = held(entry).or((share.may == 0).then_some(0)).or_else(|| silent(entry).then_some(share.held))
                {
                    moved |= share.may != held;
                    (share.may, share.known, share.held) = (held, held, held);
                }
            }
        }
        moved
    }

    /// Device-minutes of an entry that were assigned to a site last, with the serial of the assignment.
    pub fn assigned(&self, entry: &str, key: &SiteKey) -> (i64, u64) {
        self.entries.get(entry).and_then(|shares| shares.get(key)).map(|share| (share.assigned, share.serial)).unwrap_or_default()
    }

    /// Device-minutes of an entry that can not be given to any site now, since sites that have not confirmed a lower limit may still use them.
    pub fn withheld(&self, entry: &str, key: &SiteKey, wanted: i64) -> i64 {
        let assigned = self.entries.get(entry).and_then(|shares| shares.get(key)).map_or(wanted, |share| share.assigned);
        wanted.saturating_sub(assigned).max(0)
    }

    /// Forgets entries that the grant does not name any more.
    pub fn retain(&mut self, entries: &BTreeSet<&str>) {
        self.entries.retain(|entry, _| entries.contains(entry.as_str()));
    }
}

impl Share {
    fn assign(&mut self, minutes: i64) {
        self.assigned = minutes;
        self.serial = self.serial.saturating_add(1);
        self.may = self.may.max(seconds(minutes));
        self.known = self.known.max(seconds(minutes));
    }

    fn counts(&self) -> i64 {
        self.may.max(seconds(self.assigned)).max(self.held)
    }
}

fn seconds(minutes: i64) -> i64 {
    minutes.saturating_mul(60)
}

/// The account of an entry after a restart, from spec and status.
fn recall(wanted: &BTreeMap<SiteKey, i64>, recalled: &BTreeMap<SiteKey, Recalled>) -> BTreeMap<SiteKey, Share> {
    let keys: BTreeSet<&SiteKey> = wanted.keys().chain(recalled.keys()).collect();
    let share = |key: &SiteKey| {
        let part = wanted.get(key).copied().unwrap_or(0);
        let recalled = recalled.get(key).copied().unwrap_or(Recalled { former: Former::Part, used: 0 });
        let (assigned, may) = match recalled.former {
            Former::Part => (part, part),
            Former::Limit(limit) => (limit, limit.max(part)),
            // Limits that were assigned meanwhile are unknown, so nothing is raised elsewhere before the site has reported.
            Former::Unsure(limit) => (limit.unwrap_or(0), i64::MAX),
        };
        let held = seconds(recalled.used);
        Share { assigned, serial: 0, may: seconds(may).max(held), known: seconds(assigned).max(held), held }
    };
    keys.into_iter().map(|key| (key.clone(), share(key))).collect()
}

/// The wanted parts, less what other sites have used beyond theirs, or may use since no lower limit reaches them.
fn targets(total: i64, wanted: &BTreeMap<SiteKey, i64>, shares: &BTreeMap<SiteKey, Share>, cut: &BTreeSet<SiteKey>) -> BTreeMap<SiteKey, i64> {
    let held = |key: &SiteKey| shares.get(key).map_or(0, |share| if cut.contains(key) { share.held.max(share.known) } else { share.held });
    let mut parts: BTreeMap<SiteKey, i64> = wanted.iter().map(|(key, part)| (key.clone(), (*part).max(0))).collect();
    let mut spent: BTreeSet<SiteKey> = shares.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
    // Each round finds another site that has used its part up, or ends.
    for _ in 0..=shares.len() {
        spent.extend(parts.iter().filter(|(key, part)| held(key) >= seconds(**part)).map(|(key, _)| key.clone()));
        let gone: i128 = spent.iter().map(|key| i128::from(held(key))).sum();
        let left = (i128::from(total) * 60 - gone).max(0) / 60;
        let asked: i128 = wanted.iter().filter(|(key, _)| !spent.contains(*key)).map(|(_, part)| i128::from((*part).max(0))).sum();
        if asked <= left {
            break;
        }
        let before = spent.len();
        for (key, part) in parts.iter_mut().filter(|(key, _)| !spent.contains(*key)) {
            let fair = i128::from(wanted.get(key).copied().unwrap_or(0).max(0)) * left / asked;
            *part = i64::try_from(fair).unwrap_or(0);
        }
        if !parts.iter().any(|(key, part)| !spent.contains(key) && held(key) >= seconds(*part)) && spent.len() == before {
            break;
        }
    }
    parts
}

#[cfg(test)]
mod tests;
