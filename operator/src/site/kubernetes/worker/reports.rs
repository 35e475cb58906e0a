//! Reports to the hub, about resources and about the site.

use std::collections::BTreeMap;
use std::time::Duration;

use aifactory_api::{OwnerRef, Reason};
use aifactory_plan::model::plan::Plan;
use aifactory_plan::model::report::{Finding, Held, HeldChange, Report, SiteReport};
use aifactory_plan::site::altered::AlteredObjects;
use aifactory_plan::site::held::held;
use tokio::time::Instant;

use super::{KubernetesDriver, SITE_REPORT};

impl KubernetesDriver {
    pub(super) fn report_owner(&mut self, owner: &OwnerRef, plan: &Plan, done: bool) {
        let Some(intent) = self.core.intents.get(owner) else {
            if *owner == self.core.key.factory && done && !plan.findings.is_empty() {
                self.findings.insert(owner.clone(), plan.findings.clone());
            }
            // Findings about the factory's own objects are part of the report about the site.
            self.site_dirty |= *owner == self.core.key.factory;
            self.held_dirty.insert(owner.clone());
            return;
        };
        let mut findings = self.findings.get(owner).cloned().unwrap_or_default();
        findings.extend(self.altered.get(owner).map(AlteredObjects::findings).unwrap_or_default());
        findings.extend(plan.findings.iter().cloned());
        if let Some(active) = self.core.connection.session() {
            findings.extend(active.unguarded.clone());
        }
        let report = Report::planned(intent, plan.phase, done, findings, plan.detail.clone());
        let is_new = self.core.send_report(report);
        if is_new {
            self.held_dirty.insert(owner.clone());
        }
        if is_new && self.lost.remove(owner) {
            // A loss of data is reported once; the next report omits it.
            self.schedule.add_at(owner.clone(), Instant::now() + Duration::from_secs(30));
        }
    }

    pub(super) fn held(&self) -> BTreeMap<OwnerRef, Held> {
        self.index.owners(&self.core.key.factory).into_iter().map(|owner| (owner.clone(), self.held_of(&owner))).collect()
    }

    fn held_of(&self, owner: &OwnerRef) -> Held {
        held(&self.index, owner, self.core.reported(owner))
    }

    /// What the site holds of an owner now.
    fn held_now(&self, owner: &OwnerRef) -> HeldChange {
        let held = self.index.owns(&self.core.key.factory, owner).then(|| self.held_of(owner));
        HeldChange { owner: owner.clone(), held, orphan: held == Some(Held::Live) && self.core.gone.contains(owner) }
    }

    /// Reports changes of what the site holds. For a resource that is gone from the hub, "nothing is held" is sent in any case, since the hub keeps
    /// its tombstone until then.
    pub(super) fn report_held(&mut self) {
        let answers = |change: &HeldChange| change.held.is_none() && self.core.gone.contains(&change.owner);
        let Some(reported) = self.core.site_reported() else { return };
        let now = self.held_dirty.iter().map(|owner| self.held_now(owner));
        let changes = now.filter(|change| !reported.agrees_with(change) || answers(change)).collect();
        self.held_dirty.clear();
        self.core.send_held_changes(changes);
    }

    pub(super) fn report_site(&mut self, now: Instant) {
        if (!self.site_dirty && self.held_dirty.is_empty()) || self.site_report_at.is_some_and(|at| at > now) {
            return;
        }
        // Changes are sent only after a synced report, to which they apply.
        let counts = self.synced() && self.core.site_reported().is_some_and(|report| report.synced);
        self.site_report_at = Some(now + SITE_REPORT);
        if counts && !self.site_dirty {
            return self.report_held();
        }
        self.site_dirty = false;
        self.held_dirty.clear();
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
            config: self.synced().then(|| self.site_config.clone()),
            released: self.released,
        };
        if session.is_none() && self.core.connection.problem().is_none() {
            // Between two sessions: wait for the contact instead of reporting the site as unreachable.
            return;
        }
        self.core.send_site_report(report);
    }

    pub(super) fn guard_rail_problems(&self) -> Vec<String> {
        self.findings.get(&self.core.key.factory).into_iter().flatten().map(|finding| finding.message.clone()).collect()
    }
}
