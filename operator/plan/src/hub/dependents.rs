//! Which resources are reconciled because another one has changed.

use std::collections::BTreeSet;

use aifactory_api::{AccessGrant, Kind, OwnerRef};

use super::cache::{Cache, factory_of_grant, factory_of_pool, pools_of_grant};

/// Resources whose projection or status depends on a resource. Grants that share a cap or addresses with it are named by [`Cache::put_grant`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dependents {
    /// Those that are reconciled at once.
    pub now: BTreeSet<OwnerRef>,
    /// Those of which only figures change, which are reconciled with a delay.
    pub soon: BTreeSet<OwnerRef>,
}

/// The resources that depend on one as it is in the cache.
pub fn dependents(cache: &Cache, owner: &OwnerRef) -> Dependents {
    match owner.kind {
        Kind::AIFactory => Dependents { now: of_factory(cache, owner), soon: BTreeSet::new() },
        Kind::GPUPool => Dependents { now: of_pool(cache, owner), soon: BTreeSet::new() },
        Kind::AccessGrant => cache.grant(owner).map(|grant| of_grant(cache, owner, grant)).unwrap_or_default(),
    }
}

fn of_factory(cache: &Cache, owner: &OwnerRef) -> BTreeSet<OwnerRef> {
    let pools = cache.pools_of(owner).flat_map(|pool| cache.grants_of(pool).chain([pool]));
    pools.chain(cache.grants_by(owner)).cloned().collect()
}

fn of_pool(cache: &Cache, owner: &OwnerRef) -> BTreeSet<OwnerRef> {
    let factory = cache.pool(owner).map(|pool| factory_of_pool(owner, pool));
    cache.grants_of(owner).cloned().chain(factory).collect()
}

fn of_grant(cache: &Cache, owner: &OwnerRef, grant: &AccessGrant) -> Dependents {
    let mut dependents = Dependents::default();
    for pool_ref in pools_of_grant(owner, grant) {
        let pool = cache.pool(&pool_ref);
        let deleting = pool.is_some_and(|pool| pool.metadata.deletion_timestamp.is_some());
        dependents.soon.extend(pool.map(|pool| factory_of_pool(&pool_ref, pool)));
        dependents.add(pool_ref, deleting);
    }
    let factory = factory_of_grant(owner, grant);
    let deleting = cache.factory(&factory).is_some_and(|factory| factory.metadata.deletion_timestamp.is_some());
    dependents.add(factory, deleting);
    dependents
}

impl Dependents {
    /// A resource that is being deleted may have waited for this change only.
    fn add(&mut self, owner: OwnerRef, deleting: bool) {
        if deleting {
            self.now.insert(owner)
        } else {
            self.soon.insert(owner)
        };
    }
}
