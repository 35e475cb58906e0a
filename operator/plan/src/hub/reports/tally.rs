//! Sums over the pools and grants at a site. Each counts once, though both parts of a site report on it.

use std::collections::BTreeMap;

use aifactory_api::factory::GpuCount;

use crate::model::report::{Detail, PoolDetail, Report, SitePhase};
use crate::model::site_key::{Part, SiteKey};

/// Numbers of one site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteTally {
    pools: i64,
    grants: i64,
    capacity: i128,
    allocated: i128,
}

impl SiteTally {
    /// Pools that are there.
    pub fn pools(&self) -> i32 {
        i32::try_from(self.pools).unwrap_or(i32::MAX)
    }

    /// Grants that are bound or paused there.
    pub fn grants(&self) -> i32 {
        i32::try_from(self.grants).unwrap_or(i32::MAX)
    }

    /// GPUs of the pools that are there.
    pub fn gpus(&self) -> GpuCount {
        let clamped = |number: i128| i64::try_from(number).unwrap_or(i64::MAX);
        GpuCount { capacity: clamped(self.capacity), allocated: clamped(self.allocated) }
    }

    fn plus(self, other: Self, sign: i64) -> Self {
        Self {
            pools: self.pools + sign * other.pools,
            grants: self.grants + sign * other.grants,
            capacity: self.capacity + i128::from(sign) * other.capacity,
            allocated: self.allocated + i128::from(sign) * other.allocated,
        }
    }
}

/// Numbers by site.
#[derive(Clone, Debug, Default)]
pub struct Tallies(BTreeMap<SiteKey, SiteTally>);

impl Tallies {
    /// What is at a site.
    pub fn at(&self, key: &SiteKey) -> SiteTally {
        self.0.get(&site(key)).copied().unwrap_or_default()
    }

    /// Replaces the share of one resource.
    pub fn replace(&mut self, key: &SiteKey, before: SiteTally, after: SiteTally) {
        if before == after {
            return;
        }
        let site = site(key);
        let tally = self.at(&site).plus(before, -1).plus(after, 1);
        if tally == SiteTally::default() {
            self.0.remove(&site);
        } else {
            self.0.insert(site, tally);
        }
    }
}

/// The share of one resource in the numbers of a site, by the reports of its parts.
pub fn share(reports: Option<&BTreeMap<SiteKey, Report>>, key: &SiteKey) -> SiteTally {
    let of = |key: &SiteKey| reports.and_then(|reports| reports.get(key));
    let (kubernetes, slurm) = match key.part {
        Part::Kubernetes => (of(key), of(&key.other())),
        Part::Slurm => (of(&key.other()), of(key)),
    };
    let bound = |report: &Report| matches!(report.detail, Detail::Grant(_)) && matches!(report.phase, SitePhase::Bound | SitePhase::Paused);
    let grants = i64::from([kubernetes, slurm].into_iter().flatten().any(bound));
    let (kubernetes, slurm) = (kubernetes.and_then(pool), slurm.and_then(pool));
    let capacity = kubernetes.or(slurm).map_or(0, |detail| detail.gpus);
    let allocated = slurm.and_then(|detail| detail.allocated).or(kubernetes.and_then(|detail| detail.allocated)).unwrap_or_default();
    SiteTally { pools: i64::from(kubernetes.or(slurm).is_some()), grants, capacity: capacity.into(), allocated: allocated.into() }
}

fn pool(report: &Report) -> Option<&PoolDetail> {
    match &report.detail {
        Detail::Pool(detail) if report.phase != SitePhase::Gone => Some(detail),
        Detail::Pool(_) | Detail::Grant(_) | Detail::None => None,
    }
}

fn site(key: &SiteKey) -> SiteKey {
    SiteKey::new(key.factory.clone(), &key.site)
}
