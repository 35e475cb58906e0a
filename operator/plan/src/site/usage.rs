//! GPU time of Pods at one site: an account for each tenant's namespace, fed by the watch on Pods.

pub mod pod_time;

use std::collections::{BTreeMap, BTreeSet};

use crate::model::budget::PERIOD;
use crate::model::id::TenantNamespace;
use crate::model::intent::{GrantIntent, GrantPoolIntent};
use crate::model::report::EntryUsage;
use crate::model::time::whole_seconds;
use crate::site::grant::{Hours, LivePod, NamespaceView};
use crate::site::usage::pod_time::{Checkpoint, PodView, Tally};
use aifactory_api::labels;
use jiff::{SignedDuration, Timestamp};

use super::index::Index;

/// The shortest time between two writes of an account to its namespace.
const WRITE: SignedDuration = SignedDuration::from_secs(60);
/// The same after Pods have started or ended, and after the last Pod has ended: a later process could not reconstruct that.
const MOVED: SignedDuration = SignedDuration::from_secs(10);
/// How long after an event a former process may have seen it.
const LATE: SignedDuration = SignedDuration::from_secs(2);
/// The longest gap in the watch that is not reported for a namespace that has never had a Pod with GPUs: its quota changes by itself when the
/// namespace is made or changed.
const SHORT: SignedDuration = SignedDuration::from_secs(30);

#[derive(Debug, Default)]
struct Account {
    tally: Tally,
    /// The checkpoint that is stored on the namespace.
    written: Option<Checkpoint>,
}

impl Account {
    /// An account that goes on from the checkpoint on the namespace; not from later than now, whatever clock it was written by.
    fn of(namespace: &NamespaceView, now: Timestamp) -> Self {
        let written = namespace.annotations.get(labels::USED).and_then(|text| Checkpoint::parse(text));
        let written = written.map(|written| Checkpoint { through: written.through.min(now), ..written });
        Self { tally: Tally::resume(written.clone()), written }
    }
}

#[derive(Debug)]
struct Known {
    view: PodView,
    /// When it went.
    removed: Option<Timestamp>,
}

/// The accounts of a site.
#[derive(Debug, Default)]
pub struct Accounts {
    pods: BTreeMap<TenantNamespace, BTreeMap<String, Known>>,
    accounts: BTreeMap<TenantNamespace, Account>,
    /// Since when the watch on Pods may have missed something.
    unwatched: Option<Timestamp>,
    /// Up to when figures were reported while the watch was complete.
    counted: Option<Timestamp>,
    /// Namespaces with Pods that ended while the watch was down.
    vanished: BTreeSet<TenantNamespace>,
    /// What keeps Pods from being seen.
    blind: Option<String>,
}

impl Accounts {
    /// A Pod is there.
    pub fn put(&mut self, view: PodView) {
        let pods = self.pods.entry(view.namespace.clone()).or_default();
        pods.insert(view.uid.clone(), Known { view, removed: None });
    }

    /// A Pod went.
    pub fn remove(&mut self, view: PodView, now: Timestamp) {
        let pods = self.pods.entry(view.namespace.clone()).or_default();
        if self.accounts.contains_key(&view.namespace) {
            pods.insert(view.uid.clone(), Known { view, removed: Some(now) });
        } else {
            pods.remove(&view.uid);
        }
    }

    /// A listing is complete; returns the namespaces of Pods that ended while the watch was down.
    pub fn listed(&mut self, seen: &BTreeSet<String>, now: Timestamp) -> BTreeSet<TenantNamespace> {
        self.blind = None;
        // The Pod ran when the watch broke; how much longer is not known.
        let at = self.unwatched.unwrap_or(now);
        let mut vanished = BTreeSet::new();
        for (namespace, pods) in &mut self.pods {
            for known in pods.values_mut().filter(|known| known.removed.is_none() && !seen.contains(&known.view.uid)) {
                known.removed = Some(at);
                vanished.insert(namespace.clone());
            }
        }
        self.vanished.extend(vanished.iter().cloned());
        vanished
    }

    /// From this moment on the watch may miss something.
    pub fn unwatched(&mut self, since: Timestamp) {
        self.unwatched.get_or_insert(since);
    }

