//! Events of the watches, and results of writes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aifactory_api::{Kind, OwnerRef, Reason, labels};
use aifactory_plan::model::freshness::Moment;
use aifactory_plan::model::id::{TenantNamespace, UserName};
use aifactory_plan::model::intent::Body;
use aifactory_plan::model::object::{ObjectKey, ObjectKind};
use aifactory_plan::model::report::Finding;
use aifactory_plan::site::index::{Change, Extra, IndexedObject};
use aifactory_plan::site::policy::SitePolicy;
use aifactory_plan::site::usage::pod_time::PodView;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{KubernetesDriver, Listing, REFUSED};
use crate::site::kubernetes::apply::{Failure, Follows, Outcome};
use crate::site::kubernetes::watch::{Gone, Observation};

impl KubernetesDriver {
    /// Takes in one event of a watch.
    pub(super) fn observe(&mut self, observation: Observation) {
        let completed = Listing::completed_by(&observation);
        match observation {
            Observation::Put(seen) => self.object_put(*seen),
            Observation::Removed(gone) => self.object_removed(&gone),
            Observation::Listing(kind) => self.index.relist(kind),
            Observation::Listed(kind, seen) => {
                let change = self.index.retain(kind, &seen);
                self.changed(change);
            }
            Observation::Node(node, version) => {
                if self.index.put_node(*node, version) {
                    self.pools.invalidate();
                }
            }
            Observation::NodeRemoved(gone) => {
                if self.index.remove_node(&gone.key, &gone.uid, gone.version) {
                    self.pools.invalidate();
                }
            }
            Observation::NodesListing => self.index.relist_nodes(),
            Observation::NodesListed(seen) => {
                self.index.retain_nodes(&seen);
                self.pools.invalidate();
            }
            Observation::Pod(pod) => self.pod_put(*pod),
            Observation::PodRemoved(pod) => self.pod_removed(*pod),
            Observation::PodsListed(seen) => self.pods_listed(&seen),
            Observation::PodsUnseen(Some(why)) => self.pods_unseen(why),
            Observation::PodsUnseen(None) => self.core.connection.suspect(Instant::now()),
            Observation::PodsUnwatched(since) => self.hours.unwatched(since),
            Observation::Policy(data) => self.set_policy(data.unwrap_or_default()),
            Observation::SlurmUsers(data) => {
                self.site_config.users = data.unwrap_or_default().into_iter().map(|(member, user)| (member, UserName::new(user))).collect();
                self.site_dirty = true;
            }
            Observation::Failed(why) => {
                tracing::debug!(site = %self.core.key, why, "A watch of the site failed");
                // A watch that fails may be the first sign that the site is gone.
                self.core.connection.suspect(Instant::now());
            }
        }
        if let Some(listing) = completed {
            self.listing_completed(listing);
        }
    }

    fn object_put(&mut self, seen: IndexedObject) {
        if let Extra::Quota(quota) = &seen.extra
            && self.index.used(&TenantNamespace::new(&seen.key.namespace)).unwrap_or(&BTreeMap::new()) != &quota.used
        {
            self.pools_of_tenant_soon(&seen.key.namespace);
        }
        if seen.owner.is_none() {
            self.retry_foreign_objects();
        }
        let change = self.index.put(seen);
        self.changed(change);
    }

    fn object_removed(&mut self, gone: &Gone<ObjectKey>) {
        let key = &gone.key;
        if key.kind == ObjectKind::NAMESPACE
            && self.index.namespace(&TenantNamespace::new(&key.name)).is_none_or(|view| view.state == labels::STATE_LOCKED)
        {
            self.hours.forget(&TenantNamespace::new(&key.name));
        }
        let change = self.index.remove(key, &gone.uid, gone.version);
        self.changed(change);
    }

    fn pod_put(&mut self, pod: PodView) {
        let namespace = pod.namespace.clone();
        self.hours.put(pod);
        self.pods_moved(&namespace);
    }

    fn pod_removed(&mut self, pod: PodView) {
        let namespace = pod.namespace.clone();
        self.hours.remove(pod, Timestamp::now());
        self.pods_moved(&namespace);
    }

    fn pods_listed(&mut self, seen: &BTreeSet<String>) {
        let vanished = self.hours.listed(seen, Timestamp::now());
        if self.synced() {
            self.pods_synced();
        }
        for namespace in vanished {
            self.pods_moved(&namespace);
        }
    }

    /// Pods can not be listed at all, for this reason.
    fn pods_unseen(&mut self, why: String) {
        self.hours.unwatched(Timestamp::now());
        if self.hours.blind(why) && self.synced() {
            self.queue_all();
        }
    }

    /// Puts in force what the site's ConfigMap aifactory-site-policy contains now.
    fn set_policy(&mut self, data: BTreeMap<String, String>) {
        let policy = SitePolicy::parse(&data);
        self.site_config.policy = data;
        if policy != self.policy {
            let changed = self.refusals.set_policy(&policy, &self.core.intents);
            self.policy = policy;
            self.site_dirty = true;
            self.refused(changed);
            self.queue_all();
        }
    }

    /// A first listing of the session is complete; with the last of them reconciling begins.
    fn listing_completed(&mut self, listing: Listing) {
        if let Some(active) = self.core.connection.session_mut()
            && active.unlisted.remove(&listing)
            && active.unlisted.is_empty()
        {
            tracing::info!(site = %self.core.key, "The caches of the site are synced");
            self.pods_synced();
            self.site_dirty = true;
            self.queue_all();
        }
    }

