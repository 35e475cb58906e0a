//! What must always hold, whatever happens: who may act where status denies it (O2), that data is kept (O3), that no tenant is without a fence (O8).

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::factory::OrphanPolicy;
use aifactory_api::grant::{AccessGrant, AfterRetention};
use aifactory_api::name::tenant_namespace;
use aifactory_api::{ConditionType, OwnerRef};
use aifactory_plan::model::duration;
use aifactory_plan::model::object::{ObjectKey, ObjectKind};

use super::cast::{self, HUB};
use super::clock::{Ms, SECOND, time};
use super::hub_store::{Resource, Write};
use super::sim::{Link, Sim};
use super::site_store::SiteObject;
use super::worker::grant_of;

/// Faults that are known and not fixed yet: an oracle, and part of its message. With `AIFACTORY_SIMULATION_KNOWN` set they are found as well.
const KNOWN: &[(&str, &str)] = &[
    // S3: an edit that a paused site does not take makes status forget that members work there.
    ("O4", "the site is paused"),
];

const GUARD: &str = "mayGiveAccess is false";

/// What was found wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    pub oracle: &'static str,
    pub at: Ms,
    pub text: String,
    /// It is a fault that is known, after which nothing more can be learnt from the case.
    pub known: bool,
}

/// What the oracles remember.
#[derive(Default)]
pub struct Watchman {
    pub violations: Vec<Violation>,
    /// Grants that went from the hub as they should, and were not made anew.
    deleted: BTreeSet<OwnerRef>,
    /// Where access may be back, or go on, until the operator has seen it: after a set-back, a hand at the site, a write that its sender has given
    /// up, or where a person has given the site up.
    pub exempt: BTreeSet<(OwnerRef, usize)>,
    /// Device-minutes of each entry of a grant, the most since everything was at rest.
    pub granted: BTreeMap<(OwnerRef, String), i64>,
    /// Since when a grant is not protected though members can act.
    wrong_since: BTreeMap<OwnerRef, Ms>,
    /// What is at a site that was given up or set back, of a grant that is gone from the hub: an orphan, which is only reported.
    left: BTreeSet<(OwnerRef, usize)>,
    /// Sites whose watches lagged since everything was at rest.
    pub lagged: BTreeSet<usize>,
    /// Sites that were set back since everything was at rest.
    pub set_back: BTreeSet<usize>,
    /// From when on a grant asked for which retention in milliseconds, and whether for deletion after it.
    retentions: BTreeMap<OwnerRef, Vec<(Ms, Ms, bool)>>,
    /// Whether the factory's policy was ever to delete orphans.
    pub orphans_deleted: bool,
}

/// A binding by which somebody can do more than read what is there.
pub fn acts(binding: &SiteObject) -> bool {
    matches!(binding.content["roleRef"]["name"].as_str(), Some("aifactory-lead" | "aifactory-member"))
}

pub fn subject_of(binding: &SiteObject) -> String {
    binding.content["subjects"][0]["name"].as_str().unwrap_or_default().to_owned()
}

pub fn namespace_of(owner: &OwnerRef) -> String {
    tenant_namespace(HUB, owner)
}

pub fn condition(grant: &AccessGrant, of: ConditionType) -> Option<(&str, bool)> {
    let conditions = grant.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let found = conditions.iter().find(|found| found.type_ == of.as_str())?;
    Some((found.status.as_str(), found.observed_generation == grant.metadata.generation))
}

/// Whether the condition is True, about the grant as it is now.
pub fn is_true(grant: &AccessGrant, of: ConditionType) -> bool {
    condition(grant, of) == Some(("True", true))
}

/// Whether status says, about the grant as it is now, that it can not give access anywhere.
fn denies(grant: &AccessGrant) -> bool {
    let status = grant.status.as_ref().filter(|status| status.observed_generation == grant.metadata.generation);
    status.is_some_and(|status| status.may_give_access == Some(false))
}

impl Watchman {
    pub fn find(&mut self, oracle: &'static str, at: Ms, text: impl Into<String>) {
        let text = text.into();
        let known = |(known, words): &(&str, &str)| *known == oracle && text.contains(words);
        let known = KNOWN.iter().any(known) && std::env::var_os("AIFACTORY_SIMULATION_KNOWN").is_none();
        self.violations.push(Violation { oracle, at, text, known });
    }

    pub fn created(&mut self, owner: &OwnerRef) {
        self.deleted.remove(owner);
        self.left.retain(|(left, _)| left != owner);
    }

    /// What is at a site of grants that are not on the hub is only reported from now on.
    pub fn orphaned(&mut self, site: usize, grants: Vec<OwnerRef>) {
        self.left.extend(grants.into_iter().map(|grant| (grant, site)));
    }

