//! What a site must know of its factory.

use std::collections::BTreeSet;

use aifactory_api::factory::Stage;
use aifactory_api::{AIFactory, labels};

use crate::engine::slinky::GresType;
use crate::hub::world::World;
use crate::model::intent::{SiteIntent, SiteWord, VERSION};
use crate::model::site_key::{Part, SiteKey};

/// The intent for a part of a site; `None` where the factory, the site or the part is not there. `word` is what the site's Kubernetes says to its
/// Slurm, and empty for a Slurm alone, whose worker reads it beside the credential.
pub fn site(world: &World, hub: &str, key: &SiteKey, word: Option<SiteWord>) -> Option<SiteIntent> {
    let factory = world.factory(&key.factory)?;
    let site = world.site(key)?;
    let there = match key.part {
        Part::Kubernetes => site.kubernetes.is_some(),
        Part::Slurm => site.slurm.as_ref().is_some_and(|slurm| slurm.rest.is_some()),
    };
    if !there {
        return None;
    }
    let accelerators: BTreeSet<String> = world
        .pools_of(&key.factory)
        .filter_map(|pool| world.pool(pool))
        .filter(|pool| pool.spec.sites.iter().any(|placed| placed.name == key.site))
        .map(|pool| pool.spec.accelerator.resource_name.clone())
        .collect();
    let gres_types: BTreeSet<String> = world
        .pools_of(&key.factory)
        .filter_map(|pool| world.pool(pool))
        .filter(|pool| pool.spec.slurm.is_some() && pool.spec.sites.iter().any(|placed| placed.name == key.site))
        .filter_map(|pool| Some(GresType::of_model(&pool.spec.accelerator.model).ok()?.to_string()))
        .collect();
    let release = factory.metadata.deletion_timestamp.is_some() || site.stage == Stage::Decommissioned;
    let status = factory.status.as_ref();
    let known = status.and_then(|status| status.sites.iter().find(|known| known.name == key.site));
    Some(SiteIntent {
        version: VERSION,
        hub: hub.to_owned(),
        factory: key.factory.clone(),
        factory_uid: factory.metadata.uid.clone().unwrap_or_default(),
        site: key.site.clone(),
        expected_uid: match key.part {
            Part::Kubernetes => known.and_then(|known| known.cluster_uid.clone()),
            Part::Slurm => world.known.get(key).and_then(|known| known.identity.clone()),
        },
        accepted_uid: accepted_identity(factory, key),
        // At a site that is let go nothing new is written.
        recorded: world.known.contains(key) || release,
        left: false,
        release,
        protected: protected(factory),
        dns: site.network.dns.clone(),
        services: site.network.services.clone(),
        access: site.access.clone(),
        slurm: site.slurm.clone(),
        policy: factory.spec.policy.clone(),
        accelerators: accelerators.into_iter().collect(),
        gres_types: gres_types.into_iter().collect(),
        word: word.filter(|_| key.part == Part::Slurm),
    })
}

/// Ranges of the whole factory that are no tenant's.
pub(super) fn protected(factory: &AIFactory) -> Vec<String> {
    let mut protected = BTreeSet::new();
    for site in &factory.spec.sites {
        let network = &site.network;
        for ranges in [&network.pod_cidrs, &network.service_cidrs, &network.node_cidrs, &network.management_cidrs] {
            protected.extend(ranges.iter().cloned());
        }
    }
    protected.into_iter().collect()
}

/// The annotation names the Kubernetes of a site by the site's name, and its Slurm by the name with `/slurm`.
fn accepted_identity(factory: &AIFactory, key: &SiteKey) -> Option<String> {
    let text = factory.metadata.annotations.as_ref()?.get(labels::ACCEPT_IDENTITY)?;
    let wanted = |name: &str| match key.part {
        Part::Kubernetes => name == key.site,
        Part::Slurm => name.strip_suffix("/slurm") == Some(&key.site),
    };
    text.split(',').filter_map(|pair| pair.trim().split_once('=')).find(|(name, _)| wanted(name)).map(|(_, uid)| uid.trim().to_owned())
}

/// The sites that a person has given up.
pub fn abandoned(factory: &AIFactory) -> BTreeSet<String> {
    let text = factory.metadata.annotations.as_ref().and_then(|annotations| annotations.get(labels::ABANDON_SITE));
    text.map(|text| text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()).unwrap_or_default()
}
