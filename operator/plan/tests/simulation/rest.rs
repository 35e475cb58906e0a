//! What must hold once everything has come to rest: who may act (O1), status (O4), and that rest is reached and kept (O5).

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::factory::Site;
use aifactory_api::grant::{AccessGrant, GrantPhase, GrantState, MemberRole, MemberState, SiteRowPhase};
use aifactory_api::pool::{GPUPool, PlacementState};
use aifactory_api::{ConditionType, OwnerRef, labels};
use aifactory_plan::model::object::{ObjectKey, ObjectKind};

use super::cast::{self, SITES};
use super::clock::{Ms, SECOND, time};
use super::hub_store::Resource;
use super::oracle::{is_true, namespace_of, subject_of};
use super::sim::{BUSY, Link, Sim};
use super::site_store::SiteStore;

/// How long everything may take to come to rest, and for how long nothing may be written then.
const PATIENCE: Ms = 600 * SECOND;
const REST: Ms = 130 * SECOND;

/// Who may do what at a site, by the docs.
#[derive(Debug, PartialEq)]
enum Expected {
    /// Just these bindings, by subject.
    Exactly(BTreeMap<String, &'static str>),
    /// These or fewer: what is held stays, and nothing new is given.
    AtMost(BTreeMap<String, &'static str>),
    /// Nobody acts; some may read what is kept.
    Nobody,
    /// The docs do not define it.
    Anything,
}

impl Sim {
    pub fn settle(&mut self) {
        for site in 0..self.sites.len() {
            self.set_link(site, Link::Up);
            self.watch_lag[site].clear();
            self.write_lag[site] = 1;
        }
        self.hub_lag = 1;
        if !self.come_to_rest() {
            return;
        }
        self.check_at_rest();
        self.watchman.forgive_nothing();
        self.check_always();
        self.watchman.rested();
        self.note_budgets(true);
    }

    /// O5.
    fn come_to_rest(&mut self) -> bool {
        let (deadline, steps) = (self.now + PATIENCE, self.steps);
        self.last_write = self.now;
        loop {
            let quiet = self.last_write + REST;
            if self.now >= quiet && self.controller.is_some() {
                return true;
            }
            if self.now >= deadline || self.steps > steps + BUSY {
                let (span, events) = ((self.now - deadline + PATIENCE) / SECOND, self.steps - steps);
                let circumstances: Vec<String> = cast::grants().map(|grant| self.circumstances(&grant)).collect();
                let text = format!("no rest after {span} s and {events} events, at last {}; {}", self.last_action, circumstances.join(", "));
                self.watchman.find("O5", self.now, text);
                return false;
            }
            let next = self.next_event().unwrap_or(quiet).min(quiet.max(self.now + 1));
            self.run_until(next);
            if !self.watchman.violations.is_empty() {
                return false;
            }
        }
    }

    fn check_at_rest(&mut self) {
        for owner in cast::grants() {
            for site in 0..self.sites.len() {
                self.check_access(&owner, site);
            }
            self.check_status(&owner);
        }
        self.check_nodes();
        self.check_slurm();
    }

    /// O6: the same specs give the same objects at sites on which nothing was ever done, where all that decides is in specs.
    pub fn check_path(&mut self) {
        let mut fresh = self.afresh();
        fresh.settle();
        if let Some(found) = fresh.watchman.violations.first().cloned() {
            self.watchman.violations.push(found);
            return;
        }
        for owner in cast::grants() {
            for (site, _) in self.sites.iter().enumerate() {
                if !matches!(self.expected(&owner, site), Expected::Exactly(_)) || !matches!(fresh.expected(&owner, site), Expected::Exactly(_)) {
                    continue;
                }
                let (here, there) = (self.objects_of(&owner, site), fresh.objects_of(&owner, site));
                if here != there {
                    let key = here.keys().chain(there.keys()).find(|key| here.get(*key) != there.get(*key)).expect("a difference");
                    let text = format!("{owner} at {}: {key} is {:?}, and afresh {:?}", SITES[site], here.get(key), there.get(key));
                    self.watchman.find("O6", self.now, text);
                }
            }
        }
    }

    fn objects_of(&self, owner: &OwnerRef, site: usize) -> BTreeMap<ObjectKey, serde_json::Value> {
        let name = namespace_of(owner);
        let ours = self.sites[site].etcd.objects.iter().filter(|(key, object)| (key.namespace == name || key.name == name) && !object.foreign);
        ours.map(|(key, object)| (key.clone(), object.content.clone())).collect()
    }

    /// O1 in Slurm: nobody acts through a grant but its active members, and all of them where everything that decides allows it.
    fn check_slurm(&mut self) {
        for owner in cast::grants() {
            let Some(grant) = self.hub.grant(&owner).cloned().filter(|_| !self.hub.broken(&owner)) else { continue };
            if self.given_up(cast::SLURM) || self.unresolved(&owner, &grant) || self.factory_site(cast::SLURM).is_none_or(|site| site.slurm.is_none())
            {
                continue;
            }
            let refused = self.sites[cast::SLURM].etcd.policy.get("refuseMembers").cloned();
            let active = grant.spec.members.iter().filter(|member| member.state == MemberState::Active && Some(&member.id) != refused.as_ref());
            let users: BTreeSet<String> = active.filter_map(|member| Some(format!("Slurm user {}", member.slurm.as_ref()?.user))).collect();
            let acting: BTreeSet<String> = self.acting_in_slurm(&owner).into_iter().collect();
            let over = self.ended(&grant) || grant.spec.not_before.0 > time(self.now) || grant.spec.state != GrantState::Active;
            if !acting.is_subset(&users) || (over && !acting.is_empty()) {
                let circumstances = self.circumstances(&owner);
                self.watchman.find("O1", self.now, format!("{owner} in Slurm: members are {users:?}, and these act: {acting:?}; {circumstances}"));
            }
        }
    }

    /// At rest no node has the label of a pool that is not at the site.
    fn check_nodes(&mut self) {
        for (site, name) in SITES.iter().enumerate() {
            if self.sites[site].paused() || self.factory_site(site).is_none() || self.given_up(site) {
                continue;
            }
            let mut wrong = Vec::new();
            for (node, _) in self.sites[site].etcd.nodes.values() {
                let Some(pool) = node.pool() else { continue };
                let placed = match self.hub.get(&OwnerRef::new(aifactory_api::Kind::GPUPool, "host", pool)) {
                    Some(Resource::Pool(pool)) => pool.spec.slurm.is_none() && pool.spec.sites.iter().any(|known| known.name == *name),
                    _ => false,
                };
                if !placed && node.offered() {
                    wrong.push(format!("node {} at {name} is labelled for pool {pool}, which is not there", node.name));
                }
            }
            let circumstances = self.circumstances(&cast::grant(0));
            wrong.into_iter().for_each(|text| self.watchman.find("O3", self.now, format!("{text}; {circumstances}")));
        }
    }

    /// O1.
    fn check_access(&mut self, owner: &OwnerRef, site: usize) {
        let expected = self.expected(owner, site);
        let found = bindings(&self.sites[site], owner);
        let acting: BTreeMap<&String, &&str> = found.iter().filter(|(_, role)| matches!(**role, "lead" | "member")).collect();
        let within = |bound: &BTreeMap<String, &'static str>| {
            found.iter().all(|(subject, role)| bound.get(subject).is_some_and(|most| rank(role) <= rank(most)))
        };
        let right = match &expected {
            Expected::Exactly(wanted) => found == *wanted,
            Expected::AtMost(bound) => within(bound),
            Expected::Nobody => acting.is_empty(),
            Expected::Anything => true,
        };
        if !right {
            let text = format!("{owner} at {}: expected {expected:?}, found {found:?}; {}", SITES[site], self.circumstances(owner));
            self.watchman.find("O1", self.now, text);
        }
    }

    fn expected(&self, owner: &OwnerRef, site: usize) -> Expected {
        let store = &self.sites[site];
        if tampered(store, owner) {
            return Expected::Anything;
        }
        let Some(grant) = self.hub.grant(owner) else {
            // An orphan that was left by a restore or at a site that was given up is only reported.
            return Expected::Anything;
        };
        if self.hub.broken(owner) || self.given_up(site) {
            return Expected::Anything;
        }
        if self.ended(grant) || self.refused_by_site(grant, owner, store) || foreign_code(store, owner, grant) {
            return Expected::Nobody;
        }
        let (now, paused) = (time(self.now), grant.spec.state == GrantState::Paused);
        let scheduled = grant.spec.not_before.0 > now;
        let members = self.members(grant, store, paused || scheduled);
        if scheduled || store.paused() || self.unresolved(owner, grant) {
            return Expected::AtMost(members);
        }
        match self.placed(owner, grant, site) {
            Placed::No | Placed::Refused => Expected::Nobody,
            Placed::IfHeld => Expected::AtMost(members),
            Placed::Yes => Expected::Exactly(members),
        }
    }

    pub fn ended(&self, grant: &AccessGrant) -> bool {
        grant.metadata.deletion_timestamp.is_some() || grant.spec.state == GrantState::Revoked || grant.spec.not_after.0 <= time(self.now)
    }

    fn given_up(&self, site: usize) -> bool {
        self.hub.factory(&cast::factory(0)).is_some_and(|factory| aifactory_plan::hub::project::abandoned(factory).contains(SITES[site]))
    }

    fn refused_by_site(&self, grant: &AccessGrant, owner: &OwnerRef, store: &SiteStore) -> bool {
        let name = format!("{}/{}", owner.namespace, owner.name);
        store.etcd.policy.get("refuseGrants").is_some_and(|listed| *listed == name || *listed == grant.spec.code)
    }

    fn members(&self, grant: &AccessGrant, store: &SiteStore, reading: bool) -> BTreeMap<String, &'static str> {
        let prefixes = self.hub.factory(&cast::factory(0)).map(|factory| factory.spec.policy.subject_prefixes.clone()).unwrap_or_default();
        let refused = store.etcd.policy.get("refuseMembers");
        let active = grant.spec.members.iter().filter(|member| member.state == MemberState::Active && refused != Some(&member.id));
        let subjects = active.filter_map(|member| Some((member.kubernetes.as_ref()?.name.clone(), member.role)));
        subjects
            .filter(|(subject, _)| prefixes.is_empty() || prefixes.iter().any(|prefix| subject.starts_with(prefix.as_str())))
            .map(|(subject, role)| {
                let role = match role {
                    _ if reading => "reader",
                    MemberRole::Lead => "lead",
                    MemberRole::Member => "member",
                    MemberRole::Reader => "reader",
                };
                (subject, role)
            })
            .collect()
    }

