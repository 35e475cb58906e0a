//! Slurm partitions through Slinky: one NodeSet with its partition per pool and site, against a Controller that the site runs or that we set up.

mod controller;
mod engine;
mod kinds;
pub mod managed;
mod partition;
mod removal;
mod render;
mod token;
mod view;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use aifactory_api::Reason;

pub use aifactory_api::pool::PartitionState;
pub use controller::{ControllerKey, ControllerView, Controllers, configuration};
pub use engine::Slinky;
pub use removal::{MIN_JOB_AGE, RemovalStep, removal};
pub use render::IDLE_SINCE;
pub use token::{Controller, GresType, IllegalToken, Image, Namespace, Partition, Pool, PreemptMode, PriorityTier, Resource, WallTime};
pub use view::{NodeSetView, PartitionReport, partition_state};

use crate::model::intent::{PoolEngine, PoolIntent, Presence, Refusal, SiteIntent};
use crate::model::object::{Object, ObjectKey, ObjectKind, Ownership};
use crate::model::quantity;
use render::{Parts, State};

/// The NodeSet of a pool at a site, with so many replicas.
pub fn node_set(site: &SiteIntent, pool_name: &str, pool: &PoolIntent, replicas: u32, ownership: &Ownership) -> Result<Object, Refusal> {
    let refuse = |reason: Reason, message: String| Refusal { reason, message: format!("{} at site {}: {message}", ownership.owner, site.site) };
    let illegal = |error: IllegalToken| refuse(Reason::InvalidSpec, error.to_string());
    let PoolEngine::Slurm { partition, max_wall_minutes, rank } = &pool.engine else {
        return Err(refuse(Reason::NotApplicable, "it is no Slurm pool".to_owned()));
    };
    let Some(slinky) = site.slurm.as_ref().and_then(|slurm| slurm.slinky.as_ref()) else {
        return Err(refuse(Reason::EngineMissing, "the site declares no slurm.slinky, where partitions would be made".to_owned()));
    };
    let bounded = |what: &str, value: i32, most: i32| {
        u32::try_from(value)
            .ok()
            .filter(|_| (1..=most).contains(&value))
            .ok_or_else(|| refuse(Reason::InvalidSpec, format!("{what} {value}: write a number from 1 to {most}")))
    };
    let per_node = bounded("accelerator.perNode", pool.accelerator.per_node, 64)?;
    let cpus = bounded("perGPU.cpus", pool.per_gpu.cpus, 512)?;
    let memory = bounded("perGPU.memoryGiB", pool.per_gpu.memory_gib, 8192)?;
    if i32::try_from(replicas).is_err() {
        return Err(refuse(Reason::InvalidSpec, format!("{replicas} replicas are more than a NodeSet can have")));
    }
    let namespace = Namespace::parse(&slinky.namespace).map_err(illegal)?;
    let partition = Partition::parse(partition.as_str()).map_err(illegal)?;
    let resource = Resource::parse(&pool.accelerator.resource_name).map_err(illegal)?;
    let parts = Parts {
        controller: Some(Controller::parse(slinky.controller()).map_err(illegal)?),
        image: Some(Image::parse(&slinky.image).map_err(illegal)?),
        limits: BTreeMap::from([
            ("cpu".to_owned(), quantity::count(i64::from(cpus) * i64::from(per_node))),
            ("memory".to_owned(), quantity::gibibytes(i64::from(memory) * i64::from(per_node))),
            (resource.to_string(), per_node.to_string()),
        ]),
        gres: Some((GresType::of_model(&pool.accelerator.model).map_err(illegal)?, per_node)),
        pool: Some(Pool::parse(pool_name).map_err(illegal)?),
        resource: Some(resource),
        max_time: Some(WallTime::of_minutes(*max_wall_minutes).map_err(illegal)?),
        default: rank.default,
        tier: rank.priority_tier.map(|tier| PriorityTier::parse(&tier.to_string())).transpose().map_err(illegal)?,
        preempt: rank.preemption.map(PreemptMode::of),
    };
    let state = match pool.presence {
        Presence::Active => State::Up,
        Presence::Draining | Presence::Absent => State::Drain,
    };
    let key = ObjectKey::namespaced(ObjectKind::NODE_SET, namespace.to_string(), partition.to_string());
    Ok(parts.object(key, ownership, replicas, state, None))
}
