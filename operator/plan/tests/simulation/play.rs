//! Carrying out operations.

use aifactory_api::factory::{OrphanPolicy, Stage};
use aifactory_api::grant::{AccessGrant, GrantPool, GrantPoolSite, GrantState, Member, MemberState};
use aifactory_api::pool::{GPUPool, PoolSite};
use aifactory_api::{AIFactory, OwnerRef, labels};
use aifactory_plan::model::object::{ObjectKey, ObjectKind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use std::sync::Arc;

use super::cast::{self, SITES};
use super::clock::{Ms, time};
use super::hub_store::{Resource, Status, Write};
use super::ops::Op;
use super::oracle::namespace_of;
use super::sim::{Link, Sim};
use super::site_store::STREAMS;

fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a legal value")
}

impl Sim {
    pub fn apply(&mut self, op: Op) {
        match op {
            Op::Wait(span) => self.run_until(self.now + span),
            Op::Sleep(span) => self.now += span,
            Op::Edge(grant, end, offset) => self.edge(grant, end, offset),
            Op::Settle => self.settle(),
            _ => {
                let by_hub = self.apply_to_grant(op) || self.apply_to_factory(op) || self.apply_to_pool(op) || self.apply_to_hub(op);
                if !by_hub && !self.apply_at_site(op) {
                    self.disturb(op);
                }
                self.note_specs();
                self.run_until(self.now);
            }
        }
    }

    /// Takes note of what is asked for and may be done by now.
    pub fn note_specs(&mut self) {
        self.note_orphans();
        self.note_budgets(false);
        for owner in cast::grants() {
            if let Some(grant) = self.hub.grant(&owner).cloned() {
                self.watchman.asked(&owner, &grant, self.now);
            }
        }
    }

    fn edge(&mut self, grant: usize, end: bool, offset: Ms) {
        let Some(found) = self.hub.grant(&cast::grant(grant)) else { return };
        let edge = if end { found.spec.not_after.0 } else { found.spec.not_before.0 };
        let at = edge.as_millisecond() + offset;
        if at > self.now {
            self.run_until(at);
        }
    }

    fn edit_grant(&mut self, index: usize, by: impl FnOnce(&mut AccessGrant)) -> bool {
        self.hub.edit(&cast::grant(index), |resource| {
            if let Resource::Grant(grant) = resource {
                by(Arc::make_mut(grant));
            }
        });
        true
    }

    fn edit_factory(&mut self, by: impl FnOnce(&mut AIFactory)) -> bool {
        self.hub.edit(&cast::factory(0), |resource| {
            if let Resource::Factory(factory) = resource {
                by(Arc::make_mut(factory));
            }
        });
        true
    }

    fn edit_pool(&mut self, index: usize, by: impl FnOnce(&mut GPUPool)) -> bool {
        self.hub.edit(&cast::pool(index), |resource| {
            if let Resource::Pool(pool) = resource {
                by(Arc::make_mut(pool));
            }
        });
        true
    }

