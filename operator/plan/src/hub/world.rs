//! The hub's resources with the indexes that projection needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::factory::Site;
use aifactory_api::{AIFactory, AccessGrant, GPUPool, Kind, OwnerRef};

use super::known_sites::KnownSites;
use crate::model::site_key::SiteKey;

/// All resources of the hub, as last seen.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The parts of sites that may hold something of this hub.
    pub known: KnownSites,
    factories: BTreeMap<OwnerRef, Arc<AIFactory>>,
    pools: BTreeMap<OwnerRef, Arc<GPUPool>>,
    grants: BTreeMap<OwnerRef, Arc<AccessGrant>>,
    pools_of_factory: BTreeMap<OwnerRef, BTreeSet<OwnerRef>>,
    grants_of_pool: BTreeMap<OwnerRef, BTreeSet<OwnerRef>>,
    grants_of_factory: BTreeMap<OwnerRef, BTreeSet<OwnerRef>>,
    cross_site: BTreeSet<OwnerRef>,
    undecodable: BTreeSet<OwnerRef>,
}

/// The factory that a pool belongs to.
pub fn factory_of_pool(pool: &OwnerRef, spec: &GPUPool) -> OwnerRef {
    OwnerRef::new(Kind::AIFactory, &pool.namespace, &spec.spec.factory_ref.name)
}

/// The pools that a grant names, in its order.
pub fn pools_of_grant(grant: &OwnerRef, spec: &AccessGrant) -> Vec<OwnerRef> {
    spec.spec
        .pools
        .iter()
        .map(|entry| {
            let namespace = entry.pool_ref.namespace.as_deref().unwrap_or(&grant.namespace);
            OwnerRef::new(Kind::GPUPool, namespace, &entry.pool_ref.name)
        })
        .collect()
}

impl World {
    /// Says that a resource is there and can not be read. What was known of it before stays.
    pub fn put_undecodable(&mut self, owner: OwnerRef) {
        self.undecodable.insert(owner);
    }

    /// Whether the resource is there and can not be read.
    pub fn is_undecodable(&self, owner: &OwnerRef) -> bool {
        self.undecodable.contains(owner)
    }

    /// Stores a factory.
    pub fn put_factory(&mut self, owner: OwnerRef, factory: Arc<AIFactory>) {
        self.undecodable.remove(&owner);
        self.factories.insert(owner, factory);
    }

    /// Stores a pool.
    pub fn put_pool(&mut self, owner: OwnerRef, pool: Arc<GPUPool>) {
        self.remove(&owner);
        self.pools_of_factory.entry(factory_of_pool(&owner, &pool)).or_default().insert(owner.clone());
        self.pools.insert(owner, pool);
    }

    /// Stores a grant.
    pub fn put_grant(&mut self, owner: OwnerRef, grant: Arc<AccessGrant>) {
        self.remove(&owner);
        for pool in pools_of_grant(&owner, &grant) {
            self.grants_of_pool.entry(pool).or_default().insert(owner.clone());
        }
        let factory = OwnerRef::new(Kind::AIFactory, &owner.namespace, &grant.spec.factory_ref.name);
        self.grants_of_factory.entry(factory).or_default().insert(owner.clone());
        if grant.spec.network.cross_site.is_some() {
            self.cross_site.insert(owner.clone());
        }
        self.grants.insert(owner, grant);
    }

    /// Forgets a resource.
    pub fn remove(&mut self, owner: &OwnerRef) {
        self.undecodable.remove(owner);
        match owner.kind {
            Kind::AIFactory => {
                self.factories.remove(owner);
            }
            Kind::GPUPool => {
                if let Some(pool) = self.pools.remove(owner) {
                    take(&mut self.pools_of_factory, &factory_of_pool(owner, &pool), owner);
                }
            }
            Kind::AccessGrant => {
                if let Some(grant) = self.grants.remove(owner) {
                    for pool in pools_of_grant(owner, &grant) {
                        take(&mut self.grants_of_pool, &pool, owner);
                    }
                    let factory = OwnerRef::new(Kind::AIFactory, &owner.namespace, &grant.spec.factory_ref.name);
                    take(&mut self.grants_of_factory, &factory, owner);
                    self.cross_site.remove(owner);
                }
            }
        }
    }

