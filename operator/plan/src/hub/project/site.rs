//! The intents for sites themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::factory::{Dns, Site, SiteAccess, Stage};
use aifactory_api::{AIFactory, labels};

use crate::hub::cache::{Cache, SiteHardware};
use crate::hub::known_sites::KnownSites;
use crate::model::id::HubId;
use crate::model::intent::{SiteConfig, SiteIntent, VERSION};
use crate::model::site_key::{Part, SiteKey};

/// The intent for a part of a site: as its factory names it, or as the hub remembers it; `None` where neither does. `config` is the configuration
/// from the site's Kubernetes for its Slurm; it is empty for a Slurm alone, whose controller reads its own beside the credential.
pub fn site(cache: &Cache, hub: &HubId, key: &SiteKey, config: Option<SiteConfig>) -> Option<SiteIntent> {
    let factory = cache.factory(&key.factory);
    let named = factory.and_then(|factory| Some((factory, factory.spec.sites.iter().find(|site| site.name == key.site && has(site, key.part))?)));
    match named {
        Some((factory, site)) => Some(as_named(cache, hub, key, (factory, site), config)),
        None => as_remembered(cache, hub, key, factory.map(Arc::as_ref), config),
    }
}

/// The configuration that the intent for a part carries: for a site's Slurm, what the site keeps on its Kubernetes, as far as it was read. `configs` holds
/// that by the Kubernetes.
pub fn site_config(cache: &Cache, known: &KnownSites, configs: &BTreeMap<SiteKey, SiteConfig>, key: &SiteKey) -> Option<SiteConfig> {
    let kubernetes = cache.site(key).map_or_else(|| known.contains(&key.other()), |site| site.kubernetes.is_some());
    match key.part {
        Part::Kubernetes => None,
        Part::Slurm if !kubernetes => Some(SiteConfig::default()),
        Part::Slurm => configs.get(&key.other()).cloned(),
    }
}

/// Whether a site names the part.
pub(super) fn has(site: &Site, part: Part) -> bool {
    match part {
        Part::Kubernetes => site.kubernetes.is_some(),
        Part::Slurm => site.slurm.as_ref().is_some_and(|slurm| slurm.rest.is_some()),
    }
}

fn as_named(cache: &Cache, hub: &HubId, key: &SiteKey, (factory, site): (&AIFactory, &Site), config: Option<SiteConfig>) -> SiteIntent {
    let row = factory.status.as_ref().and_then(|status| status.sites.iter().find(|row| row.name == key.site));
    let in_status = row.and_then(|row| row.cluster_uid.clone()).filter(|_| key.part == Part::Kubernetes);
    let release = factory.metadata.deletion_timestamp.is_some() || site.stage == Stage::Decommissioned;
    let hardware = cache.hardware(key);
    SiteIntent {
        version: VERSION,
        hub: hub.clone(),
        factory: key.factory.clone(),
        factory_uid: factory.metadata.uid.clone().unwrap_or_default(),
        site: key.site.clone(),
        expected_uid: cache.known.get(key).and_then(|known| known.identity.clone()).or(in_status),
        accepted_uid: accepted_identity(factory, key),
        // At a site that is being released nothing new is written, so it need not be recorded.
        recorded: cache.known.contains(key) || release,
        left: false,
        release,
        protected: protected(factory),
        dns: site.network.dns.clone(),
        services: site.network.services.clone(),
        access: site.access.clone(),
        slurm: site.slurm.clone(),
        policy: factory.spec.policy.clone(),
        accelerators: hardware.map(SiteHardware::accelerators).unwrap_or_default(),
        gres_types: hardware.map(SiteHardware::gres_types).unwrap_or_default(),
        config: config.filter(|_| key.part == Part::Slurm),
    }
}

/// A part that its factory does not name, or of which the factory can not be read: it is contacted as before, so that access can be removed there,
/// and released only where the factory can be read and does not name it.
fn as_remembered(cache: &Cache, hub: &HubId, key: &SiteKey, factory: Option<&AIFactory>, config: Option<SiteConfig>) -> Option<SiteIntent> {
    let known = cache.known.get(key)?;
    let hardware = cache.hardware(key);
    // Where the site has a Kubernetes too, the map of Slurm users is there; until that is read, it is not known.
    let has_kubernetes = cache.known.contains(&key.other()) || cache.site(key).is_some_and(|site| site.kubernetes.is_some());
    let config = if has_kubernetes { config } else { Some(config.unwrap_or_default()) };
    Some(SiteIntent {
        version: VERSION,
        hub: hub.clone(),
        factory: key.factory.clone(),
        factory_uid: factory.and_then(|factory| factory.metadata.uid.clone()).unwrap_or_default(),
        site: key.site.clone(),
        expected_uid: known.identity.clone(),
        accepted_uid: factory.and_then(|factory| accepted_identity(factory, key)),
        recorded: true,
        left: true,
        release: !cache.is_undecodable(&key.factory),
        protected: factory.map(protected).unwrap_or_default(),
        dns: Dns::default(),
        services: Vec::new(),
        access: SiteAccess::default(),
        slurm: known.slurm.clone(),
        policy: factory.map(|factory| factory.spec.policy.clone()).unwrap_or_default(),
        accelerators: hardware.map(SiteHardware::accelerators).unwrap_or_default(),
        gres_types: hardware.map(SiteHardware::gres_types).unwrap_or_default(),
        config: config.filter(|_| key.part == Part::Slurm),
    })
}

/// Ranges of the whole factory that tenants must not reach.
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

/// The sites that a person has abandoned by annotation.
pub fn abandoned(factory: &AIFactory) -> BTreeSet<String> {
    let text = factory.metadata.annotations.as_ref().and_then(|annotations| annotations.get(labels::ABANDON_SITE));
    text.map(|text| text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()).unwrap_or_default()
}
