//! What grants have used of pools, as sites report it.

use std::collections::BTreeMap;

use aifactory_api::{AccessGrant, OwnerRef};

use crate::hub::cache::pools_of_grant;
use crate::model::report::{Detail, Report};
use crate::model::site_key::SiteKey;

/// Device-seconds by pool and part.
#[derive(Clone, Debug, Default)]
pub struct Used {
    by_pool: BTreeMap<OwnerRef, BTreeMap<SiteKey, Sum>>,
    of_grants: BTreeMap<OwnerRef, Vec<(OwnerRef, SiteKey, i64)>>,
}

/// How many figures there are, and their sum.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    figures: usize,
    seconds: i128,
}

impl Used {
    /// Replaces what each part reports that a grant has used.
    pub fn set<'a>(&mut self, owner: &OwnerRef, grant: &AccessGrant, reports: impl Iterator<Item = (&'a SiteKey, &'a Report)>) {
        let pools = pools_of_grant(owner, grant);
        let mut figures = Vec::new();
        for (key, report) in reports {
            let Detail::Grant(detail) = &report.detail else { continue };
            for (entry, pool) in grant.spec.pools.iter().zip(&pools) {
                figures.extend(detail.usage.get(&entry.name).map(|usage| (pool.clone(), key.clone(), usage.used)));
            }
        }
        if self.of_grants.get(owner).map_or(&[][..], Vec::as_slice) == figures {
            return;
        }
        self.forget(owner);
        for (pool, key, seconds) in &figures {
            let sum = self.by_pool.entry(pool.clone()).or_default().entry(key.clone()).or_default();
            sum.figures += 1;
            sum.seconds += i128::from(*seconds);
        }
        self.of_grants.insert(owner.clone(), figures);
    }

    /// Removes all figures of a grant.
    pub fn forget(&mut self, owner: &OwnerRef) {
        for (pool, key, seconds) in self.of_grants.remove(owner).into_iter().flatten() {
            let Some(parts) = self.by_pool.get_mut(&pool) else { continue };
            if let Some(sum) = parts.get_mut(&key) {
                sum.figures = sum.figures.saturating_sub(1);
                sum.seconds -= i128::from(seconds);
                if sum.figures == 0 {
                    parts.remove(&key);
                }
            }
            if parts.is_empty() {
                self.by_pool.remove(&pool);
            }
        }
    }

    /// What was used of a pool, by part.
    pub fn by_part(&self, pool: &OwnerRef) -> impl Iterator<Item = (&SiteKey, i64)> {
        let parts = self.by_pool.get(pool).into_iter().flatten();
        parts.map(|(key, sum)| (key, i64::try_from(sum.seconds).unwrap_or(i64::MAX)))
    }
}