    fn decodable(&self, owner: &OwnerRef) -> Option<&Resource> {
        self.hub.get(owner).filter(|_| !self.hub.broken(owner))
    }

    fn pools(&self, owner: &OwnerRef, grant: &AccessGrant) -> Vec<Option<std::sync::Arc<GPUPool>>> {
        aifactory_plan::hub::cache::pools_of_grant(owner, grant)
            .iter()
            .map(|pool| match self.decodable(pool) {
                Some(Resource::Pool(pool)) => Some(pool.clone()),
                _ => None,
            })
            .collect()
    }

    fn factory_is_being_deleted(&self) -> bool {
        matches!(self.decodable(&cast::factory(0)), Some(Resource::Factory(factory)) if factory.metadata.deletion_timestamp.is_some())
    }

    fn factory_site(&self, site: usize) -> Option<Site> {
        match self.decodable(&cast::factory(0)) {
            Some(Resource::Factory(factory)) => factory.spec.sites.iter().find(|known| known.name == SITES[site]).cloned(),
            _ => None,
        }
    }

    /// Whether something that the grant names is missing, so that what sites hold stays.
    pub fn unresolved(&self, owner: &OwnerRef, grant: &AccessGrant) -> bool {
        let pools = self.pools(owner, grant);
        let mut entries = grant.spec.pools.iter().zip(&pools);
        let named = |pool: &GPUPool, name: &str| pool.spec.sites.iter().any(|site| site.name == name);
        if entries.any(|(entry, pool)| pool.as_ref().is_some_and(|pool| entry.sites.iter().any(|site| !named(pool, &site.name)))) {
            return true;
        }
        let issuer = OwnerRef::new(aifactory_api::Kind::AIFactory, &owner.namespace, &grant.spec.factory_ref.name);
        self.decodable(&issuer).is_none() || self.decodable(&cast::factory(0)).is_none() || pools.iter().any(Option::is_none)
    }

