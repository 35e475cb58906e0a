//! What is known of a grant's budgets from before this process began, and at sites that it does not name any more.

use std::collections::BTreeMap;

use aifactory_api::{AccessGrant, OwnerRef};

use crate::hub::cache::{Cache, factory_of_grant, pools_of_grant};
use crate::hub::ledger::{Former, Ledger, Recalled};
use crate::model::budget;
use crate::model::intent::{Budget, GrantPoolIntent};
use crate::model::site_key::{Part, SiteKey};

/// The pools that a Kubernetes site gives nothing of any more, and of which it still reports what was used. `kept`: the site keeps what it has, so a
/// pool without a remembered budget gets an unlimited one, which closes nothing.
pub fn counted(cache: &Cache, owner: &OwnerRef, grant: &AccessGrant, key: &SiteKey, ledger: Option<&Ledger>, kept: bool) -> Vec<GrantPoolIntent> {
    let named = grant.spec.pools.iter().zip(pools_of_grant(owner, grant)).filter(|_| key.part == Part::Kubernetes);
    named
        .filter_map(|(entry, pool)| {
            let pool = cache.pool(&pool).filter(|pool| pool.spec.slurm.is_none())?;
            let assigned = ledger.map(|ledger| ledger.assigned(&entry.name, key)).unwrap_or_default();
            let (device_minutes, serial) = if kept && assigned == (0, 0) { (i64::MAX, 0) } else { assigned };
            Some(GrantPoolIntent {
                pool: entry.pool_ref.name.clone(),
                resource: pool.spec.accelerator.resource_name.clone(),
                max_gpus: 0,
                per_gpu: pool.spec.per_gpu,
                open: false,
                entry: entry.name.clone(),
                budget: Budget { device_minutes, accounting: pool.spec.accounting, serial },
                partition: None,
            })
        })
        .collect()
}

/// The limits that the sites of a pool's factory had in force by the last status, and what was used there.
pub fn recalled(
    cache: &Cache,
    grant: &AccessGrant,
    owner: &OwnerRef,
    (factory, part): (&OwnerRef, Part),
    entry: &str,
    wanted: &BTreeMap<SiteKey, i64>,
) -> BTreeMap<SiteKey, Recalled> {
    let Some(status) = &grant.status else { return BTreeMap::new() };
    let generation = grant.metadata.generation.unwrap_or_default();
    let same = status.observed_generation == Some(generation);
    let sites = cache.factory(factory).map(|factory| factory.spec.sites.as_slice()).unwrap_or_default();
    sites
        .iter()
        .map(|site| SiteKey { part, ..SiteKey::new(factory.clone(), &site.name) })
        .filter_map(|key| {
            let name = key.display(&factory_of_grant(owner, grant));
            let row = status.sites.iter().find(|row| row.name == name)?;
            let pods = part == Part::Kubernetes;
            let budget = row.budgets.iter().find(|budget| budget.name == entry && budget::part_of(budget) == part);
            if same && budget.is_none() && !wanted.contains_key(&key) {
                // The row is about another entry.
                return None;
            }
            let former = match budget.and_then(|budget| budget.limit) {
                Some(limit) if same => Former::Limit(limit),
                None if same && generation <= 1 && (budget.is_none() || !pods) => Former::Part,
                // A lower limit may end Pods, so none is assigned for lack of knowledge.
                limit if pods => Former::Unsure(limit.max(wanted.get(&key).copied())),
                limit => Former::Unsure(limit),
            };
            Some((key, Recalled { former, used: budget.and_then(|budget| budget.used).unwrap_or(0) }))
        })
        .collect()
}