    /// The site does not let Pods be listed. Returns whether that is new.
    pub fn blind(&mut self, why: String) -> bool {
        self.blind.replace(why).is_none()
    }

    /// The site is synced: takes over the checkpoints on namespaces, and records the gaps in which Pods may have been missed. `former` is when a
    /// former process gave its last sign of life.
    pub fn synced(&mut self, index: &Index, former: Option<Timestamp>, now: Timestamp) {
        for (namespace, view) in index.namespaces() {
            let moved_since = |since: Timestamp| index.moved(namespace).is_some_and(|moved| moved >= whole_seconds(since));
            let unseen =
                |account: &Account, since: Timestamp| moved_since(since) && (!account.tally.untouched() || now.duration_since(since) > SHORT);
            if let Some(account) = self.accounts.get_mut(namespace) {
                if let Some(since) = self.unwatched.filter(|since| self.vanished.contains(namespace) || unseen(account, *since)) {
                    account.tally.gap(since, now);
                }
                continue;
            }
            let mut account = Account::of(view, now);
            // Without a checkpoint, the former process had seen no Pod until its end.
            let since = account.written.as_ref().map(|written| written.through).or_else(|| former?.checked_sub(LATE).ok());
            if let Some(since) = since.filter(|since| unseen(&account, *since)) {
                account.tally.gap(since, now);
            }
            self.accounts.insert(namespace.clone(), account);
        }
        if self.blind.is_none() {
            self.unwatched = None;
        }
        self.vanished.clear();
    }

    /// Counts a namespace's Pods up to now, and makes a checkpoint where one is due.
    pub fn count(&mut self, namespace: &TenantNamespace, index: &Index, grant: Option<&GrantIntent>, now: Timestamp) {
        if self.unwatched.is_none() {
            self.counted = Some(now);
        }
        let (single, seen) = (single(namespace, index), self.counted_until(now));
        let account = self
            .accounts
            .entry(namespace.clone())
            .or_insert_with(|| index.namespace(namespace).map(|view| Account::of(view, now)).unwrap_or_default());
        if let Some(pods) = self.pods.get_mut(namespace) {
            for (uid, known) in pods.iter() {
                if let Some((pool, gpus, bound)) = held(&known.view, single, grant) {
                    account.tally.put(uid, pool, gpus, bound, known.view.ended);
                }
                if let Some(at) = known.removed {
                    account.tally.remove(uid, at);
                }
            }
            pods.retain(|_, known| known.removed.is_none());
            if pods.is_empty() {
                self.pods.remove(namespace);
            }
        }
        if due(account, index.moved(namespace), seen).is_some_and(|at| at <= seen) {
            account.written = Some(account.tally.checkpoint(seen));
        }
    }

    /// Up to when Pods are counted: a gap in the watch is never estimated, and no figure gets smaller.
    fn counted_until(&self, now: Timestamp) -> Timestamp {
        self.unwatched.map_or(now, |since| self.counted.map_or(since, |counted| counted.max(since)).min(now))
    }

    /// When a namespace is to be counted again without an event: after a period while Pods run, and when they will have used up their budget.
    pub fn wake(&self, namespace: &TenantNamespace, index: &Index, grant: &GrantIntent, now: Timestamp) -> Option<Timestamp> {
        let account = self.accounts.get(namespace)?;
        let report = if account.tally.running(None, now) { now.checked_add(SignedDuration::from_secs(PERIOD)).ok() } else { None };
        let seen = self.counted_until(now);
        let sums = account.tally.through(seen);
        let closing = grant.pools.iter().filter_map(|entry| {
            let left = grant.closes_at(&entry.pool).saturating_mul(1000).saturating_sub(sums.get(&entry.pool).copied().unwrap_or_default());
            let held = account.tally.held(&entry.pool, now);
            // A second more, since whole seconds count.
            if left > 0 && held > 0 { now.checked_add(SignedDuration::from_millis(left / held + 1000)).ok() } else { None }
        });
        // While the watch is down no checkpoint can be made; when it is back, the namespace is counted anyway.
        report.into_iter().chain(closing).chain(due(account, index.moved(namespace), seen).filter(|_| seen == now)).min()
    }

