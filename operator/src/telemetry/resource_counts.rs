//! How many resources are in each phase, counted as they change.

use std::collections::BTreeMap;
use std::sync::Arc;

use aifactory_api::{Kind, OwnerRef};

use super::metrics::Metrics;

/// Phases of resources, as they were counted.
pub struct ResourceCounts {
    metrics: Arc<Metrics>,
    phases: BTreeMap<OwnerRef, &'static str>,
    counts: BTreeMap<(Kind, &'static str), usize>,
}

impl ResourceCounts {
    /// Nothing counted yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, phases: BTreeMap::new(), counts: BTreeMap::new() }
    }

    /// A resource is in this phase now; `None`: it is gone.
    pub fn set(&mut self, owner: &OwnerRef, phase: Option<&'static str>) {
        let before = match phase {
            Some(phase) => self.phases.insert(owner.clone(), phase),
            None => self.phases.remove(owner),
        };
        if before == phase {
            return;
        }
        if let Some(before) = before {
            self.adjust(owner.kind, before, |count| count.saturating_sub(1));
        }
        if let Some(phase) = phase {
            self.adjust(owner.kind, phase, |count| count + 1);
        }
    }

    fn adjust(&mut self, kind: Kind, phase: &'static str, change: impl Fn(usize) -> usize) {
        let count = self.counts.entry((kind, phase)).or_default();
        *count = change(*count);
        self.metrics.set_resources(kind, phase, *count);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn resources_are_counted_where_they_are() {
        let metrics = Arc::new(Metrics::new());
        let mut counts = ResourceCounts::new(metrics.clone());
        let owner = |name: &str| OwnerRef::new(Kind::AccessGrant, "n", name);
        counts.set(&owner("a"), Some("Pending"));
        counts.set(&owner("b"), Some("Pending"));
        counts.set(&owner("a"), Some("Active"));
        counts.set(&owner("a"), Some("Active"));
        let exposed = |line: &str| metrics.encode().unwrap().lines().any(|found| found == line);
        assert!(exposed("aifactory_resources{kind=\"AccessGrant\",phase=\"Pending\"} 1"));
        assert!(exposed("aifactory_resources{kind=\"AccessGrant\",phase=\"Active\"} 1"));
        counts.set(&owner("a"), None);
        counts.set(&owner("a"), None);
        assert!(exposed("aifactory_resources{kind=\"AccessGrant\",phase=\"Active\"} 0"));
    }
}