    /// What was to be seen has been seen.
    pub fn forgive_nothing(&mut self) {
        self.exempt.clone_from(&self.left);
    }

    /// Everything is at rest.
    pub fn rested(&mut self) {
        self.set_back.clear();
        self.lagged.clear();
    }

    pub fn hub_written(&mut self, owner: &OwnerRef, write: &Write, gone: bool) {
        if gone && matches!(write, Write::RemoveFinalizer) {
            self.deleted.insert(owner.clone());
        }
    }

    /// A grant's spec as it is from now on.
    pub fn asked(&mut self, owner: &OwnerRef, grant: &AccessGrant, now: Ms) {
        let kept = duration::seconds(&grant.spec.expiry.retention).unwrap_or(Ms::MAX / 2000) * SECOND;
        let delete = grant.spec.expiry.after_retention == AfterRetention::Delete;
        let all = self.retentions.entry(owner.clone()).or_default();
        if all.last().is_none_or(|(_, last, was)| (*last, *was) != (kept, delete)) {
            all.push((now, kept, delete));
        }
    }

    /// A write of a worker that does not wait for its answer any more.
    pub fn late_write(&mut self, site: usize, owner: &OwnerRef) {
        self.exempt.insert((owner.clone(), site));
    }

    pub fn exempt_site(&mut self, site: usize) {
        self.exempt.extend(cast::grants().map(|grant| (grant, site)));
    }

    /// The shortest retention that was asked for since `from`, and whether deletion was.
    fn retention_since(&self, owner: &OwnerRef, from: Ms) -> Option<(Ms, bool)> {
        let all = self.retentions.get(owner)?;
        let first = all.iter().rposition(|(at, _, _)| *at <= from).unwrap_or(0);
        let asked = &all[first..];
        Some((asked.iter().map(|(_, kept, _)| *kept).min()?, asked.iter().any(|(_, _, delete)| *delete)))
    }
}

impl Sim {
    /// Members' bindings with which they can act, at a site.
    pub fn acting(&self, site: usize, owner: &OwnerRef) -> Vec<String> {
        let namespace = namespace_of(owner);
        self.sites[site]
            .inside(ObjectKind::ROLE_BINDING, &namespace)
            .filter(|(_, object)| acts(object))
            .map(|(_, object)| subject_of(object))
            .collect()
    }

    /// Bindings of somebody else that let a member of the grant do more than read, at a site.
    pub fn strangers(&self, site: usize, owner: &OwnerRef) -> Vec<String> {
        let Some(grant) = self.hub.grant(owner) else { return Vec::new() };
        let namespace = namespace_of(owner);
        let foreign = self.sites[site].inside(ObjectKind::ROLE_BINDING, &namespace).filter(|(_, object)| object.foreign);
        let member =
            |subject: &String| grant.spec.members.iter().any(|member| member.kubernetes.as_ref().is_some_and(|known| known.name == *subject));
        foreign.map(|(_, object)| subject_of(object)).filter(member).collect()
    }