    fn placed(&self, owner: &OwnerRef, grant: &AccessGrant, site: usize) -> Placed {
        let mut placed = Placed::No;
        for (entry, pool) in grant.spec.pools.iter().zip(self.pools(owner, grant)) {
            // Slurm has no namespace.
            let Some(pool) = pool.filter(|pool| pool.spec.slurm.is_none()) else { continue };
            let here = pool.spec.sites.iter().find(|known| known.name == SITES[site]);
            let chosen = entry.sites.is_empty() || entry.sites.iter().any(|known| known.name == SITES[site]);
            let Some(here) = here.filter(|_| chosen) else { continue };
            let Some(of_factory) = self.factory_site(site) else {
                placed = placed.max(Placed::IfHeld);
                continue;
            };
            let consumer = owner.namespace == "host" || pool.spec.consumers.iter().any(|known| known.namespaces.names.contains(&owner.namespace));
            let residency = &grant.spec.data.residency;
            let inside = |code: &String| *code == of_factory.country || (code == "EU" && of_factory.country != "US");
            let counts: Option<Vec<i64>> = pool.spec.sites.iter().map(|known| known.count.map(i64::from)).collect();
            let fits = counts.is_none_or(|counts| entry.max_gpus <= counts.iter().sum::<i64>() * 4);
            let stages = pool.spec.stage.admits(grant.spec.early_access) && of_factory.stage.admits(grant.spec.early_access);
            // "They get nothing new", says docs/src/operations/delete.md of what is being deleted.
            let stays = pool.metadata.deletion_timestamp.is_none() && !self.factory_is_being_deleted();
            let new = fits && stages && here.state == PlacementState::Active && stays;
            placed = placed.max(if !consumer || !(residency.is_empty() || residency.iter().any(inside)) {
                Placed::Refused
            } else if new {
                Placed::Yes
            } else {
                Placed::IfHeld
            });
        }
        placed
    }

