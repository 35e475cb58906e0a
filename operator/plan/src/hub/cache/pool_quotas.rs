//! What the grants of one pool hold together, and what each consumer's grants may have of it.

use std::collections::BTreeSet;

use aifactory_api::OwnerRef;
use aifactory_api::pool::{Consumer, GPUPool};
use jiff::Timestamp;

use crate::model::quota::{Caps, Claim, Position, Quota, Refused};
use crate::model::visits::Visits;

/// The quotas of one pool.
#[derive(Clone, Debug)]
pub struct PoolQuotas {
    /// All claims, without a cap.
    all: Quota,
    /// Those of each consumer that has a cap, in the order of the spec.
    consumers: Vec<(Consumer, Quota)>,
}

impl PoolQuotas {
    /// The quotas of a pool without grants.
    pub fn of(pool: &GPUPool, clock: Timestamp, visits: &Visits) -> Self {
        let capped = pool.spec.consumers.iter().filter(|consumer| caps(consumer) != Caps::default());
        let consumers = capped.map(|consumer| (consumer.clone(), Quota::new(caps(consumer), clock, visits.clone()))).collect();
        Self { all: Quota::new(Caps::default(), clock, visits.clone()), consumers }
    }

    /// Stores the claim of a grant, or removes it; returns the grants for which the decision has changed.
    pub fn set(&mut self, position: &Position, claim: Option<Claim>) -> BTreeSet<OwnerRef> {
        self.all.set(position, claim);
        let concerned = self.consumers.iter_mut().filter(|(consumer, _)| consumer.namespaces.names.contains(&position.1.namespace));
        concerned.flat_map(|(_, quota)| quota.set(position, claim)).collect()
    }

    /// Releases the claims that have ended; returns the grants for which the decision has changed.
    pub fn advance(&mut self, now: Timestamp) -> BTreeSet<OwnerRef> {
        self.all.advance(now);
        self.consumers.iter_mut().flat_map(|(_, quota)| quota.advance(now)).collect()
    }

    /// When the next claim ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.all.next_end()
    }

    /// Canonical GPU-hours that grants hold which have not ended.
    pub fn committed(&self, now: Timestamp) -> i64 {
        i64::try_from(self.all.held(now).hours).unwrap_or(i64::MAX)
    }

    /// Why a grant does not fit into the share of this consumer.
    pub fn refusal(&self, consumer: &Consumer, position: &Position, now: Timestamp) -> Option<Refused> {
        self.quota(consumer)?.refusal(position, now)
    }

    /// The next time at which the decision for a grant of this consumer may change.
    pub fn next_change(&self, consumer: &Consumer, position: &Position, now: Timestamp) -> Option<Timestamp> {
        self.quota(consumer)?.next_change(position, now)
    }

    fn quota(&self, consumer: &Consumer) -> Option<&Quota> {
        self.consumers.iter().find(|(known, _)| known == consumer).map(|(_, quota)| quota)
    }
}

fn caps(consumer: &Consumer) -> Caps {
    Caps { hours: consumer.gpu_hours, gpus: consumer.max_gpus }
}
