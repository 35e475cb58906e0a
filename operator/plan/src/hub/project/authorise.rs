//! Whether a grant may use a pool: consumers, their caps in the order of creation, and the pool's capacity.

use aifactory_api::grant::{GrantPool, GrantState};
use aifactory_api::pool::{Consumer, GPUPool};
use aifactory_api::{AccessGrant, OwnerRef, Reason};
use jiff::Timestamp;

use super::age::created;
use crate::hub::world::World;
use crate::model::intent::Refusal;

/// A refusal, and whether it also takes away what is held.
#[derive(Clone, Debug, PartialEq)]
pub struct Denied {
    /// Why.
    pub refusal: Refusal,
    /// False: only new bindings are refused.
    pub revokes: bool,
}

/// Whether `grant` may use `pool` through `entry` now.
pub fn authorise(world: &World, owner: &OwnerRef, entry: &GrantPool, pool_ref: &OwnerRef, pool: &GPUPool, now: Timestamp) -> Result<(), Denied> {
    if owner.namespace != pool_ref.namespace {
        let consumer = pool.spec.consumers.iter().find(|consumer| consumer.namespaces.names.contains(&owner.namespace));
        let Some(consumer) = consumer else {
            return Err(denied(
                Reason::NotAConsumer,
                format!(
                    "pools[{}]: GPUPool {}/{} does not list namespace {} under spec.consumers; its owner must add it",
                    entry.name, pool_ref.namespace, pool_ref.name, owner.namespace
                ),
                true,
            ));
        };
        within_share(world, owner, pool_ref, consumer, now)?;
    }
    let counts: Option<Vec<i64>> = pool.spec.sites.iter().map(|site| site.count.map(i64::from)).collect();
    if let Some(counts) = counts {
        let capacity = counts.iter().sum::<i64>().saturating_mul(pool.spec.accelerator.per_node.into());
        if entry.max_gpus > capacity {
            return Err(denied(
                Reason::CapacityExceeded,
                format!("pools[{}].maxGPUs: {} GPUs are asked for, GPUPool {} has {capacity}", entry.name, entry.max_gpus, pool_ref.name),
                false,
            ));
        }
    }
    Ok(())
}

/// Earlier grants count first; a grant that does not fit takes nothing from later ones that do.
fn within_share(world: &World, owner: &OwnerRef, pool_ref: &OwnerRef, consumer: &Consumer, now: Timestamp) -> Result<(), Denied> {
    if consumer.not_after.as_ref().is_some_and(|until| until.0 <= now) {
        return Err(denied(
            Reason::ConsumerExpired,
            format!("the share of consumer {} of GPUPool {}/{} has ended", consumer.name, pool_ref.namespace, pool_ref.name),
            true,
        ));
    }
    let mut claims: Vec<_> = world
        .grants_of(pool_ref)
        .filter(|other| consumer.namespaces.names.contains(&other.namespace))
        .filter_map(|other| Some((other, world.grant(other)?)))
        .filter(|(_, grant)| living(grant, now))
        .map(|(other, grant)| (created(&grant.metadata), other, claim(grant, other, pool_ref)))
        .collect();
    claims.sort();
    let (mut hours, mut gpus): (i64, i64) = (0, 0);
    for (_, other, (more_hours, more_gpus)) in claims {
        let over_hours = consumer.gpu_hours.is_some_and(|cap| hours.saturating_add(more_hours) > cap);
        let over_gpus = consumer.max_gpus.is_some_and(|cap| gpus.saturating_add(more_gpus) > cap);
        if other == owner && (over_hours || over_gpus) {
            let (what, cap, held, wanted) =
                if over_hours { ("GPU-hours", consumer.gpu_hours, hours, more_hours) } else { ("GPUs", consumer.max_gpus, gpus, more_gpus) };
            return Err(denied(
                Reason::ConsumerCapExceeded,
                format!(
                    "consumer {} of GPUPool {}/{} may have {} {what}; earlier grants hold {held} and this one asks for {wanted}",
                    consumer.name,
                    pool_ref.namespace,
                    pool_ref.name,
                    cap.unwrap_or_default()
                ),
                true,
            ));
        }
        if !over_hours && !over_gpus {
            hours = hours.saturating_add(more_hours);
            gpus = gpus.saturating_add(more_gpus);
        }
    }
    Ok(())
}

/// When the clock next changes what the owner of this grant may have of this pool: the consumer's share ends, or another grant's end sets some of it
/// free. What is set free may go to an earlier grant, and so be taken from a later one.
pub fn next_change(world: &World, owner: &OwnerRef, pool_ref: &OwnerRef, pool: &GPUPool, now: Timestamp) -> Option<Timestamp> {
    if owner.namespace == pool_ref.namespace {
        return None;
    }
    let consumer = pool.spec.consumers.iter().find(|consumer| consumer.namespaces.names.contains(&owner.namespace))?;
    let capped = consumer.gpu_hours.is_some() || consumer.max_gpus.is_some();
    let sharing = world.grants_of(pool_ref).filter(|_| capped).filter(|other| consumer.namespaces.names.contains(&other.namespace));
    let ends = sharing.filter_map(|other| world.grant(other)).filter(|grant| living(grant, now)).map(|grant| grant.spec.not_after.0);
    consumer.not_after.as_ref().map(|at| at.0).into_iter().chain(ends).filter(|at| *at > now).min()
}

fn claim(grant: &AccessGrant, owner: &OwnerRef, pool_ref: &OwnerRef) -> (i64, i64) {
    grant
        .spec
        .pools
        .iter()
        .filter(|entry| entry.pool_ref.name == pool_ref.name && entry.pool_ref.namespace.as_deref().unwrap_or(&owner.namespace) == pool_ref.namespace)
        .fold((0, 0), |(hours, gpus), entry| (entry.gpu_hours.saturating_add(hours), entry.max_gpus.saturating_add(gpus)))
}

/// Whether the grant still holds its share.
pub fn living(grant: &AccessGrant, now: Timestamp) -> bool {
    grant.metadata.deletion_timestamp.is_none() && grant.spec.state != GrantState::Revoked && grant.spec.not_after.0 > now
}

fn denied(reason: Reason, message: String, revokes: bool) -> Denied {
    Denied { refusal: Refusal { reason, message }, revokes }
}
