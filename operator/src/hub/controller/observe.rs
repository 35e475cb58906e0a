//! Handles events of the watches: updates the cache, and queues the resources that an event concerns.

use std::collections::BTreeSet;
use std::sync::Arc;

use aifactory_api::{Kind, OwnerRef};
use aifactory_plan::hub::dependents::dependents;
use aifactory_plan::hub::urgency::takes_access;
use aifactory_plan::model::freshness::Moment;
use jiff::Timestamp;

use super::Hub;
use crate::hub::broken::Undecodable;
use crate::hub::watch::{AnyResource, WatchEvent, incarnation};

impl Hub {
    pub(super) fn observe(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Listing(kind) => {
                self.moment = self.moment.next();
                self.fresh.entry(kind).or_default().relist(self.moment);
            }
            WatchEvent::Put(owner, object) => {
                if self.fresh.entry(owner.kind).or_default().shown(&owner, incarnation(object.meta())) {
                    self.put(owner, object);
                }
            }
            WatchEvent::Undecodable(owner, found) => {
                if self.fresh.entry(owner.kind).or_default().shown(&owner, incarnation(&found.meta)) {
                    self.put_undecodable(owner, *found);
                }
            }
            WatchEvent::Removed(owner, state) => {
                if self.fresh.entry(owner.kind).or_default().went(&owner, state) {
                    self.removed(&owner);
                }
            }
            WatchEvent::Listed(kind, names) => {
                let known: Vec<OwnerRef> = match kind {
                    Kind::AIFactory => self.cache.factories().map(|(owner, _)| owner.clone()).collect(),
                    Kind::GPUPool => self.cache.pools().map(|(owner, _)| owner.clone()).collect(),
                    Kind::AccessGrant => self.cache.grants().map(|(owner, _)| owner.clone()).collect(),
                };
                let known = known.iter().chain(self.undecodable.keys().filter(|owner| owner.kind == kind));
                let fresh = self.fresh.entry(kind).or_default();
                let gone: BTreeSet<OwnerRef> = known.filter(|owner| !names.contains(*owner) && !fresh.outlives_listing(owner)).cloned().collect();
                gone.iter().for_each(|owner| self.removed(owner));
                if self.unlisted.remove(&kind) && self.unlisted.is_empty() {
                    self.ready.send_replace(true);
                    tracing::info!("The caches are synced");
                }
            }
        }
    }

    /// Updates the cache with the answer to a write that was begun at this moment, unless the watch has shown something newer.
    pub(super) fn answered(&mut self, found: WatchEvent, asked: Moment) {
        match found {
            WatchEvent::Put(owner, object) => {
                if self.fresh.entry(owner.kind).or_default().answered(&owner, incarnation(object.meta()), asked) {
                    self.put(owner, object);
                }
            }
            WatchEvent::Undecodable(owner, found) => {
                if self.fresh.entry(owner.kind).or_default().answered(&owner, incarnation(&found.meta), asked) {
                    self.put_undecodable(owner, *found);
                }
            }
            WatchEvent::Listing(_) | WatchEvent::Removed(..) | WatchEvent::Listed(..) => {}
        }
    }

    fn put_undecodable(&mut self, owner: OwnerRef, found: Undecodable) {
        self.cache.put_undecodable(owner.clone());
        if self.undecodable.get(&owner).is_none_or(|known| known.why != found.why) {
            tracing::warn!(%owner, why = found.why, "Can not be decoded");
        }
        let urgent = found.meta.deletion_timestamp.is_some();
        self.counts.set(&owner, Some("Undecodable"));
        self.undecodable.insert(owner.clone(), found);
        if urgent { self.schedule.add_urgent(owner) } else { self.schedule.add(owner) }
    }

    fn put(&mut self, owner: OwnerRef, object: AnyResource) {
        self.undecodable.remove(&owner);
        let deleting = object.meta().deletion_timestamp.is_some();
        let (changed, urgent) = match &object {
            AnyResource::Factory(factory) => {
                let before = self.cache.factory(&owner);
                let changed = before.is_none_or(|before| {
                    before.spec != factory.spec
                        || before.metadata.deletion_timestamp != factory.metadata.deletion_timestamp
                        || before.metadata.annotations != factory.metadata.annotations
                });
                self.cache.put_factory(owner.clone(), factory.clone());
                (changed, deleting)
            }
            AnyResource::Pool(pool) => {
                let before = self.cache.pool(&owner);
                let changed =
                    before.is_none_or(|before| before.spec != pool.spec || before.metadata.deletion_timestamp != pool.metadata.deletion_timestamp);
                self.cache.put_pool(owner.clone(), pool.clone());
                (changed, deleting)
            }
            AnyResource::Grant(grant) => {
                let before = self.cache.grant(&owner);
                let changed = before.is_none_or(|before| {
                    before.spec != grant.spec
                        || before.metadata.deletion_timestamp != grant.metadata.deletion_timestamp
                        || before.may_give_access() != grant.may_give_access()
                });
                let urgent = takes_access(before.map(Arc::as_ref), grant, Timestamp::now());
                if changed {
                    // Before the cache changes, so that pools that the grant no longer names are queued too.
                    self.queue_dependents(&owner);
                }
                let others = self.cache.put_grant(owner.clone(), grant.clone());
                others.into_iter().for_each(|other| self.schedule.add(other));
                self.reports.recount(&self.cache, &owner);
                self.grants_changed = true;
                (changed, urgent)
            }
        };
        if changed {
            self.queue_dependents(&owner);
        }
        self.counts.set(&owner, Some(object.phase()));
        match (changed, urgent) {
            (true, urgent) => self.schedule.add_anew(owner, urgent),
            (false, true) => self.schedule.add_urgent(owner),
            (false, false) => self.schedule.add(owner),
        }
    }

    fn removed(&mut self, owner: &OwnerRef) {
        self.queue_dependents(owner);
        self.undecodable.remove(owner);
        let others = self.cache.remove(owner);
        others.into_iter().for_each(|other| self.schedule.add(other));
        self.counts.set(owner, None);
        self.grants_changed = true;
        self.pace.remove(owner);
        self.pending.remove(owner);
        self.ledgers.remove(owner);
        self.settings.event_recorder.forget(owner);
        self.reports.remove(owner);
        for key in self.sites.recipients(owner).into_iter().chain(self.holders.of(owner)) {
            self.sites.gone(&key, owner);
        }
        self.schedule.add(owner.clone());
    }

    /// Queues the resources whose projection or status depends on this one.
    pub(super) fn queue_dependents(&mut self, owner: &OwnerRef) {
        let dependents = dependents(&self.cache, owner);
        dependents.now.into_iter().for_each(|other| self.schedule.add(other));
        dependents.soon.into_iter().for_each(|other| self.recount(other));
    }

    /// Queues the grants that get more or less quota because other grants have ended by now.
    pub(super) fn advance(&mut self) {
        let changed = self.cache.advance(Timestamp::now());
        changed.into_iter().for_each(|owner| self.schedule.add(owner));
    }
}
