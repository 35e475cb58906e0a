//! The hub's controller reconciles one resource: projects it, sends intents to sites, and aggregates reports.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::factory::{Site, SiteKubernetes};
use aifactory_api::{AIFactory, AccessGrant, GPUPool, Kind, OwnerRef};
use aifactory_plan::hub::aggregate::{self, Outcome};
use aifactory_plan::hub::project;
use aifactory_plan::hub::sent::SentSet;
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::id::HubId;
use aifactory_plan::model::intent::Intent;
use aifactory_plan::model::report::SiteReport;
use aifactory_plan::model::site_key::{Part, SiteKey};

use super::cast::HUB;
use super::clock::{DAY, Ms, SECOND, ms, time};
use super::controller::{Controller, Out, REPORT_GRACE, Worked};
use super::hub_store::{Resource, Status, Write};
use super::worker::ToSite;

impl Controller {
    pub fn reconcile(&mut self, owner: &OwnerRef, now: Ms) -> Option<Write> {
        if self.undecodable.contains(owner) {
            if owner.kind == Kind::AIFactory {
                self.ensure_workers(owner, now);
            }
            return None;
        }
        let Some(resource) = self.resource(owner) else {
            if owner.kind == Kind::AIFactory {
                self.ensure_workers(owner, now);
            }
            return None;
        };
        if !resource.finalized() {
            return resource.meta().deletion_timestamp.is_none().then_some(Write::AddFinalizer);
        }
        match resource {
            Resource::Factory(factory) => self.factory(owner, &factory, now),
            Resource::Pool(pool) => self.pool(owner, &pool, now),
            Resource::Grant(grant) => self.grant(owner, &grant, now),
        }
    }

    fn factory(&mut self, owner: &OwnerRef, factory: &AIFactory, now: Ms) -> Option<Write> {
        let given_up = project::abandoned(factory).into_iter();
        let abandoned: BTreeSet<SiteKey> =
            given_up.flat_map(|site| [SiteKey::new(owner.clone(), site.clone()), SiteKey::slurm(owner.clone(), site)]).collect();
        let before: BTreeSet<SiteKey> = self.abandoned.iter().filter(|key| key.factory == *owner).cloned().collect();
        if abandoned != before {
            self.abandoned.retain(|key| key.factory != *owner);
            self.abandoned.extend(abandoned);
            self.dependents(owner, now);
        }
        let named = self.ensure_workers(owner, now);
        let outcome = aggregate::factory(&self.cache, factory, &self.site_reports, &self.reports, &self.abandoned, time(now));
        if outcome.finished {
            let own: Vec<SiteKey> = self.sites.keys().filter(|key| key.factory == *owner).cloned().collect();
            own.iter().for_each(|key| self.known.remove(key));
            return Some(Write::RemoveFinalizer);
        }
        let observed = factory.status.as_ref().is_some_and(|status| status.observed_generation == factory.metadata.generation);
        if observed && !(self.has_reported(owner, &named, now) && named.iter().all(|key| self.has_reported_all(key, now))) {
            return self.later(owner);
        }
        self.status(owner, factory.metadata.generation, factory.status.as_ref(), outcome, Status::Factory, now)
    }

    /// Starts or updates a worker for each part that the factory names, or that may hold something of it; ends the others.
    pub fn ensure_workers(&mut self, owner: &OwnerRef, now: Ms) -> BTreeSet<SiteKey> {
        let sites = self.cache.factory(owner).map(|factory| factory.spec.sites.clone()).unwrap_or_default();
        let named: BTreeMap<SiteKey, CredentialSource> =
            sites.iter().flat_map(|site| parts(owner, site).into_iter().map(move |key| (key.clone(), source(&key, site)))).collect();
        let known: Vec<SiteKey> = self.known.iter().map(|known| &known.key).filter(|key| key.factory == *owner).cloned().collect();
        for key in known.iter().filter(|key| !named.contains_key(*key) && self.abandoned.contains(*key)) {
            self.known.remove(key);
        }
        let keys: BTreeSet<SiteKey> = named.keys().cloned().chain(known.into_iter().filter(|key| self.known.contains(key))).collect();
        for key in &keys {
            let remembered = self.known.get(key).map(|known| known.credential.clone());
            if let Some(source) = named.get(key).cloned().or(remembered) {
                self.ensure_worker(key, &source, now);
            }
        }
        let others: Vec<SiteKey> = self.sites.keys().filter(|key| key.factory == *owner && !keys.contains(*key)).cloned().collect();
        others.iter().for_each(|key| self.remove_part(key));
        named.into_keys().collect()
    }

