//! The hub's API server: the three kinds with generation, resourceVersion, UID, finalizers and status, and who may change what.

use std::collections::BTreeMap;
use std::sync::Arc;

use aifactory_api::factory::Stage;
use aifactory_api::pool::PlacementState;
use aifactory_api::{AIFactory, AccessGrant, GPUPool, OwnerRef, labels};
use aifactory_plan::hub::known_sites::KnownSites;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::Value;

use super::clock::{Ms, time};

/// A resource of one of the three kinds.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    Factory(Arc<AIFactory>),
    Pool(Arc<GPUPool>),
    Grant(Arc<AccessGrant>),
}

impl Resource {
    pub fn meta(&self) -> &ObjectMeta {
        match self {
            Resource::Factory(found) => &found.metadata,
            Resource::Pool(found) => &found.metadata,
            Resource::Grant(found) => &found.metadata,
        }
    }

    pub fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Resource::Factory(found) => &mut Arc::make_mut(found).metadata,
            Resource::Pool(found) => &mut Arc::make_mut(found).metadata,
            Resource::Grant(found) => &mut Arc::make_mut(found).metadata,
        }
    }

    fn same_spec(&self, other: &Resource) -> bool {
        match (self, other) {
            (Resource::Factory(one), Resource::Factory(two)) => one.spec == two.spec,
            (Resource::Pool(one), Resource::Pool(two)) => one.spec == two.spec,
            (Resource::Grant(one), Resource::Grant(two)) => one.spec == two.spec,
            _ => false,
        }
    }

    pub fn version(&self) -> u64 {
        self.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
    }

    pub fn finalized(&self) -> bool {
        self.meta().finalizers.iter().flatten().any(|name| name == labels::FINALIZER)
    }

    fn set_status(&mut self, status: &Status) {
        match (self, status) {
            (Resource::Factory(found), Status::Factory(status)) => Arc::make_mut(found).status.clone_from(status),
            (Resource::Pool(found), Status::Pool(status)) => Arc::make_mut(found).status.clone_from(status),
            (Resource::Grant(found), Status::Grant(status)) => Arc::make_mut(found).status.clone_from(status),
            _ => panic!("a status of another kind"),
        }
    }
}

/// A status, or none.
#[derive(Clone, Debug)]
pub enum Status {
    Factory(Option<aifactory_api::factory::AIFactoryStatus>),
    Pool(Option<aifactory_api::pool::GPUPoolStatus>),
    Grant(Option<aifactory_api::grant::AccessGrantStatus>),
}

/// What a watch shows.
#[derive(Clone, Debug)]
pub enum HubEvent {
    Put(OwnerRef, Resource),
    /// With UID and version.
    Undecodable(OwnerRef, String, u64),
    /// With UID and last version.
    Removed(OwnerRef, String, u64),
}

/// What the operator asks of the hub.
#[derive(Clone, Debug)]
pub enum Write {
    AddFinalizer,
    RemoveFinalizer,
    Status(Box<Status>),
}

#[derive(Clone, Debug)]
struct Stored {
    resource: Resource,
    broken: bool,
}

/// What the hub's etcd holds; a snapshot of it is a clone.
#[derive(Clone, Debug, Default)]
pub struct Etcd {
    resources: BTreeMap<OwnerRef, Stored>,
    pub known: Option<KnownSites>,
    version: u64,
}

impl Etcd {
    /// The specs alone, as they come from Git.
    pub fn without_status(&self) -> Self {
        let mut bare = self.clone();
        bare.known = None;
        for stored in bare.resources.values_mut() {
            match &mut stored.resource {
                Resource::Factory(found) => Arc::make_mut(found).status = None,
                Resource::Pool(found) => Arc::make_mut(found).status = None,
                Resource::Grant(found) => Arc::make_mut(found).status = None,
            }
        }
        bare
    }
}

/// The hub's API server.
#[derive(Default)]
pub struct HubStore {
    pub etcd: Etcd,
    pub events: Vec<HubEvent>,
    pub writes: usize,
    uids: u64,
}

impl HubStore {
    pub fn get(&self, owner: &OwnerRef) -> Option<&Resource> {
        self.etcd.resources.get(owner).map(|stored| &stored.resource)
    }

