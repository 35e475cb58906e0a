//! Starts and ends the controllers of the parts of sites, here called workers, and sends intents to them.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::OwnerRef;
use aifactory_plan::hub::project;
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::intent::Intent;
use aifactory_plan::model::report::{Finding, SiteReport};
use aifactory_plan::model::site_key::SiteKey;

use super::Hub;
use crate::hub::sites::{parts, source};

impl Hub {
    /// Starts or updates a worker for each part that the factory names, or that may hold something of it, and ends the other workers. Returns the
    /// parts that the factory names.
    pub(super) fn ensure_workers(&mut self, owner: &OwnerRef) -> BTreeSet<SiteKey> {
        let named = self.named_parts(owner);
        let known: Vec<SiteKey> = self.known.iter().map(|known| &known.key).filter(|key| key.factory == *owner).cloned().collect();
        for key in known.iter().filter(|key| !named.contains_key(*key)) {
            if self.abandoned.contains(key) {
                self.give_up(key);
            }
        }
        let keys: BTreeSet<SiteKey> = named.keys().cloned().chain(known.into_iter().filter(|key| self.known.contains(key))).collect();
        for key in &keys {
            match named.get(key) {
                Some(Ok(source)) => self.ensure_worker(key, &source.clone()),
                // The spec names no usable credential, so the worker keeps the one that it was started with, where there is one.
                Some(Err(problem)) => match self.known.get(key).map(|known| known.credential.clone()) {
                    Some(source) => self.ensure_worker(key, &source),
                    None => {
                        let source = self.sites.remove(key);
                        self.site_reports.insert(key.clone(), SiteReport { problem: Some(problem.clone()), ..SiteReport::default() });
                        self.release_unused(source);
                    }
                },
                None => {
                    if let Some(source) = self.known.get(key).map(|known| known.credential.clone()) {
                        self.ensure_worker(key, &source);
                    }
                }
            }
        }
        for key in self.sites.of(owner).into_iter().filter(|key| !keys.contains(key)) {
            self.remove_part(&key);
        }
        named.into_keys().collect()
    }

    /// The parts that a factory names, each with its credential or with the reason why it has none.
    fn named_parts(&self, owner: &OwnerRef) -> BTreeMap<SiteKey, Result<CredentialSource, Finding>> {
        let sites = self.cache.factory(owner).map(|factory| factory.spec.sites.as_slice()).unwrap_or_default();
        sites.iter().flat_map(|site| parts(owner, site).into_iter().map(move |key| (key.clone(), source(&key, site)))).collect()
    }

    fn ensure_worker(&mut self, key: &SiteKey, source: &CredentialSource) {
        let config = project::site_config(&self.cache, &self.known, &self.site_configs, key);
        let Some(intent) = project::site(&self.cache, &self.id, key, config) else { return };
        if let Some(until) = self.sites.resting_until(key) {
            self.schedule.add_at(key.factory.clone(), until);
        }
        let before = self.sites.source(key).cloned();
        if self.sites.ensure(key, source, intent) {
            // A new worker has no intents yet, and the credential of the former one may not be needed any more.
            self.site_reports.remove(key);
            self.reports.await_nothing_of(key);
            self.queue_dependents(&key.factory);
            self.release_unused(before);
            if self.known.contains(key) {
                self.join(key, None, false);
            }
        }
    }

    /// Ends the worker of a site that its factory does not name any more.
    pub(super) fn remove_part(&mut self, key: &SiteKey) {
        self.queue_concerned(key);
        self.settings.metrics.forget_site(&key.to_string());
        let source = self.sites.remove(key);
        self.site_reports.remove(key);
        self.reports.remove_part(&self.cache, key);
        self.holders.remove_part(key);
        self.synced.remove(key);
        self.site_configs.remove(key);
        self.release_unused(source);
    }

    /// Queues every resource that a part was sent, by this worker or an earlier one, or that it holds.
    pub(super) fn queue_concerned(&mut self, key: &SiteKey) {
        let held = self.holders.at(key).chain(self.holders.unanswered_at(key)).cloned();
        let concerned: BTreeSet<OwnerRef> = self.sites.owners(key).into_iter().chain(held).collect();
        concerned.into_iter().for_each(|owner| self.schedule.add(owner));
    }

    /// Sends these intents for a resource to their parts, and withdraws it from all others.
    pub(super) fn assign(&mut self, owner: &OwnerRef, intents: &BTreeMap<&SiteKey, &Intent>) {
        for (key, intent) in self.sites.assign(owner, intents) {
            self.holders.sent(&key, &intent);
        }
        self.reports.await_reports(owner, self.sites.recipients(owner));
    }
}