    /// O4.
    fn check_status(&mut self, owner: &OwnerRef) {
        let Some(grant) = self.hub.grant(owner).cloned() else { return };
        if self.hub.broken(owner) {
            return;
        }
        // A row of status is about both parts of a site, which is not judged here yet.
        let both = grant.spec.pools.iter().any(|entry| entry.name == "part");
        let observed = grant.status.as_ref().and_then(|status| status.observed_generation);
        let acting: Vec<usize> = (0..self.sites.len()).filter(|site| !self.acting(*site, owner).is_empty()).collect();
        let phase = grant.status.as_ref().and_then(|status| status.phase).unwrap_or(GrantPhase::Pending);
        let mut wrong = Vec::new();
        if grant.metadata.deletion_timestamp.is_none() && observed != grant.metadata.generation {
            wrong.push(format!("status is about generation {observed:?}, the grant has {:?}", grant.metadata.generation));
        }
        let usable = is_true(&grant, ConditionType::Usable);
        let whole =
            |site: &usize| self.bound(*site, owner) && !tampered(&self.sites[*site], owner) && self.placed(owner, &grant, *site) == Placed::Yes;
        let bound: Vec<usize> = acting.iter().copied().filter(whole).collect();
        if !both && !bound.is_empty() && !self.ended(&grant) && grant.spec.state == GrantState::Active && (!usable || phase != GrantPhase::Active) {
            wrong.push(format!("members act at {bound:?}, and Usable is {usable}, phase {phase}"));
        }
        let unresolved = self.unresolved(owner, &grant);
        if !both && acting.is_empty() && usable && !unresolved {
            wrong.push("Usable is True, and nobody can act anywhere".to_owned());
        }
        let rows: BTreeSet<String> =
            grant.status.iter().flat_map(|status| &status.sites).filter(|row| row.phase == SiteRowPhase::Bound).map(|row| row.name.clone()).collect();
        for site in &bound {
            let name = if owner.namespace == "host" { SITES[*site].to_owned() } else { format!("host/{}", SITES[*site]) };
            // What is left in Slurm shows in the row while a reference is broken.
            let left = unresolved && *site == cast::SLURM;
            if !both && !left && !rows.contains(&name) && !self.ended(&grant) && grant.spec.state == GrantState::Active {
                wrong.push(format!("members act at {name}, which status does not call Bound"));
            }
        }
        if self.ended(&grant) && self.nothing_hinders(owner) {
            if grant.metadata.deletion_timestamp.is_some() {
                wrong.push("the deletion does not end".to_owned());
            } else if !is_true(&grant, ConditionType::AccessRemoved) {
                wrong.push("the grant has ended, every site answers, and AccessRemoved is not True".to_owned());
            }
        }
        let circumstances = self.circumstances(owner);
        for text in wrong {
            self.watchman.find("O4", self.now, format!("{owner}: {text}; {circumstances}"));
        }
    }

