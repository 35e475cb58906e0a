//! Which parts of sites must have reported before a resource counts as giving no access any more.

use std::collections::BTreeSet;

use aifactory_api::{Kind, OwnerRef};

use crate::hub::cache::{Cache, factory_of_grant, factory_of_pool, pools_of_grant};
use crate::model::site_key::SiteKey;

/// The parts that may hold something of a resource, beside those that it names: `holders`, which have reported it, and every known part that may have
/// been sent it and is not in `synced`, the parts that have been synced since this process began.
pub fn may_hold(cache: &Cache, owner: &OwnerRef, holders: &BTreeSet<SiteKey>, synced: &BTreeSet<SiteKey>) -> BTreeSet<SiteKey> {
    let silent = cache.known.iter().map(|known| &known.key).filter(|key| !synced.contains(key));
    let mut parts = holders.clone();
    parts.extend(silent.filter(|key| related(cache, owner, key)).cloned());
    parts
}

/// Whether the part may ever have been sent an intent for the resource.
fn related(cache: &Cache, owner: &OwnerRef, key: &SiteKey) -> bool {
    match owner.kind {
        Kind::AIFactory => key.factory == *owner,
        Kind::GPUPool => match cache.pool(owner) {
            Some(pool) => factory_of_pool(owner, pool) == key.factory,
            // A pool that can not be read may belong to any factory beside it.
            None => key.factory.namespace == owner.namespace,
        },
        Kind::AccessGrant => {
            key.factory.namespace == owner.namespace || cache.is_consumed_from(&key.factory, &owner.namespace) || names(cache, owner, key)
        }
    }
}

/// Whether the grant names a pool of the part's factory, or its status names the site.
fn names(cache: &Cache, owner: &OwnerRef, key: &SiteKey) -> bool {
    let Some(grant) = cache.grant(owner) else { return false };
    let of_factory = |pool: &OwnerRef| match cache.pool(pool) {
        Some(spec) => factory_of_pool(pool, spec) == key.factory,
        // A pool that is not there may have belonged to any factory beside it.
        None => pool.namespace == key.factory.namespace,
    };
    let shown = key.display(&factory_of_grant(owner, grant));
    pools_of_grant(owner, grant).iter().any(of_factory)
        || grant.status.as_ref().is_some_and(|status| status.sites.iter().any(|row| row.name == shown))
}
