//! What the watches saw, and what became of writes.

use std::collections::BTreeMap;
use std::time::Duration;

use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::model::freshness::Moment;
use aifactory_plan::model::id::{TenantNamespace, UserName};
use aifactory_plan::model::intent::Body;
use aifactory_plan::model::object::ObjectKind;
use aifactory_plan::model::report::Finding;
use aifactory_plan::site::index::{Change, Extra};
use aifactory_plan::site::policy::SitePolicy;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{KubernetesDriver, Listing, REFUSED};
use crate::site::kubernetes::apply::{Follows, Outcome};
use crate::site::kubernetes::watch::Observation;

impl KubernetesDriver {
    pub(super) fn saw(&mut self, observation: Observation) {
        let mut listed = None;
        match observation {
            Observation::Put(seen) => {
                if let Extra::Quota(quota) = &seen.extra
                    && self.index.used(&TenantNamespace::new(&seen.key.namespace)).unwrap_or(&BTreeMap::new()) != &quota.used
                {
                    self.pools_of_tenant_soon(&seen.key.namespace);
                }
                if seen.owner.is_none() {
                    self.try_again_where_something_was_in_the_way();
                }
                let change = self.index.put(*seen);
                self.changed(change);
            }
            Observation::Removed(gone) => {
                let key = gone.key;
                if key.kind == ObjectKind::NAMESPACE
                    && self.index.namespace(&TenantNamespace::new(&key.name)).is_none_or(|view| view.state == aifactory_api::labels::STATE_LOCKED)
                {
                    self.hours.forget(&TenantNamespace::new(&key.name));
                }
                let change = self.index.remove(&key, &gone.uid, gone.version);
                self.changed(change);
            }
            Observation::Listing(kind) => self.index.relist(kind),
            Observation::Listed(kind, seen) => {
                listed = Some(Listing::Kind(kind));
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
                listed = Some(Listing::Nodes);
                self.index.retain_nodes(&seen);
                self.pools.invalidate();
            }
            Observation::Pod(pod) => {
                let namespace = pod.namespace.clone();
                self.hours.put(*pod);
                self.pods_moved(&namespace);
            }
            Observation::PodRemoved(pod) => {
                let namespace = pod.namespace.clone();
                self.hours.remove(*pod, Timestamp::now());
                self.pods_moved(&namespace);
            }
            Observation::PodsListed(seen) => {
                listed = Some(Listing::Pods);
                let vanished = self.hours.listed(&seen, Timestamp::now());
                if self.synced() {
                    self.pods_synced();
                }
                for namespace in vanished {
                    self.pods_moved(&namespace);
                }
            }
            Observation::PodsUnseen(Some(why)) => {
                listed = Some(Listing::Pods);
                self.hours.unwatched(Timestamp::now());
                if self.hours.blind(why) && self.synced() {
                    self.visit_everything();
                }
            }
            Observation::PodsUnseen(None) => self.core.connection.suspect(Instant::now()),
            Observation::PodsUnwatched(since) => self.hours.unwatched(since),
            Observation::Policy(data) => {
                listed = Some(Listing::Policy);
                let data = data.unwrap_or_default();
                let policy = SitePolicy::parse(&data);
                self.word.policy = data;
                if policy != self.policy {
                    let changed = self.refusals.set_policy(&policy, &self.core.intents);
                    self.policy = policy;
                    self.site_dirty = true;
                    self.refused(changed);
                    self.visit_everything();
                }
            }
            Observation::SlurmUsers(data) => {
                listed = Some(Listing::SlurmUsers);
                self.word.users = data.unwrap_or_default().into_iter().map(|(member, user)| (member, UserName::new(user))).collect();
                self.site_dirty = true;
            }
            Observation::Failed(why) => {
                tracing::debug!(site = %self.core.key, why, "a watch failed");
                // A watch that fails may be the first sign that the site is gone.
                self.core.connection.suspect(Instant::now());
            }
        }
        if let Some(listing) = listed
            && let Some(active) = self.core.connection.session_mut()
            && active.unlisted.remove(&listing)
            && active.unlisted.is_empty()
        {
            tracing::info!(site = %self.core.key, "Saw everything of ours at the site");
            self.pods_synced();
            self.site_dirty = true;
            self.visit_everything();
        }
    }

    /// Takes note of what an observation means for owners.
    fn changed(&mut self, change: Change) {
        self.lost.extend(change.lost.into_iter().filter(|owner| self.core.intents.contains_key(owner)));
        self.due(change.due);
        self.read_anew(change.pools, change.site);
    }

    /// What engines read is not what it was: of all pools, or of what the site has once.
    fn read_anew(&mut self, pools: bool, site: bool) {
        if pools {
            self.visit_pools();
        }
        if site && self.synced() {
            self.schedule.add(self.core.key.factory.clone());
        }
    }

    /// The pools of which a namespace's Pods hold GPUs are counted anew.
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

    /// A visit soon: what begins and ends together is counted together.
    fn pods_moved(&mut self, namespace: &TenantNamespace) {
        if let Some(owner) = self.index.tenant(namespace.as_str()).cloned() {
            self.schedule.add_at(owner, Instant::now() + Duration::from_millis(500));
        }
    }

    fn pods_synced(&mut self) {
        self.hours.synced(&self.index, self.core.reader.settings.gate.former(), Timestamp::now());
    }

    /// Somebody may just have handed over what was in the way.
    fn try_again_where_something_was_in_the_way(&mut self) {
        let foreign = |finding: &Finding| finding.reason == Reason::ForeignObject;
        for (owner, _) in self.findings.iter().filter(|(_, findings)| findings.iter().any(foreign)) {
            self.schedule.add_anew(owner.clone(), false);
        }
    }

    pub(super) fn executed(&mut self, session: u64, asked: Moment, owner: OwnerRef, result: Result<Outcome, String>) {
        let now = Instant::now();
        let mut outcome = match result {
            Ok(outcome) => outcome,
            Err(panic) => {
                self.findings.insert(owner.clone(), vec![Finding::stalled(Reason::InternalError, panic)]);
                self.schedule.failed(&owner, now);
                self.visit_report_only(&owner);
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
        if failures.is_empty() {
            self.findings.remove(&owner);
            let rounds = self.rounds.entry(owner.clone()).or_insert(0);
            *rounds += 1;
            if *rounds > 4 {
                self.schedule.failed(&owner, now);
            } else {
                self.schedule.done(&owner);
                self.schedule.add_urgent(owner);
            }
            return;
        }
        if failures.iter().any(|failure| failure.follows == Follows::Reconnect) {
            self.core.connection.suspect(now);
        }
        let refused = failures.iter().all(|failure| failure.follows == Follows::Person);
        self.findings.insert(owner.clone(), failures.into_iter().map(|failure| failure.finding).collect());
        if refused {
            self.schedule.refused(&owner, now, REFUSED);
        } else {
            self.schedule.failed(&owner, now);
        }
        self.visit_report_only(&owner);
    }

    /// Takes in what requests that were begun at this moment, or later, were answered with.
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