    /// The usage for planning.
    pub fn hours(&self, namespace: &TenantNamespace, index: &Index, grant: &GrantIntent, now: Timestamp) -> Hours {
        let none = Account::default();
        let account = self.accounts.get(namespace).unwrap_or(&none);
        let now = self.counted_until(now);
        let sums = account.tally.through(now);
        let through = match &account.written {
            // Without running Pods the time of the figure stays, so that the report does not change.
            Some(written) if written.milliseconds == sums && !account.tally.running(None, now) => Some(written.through),
            None if sums.is_empty() => None,
            _ => Some(now),
        };
        let usage = |pool: &str| EntryUsage {
            used: sums.get(pool).copied().unwrap_or_default() / 1000,
            running: account.tally.running(Some(pool), now),
            complete_through: through.map(whole_seconds),
            stale: self.blind.is_some(),
            ..EntryUsage::default()
        };
        let single = single(namespace, index);
        let mut pods: BTreeMap<String, BTreeMap<String, LivePod>> = BTreeMap::new();
        let here = self.pods.get(namespace).into_iter().flat_map(BTreeMap::values);
        for view in here.filter(|known| known.removed.is_none() && known.view.ended.is_none()).map(|known| &known.view) {
            if let Some((pool, gpus)) = devices_of(view, single, &grant.pools) {
                let pod = LivePod { gpus, bound: view.bound.is_some(), grace: view.to_end() };
                pods.entry(pool.to_owned()).or_default().insert(view.name.clone(), pod);
            }
        }
        Hours {
            annotation: account.written.as_ref().map(Checkpoint::text),
            used: grant.pools.iter().map(|entry| (entry.pool.clone(), usage(&entry.pool))).collect(),
            gaps: account.tally.gaps().copied().collect(),
            blind: self.blind.clone(),
            pods,
        }
    }

    /// Whether a Pod that asks for accelerators waits or runs in a namespace, as far as Pods can be seen.
    pub fn any_living(&self, namespace: &TenantNamespace) -> bool {
        let here = self.pods.get(namespace).into_iter().flat_map(BTreeMap::values);
        here.into_iter().any(|known| known.removed.is_none() && known.view.ended.is_none())
    }

    /// The namespace is gone with its account.
    pub fn forget(&mut self, namespace: &TenantNamespace) {
        self.pods.remove(namespace);
        self.accounts.remove(namespace);
    }
}

/// When the next checkpoint of an account is due; `None`: it equals the last one.
fn due(account: &Account, moved: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    let Some(written) = &account.written else { return (!account.tally.untouched()).then_some(now) };
    let changed = written.milliseconds != account.tally.through(now) || !written.gaps.iter().eq(account.tally.gaps());
    let moved = moved.is_some_and(|moved| moved >= whole_seconds(written.through));
    let pause = if moved || !account.tally.running(None, now) { MOVED } else { WRITE };
    (changed || moved).then(|| written.through.checked_add(pause).unwrap_or(now))
}

/// The only pool that a namespace's Pods can use now, by its annotation.
fn single<'a>(namespace: &TenantNamespace, index: &'a Index) -> Option<&'a str> {
    index.namespace(namespace)?.annotations.get(labels::POOL).map(String::as_str)
}

/// The pool that a Pod selects, or the only one of its namespace, and how many of its devices it asks for.
fn devices_of<'a>(pod: &'a PodView, single: Option<&'a str>, granted: &'a [GrantPoolIntent]) -> Option<(&'a str, i64)> {
    let only = || match granted {
        [only] => Some(only.pool.as_str()),
        _ => None,
    };
    let pool = pod.pool.as_deref().or(single).or_else(only)?;
    let gpus = match granted.iter().find(|granted| granted.pool == pool) {
        Some(granted) => pod.devices.get(&granted.resource).copied().unwrap_or_default(),
        None => pod.devices.values().sum(),
    };
    Some((pool, gpus))
}

/// The pool of which a Pod holds devices, how many, and since when.
fn held<'a>(pod: &'a PodView, single: Option<&'a str>, grant: Option<&'a GrantIntent>) -> Option<(&'a str, i64, Timestamp)> {
    let granted = grant.map(|grant| grant.pools.as_slice()).unwrap_or_default();
    let (pool, gpus) = devices_of(pod, single, granted)?;
    Some((pool, gpus, pod.bound?))
}

#[cfg(test)]
mod tests;