    /// Whether the hub reports that nobody can act for this grant any more.
    fn reported_gone(&self, owner: &OwnerRef) -> Option<&'static str> {
        match self.hub.grant(owner) {
            Some(grant) if is_true(grant, ConditionType::AccessRemoved) && !self.hub.broken(owner) => Some("AccessRemoved is True"),
            Some(grant) if !self.hub.broken(owner) && denies(grant) => Some(GUARD),
            None if self.watchman.deleted.contains(owner) => Some("the grant is gone from the hub"),
            _ => None,
        }
    }

    /// O2 and what the sites themselves have found, after each event.
    pub fn check_always(&mut self) {
        for site in 0..self.sites.len() {
            for (oracle, text) in std::mem::take(&mut self.sites[site].violations) {
                self.watchman.find(oracle, self.now, format!("{}: {text}", cast::SITES[site]));
            }
        }
        self.exempt_given_up();
        for owner in cast::grants() {
            let Some(why) = self.reported_gone(&owner) else {
                self.watchman.wrong_since.remove(&owner);
                continue;
            };
            for site in 0..self.sites.len() {
                let mut acting = self.acting(site, &owner);
                if self.hub.grant(&owner).is_some_and(|grant| is_true(grant, ConditionType::AccessRemoved)) {
                    acting.extend(self.strangers(site, &owner));
                }
                if why == GUARD && !self.guard_is_late(&owner, acting.is_empty()) {
                    continue;
                }
                if !acting.is_empty() && !self.watchman.exempt.contains(&(owner.clone(), site)) {
                    let link = self.links[site];
                    let circumstances = self.circumstances(&owner);
                    let text = format!("{owner}: {why}, and at {} (link {link:?}) these act: {acting:?}; {circumstances}", cast::SITES[site]);
                    self.watchman.find("O2", self.now, text);
                }
            }
        }
    }

    /// A grant that is to give access again is protected a little later; whether it is too late now.
    fn guard_is_late(&mut self, owner: &OwnerRef, nobody: bool) -> bool {
        if nobody || self.controller.as_ref().is_none_or(|controller| self.now - controller.begun < 20 * SECOND) {
            self.watchman.wrong_since.remove(owner);
            return false;
        }
        let now = self.now;
        let since = *self.watchman.wrong_since.entry(owner.clone()).or_insert(now);
        self.now - since > 2 * SECOND
    }

    /// A site that does not answer and was given up does not count.
    fn exempt_given_up(&mut self) {
        let given_up = self.hub.factory(&cast::factory(0)).map(|factory| aifactory_plan::hub::project::abandoned(factory)).unwrap_or_default();
        for (site, name) in cast::SITES.iter().enumerate() {
            if given_up.contains(*name) && self.links[site] != Link::Up {
                self.watchman.exempt_site(site);
                let gone: Vec<OwnerRef> = cast::grants().filter(|grant| self.hub.get(grant).is_none()).collect();
                self.watchman.orphaned(site, gone);
            }
        }
    }

    /// O3: the operator is about to delete this object.
    pub fn check_deletion(&mut self, site: usize, owner: &OwnerRef, key: &ObjectKey) {
        if key.kind != ObjectKind::NAMESPACE || self.sites[site].namespace(&key.name).is_none() {
            return;
        }
        let lost = !matches!(self.hub.get(owner), Some(Resource::Grant(_)));
        if lost && self.watchman.orphans_deleted {
            return;
        }
        let where_ = cast::SITES[site];
        let Some(locked) = self.sites[site].etcd.locked.get(&key.name).copied() else {
            self.watchman.find("O3", self.now, format!("{key} at {where_} is deleted and was never locked"));
            return;
        };
        // A spec is seen at a site a little later than it was edited.
        match self.watchman.retention_since(owner, locked - 300 * SECOND) {
            // From the order to end access until the lock stands, as long as slow writes take.
            Some((kept, true)) if locked + kept <= self.now + 120 * SECOND => {}
            asked => {
                let text = format!("{key} at {where_} is deleted, locked since {}, asked (milliseconds, deletion): {asked:?}", time(locked));
                self.watchman.find("O3", self.now, text);
            }
        }
    }

    /// O7: the sites together are never assigned more than was granted.
    pub fn check_budgets(&mut self) {
        for owner in cast::grants() {
            let mut minutes: BTreeMap<&str, i64> = BTreeMap::new();
            let of_slurm = self.slurm_workers.values().map(|worker| &worker.intents);
            let intents = self.workers.values().map(|worker| &worker.intents).chain(of_slurm).filter_map(|intents| intents.get(&owner));
            for pool in intents.filter_map(|intent| grant_of(intent)).filter(|grant| !grant.keep).flat_map(|grant| &grant.pools) {
                let sum = minutes.entry(&pool.entry).or_default();
                *sum = sum.saturating_add(pool.budget.device_minutes);
            }
            for (entry, minutes) in minutes {
                let most = self.watchman.granted.get(&(owner.clone(), entry.to_owned())).copied().unwrap_or_default();
                if minutes > most {
                    let text = format!("{owner}: {most} device-minutes of {entry} were granted, and {minutes} are assigned to sites");
                    self.watchman.violations.push(Violation { oracle: "O7", at: self.now, text, known: false });
                    return;
                }
            }
        }
    }

    /// Takes note of what is granted. `anew`: what was granted before does not count any more.
    pub fn note_budgets(&mut self, anew: bool) {
        if anew {
            self.watchman.granted.clear();
        }
        for owner in cast::grants() {
            let Some(grant) = self.hub.grant(&owner).cloned() else { continue };
            for entry in &grant.spec.pools {
                let minutes = aifactory_plan::model::budget::device_minutes(entry.gpu_hours, Default::default());
                let most = self.watchman.granted.entry((owner.clone(), entry.name.clone())).or_default();
                *most = minutes.max(*most);
            }
        }
    }

    /// Whether the factory's spec, as it is stored, lets orphans be deleted.
    pub fn note_orphans(&mut self) {
        let deletes = |factory: &std::sync::Arc<aifactory_api::AIFactory>| factory.spec.policy.orphans == OrphanPolicy::Delete;
        self.watchman.orphans_deleted |= self.hub.factory(&cast::factory(0)).is_some_and(deletes);
    }
}
