//! Reconciles one resource: projects it into intents, sends them to sites, and aggregates their reports into a status.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant, GPUPool, Kind, OwnerRef, Reason, labels};
use aifactory_plan::hub::{aggregate, project};
use aifactory_plan::model::site_key::{Part, SiteKey};
use jiff::Timestamp;
use tokio::time::Instant;

use super::outcome::Outcome;
use super::{Hub, LONGEST_WAIT};
use crate::hub::broken::{Undecodable, conditions};
use crate::hub::watch::AnyResource;
use crate::hub::writes::Write;

impl Hub {
    pub(super) fn reconcile(&mut self, owner: &OwnerRef) -> Outcome {
        if let Some(found) = self.undecodable.get(owner) {
            let next = undecodable(found);
            if owner.kind == Kind::AIFactory {
                self.ensure_workers(owner);
            }
            return next;
        }
        let Some(object) = self.object(owner) else {
            if owner.kind == Kind::AIFactory {
                self.ensure_workers(owner);
            }
            return Outcome::Nothing;
        };
        let meta = object.meta();
        if self.settings.test_hooks && meta.annotations.as_ref().is_some_and(|annotations| annotations.contains_key("aifactory.dev/test-panic")) {
            #[allow(clippy::panic)]
            {
                panic!("asked for by an annotation");
            }
        }
        let finalized = meta.finalizers.as_ref().is_some_and(|finalizers| finalizers.iter().any(|finalizer| finalizer == labels::FINALIZER));
        if !finalized {
            // The finalizer is stored before any site gets an intent. A resource that is deleted without it has never been given to a site.
            return if meta.deletion_timestamp.is_some() { Outcome::Nothing } else { Outcome::Write(Write::AddFinalizer) };
        }
        match object {
            AnyResource::Factory(factory) => self.factory(owner, &factory),
            AnyResource::Pool(pool) => self.pool(owner, &pool),
            AnyResource::Grant(grant) => self.grant(owner, &grant),
        }
    }

    pub(super) fn factory(&mut self, owner: &OwnerRef, factory: &AIFactory) -> Outcome {
        let abandoned: BTreeSet<SiteKey> = project::abandoned(factory)
            .into_iter()
            .flat_map(|site| [SiteKey::new(owner.clone(), site.clone()), SiteKey::slurm(owner.clone(), site)])
            .collect();
        let before: BTreeSet<SiteKey> = self.abandoned.iter().filter(|key| key.factory == *owner).cloned().collect();
        if abandoned != before {
            // A former process has published the Event where status already names the annotation.
            let reported = |site: &str| {
                let rows = factory.status.as_ref().map(|status| status.sites.as_slice()).unwrap_or_default();
                rows.iter().any(|row| row.name == site && row.message.as_deref().is_some_and(|message| message.contains(labels::ABANDON_SITE)))
            };
            for key in abandoned.difference(&before).filter(|key| key.part == Part::Kubernetes && !reported(&key.site)) {
                let held: BTreeSet<&OwnerRef> = self.holders.at(key).chain(self.holders.at(&key.other())).collect();
                let left: Vec<String> = held.into_iter().map(ToString::to_string).collect();
                self.settings.event_recorder.abandoned(factory, &key.site, &left);
            }
            before.symmetric_difference(&abandoned).for_each(|key| self.queue_concerned(key));
            self.abandoned.retain(|key| key.factory != *owner);
            self.abandoned.extend(abandoned);
            self.queue_dependents(owner);
        }
        let named = self.ensure_workers(owner);
        self.join_from_status(owner, factory);
        let now = Timestamp::now();
        let outcome = aggregate::factory(&self.cache, factory, &self.site_reports, &self.reports, &self.abandoned, now);
        if outcome.finished {
            for key in self.sites.of(owner) {
                self.give_up(&key);
            }
            return Outcome::Release(self.secrets_of_only(owner));
        }
        let known = factory.status.as_ref().is_some_and(|status| status.observed_generation == factory.metadata.generation);
        if known && !(self.has_reported(owner, &named) && named.iter().all(|key| self.has_reported_all(key))) {
            return self.later(owner);
        }
        self.settings.event_recorder.factory(factory, &outcome.status);
        self.status(owner, factory.metadata.generation, factory.status.as_ref(), outcome, |status| {
            status.summary = None;
            status.living_grants = status.living_grants.map(|count| count.min(1));
            for site in &mut status.sites {
                site.gpus = None;
                site.grants = 0;
                site.pools = 0;
            }
        })
    }