    pub fn grant(&self, owner: &OwnerRef) -> Option<&Arc<AccessGrant>> {
        match self.get(owner) {
            Some(Resource::Grant(grant)) => Some(grant),
            _ => None,
        }
    }

    pub fn factory(&self, owner: &OwnerRef) -> Option<&Arc<AIFactory>> {
        match self.get(owner) {
            Some(Resource::Factory(factory)) => Some(factory),
            _ => None,
        }
    }

    pub fn broken(&self, owner: &OwnerRef) -> bool {
        self.etcd.resources.get(owner).is_some_and(|stored| stored.broken)
    }

    /// What a list shows.
    pub fn list(&self) -> Vec<HubEvent> {
        self.etcd.resources.iter().map(|(owner, stored)| shown(owner, stored)).collect()
    }

    pub fn create(&mut self, owner: &OwnerRef, spec: &Value, now: Ms) -> bool {
        if self.etcd.resources.contains_key(owner) {
            return false;
        }
        self.uids += 1;
        self.etcd.version += 1;
        let mut metadata = ObjectMeta {
            name: Some(owner.name.clone()),
            namespace: Some(owner.namespace.clone()),
            generation: Some(1),
            uid: Some(format!("uid-{}", self.uids)),
            resource_version: Some(self.etcd.version.to_string()),
            ..ObjectMeta::default()
        };
        metadata.creation_timestamp = Some(Time(aifactory_plan::model::time::whole_seconds(time(now))));
        let spec = spec.clone();
        use aifactory_api::Kind;
        let resource = match owner.kind {
            Kind::AIFactory => {
                Resource::Factory(Arc::new(AIFactory { metadata, spec: serde_json::from_value(spec).expect("a factory"), status: None }))
            }
            Kind::GPUPool => Resource::Pool(Arc::new(GPUPool { metadata, spec: serde_json::from_value(spec).expect("a pool"), status: None })),
            Kind::AccessGrant => {
                Resource::Grant(Arc::new(AccessGrant { metadata, spec: serde_json::from_value(spec).expect("a grant"), status: None }))
            }
        };
        let stored = Stored { resource, broken: false };
        self.events.push(shown(owner, &stored));
        self.etcd.resources.insert(owner.clone(), stored);
        true
    }

    /// Edits a resource as a person does; whether the API server took it and something changed.
    pub fn edit(&mut self, owner: &OwnerRef, by: impl FnOnce(&mut Resource)) -> bool {
        let Some(stored) = self.etcd.resources.get(owner) else { return false };
        let mut next = stored.resource.clone();
        by(&mut next);
        if !allowed(&stored.resource, &next) {
            return false;
        }
        if !next.same_spec(&stored.resource) {
            let generation = next.meta().generation.unwrap_or_default() + 1;
            next.meta_mut().generation = Some(generation);
        }
        self.store(owner, next)
    }

    fn store(&mut self, owner: &OwnerRef, mut next: Resource) -> bool {
        let Some(stored) = self.etcd.resources.get_mut(owner) else { return false };
        if stored.resource == next {
            return false;
        }
        self.etcd.version += 1;
        let version = self.etcd.version;
        next.meta_mut().resource_version = Some(version.to_string());
        if next.meta().deletion_timestamp.is_some() && next.meta().finalizers.iter().flatten().next().is_none() {
            self.etcd.resources.remove(owner);
            let uid = next.meta().uid.clone().unwrap_or_default();
            self.events.push(HubEvent::Removed(owner.clone(), uid, version));
            return true;
        }
        stored.resource = next;
        let event = shown(owner, stored);
        self.events.push(event);
        true
    }

    /// Makes a stored resource such that this release can not decode it, or again such that it can.
    pub fn spoil(&mut self, owner: &OwnerRef, broken: bool) {
        let Some(stored) = self.etcd.resources.get_mut(owner) else { return };
        if stored.broken != broken {
            stored.broken = broken;
            self.etcd.version += 1;
            let version = self.etcd.version.to_string();
            stored.resource.meta_mut().resource_version = Some(version);
            let event = shown(owner, stored);
            self.events.push(event);
        }
    }