    /// A factory.
    pub fn factory(&self, owner: &OwnerRef) -> Option<&Arc<AIFactory>> {
        self.factories.get(owner)
    }

    /// A pool.
    pub fn pool(&self, owner: &OwnerRef) -> Option<&Arc<GPUPool>> {
        self.pools.get(owner)
    }

    /// A grant.
    pub fn grant(&self, owner: &OwnerRef) -> Option<&Arc<AccessGrant>> {
        self.grants.get(owner)
    }

    /// Whether the resource exists.
    pub fn contains(&self, owner: &OwnerRef) -> bool {
        match owner.kind {
            Kind::AIFactory => self.factories.contains_key(owner),
            Kind::GPUPool => self.pools.contains_key(owner),
            Kind::AccessGrant => self.grants.contains_key(owner),
        }
    }

    /// All factories.
    pub fn factories(&self) -> impl Iterator<Item = (&OwnerRef, &Arc<AIFactory>)> {
        self.factories.iter()
    }

    /// All pools.
    pub fn pools(&self) -> impl Iterator<Item = (&OwnerRef, &Arc<GPUPool>)> {
        self.pools.iter()
    }

    /// All grants.
    pub fn grants(&self) -> impl Iterator<Item = (&OwnerRef, &Arc<AccessGrant>)> {
        self.grants.iter()
    }

    /// The pools of a factory.
    pub fn pools_of(&self, factory: &OwnerRef) -> impl Iterator<Item = &OwnerRef> {
        self.pools_of_factory.get(factory).into_iter().flatten()
    }

    /// The grants that name a pool.
    pub fn grants_of(&self, pool: &OwnerRef) -> impl Iterator<Item = &OwnerRef> {
        self.grants_of_pool.get(pool).into_iter().flatten()
    }

    /// The grants that name a pool and may still give access somewhere.
    pub fn living_grants_of(&self, pool: &OwnerRef) -> BTreeSet<&OwnerRef> {
        self.grants_of(pool).filter(|grant| self.may_give_access(grant)).collect()
    }

    /// The grants that name a factory or one of its pools and may still give access somewhere.
    pub fn living_grants_at(&self, factory: &OwnerRef) -> BTreeSet<&OwnerRef> {
        let of_pools = self.pools_of(factory).flat_map(|pool| self.grants_of(pool));
        of_pools.chain(self.grants_by(factory)).filter(|grant| self.may_give_access(grant)).collect()
    }

    fn may_give_access(&self, grant: &OwnerRef) -> bool {
        self.grant(grant).is_some_and(|grant| grant.may_give_access())
    }

    /// The grants that a factory grants.
    pub fn grants_by(&self, factory: &OwnerRef) -> impl Iterator<Item = &OwnerRef> {
        self.grants_of_factory.get(factory).into_iter().flatten()
    }

    /// The grants that have addresses of their own at several sites.
    pub fn with_cross_site(&self) -> impl Iterator<Item = (&OwnerRef, &Arc<AccessGrant>)> {
        self.cross_site.iter().filter_map(|owner| self.grants.get_key_value(owner))
    }

    /// A site of a factory.
    pub fn site(&self, key: &SiteKey) -> Option<&Site> {
        self.factories.get(&key.factory)?.spec.sites.iter().find(|site| site.name == key.site)
    }
}

fn take(index: &mut BTreeMap<OwnerRef, BTreeSet<OwnerRef>>, key: &OwnerRef, value: &OwnerRef) {
    if let Some(set) = index.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            index.remove(key);
        }
    }
}
