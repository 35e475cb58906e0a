//! What the watches saw, and what became of writes.

use super::*;

impl Worker {
    pub(super) fn observed(&mut self, session: u64, observation: Observation) {
        if !self.connection.is(session) {
            return;
        }
        let mut listed = None;
        match observation {
            Observation::Put(seen) => {
                if matches!(seen.extra, Extra::Quota(_)) {
                    let soon = Instant::now() + Duration::from_secs(2);
                    for pool in self.intents.keys().filter(|owner| owner.kind == Kind::GPUPool).cloned().collect::<Vec<_>>() {
                        self.schedule.add_at(pool, soon);
                    }
                }
                if seen.owner.is_none() {
                    self.try_again_where_something_was_in_the_way();
                }
                let due = self.index.put(*seen);
                self.due(due);
            }
            Observation::Removed(key) => {
                if key.kind == ObjectKind::Namespace
                    && let Some(view) = self.index.namespace(&key.name)
                    && view.state != aifactory_api::labels::STATE_LOCKED
                {
                    self.lost.extend(
                        self.intents.keys().filter(|owner| self.index.namespace_of(owner).is_some_and(|(name, _)| name == key.name)).cloned(),
                    );
                }
                if key.kind == ObjectKind::Namespace
                    && self.index.namespace(&key.name).is_none_or(|view| view.state == aifactory_api::labels::STATE_LOCKED)
                {
                    self.hours.forget(&key.name);
                }
                let due = self.index.remove(&key);
                self.due(due);
                self.partition_gone(&key);
            }
            Observation::Listed(kind, seen) => {
                listed = Some(Listing::Kind(kind));
                let due = self.index.retain(kind, &seen);
                self.due(due);
            }
            Observation::Node(node) => {
                if self.index.put_node(*node) {
                    self.visit_pools();
                }
            }
            Observation::NodeRemoved(name) => {
                if self.index.remove_node(&name) {
                    self.visit_pools();
                }
            }
            Observation::NodesListed(seen) => {
                listed = Some(Listing::Nodes);
                self.index.retain_nodes(&seen);
                self.visit_pools();
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
            Observation::PodsUnseen(None) => self.connection.suspect(Instant::now()),
            Observation::PodsUnwatched(since) => self.hours.unwatched(since),
            Observation::Policy(data) => {
                listed = Some(Listing::Policy);
                let data = data.unwrap_or_default();
                let policy = SitePolicy::parse(&data);
                self.word.policy = data;
                if policy != self.policy {
                    self.policy = policy;
                    self.site_dirty = true;
                    self.refuse();
                    self.visit_everything();
                }
            }
            Observation::SlurmUsers(data) => {
                listed = Some(Listing::SlurmUsers);
                self.word.users = data.unwrap_or_default();
                self.site_dirty = true;
            }
            Observation::Controllers(found) => {
                if self.index.set_controllers(found) {
                    self.visit_pools();
                }
            }
            Observation::Failed(why) => {
                tracing::debug!(site = %self.key, why, "a watch failed");
                // A watch that fails may be the first sign that the site is gone.
                self.connection.suspect(Instant::now());
            }
        }
        if let Some(listing) = listed
            && let Some(active) = self.connection.session_mut()
            && active.unlisted.remove(&listing)
            && active.unlisted.is_empty()
        {
            tracing::info!(site = %self.key, "Saw everything of ours at the site");
            self.pods_synced();
            self.site_dirty = true;
            self.visit_everything();
        }
    }

    /// A Slurm of ours goes when its last partition has gone.
    fn partition_gone(&mut self, key: &ObjectKey) {
        if key.kind == ObjectKind::NodeSet && self.synced() {
            self.schedule.add(self.key.factory.clone());
        }
    }

    /// A visit soon: what begins and ends together is counted together.
    fn pods_moved(&mut self, namespace: &str) {
        if let Some(owner) = self.index.tenant(namespace).cloned() {
            self.schedule.add_at(owner, Instant::now() + Duration::from_millis(500));
        }
    }

    fn pods_synced(&mut self) {
        self.hours.synced(&self.index, self.reader.settings.gate.former(), Timestamp::now());
    }

    /// Somebody may just have handed over what was in the way.
    fn try_again_where_something_was_in_the_way(&mut self) {
        let foreign = |finding: &Finding| finding.reason == Reason::ForeignObject;
        for (owner, _) in self.findings.iter().filter(|(_, findings)| findings.iter().any(foreign)) {
            self.schedule.add(owner.clone());
        }
    }

    pub(super) fn executed(&mut self, session: u64, owner: OwnerRef, result: Result<Outcome, String>) {
        let now = Instant::now();
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(panic) => {
                self.findings.insert(owner.clone(), vec![Finding::stalled(Reason::InternalError, panic)]);
                self.schedule.failed(&owner, now);
                self.visit_report_only(&owner);
                return;
            }
        };
        if self.connection.is(session) {
            for seen in outcome.applied {
                self.index.put(seen);
            }
            for key in &outcome.deleted {
                self.index.delete(key);
                self.partition_gone(key);
            }
            let mut moved = false;
            for node in outcome.nodes {
                moved |= self.index.put_node(node);
            }
            if moved {
                self.visit_pools();
            }
        }
        self.site_dirty = true;
        if outcome.failures.is_empty() {
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
        if outcome.failures.iter().any(|failure| failure.unreachable) {
            self.connection.suspect(now);
        }
        let refused = outcome.failures.iter().all(|failure| failure.refused);
        self.findings.insert(owner.clone(), outcome.failures.into_iter().map(|failure| failure.finding).collect());
        if refused {
            self.schedule.refused(&owner, now, REFUSED);
        } else {
            self.schedule.failed(&owner, now);
        }
        self.visit_report_only(&owner);
    }
}