    pub(super) fn pool(&mut self, owner: &OwnerRef, pool: &GPUPool) -> Outcome {
        // A pool that is not being deleted need not wait for parts that have not reported: what they hold is known as soon as they answer.
        let deleting = pool.metadata.deletion_timestamp.is_some();
        let holders = if deleting { self.may_hold(owner) } else { self.holders.of(owner) };
        let mut projection = project::pool(&self.cache, owner, &holders);
        self.sites.number(&mut projection.sites);
        self.assign(owner, &projection.sites.iter().collect());
        let outcome = aggregate::pool(&self.cache, pool, &projection, &self.about(owner), &self.reports, Timestamp::now());
        if outcome.finished {
            self.settings.metrics.set_gpu_seconds(&pool_label(owner), &BTreeMap::new());
            return Outcome::Write(Write::RemoveFinalizer);
        }
        let keys = projection.sites.keys().cloned().collect();
        let known = pool.status.as_ref().is_some_and(|status| status.observed_generation == pool.metadata.generation);
        if known && !self.has_reported(owner, &keys) {
            return self.later(owner);
        }
        self.settings.event_recorder.pool(pool, &outcome.status);
        let by_site = self.reports.used_by_part(owner).into_iter().map(|(site, seconds)| (site.to_string(), seconds)).collect();
        self.settings.metrics.set_gpu_seconds(&pool_label(owner), &by_site);
        self.status(owner, pool.metadata.generation, pool.status.as_ref(), outcome, |status| {
            status.summary = None;
            status.gpu_hours = None;
            status.living_grants = status.living_grants.map(|count| count.min(1));
            for site in &mut status.sites {
                site.nodes = aifactory_api::pool::NodeCount::default();
                site.gpus = aifactory_api::factory::GpuCount::default();
            }
        })
    }

    pub(super) fn grant(&mut self, owner: &OwnerRef, grant: &AccessGrant) -> Outcome {
        let holders = self.may_hold(owner);
        let now = Timestamp::now();
        let mut ledger = self.ledgers.remove(owner).unwrap_or_default();
        ledger.unreachable(self.site_reports.iter().filter(|(_, report)| !report.reachable).map(|(key, _)| key.clone()).collect());
        let about = self.about(owner);
        let number = |intents: &mut _| self.sites.number(intents);
        let projection = project::grant_after_reports(&self.cache, owner, &holders, &mut ledger, &about.about, number, now);
        drop(about);
        self.ledgers.insert(owner.clone(), ledger);
        let Some(projection) = projection else { return Outcome::Nothing };
        self.assign(owner, &projection.to_send(&self.cache, owner, &self.holders, self.leading_since));
        if let Some(wake) = projection.wake {
            let wait = Duration::try_from(wake.duration_since(now)).unwrap_or_default().min(LONGEST_WAIT);
            // The end of a grant is urgent, its begin is not.
            let at = Instant::now() + wait + Duration::from_millis(1);
            if wake == grant.spec.not_after.0 { self.schedule.add_urgent_at(owner.clone(), at) } else { self.schedule.add_at(owner.clone(), at) }
        }
        let outcome = aggregate::grant(&self.cache, grant, &projection, &self.about(owner), now);
        if outcome.finished {
            return Outcome::Write(Write::RemoveFinalizer);
        }
        let keys = projection.sites.keys().cloned().collect();
        let known = grant.status.as_ref().is_some_and(|status| status.observed_generation == grant.metadata.generation);
        if known && !self.has_reported(owner, &keys) {
            return self.later(owner);
        }
        let findings = self.reports.about(owner).flat_map(|(key, report)| report.findings.iter().map(move |finding| (key.site.as_str(), finding)));
        self.settings.event_recorder.grant(grant, &outcome.status, findings);
        let growing = aggregate::growing(&self.cache, owner, grant);
        self.status(owner, grant.metadata.generation, grant.status.as_ref(), outcome, |status| {
            if let Some(summary) = &mut status.summary {
                summary.gpu_hours.clear();
            }
            aggregate::strip(status, &growing);
        })
    }

    /// The parts that may hold something of a resource.
    fn may_hold(&self, owner: &OwnerRef) -> BTreeSet<SiteKey> {
        project::may_hold(&self.cache, owner, &self.holders, &self.synced, self.leading_since)
    }
}

/// Reconciles a resource that can not be decoded: sets conditions that explain it, and removes the finalizer once a person has asked for that by
/// annotation.
fn undecodable(found: &Undecodable) -> Outcome {
    if found.is_held() && found.may_go() {
        return Outcome::Write(Write::RemoveFinalizer);
    }
    match conditions(&found.conditions, found.meta.generation, Reason::Undecodable, &found.message()) {
        Some(conditions) => Outcome::Write(Write::Conditions(conditions)),
        None => Outcome::Nothing,
    }
}

fn pool_label(owner: &OwnerRef) -> String {
    format!("{}/{}", owner.namespace, owner.name)
}
