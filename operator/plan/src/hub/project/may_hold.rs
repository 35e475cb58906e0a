//! Which parts of sites must have reported before a resource counts as giving no access any more.

use std::collections::BTreeSet;

use aifactory_api::{Kind, OwnerRef};
use jiff::Timestamp;

use crate::hub::cache::{Cache, factory_of_grant, factory_of_pool, pools_of_grant};
use crate::hub::holders::Holders;
use crate::model::site_key::SiteKey;

/// The parts that may hold something of a resource, beside those that it names: those that have reported it, those that have not answered what they
/// were sent, and every known part that an earlier process may have sent it and that is not in `synced`, the parts that have been synced since this
/// process began, which was at `begun`.
pub fn may_hold(cache: &Cache, owner: &OwnerRef, holders: &Holders, synced: &BTreeSet<SiteKey>, begun: Timestamp) -> BTreeSet<SiteKey> {
    let silent = cache.known.iter().map(|known| &known.key).filter(|key| !synced.contains(key));
    let lost = lost_its_status(cache, owner, begun);
    let mut parts = holders.of(owner);
    // A part that is not known yet has not been written to.
    parts.extend(holders.unanswered(owner).filter(|key| cache.known.contains(key)).cloned());
    parts.extend(silent.filter(|key| lost || related(cache, owner, key)).cloned());
    parts
}

/// Whether a grant from before this process has no status, so that nothing tells which sites it had before its spec was changed.
pub(super) fn lost_its_status(cache: &Cache, owner: &OwnerRef, begun: Timestamp) -> bool {
    let Some(grant) = cache.grant(owner) else { return false };
    let told = grant.status.as_ref().is_some_and(|status| status.observed_generation.is_some());
    let created = grant.metadata.creation_timestamp.as_ref().map(|created| created.0);
    !told && created.is_none_or(|created| created < begun)
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