    fn ensure_worker(&mut self, key: &SiteKey, source: &CredentialSource, now: Ms) {
        let Some(intent) = project::site(&self.cache, &HubId::new(HUB), key, project::site_config(&self.cache, &self.known, &self.site_configs, key))
        else {
            return;
        };
        let before = self.sites.get(key).map(|worked| worked.source.clone());
        if before.as_ref() != Some(source) {
            let sent = self.stop(key).unwrap_or_default();
            let worker = self.start(key);
            self.sites.insert(key.clone(), Worked { worker, source: source.clone(), site: None, sent });
        }
        if let Some(worked) = self.sites.get_mut(key).filter(|worked| worked.site.as_ref() != Some(&intent)) {
            worked.site = Some(intent.clone());
            self.out.push(Out::Tell(worked.worker, ToSite::Site(Box::new(intent))));
        }
        if before.as_ref() != Some(source) {
            self.site_reports.remove(key);
            self.dependents(&key.factory, now);
            if self.known.contains(key) {
                self.join(key, None, false);
            }
        }
    }

    fn stop(&mut self, key: &SiteKey) -> Option<SentSet> {
        let former = self.sites.remove(key)?;
        self.reports.await_nothing_of(key);
        self.out.push(Out::Stop(former.worker));
        Some(former.sent.of_next_worker())
    }

    fn number(&self, intents: &mut BTreeMap<SiteKey, Intent>) {
        for (key, intent) in intents {
            if let Some(worked) = self.sites.get(key) {
                worked.sent.number(intent);
            }
        }
    }

    /// Sends a resource's intents to these parts, and withdraws it from any other part that was sent it.
    fn assign(&mut self, owner: &OwnerRef, intents: &BTreeMap<&SiteKey, &Intent>) {
        for (key, intent) in intents {
            self.send(key, intent);
        }
        for (_, worked) in self.sites.iter_mut().filter(|(key, _)| !intents.contains_key(*key)) {
            if worked.sent.withdraw(owner) {
                self.out.push(Out::Tell(worked.worker, ToSite::Withdraw(owner.clone())));
            }
        }
        self.reports.await_reports(owner, self.sites.iter().filter(|(_, worked)| worked.sent.contains(owner)).map(|(key, _)| key.clone()));
    }

    fn send(&mut self, key: &SiteKey, intent: &Intent) {
        let Some(worked) = self.sites.get_mut(key) else { return };
        let Some(intent) = worked.sent.put(intent) else { return };
        self.holders.sent(key, &intent);
        self.out.push(Out::Tell(worked.worker, ToSite::Put(intent)));
    }

    pub fn send_tombstone(&mut self, key: &SiteKey, owner: &OwnerRef) {
        let Some(worked) = self.sites.get_mut(key) else { return };
        if worked.sent.bury(owner) {
            self.out.push(Out::Tell(worked.worker, ToSite::Gone(owner.clone())));
        }
    }

    /// Sends a part the whole desired set again.
    pub fn resend(&mut self, key: &SiteKey) {
        let Some(worked) = self.sites.get(key) else { return };
        self.out.push(Out::Tell(worked.worker, ToSite::Everything(worked.sent.intents().clone(), worked.sent.tombstones().clone())));
    }

    /// Ends the worker of a part that its factory does not name any more.
    pub fn remove_part(&mut self, key: &SiteKey) {
        self.stop(key);
        self.site_reports.remove(key);
        self.reports.remove_part(&self.cache, key);
        self.holders.remove_part(key);
    }

    fn pool(&mut self, owner: &OwnerRef, pool: &GPUPool, now: Ms) -> Option<Write> {
        let deleting = pool.metadata.deletion_timestamp.is_some();
        let holders = if deleting { self.may_hold(owner) } else { self.holders.of(owner) };
        let mut projection = project::pool(&self.cache, owner, &holders);
        self.number(&mut projection.sites);
        self.assign(owner, &projection.sites.iter().collect());
        let outcome = aggregate::pool(&self.cache, pool, &projection, &self.about(owner), &self.reports, time(now));
        if outcome.finished {
            return Some(Write::RemoveFinalizer);
        }
        let keys = projection.sites.keys().cloned().collect();
        let observed = pool.status.as_ref().is_some_and(|status| status.observed_generation == pool.metadata.generation);
        if observed && !self.has_reported(owner, &keys, now) {
            return self.later(owner);
        }
        self.status(owner, pool.metadata.generation, pool.status.as_ref(), outcome, Status::Pool, now)
    }

