//! What the site says to the hub, about resources and about itself.

use super::*;

impl KubernetesDriver {
    pub(super) fn report_owner(&mut self, owner: &OwnerRef, plan: &Plan, done: bool) {
        let Some(intent) = self.core.intents.get(owner) else {
            if *owner == self.core.key.factory && done && !plan.findings.is_empty() {
                self.findings.insert(owner.clone(), plan.findings.clone());
            }
            self.site_dirty = true;
            return;
        };
        let mut findings = self.findings.get(owner).cloned().unwrap_or_default();
        findings.extend(self.altered.get(owner).map(AlteredObjects::findings).unwrap_or_default());
        findings.extend(plan.findings.iter().cloned());
        if let Some(active) = self.core.connection.session() {
            findings.extend(active.unguarded.clone());
        }
        let report = Report {
            owner: owner.clone(),
            uid: intent.uid.clone(),
            generation: intent.generation,
            answers: aifactory_plan::model::digest::digest_of(intent.as_ref()),
            phase: if done || plan.phase == SitePhase::Refused { plan.phase } else { SitePhase::Pending },
            settled: done && plan.phase != SitePhase::Pending,
            findings,
            detail: plan.detail.clone(),
        };
        if self.core.say(report) && self.lost.remove(owner) {
            // Said once; the next report is without it.
            self.schedule.add_at(owner.clone(), Instant::now() + Duration::from_secs(30));
        }
    }

    pub(super) fn held(&self) -> BTreeMap<OwnerRef, Held> {
        self.index.owners(&self.core.key.factory).into_iter().map(|owner| (owner.clone(), self.held_of(&owner))).collect()
    }

    fn held_of(&self, owner: &OwnerRef) -> Held {
        let retained = self.index.namespace_of(owner).is_some_and(|(_, view)| view.retained()) || self.only_what_stays_is_left(owner);
        if retained { Held::Retained } else { Held::Live }
    }

    /// What is held of an owner, or whether it is an orphan, may have changed; the site's report is made anew where it says something else.
    pub(super) fn held_may_differ(&mut self, owner: &OwnerRef) {
        let reported = self.core.site_reported();
        let said = reported.and_then(|report| report.held.get(owner));
        let said_orphan = reported.is_some_and(|report| report.orphans.contains(owner));
        let held = self.index.objects(owner).map(|_| self.held_of(owner));
        let orphan = held == Some(Held::Live) && self.core.gone.contains(owner);
        self.site_dirty |= owner.kind != Kind::AccessGrant || said != held.as_ref() || said_orphan != orphan;
    }

    /// Such as what Slurm has counted, when the factory lets a site go.
    fn only_what_stays_is_left(&self, owner: &OwnerRef) -> bool {
        owner.kind == Kind::AIFactory && self.index.objects(owner).is_some_and(|objects| objects.keys().all(|key| key.kind.stays()))
    }

    pub(super) fn report_site(&mut self, now: Instant) {
        if !self.site_dirty || self.site_report_at.is_some_and(|at| at > now) {
            return;
        }
        self.site_dirty = false;
        self.site_report_at = Some(now + SITE_REPORT);
        let held = self.held();
        let orphans =
            held.iter().filter(|(owner, held)| **held == Held::Live && self.core.gone.contains(owner)).map(|(owner, _)| owner.clone()).collect();
        let session = self.core.connection.session().map(|active| &active.session);
        let report = SiteReport {
            reachable: session.is_some(),
            synced: self.synced(),
            problem: self
                .core
                .connection
                .problem()
                .cloned()
                .or_else(|| self.core.connection.session().and_then(|active| active.unguarded.clone()))
                .or_else(|| {
                    (self.policy.paused && session.is_some())
                        .then(|| Finding::note(Reason::PausedBySite, "the site's ConfigMap aifactory-site-policy says paused"))
                }),
            last_contact: self.core.connection.last_contact().filter(|_| session.is_none()),
            cluster_uid: session.map(|session| session.cluster_uid.clone()).or_else(|| self.unrecorded_uid.clone()),
            kubernetes_version: session.map(|session| session.version.clone()),
            engines: session.map(|session| session.served.engines.clone()).unwrap_or_default(),
            credential_expires: session.and_then(|session| session.expires),
            held,
            orphans,
            policy_problems: self.policy.problems.iter().cloned().chain(self.guard_rail_problems()).collect(),
            word: self.synced().then(|| self.word.clone()),
            released: self.released,
        };
        if session.is_none() && self.core.connection.problem().is_none() {
            // Between two sessions: wait for the outcome of the contact instead of saying that the site is gone.
            return;
        }
        self.core.say_of_site(report);
    }

    pub(super) fn guard_rail_problems(&self) -> Vec<String> {
        self.findings.get(&self.core.key.factory).into_iter().flatten().map(|finding| finding.message.clone()).collect()
    }
}
