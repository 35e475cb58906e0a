//! What is done for one resource: projected, told to sites, aggregated.

use super::*;

impl Hub {
    pub(super) fn visit(&mut self, owner: &OwnerRef) -> Next {
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
            return Next::Nothing;
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
            // The finalizer is stored before anything is done for the resource; without it a deletion is none of our business.
            return if meta.deletion_timestamp.is_some() { Next::Nothing } else { Next::Write(Write::AddFinalizer) };
        }
        match object {
            Resourced::Factory(factory) => self.factory(owner, &factory),
            Resourced::Pool(pool) => self.pool(owner, &pool),
            Resourced::Grant(grant) => self.grant(owner, &grant),
        }
    }

    pub(super) fn factory(&mut self, owner: &OwnerRef, factory: &AIFactory) -> Next {
        let abandoned: BTreeSet<SiteKey> = project::abandoned(factory)
            .into_iter()
            .flat_map(|site| [SiteKey::new(owner.clone(), site.clone()), SiteKey::slurm(owner.clone(), site)])
            .collect();
        let before: BTreeSet<SiteKey> = self.abandoned.iter().filter(|key| key.factory == *owner).cloned().collect();
        if abandoned != before {
            // What status tells already was an event of a former process.
            let told = |site: &str| {
                let rows = factory.status.as_ref().map(|status| status.sites.as_slice()).unwrap_or_default();
                rows.iter().any(|row| row.name == site && row.message.as_deref().is_some_and(|message| message.contains(labels::ABANDON_SITE)))
            };
            for key in abandoned.difference(&before).filter(|key| key.part == Part::Kubernetes && !told(&key.site)) {
                let holds = |sites: &BTreeSet<SiteKey>| sites.contains(key) || sites.contains(&key.other());
                let left: Vec<String> = self.holders.iter().filter(|(_, sites)| holds(sites)).map(|(owner, _)| owner.to_string()).collect();
                self.settings.notices.abandoned(factory, &key.site, &left);
            }
            self.abandoned.retain(|key| key.factory != *owner);
            self.abandoned.extend(abandoned);
            self.dependents(owner);
        }
        let named = self.ensure_workers(owner);
        self.join_from_status(owner, factory);
        let now = Timestamp::now();
        let by_site = &self.by_site;
        let reports = &self.reports;
        let about =
            |key: &SiteKey| -> Vec<&Report> { by_site.get(key).into_iter().flatten().filter_map(|owner| reports.get(owner)?.get(key)).collect() };
        let outcome = aggregate::factory(&self.world, factory, &self.site_reports, about, &self.abandoned, now);
        if outcome.finished {
            for key in self.sites.of(owner) {
                self.give_up(&key);
            }
            return Next::Release(self.secrets_of_only(owner));
        }
        let keys = named;
        let counted: Vec<OwnerRef> = keys.iter().flat_map(|key| self.sites.owners(key)).collect();
        let known = factory.status.as_ref().is_some_and(|status| status.observed_generation == factory.metadata.generation);
        if known && !(self.heard_of(owner, &keys) && counted.iter().all(|other| self.heard_of(other, &keys))) {
            return self.later(owner);
        }
        self.settings.notices.factory(factory, &outcome.status);
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

    /// Sees to it that each part that the factory names, or that may hold something of it, has a worker that knows what it must; ends the others.
    /// Returns the parts that the factory names.
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
                // Its spec gives no credential: the one that it was reached with goes on, where there is one.
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
            self.let_go(&key);
        }
        named.into_keys().collect()
    }

    /// The parts that a factory names, with the credential of each or what keeps it from having one.
    fn named_parts(&self, owner: &OwnerRef) -> BTreeMap<SiteKey, Result<CredentialSource, Finding>> {
        let sites = self.world.factory(owner).map(|factory| factory.spec.sites.as_slice()).unwrap_or_default();
        sites.iter().flat_map(|site| parts(owner, site).into_iter().map(move |key| (key.clone(), source(&key, site)))).collect()
    }

    fn ensure_worker(&mut self, key: &SiteKey, source: &CredentialSource) {
        let Some(intent) = project::site(&self.world, &self.id, key, self.word_for(key)) else { return };
        let before = self.sites.source(key).cloned();
        if self.sites.ensure(key, source, intent) {
            // A new worker knows of nothing yet, and nobody needs the former one's credential.
            self.site_reports.remove(key);
            self.dependents(&key.factory);
            self.release_unused(before);
            if self.known.contains(key) {
                self.join(key, None, false);
            }
        }
    }

    /// What a site's Slurm must know that the site says on its Kubernetes.
    fn word_for(&self, key: &SiteKey) -> Option<SiteWord> {
        let kubernetes = self.world.site(key).map_or_else(|| self.known.contains(&key.other()), |site| site.kubernetes.is_some());
        match key.part {
            Part::Kubernetes => None,
            Part::Slurm if !kubernetes => Some(SiteWord::default()),
            Part::Slurm => self.words.get(&key.other()).cloned(),
        }
    }

    /// Ends the worker of a site that its factory does not name any more.
    pub(super) fn let_go(&mut self, key: &SiteKey) {
        self.settings.metrics.forget_site(&key.to_string());
        let source = self.sites.remove(key);
        self.site_reports.remove(key);
        self.by_site.remove(key);
        self.reports.values_mut().for_each(|reports| {
            reports.remove(key);
        });
        self.holders.values_mut().for_each(|sites| {
            sites.remove(key);
        });
        self.release_unused(source);
    }

    pub(super) fn pool(&mut self, owner: &OwnerRef, pool: &GPUPool) -> Next {
        // Where a pool goes on, a part that nobody has asked yet is asked by what it holds as soon as it answers.
        let deleting = pool.metadata.deletion_timestamp.is_some();
        let holders = if deleting { self.may_hold(owner) } else { self.holders.get(owner).cloned().unwrap_or_default() };
        let projection = project::pool(&self.world, owner, &holders);
        self.sites.assign(owner, &projection.sites);
        let used = |grant: &OwnerRef| -> Vec<&Report> { self.reports.get(grant).into_iter().flat_map(|sites| sites.values()).collect() };
        let outcome = aggregate::pool(&self.world, pool, &projection, &self.about(owner), used, Timestamp::now());
        if outcome.finished {
            self.settings.metrics.set_gpu_seconds(&pool_label(owner), &BTreeMap::new());
            return Next::Write(Write::RemoveFinalizer);
        }
        let keys = projection.sites.keys().cloned().collect();
        let known = pool.status.as_ref().is_some_and(|status| status.observed_generation == pool.metadata.generation);
        if known && !self.heard_of(owner, &keys) {
            return self.later(owner);
        }
        self.settings.notices.pool(pool, &outcome.status);
        let by_site = aggregate::of_pool_by_site(&self.world, owner, |grant| self.reports.get(grant).into_iter().flatten().collect());
        let by_site = by_site.into_iter().map(|(site, seconds)| (site.to_string(), seconds)).collect();
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

    pub(super) fn grant(&mut self, owner: &OwnerRef, grant: &AccessGrant) -> Next {
        let holders = self.may_hold(owner);
        let now = Timestamp::now();
        let mut ledger = self.ledgers.remove(owner).unwrap_or_default();
        ledger.unreachable(self.site_reports.iter().filter(|(_, report)| !report.reachable).map(|(key, _)| key.clone()).collect());
        let about = self.about(owner);
        let mut projection = project::grant_within(&self.world, owner, &holders, Some(&mut ledger), now);
        if projection.as_ref().is_some_and(|projection| ledger.hear(&projection.sites, &about.about)) {
            // What one site has given up, another may have now.
            projection = project::grant_within(&self.world, owner, &holders, Some(&mut ledger), now);
        }
        drop(about);
        self.ledgers.insert(owner.clone(), ledger);
        let Some(projection) = projection else { return Next::Nothing };
        self.sites.assign(owner, &projection.sites);
        if let Some(wake) = projection.wake {
            let wait = Duration::try_from(wake.duration_since(now)).unwrap_or_default().min(Duration::from_secs(24 * 3600));
            // What ends goes before what begins or goes on.
            let at = Instant::now() + wait + Duration::from_millis(1);
            if wake == grant.spec.not_after.0 { self.schedule.add_urgent_at(owner.clone(), at) } else { self.schedule.add_at(owner.clone(), at) }
        }
        let outcome = aggregate::grant(&self.world, grant, &projection, &self.about(owner), now);
        if outcome.finished {
            return Next::Write(Write::RemoveFinalizer);
        }
        let keys = projection.sites.keys().cloned().collect();
        let known = grant.status.as_ref().is_some_and(|status| status.observed_generation == grant.metadata.generation);
        if known && !self.heard_of(owner, &keys) {
            return self.later(owner);
        }
        let findings = self
            .reports
            .get(owner)
            .into_iter()
            .flatten()
            .flat_map(|(key, report)| report.findings.iter().map(move |finding| (key.site.as_str(), finding)));
        self.settings.notices.grant(grant, &outcome.status, findings);
        let growing = aggregate::growing(&self.world, owner, grant);
        self.status(owner, grant.metadata.generation, grant.status.as_ref(), outcome, |status| {
            if let Some(summary) = &mut status.summary {
                summary.gpu_hours.clear();
            }
            aggregate::strip(status, &growing);
        })
    }

    /// The parts that may hold something of a resource.
    fn may_hold(&self, owner: &OwnerRef) -> BTreeSet<SiteKey> {
        let nowhere = BTreeSet::new();
        project::may_hold(&self.world, owner, self.holders.get(owner).unwrap_or(&nowhere), &self.synced)
    }
}

/// What is done for a resource that can not be decoded: it says so, and goes when a person wants that.
fn undecodable(found: &Undecodable) -> Next {
    if found.is_held() && found.may_go() {
        return Next::Write(Write::RemoveFinalizer);
    }
    match conditions(&found.conditions, found.meta.generation, Reason::Undecodable, &found.message()) {
        Some(conditions) => Next::Write(Write::Conditions(conditions)),
        None => Next::Nothing,
    }
}

fn pool_label(owner: &OwnerRef) -> String {
    format!("{}/{}", owner.namespace, owner.name)
}