    /// Queues the owners that a change in the index concerns, and remembers those that lost data.
    fn changed(&mut self, change: Change) {
        self.lost.extend(change.lost.into_iter().filter(|owner| self.core.intents.contains_key(owner)));
        self.due(change.due);
        self.read_anew(change.pools, change.site);
    }

    /// Queues what engines read something else of now: all pools, or the factory's own objects at the site.
    fn read_anew(&mut self, pools: bool, site: bool) {
        if pools {
            self.queue_pools();
        }
        if site && self.synced() {
            self.schedule.add(self.core.key.factory.clone());
        }
    }

    /// Queues the pools of a tenant's grant, since another number of their GPUs is in use.
    fn pools_of_tenant_soon(&mut self, namespace: &str) {
        let Some(intent) = self.index.tenant(namespace).and_then(|owner| self.core.intents.get(owner)) else { return };
        let Body::Grant(grant) = &intent.body else { return };
        let soon = Instant::now() + Duration::from_secs(2);
        for pool in &grant.pools {
            let pool = OwnerRef::new(Kind::GPUPool, &self.core.key.factory.namespace, &pool.pool);
            if self.core.intents.contains_key(&pool) {
                self.schedule.add_at(pool, soon);
            }
        }
    }

    /// Queues the grant of a namespace whose Pods have changed, with a delay, so that Pods that begin or end together are counted in one reconcile.
    fn pods_moved(&mut self, namespace: &TenantNamespace) {
        if let Some(owner) = self.index.tenant(namespace.as_str()).cloned() {
            self.schedule.add_at(owner, Instant::now() + Duration::from_millis(500));
        }
    }

    fn pods_synced(&mut self) {
        self.hours.synced(&self.index, self.core.reader.settings.gate.former(), Timestamp::now());
    }

    /// Queues the owners that a foreign object was in the way of: the object that was just seen without an owner may be that one, handed over.
    fn retry_foreign_objects(&mut self) {
        let foreign = |finding: &Finding| finding.reason == Reason::ForeignObject;
        for (owner, _) in self.findings.iter().filter(|(_, findings)| findings.iter().any(foreign)) {
            self.schedule.add_anew(owner.clone(), false);
        }
    }

    /// Takes in how the execution of a plan has ended, and decides when its owner is reconciled next.
    pub(super) fn executed(&mut self, session: u64, asked: Moment, owner: OwnerRef, result: Result<Outcome, String>) {
        let mut outcome = match result {
            Ok(outcome) => outcome,
            Err(panic) => {
                self.findings.insert(owner.clone(), vec![Finding::stalled(Reason::InternalError, panic)]);
                self.schedule.failed(&owner, Instant::now());
                self.report_only(&owner);
                return;
            }
        };
        let altered = std::mem::take(&mut outcome.altered);
        let failures = std::mem::take(&mut outcome.failures);
        if self.core.connection.is(session) {
            self.answered(asked, outcome);
        }
        for altered in &altered {
            tracing::info!(site = %self.core.key, %owner, object = %altered.key, "The site made something else of an object than was written");
            self.altered.entry(owner.clone()).or_default().note(altered.clone(), Timestamp::now());
        }
        self.held_dirty.insert(owner.clone());
        if failures.is_empty() { self.all_written(owner) } else { self.writes_failed(&owner, failures) }
    }

    /// Every write of a plan has succeeded: its owner is reconciled again at once, to see whether anything is left. After a few rounds with
    /// writes it waits, since something else undoes them.
    fn all_written(&mut self, owner: OwnerRef) {
        self.findings.remove(&owner);
        let rounds = self.rounds.entry(owner.clone()).or_insert(0);
        *rounds += 1;
        if *rounds > 4 {
            self.schedule.failed(&owner, Instant::now());
        } else {
            self.schedule.done(&owner);
            self.schedule.add_urgent(owner);
        }
    }

    fn writes_failed(&mut self, owner: &OwnerRef, failures: Vec<Failure>) {
        let now = Instant::now();
        // Without an answer nobody knows what the site has done, so that nothing is said of an owner before its objects are read again.
        let unknown = failures.iter().any(|failure| failure.follows == Follows::Reconnect);
        if unknown {
            self.core.connection.suspect(now);
        }
        let refused = failures.iter().all(|failure| failure.follows == Follows::Person);
        self.findings.insert(owner.clone(), failures.into_iter().map(|failure| failure.finding).collect());
        if refused {
            self.schedule.refused(owner, now, REFUSED);
        } else {
            self.schedule.failed(owner, now);
        }
        if !unknown {
            self.report_only(owner);
        }
    }

    /// Brings the index up to date with the answers to writes, which were begun at this moment or later.
    fn answered(&mut self, asked: Moment, outcome: Outcome) {
        let Outcome { applied, deleted, ordered, nodes, altered: _, failures: _ } = outcome;
        let mut changes = Vec::new();
        for seen in applied {
            changes.push(self.index.answered(seen, asked));
        }
        for key in &deleted {
            changes.push(self.index.deleted(key, asked));
        }
        for change in changes {
            self.read_anew(change.pools, change.site);
            self.held_dirty.extend(change.due);
            self.lost.extend(change.lost.into_iter().filter(|owner| self.core.intents.contains_key(owner)));
        }
        for key in &ordered {
            self.index.ordered_deletion(key);
        }
        let mut moved = false;
        for (node, version) in nodes {
            moved |= self.index.answered_node(node, version, asked);
        }
        if moved {
            self.pools.invalidate();
        }
    }
}
