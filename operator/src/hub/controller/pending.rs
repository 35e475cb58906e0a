//! The resources whose stored status is older than what is known, since progress and mere numbers are written at intervals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::{Kind, OwnerRef};

use crate::telemetry::metrics::Metrics;

/// The resources, by kind, with a metric of how many there are.
#[derive(Debug)]
pub struct PendingStatus {
    by_kind: BTreeMap<Kind, BTreeSet<OwnerRef>>,
    metrics: Arc<Metrics>,
}

impl PendingStatus {
    /// No status is pending.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { by_kind: BTreeMap::new(), metrics }
    }

    /// The status of this resource is written, or computed again, later.
    pub fn insert(&mut self, owner: &OwnerRef) {
        let set = self.by_kind.entry(owner.kind).or_default();
        if set.insert(owner.clone()) {
            self.metrics.set_status_writes_pending(owner.kind, set.len());
        }
    }

    /// The status says all that is known, or the resource is gone.
    pub fn remove(&mut self, owner: &OwnerRef) {
        if let Some(set) = self.by_kind.get_mut(&owner.kind)
            && set.remove(owner)
        {
            self.metrics.set_status_writes_pending(owner.kind, set.len());
        }
    }
}