    /// What may explain a finding, as text by which known faults are recognised.
    pub fn circumstances(&self, owner: &OwnerRef) -> String {
        let mut texts = Vec::new();
        if self.hub.grant(owner).is_some_and(|grant| self.unresolved(owner, grant)) {
            texts.push("a reference is broken".to_owned());
        }
        let works = |member: &aifactory_api::grant::Member| member.state == MemberState::Active && member.role != MemberRole::Reader;
        if self.hub.grant(owner).is_some_and(|grant| !grant.spec.members.iter().any(works)) {
            texts.push("all members read only".to_owned());
        }
        for (site, name) in SITES.iter().enumerate() {
            let store = &self.sites[site];
            let unnamed = self.factory_site(site).is_none();
            let decommissioned = self.factory_site(site).is_some_and(|found| found.stage == aifactory_api::factory::Stage::Decommissioned);
            let explanations = [
                (tampered(store, owner), "a label was taken off"),
                (store.paused(), "the site is paused"),
                (unnamed, "the factory does not name it"),
                (decommissioned, "it is decommissioned"),
                (self.given_up(site), "it was given up"),
                (self.watchman.set_back.contains(&site), "it was set back"),
                (self.watchman.lagged.contains(&site), "its watches lagged"),
            ];
            texts.extend(explanations.iter().filter(|(so, _)| *so).map(|(_, text)| format!("{name}: {text}")));
        }
        texts.join(", ")
    }

    fn bound(&self, site: usize, owner: &OwnerRef) -> bool {
        let namespace = namespace_of(owner);
        self.sites[site].namespace(&namespace).is_some_and(|found| found.label(labels::STATE) == Some(labels::STATE_BOUND) && !found.terminating)
    }

    /// Whether every site lets the operator take access away, and the operator knows of every site.
    fn nothing_hinders(&self, owner: &OwnerRef) -> bool {
        let resolved = self.decodable(&cast::factory(0)).is_some();
        resolved
            && (0..self.sites.len())
                .all(|site| !self.sites[site].paused() && !tampered(&self.sites[site], owner) && self.strangers(site, owner).is_empty())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Placed {
    No,
    Yes,
    IfHeld,
    Refused,
}

fn rank(role: &str) -> usize {
    ["member", "lead"].iter().position(|known| *known == role).map_or(0, |more| more + 1)
}

/// Our bindings in a grant's namespace at a site, by subject.
fn bindings(store: &SiteStore, owner: &OwnerRef) -> BTreeMap<String, &'static str> {
    let namespace = namespace_of(owner);
    let ours = store.inside(ObjectKind::ROLE_BINDING, &namespace).filter(|(_, object)| !object.foreign);
    let role = |name: &str| ["reader", "keeper", "member", "lead"].into_iter().find(|role| name == format!("aifactory-{role}"));
    ours.filter_map(|(_, object)| Some((subject_of(object), role(object.content["roleRef"]["name"].as_str()?)?))).collect()
}

/// Whether somebody took our label off something of this grant at a site, or its namespace is being deleted.
pub fn tampered(store: &SiteStore, owner: &OwnerRef) -> bool {
    let name = namespace_of(owner);
    let inside = store.etcd.objects.iter().filter(|(key, object)| (key.namespace == name || key.name == name) && !object.foreign);
    inside.into_iter().any(|(_, object)| !object.managed() || object.terminating)
}

/// Whether the namespace is an earlier grant's with another code.
fn foreign_code(store: &SiteStore, owner: &OwnerRef, grant: &AccessGrant) -> bool {
    let adopt = grant.metadata.annotations.as_ref().is_some_and(|found| found.contains_key(labels::ADOPT_PREVIOUS));
    let found = store.namespace(&namespace_of(owner));
    !adopt && found.and_then(|found| found.annotation(labels::CODE)).is_some_and(|code| code != grant.spec.code)
}
