//! What the workers of sites send: reports about resources, and about the sites themselves.

use std::collections::BTreeSet;

use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::hub::cache::{factory_of_grant, pools_of_grant};
use aifactory_plan::model::report::{Finding, HeldChange, Report, SiteReport};
use aifactory_plan::model::site_key::SiteKey;
use tokio::time::Instant;

use super::Hub;
use crate::telemetry::access_log;
use crate::transport::{FromSite, Received};

impl Hub {
    pub(super) fn receive(&mut self, Received { key, incarnation, message }: Received) {
        // A worker that was replaced speaks of another credential, or of a part that was let go.
        if !self.sites.is_current(&key, incarnation) {
            return;
        }
        match message {
            FromSite::About(report) => {
                self.holders.answered(&key, &report);
                let owner = report.owner.clone();
                if self.cache.contains(&owner) {
                    self.log_access(&key, &report);
                    self.reports.put(&self.cache, &key, *report);
                    // What a grant has used is in its pools' figures.
                    for pool in self.cache.grant(&owner).map(|grant| pools_of_grant(&owner, grant)).unwrap_or_default() {
                        self.recount(pool);
                    }
                    self.schedule.add(owner);
                    self.recount(key.factory);
                }
            }
            FromSite::Site(report) => self.site_reported(key, *report),
            FromSite::Held(changes) => self.held_changed(&key, &changes),
            FromSite::Died => self.worker_died(key),
        }
    }

    /// A part without a worker is known to hold what it held, and nothing that it said stands. A new worker begins after a pause.
    fn worker_died(&mut self, key: SiteKey) {
        let now = Instant::now();
        self.sites.died(&key, now);
        self.settings.metrics.set_site_connected(&key.to_string(), false);
        let problem = Finding::note(Reason::InternalError, "the operator failed while working on the site; its log says where");
        self.site_reports.insert(key.clone(), SiteReport { problem: Some(problem), ..SiteReport::default() });
        self.queue_dependents(&key.factory);
        self.schedule.add(key.factory);
    }

    fn site_reported(&mut self, key: SiteKey, report: SiteReport) {
        let (metrics, name) = (&self.settings.metrics, key.to_string());
        metrics.set_site_connected(&name, report.reachable);
        metrics.set_site_orphans(&name, report.orphans.len());
        metrics.set_site_credential_expiry(&name, report.credential_expires);
        if let Some(config) = &report.config {
            self.site_configs.insert(key.clone(), config.clone());
        }
        let before = self.site_reports.insert(key.clone(), report);
        let Some(report) = self.site_reports.get(&key) else { return };
        let state = |report: &SiteReport| (report.reachable, report.synced, report.problem.as_ref().map(|problem| problem.reason));
        let moved = before.as_ref().map(state) != Some(state(report));
        let newly_synced = report.synced && !before.as_ref().is_some_and(|before| before.synced);
        let changed = self.holders.reported(&key, report);
        changed.into_iter().for_each(|owner| self.schedule.add(owner));
        if report.synced {
            let held: BTreeSet<OwnerRef> = report.held.keys().cloned().collect();
            if self.synced.insert(key.clone()) {
                // It counts no more as a part that may hold something of any grant: it says what it holds.
                self.cache.grants().for_each(|(owner, _)| self.schedule.add(owner.clone()));
            }
            held.iter().for_each(|owner| self.send_tombstone(&key, owner));
            self.sites.forget_tombstones(&key, &held);
        }
        if newly_synced {
            // A new worker is sent what nobody else would think of: of grants that do not name its factory any more.
            self.queue_concerned(&key);
            self.holders.resynced(&key, |owner| self.sites.is_recipient(&key, owner));
            self.sites.resend(&key);
        }
        self.learn_of(&key);
        if moved {
            for owner in self.sites.owners(&key) {
                self.schedule.add(owner);
            }
        }
        self.schedule.add(key.factory);
    }

    /// A part holds something else of these resources than it has reported of itself.
    fn held_changed(&mut self, key: &SiteKey, changes: &[HeldChange]) {
        let Some(report) = self.site_reports.get_mut(key).filter(|report| report.synced) else { return };
        report.apply(changes);
        self.settings.metrics.set_site_orphans(&key.to_string(), report.orphans.len());
        for HeldChange { owner, held, orphan: _ } in changes {
            // What can not be read now, or is not there, is kept in mind as well: it may be read, or made anew, when the part can not be asked any more.
            let is_new = match held {
                Some(_) => owner.kind != Kind::AIFactory && self.holders.add(key, owner),
                None => self.holders.remove(key, owner),
            };
            if is_new {
                self.schedule.add(owner.clone());
            }
            match held {
                Some(_) => self.send_tombstone(key, owner),
                None => self.sites.forget_tombstone(key, owner),
            }
        }
        self.learn_of(key);
        self.recount(key.factory.clone());
    }

    /// Sends a part a tombstone of what it holds, if there is no such resource.
    fn send_tombstone(&mut self, key: &SiteKey, owner: &OwnerRef) {
        let is_there = self.cache.contains(owner) || self.undecodable.contains_key(owner);
        if owner.kind != Kind::AIFactory && !is_there && self.unlisted.is_empty() {
            self.sites.gone(key, owner);
        }
    }

    /// Writes the audit trail: what this report changes in a grant's access.
    fn log_access(&self, key: &SiteKey, report: &Report) {
        let owner = &report.owner;
        let before = self.reports.get(owner, key);
        let stored = self.cache.grant(owner).and_then(|grant| {
            let name = key.display(&factory_of_grant(owner, grant));
            grant.status.iter().flat_map(|status| &status.sites).find(|row| row.name == name).map(|row| row.phase.as_str())
        });
        access_log::log(key, before, stored, report, self.sites.intent(key, owner).map(AsRef::as_ref));
    }
}
