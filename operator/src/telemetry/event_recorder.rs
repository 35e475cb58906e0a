//! Publishes Events on our resources for transitions; none for a reconcile in which nothing changed.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::{AIFactory, AIFactoryStatus, AccessGrant, AccessGrantStatus, ConditionType, GPUPool, GPUPoolStatus, Kind, OwnerRef, Reason};
use aifactory_plan::model::report::Finding;
use aifactory_plan::model::text::bounded;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource, ResourceExt};

use crate::telemetry::events::{Events, NewEvent, regarding};

/// Conditions of which a change is worth an Event.
const REPORTED_CONDITIONS: [ConditionType; 5] =
    [ConditionType::Ready, ConditionType::Authorised, ConditionType::AccessRemoved, ConditionType::SitesReachable, ConditionType::OrphansFound];

/// Findings of a site that are worth an Event each time they begin.
const REPORTED_FINDINGS: [Reason; 5] =
    [Reason::DataLost, Reason::ForeignBinding, Reason::ForeignPolicy, Reason::ForeignObject, Reason::RefusedBySite];

/// Publishes Events for transitions of conditions and for new findings.
pub struct EventRecorder {
    events: Events,
    conditions: BTreeMap<OwnerRef, BTreeMap<String, (String, String)>>,
    findings: BTreeMap<OwnerRef, BTreeSet<(String, Reason)>>,
}

impl EventRecorder {
    /// A recorder that has published nothing yet.
    pub fn new(events: Events) -> Self {
        Self { events, conditions: BTreeMap::new(), findings: BTreeMap::new() }
    }

    /// Compares a factory's new status with its last.
    pub fn factory(&mut self, factory: &AIFactory, status: &AIFactoryStatus) {
        let stored = factory.status.as_ref().map(|status| status.conditions.as_slice());
        self.transitions(Kind::AIFactory, factory, stored, &status.conditions);
    }

    /// Compares a pool's new status with its last.
    pub fn pool(&mut self, pool: &GPUPool, status: &GPUPoolStatus) {
        let stored = pool.status.as_ref().map(|status| status.conditions.as_slice());
        self.transitions(Kind::GPUPool, pool, stored, &status.conditions);
    }

    /// Compares a grant's new status with its last, and what sites found with what they found before.
    pub fn grant<'a>(&mut self, grant: &AccessGrant, status: &AccessGrantStatus, findings: impl Iterator<Item = (&'a str, &'a Finding)>) {
        let stored = grant.status.as_ref().map(|status| status.conditions.as_slice());
        self.transitions(Kind::AccessGrant, grant, stored, &status.conditions);
        let owner = owner(Kind::AccessGrant, grant);
        let mut now = BTreeSet::new();
        let before = self.findings.remove(&owner).unwrap_or_default();
        for (site, finding) in findings.filter(|(_, finding)| REPORTED_FINDINGS.contains(&finding.reason)) {
            let key = (site.to_owned(), finding.reason);
            if !before.contains(&key) {
                self.publish(Kind::AccessGrant, grant, true, finding.reason, format!("{site}: {}", finding.message));
            }
            now.insert(key);
        }
        if !now.is_empty() {
            self.findings.insert(owner, now);
        }
    }

    /// Publishes a warning that a site was abandoned, with what is left there.
    pub fn abandoned(&self, factory: &AIFactory, site: &str, left: &[String]) {
        let note = if left.is_empty() {
            format!("site {site} was given up; nothing is known to be left there")
        } else {
            format!("site {site} was given up; left there: {}", bounded(left))
        };
        self.publish(Kind::AIFactory, factory, true, Reason::SiteAbandoned, note);
    }

    /// Forgets a resource that is gone.
    pub fn forget(&mut self, owner: &OwnerRef) {
        self.conditions.remove(owner);
        self.findings.remove(owner);
    }

    fn transitions<K: Resource<DynamicType = ()>>(&mut self, kind: Kind, object: &K, stored: Option<&[Condition]>, new: &[Condition]) {
        let known = self.conditions.entry(owner(kind, object)).or_insert_with(|| summarise(stored.unwrap_or_default()));
        let now = summarise(new);
        if *known == now {
            return;
        }
        let before = std::mem::replace(known, now);
        for condition in new.iter().filter(|condition| REPORTED_CONDITIONS.iter().any(|reported| reported.as_str() == condition.type_)) {
            let Some((status, reason)) = before.get(&condition.type_) else { continue };
            let progress = matches!(condition.reason.as_str(), "Pending" | "InProgress" | "AccessGiven" | "NotApplicable");
            // The first successful contact with a site is no transition.
            let first = condition.type_ == ConditionType::SitesReachable.as_str() && reason == "Pending" && condition.status == "True";
            if (status == &condition.status && reason == &condition.reason) || progress || first {
                continue;
            }
            let Some(reason) = Reason::ALL.iter().copied().find(|reason| reason.as_str() == condition.reason) else { continue };
            let good = (condition.status == "True") != (condition.type_ == ConditionType::OrphansFound.as_str());
            self.publish(kind, object, !good, reason, format!("{}={}: {}", condition.type_, condition.status, condition.message));
        }
    }

    fn publish<K: Resource<DynamicType = ()>>(&self, kind: Kind, object: &K, warning: bool, reason: Reason, note: String) {
        self.events.publish(regarding(kind, object.meta()), NewEvent { warning, reason: reason.as_str(), action: "Reconcile", note });
    }
}

fn owner<K: Resource<DynamicType = ()>>(kind: Kind, object: &K) -> OwnerRef {
    OwnerRef::new(kind, object.namespace().unwrap_or_default(), object.name_any())
}

fn summarise(conditions: &[Condition]) -> BTreeMap<String, (String, String)> {
    conditions.iter().map(|condition| (condition.type_.clone(), (condition.status.clone(), condition.reason.clone()))).collect()
}
