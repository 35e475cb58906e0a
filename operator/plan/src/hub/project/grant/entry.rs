//! One entry of a grant with what it names, and how it is split over the pool's sites.

use std::collections::BTreeMap;

use aifactory_api::factory::AIFactory;
use aifactory_api::grant::{GrantPool, GrantPoolSite};
use aifactory_api::pool::{GPUPool, PlacementState, PoolSite};
use aifactory_api::{OwnerRef, Reason};

use super::{Scope, refusal};
use crate::hub::cache::factory_of_pool;
use crate::hub::project::share;
use crate::model::budget;
use crate::model::id::PartitionName;
use crate::model::intent::{Budget, GrantPoolIntent, Refusal};
use crate::model::site_key::{Part, SiteKey};

/// An entry with its pool and factory.
pub struct Entry<'a> {
    pub entry: &'a GrantPool,
    pub pool_ref: OwnerRef,
    pub pool: &'a GPUPool,
    pub factory_ref: OwnerRef,
    pub factory: &'a AIFactory,
}

impl<'a> Entry<'a> {
    /// Looks up an entry's pool and factory; fails with what is missing.
    pub fn resolve(scope: &Scope<'a>, entry: &'a GrantPool, pool_ref: OwnerRef) -> Result<Self, Refusal> {
        let Some(pool) = scope.cache.pool(&pool_ref) else {
            return Err(refusal(
                Reason::PoolNotFound,
                format!("pools[{}].poolRef: there is no GPUPool {} in namespace {}", entry.name, pool_ref.name, pool_ref.namespace),
            ));
        };
        let factory_ref = factory_of_pool(&pool_ref, pool);
        let Some(factory) = scope.cache.factory(&factory_ref) else {
            return Err(refusal(
                Reason::FactoryNotFound,
                format!("GPUPool {}: there is no AIFactory {} in namespace {}", pool_ref.name, factory_ref.name, factory_ref.namespace),
            ));
        };
        Ok(Self { entry, pool_ref, pool, factory_ref, factory })
    }

    /// The part of a site that the pool uses for grants.
    pub fn part(&self) -> Part {
        if self.pool.spec.slurm.is_some() { Part::Slurm } else { Part::Kubernetes }
    }

    /// That part at one of the pool's sites.
    pub fn key(&self, placed: &PoolSite) -> SiteKey {
        SiteKey { part: self.part(), ..SiteKey::new(self.factory_ref.clone(), &placed.name) }
    }

    /// The sites that the entry names and the pool is not at.
    pub fn astray(&self) -> Vec<Refusal> {
        let there = |name: &str| self.pool.spec.sites.iter().any(|site| site.name == name);
        let astray = self.entry.sites.iter().filter(|chosen| !there(&chosen.name));
        astray
            .map(|chosen| {
                let message = format!("pools[{}].sites: GPUPool {} is not at site {:?}", self.entry.name, self.pool_ref.name, chosen.name);
                refusal(Reason::SiteNotFound, message)
            })
            .collect()
    }

    /// The pool's sites that the entry uses.
    pub fn chosen(&self) -> Vec<&'a PoolSite> {
        let sites = &self.entry.sites;
        self.pool.spec.sites.iter().filter(|site| sites.is_empty() || sites.iter().any(|chosen| chosen.name == site.name)).collect()
    }

    /// Device-minutes of the whole entry.
    pub fn total(&self) -> i64 {
        budget::device_minutes(self.entry.gpu_hours, self.pool.spec.accounting)
    }

    /// GPUs at the same time, by site.
    pub fn gpus(&self) -> BTreeMap<String, i64> {
        self.split(self.entry.max_gpus, |own| own.max_gpus)
    }

    /// Device-minutes, by site.
    pub fn minutes(&self) -> BTreeMap<String, i64> {
        self.split(self.total(), |own| own.gpu_hours.map(|hours| budget::device_minutes(hours, self.pool.spec.accounting)))
    }

    fn split(&self, total: i64, own: impl Fn(&GrantPoolSite) -> Option<i64>) -> BTreeMap<String, i64> {
        let weights = self.chosen().into_iter().map(|site| {
            let own = self.entry.sites.iter().find(|chosen| chosen.name == site.name).and_then(&own);
            (site.name.clone(), (own, site.count.map_or(1, i64::from)))
        });
        share::split(total, &weights.collect())
    }

    /// The entry's part of the intent for one site.
    pub fn pool_intent(&self, placed: &PoolSite, max_gpus: i64, (device_minutes, serial): (i64, u64)) -> GrantPoolIntent {
        let spec = &self.pool.spec;
        GrantPoolIntent {
            pool: self.pool_ref.name.clone(),
            resource: spec.accelerator.resource_name.clone(),
            max_gpus,
            per_gpu: spec.per_gpu,
            open: placed.state == PlacementState::Active,
            entry: self.entry.name.clone(),
            budget: Budget { device_minutes, accounting: spec.accounting, serial },
            partition: spec.slurm.as_ref().map(|slurm| PartitionName::new(placed.slurm.as_ref().map_or(&slurm.partition, |own| &own.partition))),
        }
    }
}
