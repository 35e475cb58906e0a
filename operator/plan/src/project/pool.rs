//! A pool at each of its sites.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::pool::{GPUPool, PlacementState};
use aifactory_api::{OwnerRef, Reason};

use crate::duration;
use crate::intent::{Body, Intent, PoolEngine, PoolIntent, Presence, Refusal, VERSION};
use crate::world::{SiteKey, World, factory_of_pool};

/// A pool's intents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolProjection {
    /// Intents, by site.
    pub sites: BTreeMap<SiteKey, Intent>,
    /// Why the pool can not be placed, or not everywhere.
    pub problems: Vec<Refusal>,
}

/// Projects a pool. `holders` are sites that hold something of it, whether or not it names them.
pub fn pool(world: &World, owner: &OwnerRef, holders: &BTreeSet<SiteKey>) -> PoolProjection {
    let mut projection = PoolProjection::default();
    let Some(pool) = world.pool(owner) else { return projection };
    let factory_ref = factory_of_pool(owner, pool);
    let deleting = pool.metadata.deletion_timestamp.is_some();
    if world.factory(&factory_ref).is_none() {
        projection.problems.push(Refusal {
            reason: Reason::FactoryNotFound,
            message: format!("spec.factoryRef: there is no AIFactory {} in namespace {}", factory_ref.name, factory_ref.namespace),
        });
    }
    // A pool leaves its sites only after its grants have.
    let absent = deleting && world.grants_of(owner).next().is_none();
    let mut keys: BTreeSet<SiteKey> = holders.clone();
    for placed in &pool.spec.sites {
        let key = SiteKey::new(factory_ref.clone(), &placed.name);
        if world.site(&key).is_some() {
            keys.insert(key);
        } else if world.factory(&factory_ref).is_some() {
            projection.problems.push(Refusal {
                reason: Reason::SiteNotFound,
                message: format!("spec.sites: AIFactory {} has no site {:?}", factory_ref.name, placed.name),
            });
        }
    }
    for key in keys {
        if let Some(body) = body(pool, &key, absent) {
            let intent = Intent {
                version: VERSION,
                owner: owner.clone(),
                uid: pool.metadata.uid.clone().unwrap_or_default(),
                generation: pool.metadata.generation.unwrap_or_default(),
                created: super::age::created(&pool.metadata),
                body: Body::Pool(body),
            };
            projection.sites.insert(key, intent);
        }
    }
    projection
}

fn body(pool: &GPUPool, key: &SiteKey, absent: bool) -> Option<PoolIntent> {
    let placed = pool.spec.sites.iter().find(|placed| placed.name == key.site);
    let presence = match placed {
        _ if absent => Presence::Absent,
        None => Presence::Absent,
        Some(placed) => match placed.state {
            PlacementState::Active if pool.metadata.deletion_timestamp.is_none() => Presence::Active,
            PlacementState::Active | PlacementState::Draining => Presence::Draining,
        },
    };
    let selector = placed
        .and_then(|placed| placed.nodes.as_ref())
        .or(pool.spec.nodes.as_ref())
        .map(|nodes| nodes.adopt.selector.match_labels.clone())
        .unwrap_or_default();
    let engine = match &pool.spec.slurm {
        Some(slurm) => PoolEngine::Slurm {
            partition: placed.and_then(|placed| placed.slurm.as_ref()).map_or(&slurm.partition, |own| &own.partition).clone(),
            max_wall_minutes: slurm.max_wall_time.as_deref().and_then(duration::seconds).and_then(|seconds| u32::try_from(seconds / 60).ok()),
        },
        None => PoolEngine::Kubernetes,
    };
    Some(PoolIntent {
        presence,
        accelerator: pool.spec.accelerator.clone(),
        per_gpu: pool.spec.per_gpu,
        wanted: placed.and_then(|placed| placed.count).and_then(|count| u32::try_from(count).ok()),
        selector,
        engine,
    })
}