    fn apply_to_grant(&mut self, op: Op) -> bool {
        let now = self.now;
        let day = |offset: Ms| Time(aifactory_plan::model::time::whole_seconds(time(now + offset)));
        match op {
            Op::Create(index, code) => {
                if self.hub.create(&cast::grant(index), &cast::grant_spec(index, code, now), now) {
                    self.watchman.created(&cast::grant(index));
                }
                true
            }
            Op::Delete(index, confirmed) => {
                self.hub.delete(&cast::grant(index), confirmed, now);
                true
            }
            Op::Role(index, member, role) => self.edit_grant(index, |grant| {
                let next: Member = parsed(cast::member(member, role));
                grant.spec.members.retain(|known| known.id != next.id);
                grant.spec.members.push(next);
            }),
            Op::Leave(index, member) => self.edit_grant(index, |grant| grant.spec.members.retain(|known| known.id != format!("p-{member}"))),
            Op::Suspend(index, member, suspended) => self.edit_grant(index, |grant| {
                let state = if suspended { MemberState::Suspended } else { MemberState::Active };
                grant.spec.members.iter_mut().filter(|known| known.id == format!("p-{member}")).for_each(|known| known.state = state);
            }),
            Op::State(index, state) => self.edit_grant(index, |grant| grant.spec.state = parsed::<GrantState>(json!(state))),
            Op::NotBefore(index, offset) => self.edit_grant(index, |grant| grant.spec.not_before = day(offset)),
            Op::NotAfter(index, offset) => self.edit_grant(index, |grant| {
                grant.spec.not_after = day(offset);
                if grant.spec.not_before.0 >= grant.spec.not_after.0 {
                    grant.spec.not_before = day(offset - 1000 * super::clock::DAY);
                }
            }),
            Op::Pools(index, h100, a100, typo) => self.edit_grant(index, |grant| {
                let part = grant.spec.pools.iter().any(|known| known.name == "part");
                let named = [("h100", h100), ("a100", a100), ("h1OO", typo), ("part", part)];
                let entry = |name: &str| -> GrantPool {
                    let known = grant.spec.pools.iter().find(|known| known.name == name).cloned();
                    known.unwrap_or_else(|| parsed(cast::entry(name, 4)))
                };
                grant.spec.pools = named.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| entry(name)).collect();
            }),
            Op::Partition(index, wanted) => self.edit_grant(index, |grant| {
                grant.spec.pools.retain(|known| known.name != "part");
                if wanted {
                    grant.spec.pools.push(parsed(cast::entry("part", 4)));
                }
            }),
            Op::Sites(index, site) => self.edit_grant(index, |grant| {
                let name = site.map(|site| SITES.get(site).copied().unwrap_or("esch"));
                let chosen = name.map(|name| GrantPoolSite { name: name.to_owned(), max_gpus: None, gpu_hours: None });
                if let Some(entry) = grant.spec.pools.first_mut() {
                    entry.sites = chosen.into_iter().collect();
                }
            }),
            Op::Hours(index, hours) => self.edit_grant(index, |grant| grant.spec.pools.iter_mut().for_each(|entry| entry.gpu_hours = hours)),
            Op::Gpus(index, gpus) => self.edit_grant(index, |grant| grant.spec.pools.iter_mut().for_each(|entry| entry.max_gpus = gpus)),
            Op::Expiry(index, cancel, grace, kept, delete) => self.edit_grant(index, |grant| {
                grant.spec.expiry = parsed(json!({
                    "runningWork": if cancel { "Cancel" } else { "Finish" },
                    "gracePeriod": format!("{grace}s"),
                    "retention": format!("{kept}s"),
                    "afterRetention": if delete { "Delete" } else { "Retain" },
                }));
            }),
            Op::Residency(index, code) => self.edit_grant(index, |grant| {
                grant.spec.data.residency = if code.is_empty() { Vec::new() } else { vec![code.to_owned()] };
            }),
            Op::Early(index, early) => self.edit_grant(index, |grant| grant.spec.early_access = early),
            Op::Adopt(index, adopt) => self.edit_grant(index, |grant| annotate(&mut grant.metadata, labels::ADOPT_PREVIOUS, adopt.then_some("true"))),
            _ => false,
        }
    }

    fn apply_to_factory(&mut self, op: Op) -> bool {
        match op {
            Op::Stage(site, stage) => self.edit_factory(|factory| {
                let stage: Stage = parsed(json!(stage));
                factory.spec.sites.iter_mut().filter(|known| known.name == SITES[site]).for_each(|known| known.stage = stage);
            }),
            Op::RemoveSite(site) => self.edit_factory(|factory| factory.spec.sites.retain(|known| known.name != SITES[site])),
            Op::Forced(site) => {
                self.hub.write(&cast::factory(0), "", &Write::Status(Box::new(Status::Factory(None))));
                self.edit_factory(|factory| factory.spec.sites.retain(|known| known.name != SITES[site]))
            }
            Op::Rest(there) => self.edit_factory(|factory| {
                let slurm = there.then(|| parsed(cast::slurm_spec()));
                factory.spec.sites.iter_mut().filter(|known| known.name == SITES[cast::SLURM]).for_each(|known| known.slurm.clone_from(&slurm));
            }),
            Op::AddSite(site) => self.edit_factory(|factory| {
                if factory.spec.sites.iter().all(|known| known.name != SITES[site]) {
                    factory.spec.sites.push(parsed(cast::site_spec(site)));
                }
            }),
            Op::Prefixes(any) => {
                self.edit_factory(|factory| factory.spec.policy.subject_prefixes = if any { Vec::new() } else { vec!["oidc:".to_owned()] })
            }
            Op::Orphans(policy) => self.edit_factory(|factory| factory.spec.policy.orphans = parsed::<OrphanPolicy>(json!(policy))),
            Op::Country(site, country) => self.edit_factory(|factory| {
                factory.spec.sites.iter_mut().filter(|known| known.name == SITES[site]).for_each(|known| known.country = country.to_owned());
            }),
            Op::Abandon(site, given_up) => {
                self.edit_factory(|factory| annotate(&mut factory.metadata, labels::ABANDON_SITE, given_up.then_some(SITES[site])))
            }
            Op::DeleteFactory => {
                self.hub.delete(&cast::factory(0), true, self.now);
                true
            }
            Op::CreateFactory => {
                self.hub.create(&cast::factory(0), &cast::factory_spec(0), self.now);
                true
            }
            _ => false,
        }
    }

    fn apply_to_pool(&mut self, op: Op) -> bool {
        match op {
            Op::PlaceAt(pool, site, state) => self.edit_pool(pool, |pool| {
                let state = parsed(json!(state));
                match pool.spec.sites.iter_mut().find(|known| known.name == SITES[site]) {
                    Some(known) => known.state = state,
                    None => pool.spec.sites.push(PoolSite { state, ..parsed(json!({"name": SITES[site], "count": 2})) }),
                }
            }),
            Op::TakeFrom(pool, site) => self.edit_pool(pool, |pool| pool.spec.sites.retain(|known| known.name != SITES[site])),
            Op::Count(pool, site, count) => self.edit_pool(pool, |pool| {
                pool.spec.sites.iter_mut().filter(|known| known.name == SITES[site]).for_each(|known| known.count = Some(count));
            }),
            Op::PoolStage(pool, stage) => self.edit_pool(pool, |pool| pool.spec.stage = parsed(json!(stage))),
            Op::Consumers(pool, open) => self.edit_pool(pool, |pool| {
                let consumers = if open { json!([{"name": "antenna", "namespaces": {"names": ["antenna"]}}]) } else { json!([]) };
                pool.spec.consumers = parsed(consumers);
            }),
            Op::DeletePool(pool) => {
                self.hub.delete(&cast::pool(pool), true, self.now);
                true
            }
            Op::CreatePool(pool) => {
                self.hub.create(&cast::pool(pool), &cast::pool_spec(pool), self.now);
                true
            }
            _ => false,
        }
    }

    fn apply_to_hub(&mut self, op: Op) -> bool {
        let owner = |kind: usize, index: usize| -> OwnerRef {
            match kind {
                0 => cast::grant(index),
                1 => cast::pool(index),
                _ => cast::factory(0),
            }
        };
        match op {
            Op::LoseStatus(kind, index) => {
                let (owner, none) = (owner(kind, index), [Status::Grant(None), Status::Pool(None), Status::Factory(None)]);
                self.hub.write(&owner, "", &Write::Status(Box::new(none[kind].clone())));
                true
            }
            Op::Spoil(kind, index, broken) => {
                self.hub.spoil(&owner(kind, index), broken);
                true
            }
            _ => false,
        }
    }

    /// The objects of a grant at a site, its namespace first.
    fn objects(&self, site: usize, grant: usize) -> Vec<ObjectKey> {
        let name = namespace_of(&cast::grant(grant));
        let namespace = ObjectKey::cluster(ObjectKind::NAMESPACE, name.clone());
        let inside = self.sites[site].etcd.objects.keys().filter(|key| key.namespace == name).cloned();
        self.sites[site].namespace(&name).map(|_| namespace).into_iter().chain(inside).collect()
    }

    /// The object of this number in a grant's namespace, the namespace itself left out.
    fn object(&self, site: usize, grant: usize, number: usize) -> Option<ObjectKey> {
        let objects = self.objects(site, grant);
        let inside = objects.get(1..).filter(|inside| !inside.is_empty())?;
        inside.get(number % inside.len()).cloned()
    }

    fn apply_at_site(&mut self, op: Op) -> bool {
        let now = self.now;
        match op {
            Op::DeleteObject(site, grant, number) => {
                if let Some(key) = self.object(site, grant, number) {
                    self.sites[site].delete_by_hand(&key);
                }
            }
            Op::EditObject(site, grant, number) => {
                if let Some(key) = self.object(site, grant, number) {
                    self.sites[site].edit(&key, now, |content| content["spec"] = json!({"edited": now}));
                }
            }
            Op::Unlabel(site, grant, number) => {
                if let Some(key) = self.object(site, grant, number) {
                    self.unlabel(site, &key);
                }
            }
            Op::UnlabelNamespace(site, grant) => {
                self.unlabel(site, &ObjectKey::cluster(ObjectKind::NAMESPACE, namespace_of(&cast::grant(grant))));
            }
            Op::Relabel(site, grant) => {
                for key in self.objects(site, grant) {
                    if self.sites[site].etcd.objects.get(&key).is_some_and(|object| !object.managed() && !object.foreign) {
                        self.sites[site].edit(&key, now, |content| content["metadata"]["labels"][labels::MANAGED] = json!("true"));
                    }
                }
            }
            Op::Foreign(site, grant, member) => {
                let subject = member.map_or("oidc:somebody".to_owned(), cast::subject);
                self.sites[site].foreign_binding(&namespace_of(&cast::grant(grant)), &subject, now);
                self.watchman.exempt.insert((cast::grant(grant), site));
            }
            Op::DeleteNamespace(site, grant) => self.terminate(site, &namespace_of(&cast::grant(grant))),
            Op::NodeGoes(site, node) => self.sites[site].remove_node(&format!("{}-{node}", SITES[site])),
            Op::NodeComes(site, node) => self.sites[site].set_node(cast::node(site, node)),
            Op::Offer(site, node, offered) => self.label_node(site, node, labels::OFFERED, if offered { "true" } else { "false" }),
            Op::Relabelled(site, node, pool) => self.label_node(site, node, "model", cast::POOLS[pool]),
            Op::Paused(site, paused) => self.sites[site].set_policy("paused", Some(if paused { "true" } else { "false" })),
            Op::KeepNamespaces(site, keep) => self.sites[site].set_policy("allowDeletion", Some(if keep { "false" } else { "true" })),
            Op::RefuseGrant(site, grant) => {
                let name = grant.map(cast::grant).map(|grant| format!("{}/{}", grant.namespace, grant.name));
                self.sites[site].set_policy("refuseGrants", name.as_deref());
            }
            Op::RefuseMember(site, member) => {
                let id = member.map(|member| format!("p-{member}"));
                self.sites[site].set_policy("refuseMembers", id.as_deref());
            }
            _ => return false,
        }
        true
    }

    fn unlabel(&mut self, site: usize, key: &ObjectKey) {
        let now = self.now;
        self.sites[site].edit(key, now, |content| {
            if let Some(labels) = content["metadata"]["labels"].as_object_mut() {
                labels.remove(labels::MANAGED);
            }
        });
    }

    fn label_node(&mut self, site: usize, node: usize, label: &str, value: &str) {
        if let Some((mut node, _)) = self.sites[site].etcd.nodes.get(&format!("{}-{node}", SITES[site])).cloned() {
            node.labels.insert(label.to_owned(), value.to_owned());
            self.sites[site].set_node(node);
        }
    }

    fn disturb(&mut self, op: Op) {
        match op {
            Op::Cut(site) => self.set_link(site, Link::Down),
            Op::Mute(site) => self.set_link(site, Link::Mute),
            Op::Heal(site) => self.set_link(site, Link::Up),
            Op::Lag(site, span, twice) => {
                self.watchman.lagged.insert(site);
                let lag = |stream| (stream, if STREAMS.get(twice) == Some(&stream) { 2 * span } else { span });
                self.watch_lag[site] = STREAMS.into_iter().map(lag).collect();
            }
            Op::Slow(site, span) => self.write_lag[site] = span,
            Op::Reversed(site, reversed) => self.reversed[site] = reversed,
            Op::HubLag(span) => self.hub_lag = span,
            Op::Restart(pause) => self.kill(pause),
            Op::SaveSite(site) => self.saved_sites[site] = Some(self.sites[site].etcd.clone()),
            Op::RestoreSite(site) => {
                if let Some(saved) = self.saved_sites[site].clone() {
                    self.sites[site].restore(&saved);
                    self.watchman.exempt_site(site);
                    self.watchman.set_back.insert(site);
                    let gone: Vec<OwnerRef> = cast::grants().filter(|grant| self.hub.get(grant).is_none()).collect();
                    self.watchman.orphaned(site, gone);
                    self.list_site(site);
                }
            }
            Op::SaveHub => self.saved_hub = Some(self.hub.etcd.clone()),
            Op::RestoreHub => self.restore_hub(),
            _ => panic!("{op:?} is for nobody"),
        }
    }

    /// As in the page on backups: the operator is stopped, the etcd restored, and the operator started.
    fn restore_hub(&mut self) {
        let Some(saved) = self.saved_hub.clone() else { return };
        self.kill(10);
        self.hub.restore(&saved);
        (0..self.sites.len()).for_each(|site| self.watchman.exempt_site(site));
    }
}

fn annotate(metadata: &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, name: &str, value: Option<&str>) {
    let annotations = metadata.annotations.get_or_insert_default();
    match value {
        Some(value) => annotations.insert(name.to_owned(), value.to_owned()),
        None => annotations.remove(name),
    };
}
