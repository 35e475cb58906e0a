//! What the pools of a factory have at each of its sites.

use std::collections::BTreeMap;

use aifactory_api::pool::GPUPool;

use super::counted::Counted;
use crate::engine::slinky::GresType;

/// Hardware of pools, by name of the site.
#[derive(Clone, Debug, Default)]
pub struct Hardware(BTreeMap<String, SiteHardware>);

/// Hardware of pools at one site.
#[derive(Clone, Debug, Default)]
pub struct SiteHardware {
    accelerators: Counted<String>,
    gres_types: Counted<String>,
}

impl Hardware {
    /// Adds what a pool has.
    pub fn add(&mut self, pool: &GPUPool) {
        for placed in &pool.spec.sites {
            let site = self.0.entry(placed.name.clone()).or_default();
            site.accelerators.add(pool.spec.accelerator.resource_name.clone());
            if let Some(gres_type) = gres_type(pool) {
                site.gres_types.add(gres_type);
            }
        }
    }

    /// Takes out what a pool has.
    pub fn remove(&mut self, pool: &GPUPool) {
        for placed in &pool.spec.sites {
            let Some(site) = self.0.get_mut(&placed.name) else { continue };
            site.accelerators.remove(&pool.spec.accelerator.resource_name);
            if let Some(gres_type) = gres_type(pool) {
                site.gres_types.remove(&gres_type);
            }
            if site.accelerators.is_empty() {
                self.0.remove(&placed.name);
            }
        }
    }

    /// What is at a site.
    pub fn at(&self, site: &str) -> Option<&SiteHardware> {
        self.0.get(site)
    }

    /// Whether no pool has anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl SiteHardware {
    /// Resource names, sorted.
    pub fn accelerators(&self) -> Vec<String> {
        self.accelerators.iter().cloned().collect()
    }

    /// Types of GPU in Slurm partitions, sorted.
    pub fn gres_types(&self) -> Vec<String> {
        self.gres_types.iter().cloned().collect()
    }
}

fn gres_type(pool: &GPUPool) -> Option<String> {
    pool.spec.slurm.as_ref().and_then(|_| Some(GresType::of_model(&pool.spec.accelerator.model).ok()?.to_string()))
}