    fn grant(&mut self, owner: &OwnerRef, grant: &AccessGrant, now: Ms) -> Option<Write> {
        let holders = self.may_hold(owner);
        let mut ledger = self.ledgers.remove(owner).unwrap_or_default();
        ledger.unreachable(self.site_reports.iter().filter(|(_, report)| !report.reachable).map(|(key, _)| key.clone()).collect());
        let about = self.about(owner);
        let number = |intents: &mut _| self.number(intents);
        let projection = project::grant_after_reports(&self.cache, owner, &holders, &mut ledger, &about.about, number, time(now));
        drop(about);
        self.ledgers.insert(owner.clone(), ledger);
        let projection = projection?;
        self.assign(owner, &projection.to_send(&self.cache, owner, &self.holders, time(self.begun)));
        if let Some(wake) = projection.wake {
            self.schedule.add_at(owner.clone(), ms(wake).min(now + DAY).max(now) + 1);
        }
        let outcome = aggregate::grant(&self.cache, grant, &projection, &self.about(owner), time(now));
        if outcome.finished {
            return Some(Write::RemoveFinalizer);
        }
        let keys = projection.sites.keys().cloned().collect();
        let observed = grant.status.as_ref().is_some_and(|status| status.observed_generation == grant.metadata.generation);
        if observed && !self.has_reported(owner, &keys, now) {
            return self.later(owner);
        }
        self.status(owner, grant.metadata.generation, grant.status.as_ref(), outcome, Status::Grant, now)
    }

    /// The parts that may hold something of a resource.
    fn may_hold(&self, owner: &OwnerRef) -> BTreeSet<SiteKey> {
        project::may_hold(&self.cache, owner, &self.holders, &self.synced, time(self.begun))
    }

    /// Whether each of these sites has reported on this resource since the start, or has a problem that keeps it from reporting.
    fn has_reported(&self, owner: &OwnerRef, keys: &BTreeSet<SiteKey>, now: Ms) -> bool {
        now - self.begun > REPORT_GRACE
            || keys.iter().all(|key| {
                self.site_reports.get(key).is_some_and(|report| {
                    let knows = self.sites.get(key).is_some_and(|worked| worked.sent.contains(owner));
                    let about = !knows || self.reports.get(owner, key).is_some();
                    !report.reachable || (report.synced && about) || report.problem.is_some()
                })
            })
    }

    /// Whether a part has reported on everything that it was sent since the start, or has a problem that keeps it from reporting.
    fn has_reported_all(&self, key: &SiteKey, now: Ms) -> bool {
        let of = |report: &SiteReport| !report.reachable || (report.synced && self.reports.has_answered(key)) || report.problem.is_some();
        now - self.begun > REPORT_GRACE || self.site_reports.get(key).is_some_and(of)
    }

    fn later(&mut self, owner: &OwnerRef) -> Option<Write> {
        self.schedule.add_at(owner.clone(), self.begun + REPORT_GRACE + 10);
        None
    }

    /// Whether the status is to be written, now or later.
    fn status<S: Clone + PartialEq>(
        &mut self,
        owner: &OwnerRef,
        generation: Option<i64>,
        stored: Option<&S>,
        outcome: Outcome<S>,
        wrap: impl Fn(Option<S>) -> Status,
        now: Ms,
    ) -> Option<Write> {
        let generation = generation.unwrap_or_default();
        let pace = self.pace.entry(owner.clone()).or_default();
        if pace.generation != generation {
            pace.generation = generation;
            pace.moving = None;
        }
        pace.moving = outcome.in_progress.then(|| pace.moving.unwrap_or(now));
        if stored == Some(&outcome.status) {
            return None;
        }
        let at = pace.moving.map(|since| match pace.written.filter(|written| *written > since) {
            Some(written) => written + 30 * SECOND,
            None => since + 500,
        });
        if let Some(at) = at.filter(|at| *at > now) {
            self.schedule.add_at(owner.clone(), at);
            return None;
        }
        Some(Write::Status(Box::new(wrap(Some(outcome.status)))))
    }
}

/// The parts of a site that have a worker.
pub fn parts(factory: &OwnerRef, site: &Site) -> Vec<SiteKey> {
    let kubernetes = site.kubernetes.as_ref().map(|_| SiteKey::new(factory.clone(), &site.name));
    let slurm = site.slurm.as_ref().and_then(|slurm| slurm.rest.as_ref()).map(|_| SiteKey::slurm(factory.clone(), &site.name));
    kubernetes.into_iter().chain(slurm).collect()
}

fn source(key: &SiteKey, site: &Site) -> CredentialSource {
    let secret = |name: &str, key_in: &str| CredentialSource::Secret {
        namespace: key.factory.namespace.clone(),
        name: name.to_owned(),
        key: key_in.to_owned(),
    };
    match (&site.kubernetes, key.part) {
        (Some(SiteKubernetes { push: Some(push), .. }), Part::Kubernetes) => {
            secret(&push.kubeconfig_secret_ref.name, &push.kubeconfig_secret_ref.key)
        }
        _ => secret(&format!("{}-slurm", key.site), "token"),
    }
}
