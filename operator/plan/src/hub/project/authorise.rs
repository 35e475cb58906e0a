//! Whether a grant may use a pool: consumers, their caps in the order of creation, and the pool's capacity.

use aifactory_api::grant::{GrantPool, GrantState};
use aifactory_api::pool::{Consumer, GPUPool};
use aifactory_api::{AccessGrant, OwnerRef, Reason};
use jiff::Timestamp;

use crate::hub::cache::{Cache, Refused};
use crate::model::intent::Refusal;

/// A refusal, and whether it also ends a grant that is bound already.
#[derive(Clone, Debug, PartialEq)]
pub struct Denied {
    /// Why.
    pub refusal: Refusal,
    /// False: only new bindings are refused.
    pub revokes: bool,
}

/// Whether `grant` may use `pool` through `entry` now.
pub fn authorise(cache: &Cache, owner: &OwnerRef, entry: &GrantPool, pool_ref: &OwnerRef, pool: &GPUPool, now: Timestamp) -> Result<(), Denied> {
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
        within_share(cache, owner, pool_ref, consumer, now)?;
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

/// Whether the grant fits into what is left of its consumer's share.
fn within_share(cache: &Cache, owner: &OwnerRef, pool_ref: &OwnerRef, consumer: &Consumer, now: Timestamp) -> Result<(), Denied> {
    if consumer.not_after.as_ref().is_some_and(|until| until.0 <= now) {
        return Err(denied(
            Reason::ConsumerExpired,
            format!("the share of consumer {} of GPUPool {}/{} has ended", consumer.name, pool_ref.namespace, pool_ref.name),
            true,
        ));
    }
    let Some(Refused { held, wanted }) = cache.over_quota(owner, pool_ref, consumer, now) else { return Ok(()) };
    let over_hours = consumer.gpu_hours.filter(|cap| held.hours + wanted.hours > i128::from(*cap));
    let (what, cap, held, wanted) = match over_hours {
        Some(cap) => ("GPU-hours", cap, held.hours, wanted.hours),
        None => ("GPUs", consumer.max_gpus.unwrap_or_default(), held.gpus, wanted.gpus),
    };
    Err(denied(
        Reason::ConsumerCapExceeded,
        format!(
            "consumer {} of GPUPool {}/{} may have {cap} {what}; earlier grants hold {held} and this one asks for {wanted}",
            consumer.name, pool_ref.namespace, pool_ref.name
        ),
        true,
    ))
}

/// The next time at which this grant's part of the consumer's share may change: the share ends, or another grant that uses it ends. What becomes free
/// may go to an earlier grant, and so be lost for a later one.
pub fn next_change(cache: &Cache, owner: &OwnerRef, pool_ref: &OwnerRef, pool: &GPUPool, now: Timestamp) -> Option<Timestamp> {
    if owner.namespace == pool_ref.namespace {
        return None;
    }
    let consumer = pool.spec.consumers.iter().find(|consumer| consumer.namespaces.names.contains(&owner.namespace))?;
    let share = consumer.not_after.as_ref().map(|at| at.0).filter(|at| *at > now);
    share.into_iter().chain(cache.next_quota_change(owner, pool_ref, consumer, now)).min()
}

/// Whether the grant still holds its share.
pub fn living(grant: &AccessGrant, now: Timestamp) -> bool {
    grant.metadata.deletion_timestamp.is_none() && grant.spec.state != GrantState::Revoked && grant.spec.not_after.0 > now
}

fn denied(reason: Reason, message: String, revokes: bool) -> Denied {
    Denied { refusal: Refusal { reason, message }, revokes }
}