    /// Deletes as a person does; the admission policies want a confirmation where access is given.
    pub fn delete(&mut self, owner: &OwnerRef, confirmed: bool, now: Ms) -> bool {
        if !confirmed && self.guarded(owner) {
            return false;
        }
        self.edit(owner, |resource| {
            let meta = resource.meta_mut();
            meta.deletion_timestamp.get_or_insert_with(|| Time(time(now)));
        })
    }

    fn guarded(&self, owner: &OwnerRef) -> bool {
        match self.get(owner) {
            Some(Resource::Grant(grant)) => grant.may_give_access(),
            Some(Resource::Pool(pool)) => pool.status.as_ref().and_then(|status| status.living_grants).is_some_and(|living| living > 0),
            Some(Resource::Factory(factory)) => factory.status.as_ref().and_then(|status| status.living_grants).is_some_and(|living| living > 0),
            None => false,
        }
    }

    /// Does what the operator asks; gives the resource as it is then. `uid`: of the resource that the operator means.
    pub fn write(&mut self, owner: &OwnerRef, uid: &str, write: &Write) -> Option<Resource> {
        self.writes += 1;
        let mut next = self.get(owner)?.clone();
        match write {
            Write::AddFinalizer if next.meta().uid.as_deref() == Some(uid) && next.meta().deletion_timestamp.is_none() && !next.finalized() => {
                next.meta_mut().finalizers.get_or_insert_default().push(labels::FINALIZER.to_owned());
            }
            Write::RemoveFinalizer if next.meta().uid.as_deref() == Some(uid) => {
                next.meta_mut().finalizers.get_or_insert_default().retain(|name| name != labels::FINALIZER);
            }
            Write::Status(status) => next.set_status(status),
            _ => {}
        }
        self.store(owner, next);
        self.get(owner).cloned()
    }

    /// The etcd is set back to a snapshot.
    pub fn restore(&mut self, snapshot: &Etcd) {
        self.etcd = snapshot.clone();
        self.events.clear();
    }
}

fn shown(owner: &OwnerRef, stored: &Stored) -> HubEvent {
    if stored.broken {
        HubEvent::Undecodable(owner.clone(), stored.resource.meta().uid.clone().unwrap_or_default(), stored.resource.version())
    } else {
        HubEvent::Put(owner.clone(), stored.resource.clone())
    }
}

/// The transition rules of the schemas.
fn allowed(old: &Resource, new: &Resource) -> bool {
    match (old, new) {
        (Resource::Factory(old), Resource::Factory(new)) => {
            let stays = |name: &str| new.spec.sites.iter().any(|site| site.name == name);
            let rows = || old.status.iter().flat_map(|status| &status.sites);
            let held = |name: &str| rows().any(|row| row.name == name && (row.claimed || row.pools > 0 || row.grants > 0));
            old.spec.sites.iter().all(|site| stays(&site.name) || !held(&site.name))
                && old.spec.sites.iter().all(|site| matches!(site.stage, Stage::Proposed | Stage::Decommissioned) || stays(&site.name))
                && old.spec.sites.iter().all(|site| {
                    let rest = |site: &aifactory_api::factory::Site| site.slurm.as_ref().is_some_and(|slurm| slurm.rest.is_some());
                    let after = new.spec.sites.iter().find(|after| after.name == site.name);
                    let idle = matches!(site.stage, Stage::Proposed | Stage::Decommissioned) && !held(&site.name);
                    !rest(site) || after.is_none_or(rest) || idle || old.status.is_none()
                })
                && new.spec.sites.iter().all(|site| site.kubernetes.is_some() || site.slurm.is_some())
        }
        (Resource::Pool(old), Resource::Pool(new)) => {
            let stays = |name: &str| new.spec.sites.iter().any(|site| site.name == name);
            !new.spec.sites.is_empty() && old.spec.sites.iter().all(|site| site.state == PlacementState::Draining || stays(&site.name))
        }
        (Resource::Grant(_), Resource::Grant(new)) => new.spec.not_before.0 < new.spec.not_after.0 && !new.spec.pools.is_empty(),
        _ => false,
    }
}
