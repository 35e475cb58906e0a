//! A pool at each of its sites.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::factory::Site;
use aifactory_api::pool::{GPUPool, PlacementState, PoolSite, Source};
use aifactory_api::{OwnerRef, Reason};

use super::site::has;
use super::wrap::wrap;
use crate::hub::cache::{Cache, factory_of_pool};
use crate::model::duration;
use crate::model::id::PartitionName;
use crate::model::intent::{Body, Intent, NodeSource, PoolEngine, PoolIntent, Presence, Rank, Refusal};
use crate::model::site_key::{Part, SiteKey};

/// A pool's intents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolProjection {
    /// Intents, by site.
    pub sites: BTreeMap<SiteKey, Intent>,
    /// Why the pool can not be placed, or not everywhere.
    pub problems: Vec<Refusal>,
}

/// Projects a pool. `holders` are sites that hold something of it, whether or not it names them.
pub fn pool(cache: &Cache, owner: &OwnerRef, holders: &BTreeSet<SiteKey>) -> PoolProjection {
    let mut projection = PoolProjection::default();
    let Some(pool) = cache.pool(owner) else { return projection };
    let factory_ref = factory_of_pool(owner, pool);
    let deleting = pool.metadata.deletion_timestamp.is_some();
    // A pool leaves its sites only after its grants have.
    let absent = deleting && cache.grants_of(owner).next().is_none();
    let mut keys = holders.clone();
    keys.extend(placements(cache, pool, &factory_ref, &mut projection.problems));
    // What the pool has at a part that its factory does not name any more stays as it is.
    let left = cache.known.iter().map(|known| &known.key).filter(|key| key.factory == factory_ref && named(cache, key).is_none());
    keys.extend(left.filter(|key| could_use(pool, key.part) && pool.spec.sites.iter().any(|placed| placed.name == key.site)).cloned());
    for key in keys {
        if let Some(body) = body(cache, pool, (&factory_ref, &key), absent) {
            projection.sites.insert(key, wrap(owner, &pool.metadata, Body::Pool(body)));
        }
    }
    projection
}

/// The parts of sites that a pool's placements use; adds what is wrong with a placement to `problems`.
fn placements(cache: &Cache, pool: &GPUPool, factory_ref: &OwnerRef, problems: &mut Vec<Refusal>) -> BTreeSet<SiteKey> {
    let known = cache.factory(factory_ref).is_some();
    if !known {
        problems.push(Refusal {
            reason: Reason::FactoryNotFound,
            message: format!("spec.factoryRef: there is no AIFactory {} in namespace {}", factory_ref.name, factory_ref.namespace),
        });
    }
    let mut keys = BTreeSet::new();
    for placed in &pool.spec.sites {
        let key = SiteKey::new(factory_ref.clone(), &placed.name);
        if let Some(site) = cache.site(&key) {
            let parts = parts(pool, site);
            if parts.is_empty() {
                problems.push(lacking(pool, site));
            }
            if parts.contains(&Part::Kubernetes) && nodes(pool, Some(placed)).is_none() {
                problems.push(Refusal {
                    reason: Reason::InvalidSpec,
                    message: format!(
                        "nodes: site {} runs Slurm through Slinky, so the pool must say which nodes its slurmd run on; example: `nodes: {{adopt: {{selector: \
                         {{matchLabels: {{nvidia.com/gpu.product: NVIDIA-H200}}}}}}}}`",
                        placed.name
                    ),
                });
            }
            keys.extend(parts.into_iter().map(|part| SiteKey { part, ..key.clone() }));
        } else if known {
            problems.push(Refusal {
                reason: Reason::SiteNotFound,
                message: format!("spec.sites: AIFactory {} has no site {:?}", factory_ref.name, placed.name),
            });
        }
    }
    keys
}

/// The site of a part, where its factory names the part.
fn named<'a>(cache: &'a Cache, key: &SiteKey) -> Option<&'a Site> {
    cache.site(key).filter(|site| has(site, key.part))
}

/// Whether a pool of this kind may be at such a part.
fn could_use(pool: &GPUPool, part: Part) -> bool {
    pool.spec.slurm.is_some() || part == Part::Kubernetes
}

/// The parts of a site that a pool uses.
fn parts(pool: &GPUPool, site: &Site) -> Vec<Part> {
    let slurm = site.slurm.as_ref();
    let (kubernetes, rest) = match &pool.spec.slurm {
        None => (site.kubernetes.is_some(), false),
        Some(_) => (site.kubernetes.is_some() && slurm.is_some_and(|slurm| slurm.slinky.is_some()), slurm.is_some_and(|slurm| slurm.rest.is_some())),
    };
    kubernetes.then_some(Part::Kubernetes).into_iter().chain(rest.then_some(Part::Slurm)).collect()
}

fn lacking(pool: &GPUPool, site: &Site) -> Refusal {
    let message = match &pool.spec.slurm {
        Some(_) => format!(
            "site {} declares neither slurm.rest, through which a partition that exists is used, nor slurm.slinky, through which one is made; a Slurm \
             pool needs one of them",
            site.name
        ),
        None => format!("site {} has no Kubernetes, which a pool with `kubernetes` needs", site.name),
    };
    Refusal { reason: Reason::EngineMissing, message }
}

/// Where nodes come from; `None`: not specified, or not known to this release.
fn nodes(pool: &GPUPool, placed: Option<&PoolSite>) -> Option<NodeSource> {
    match placed.and_then(|placed| placed.nodes.as_ref()).or(pool.spec.nodes.as_ref())?.source()? {
        Source::Adopt(adopt) => Some(NodeSource::Adopt { selector: adopt.selector.match_labels.clone() }),
    }
}

fn body(cache: &Cache, pool: &GPUPool, (factory, key): (&OwnerRef, &SiteKey), absent: bool) -> Option<PoolIntent> {
    // Another factory may have a site of the same name.
    let placed = pool.spec.sites.iter().find(|placed| placed.name == key.site && key.factory == *factory);
    let used = match named(cache, key) {
        Some(site) => parts(pool, site).contains(&key.part),
        None => could_use(pool, key.part),
    };
    let presence = match placed {
        _ if absent || !used => Presence::Absent,
        None => Presence::Absent,
        Some(placed) => match placed.state {
            PlacementState::Active if pool.metadata.deletion_timestamp.is_none() => Presence::Active,
            PlacementState::Active | PlacementState::Draining => Presence::Draining,
        },
    };
    let nodes = nodes(pool, placed);
    // Where nodes come from is not known, so what is there stays as it is.
    if nodes.is_none() && key.part == Part::Kubernetes && presence != Presence::Absent {
        return None;
    }
    let nodes = nodes.unwrap_or(NodeSource::Adopt { selector: BTreeMap::new() });
    let engine = match &pool.spec.slurm {
        Some(slurm) => PoolEngine::Slurm {
            partition: PartitionName::new(placed.and_then(|placed| placed.slurm.as_ref()).map_or(&slurm.partition, |own| &own.partition)),
            max_wall_minutes: slurm.max_wall_time.as_deref().and_then(duration::seconds).and_then(|seconds| u32::try_from(seconds / 60).ok()),
            rank: Rank { default: slurm.default, priority_tier: slurm.priority_tier, preemption: slurm.preemption },
        },
        None => PoolEngine::Kubernetes,
    };
    Some(PoolIntent {
        presence,
        accelerator: pool.spec.accelerator.clone(),
        per_gpu: pool.spec.per_gpu,
        wanted: placed.and_then(|placed| placed.count).and_then(|count| u32::try_from(count).ok()),
        nodes,
        engine,
    })
}
