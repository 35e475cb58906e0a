//! A pool at a site in ordered stages, to which engines add: nodes, what works on them, and what is drained away.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::engine::nodes::PoolNodes;
use crate::model::id::PartitionName;
use crate::model::intent::{PoolIntent, SiteIntent};
use crate::model::kind::ObjectKind;
use crate::model::object::{Object, Ownership};
use crate::model::plan::{Action, ObservedObjects, Plan, Purpose, applies};
use crate::model::report::{Finding, SitePhase};
use crate::model::view::Views;

/// What an engine sees of a pool.
pub struct PoolScene<'a> {
    /// The site.
    pub site: &'a SiteIntent,
    /// The pool.
    pub pool: &'a PoolIntent,
    /// Who owns its objects.
    pub ownership: &'a Ownership,
    /// Its nodes, as assigned among all pools of the site.
    pub nodes: &'a PoolNodes,
    /// Its objects as they are there.
    pub observed: &'a ObservedObjects,
    /// What engines have read of objects at the site.
    pub views: &'a Views,
    /// Kinds that the site serves beside those that every cluster does.
    pub served: &'a BTreeSet<ObjectKind>,
    /// The time.
    pub now: Timestamp,
}

/// The stages of a pool. Nodes are taken before anything is put on them; what is on them is drained before it goes, and nodes of a pool that leaves
/// are let go when nothing holds them any more.
#[derive(Debug, Default)]
pub struct PoolStages {
    nodes: Vec<Action>,
    work: Vec<Object>,
    removals: Vec<Action>,
    holds_nodes: bool,
    phase: Option<SitePhase>,
    wake: Option<Timestamp>,
    findings: Vec<Finding>,
    partition: Option<Partition>,
}

/// How a pool's partition is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its name.
    pub name: PartitionName,
    /// As status says it.
    pub state: String,
    /// What is said of it where nothing is left to do; `None`: it is as it should be.
    pub trouble: Option<Finding>,
    /// What is said of it in any case.
    pub findings: Vec<Finding>,
}

impl PoolStages {
    /// Takes nodes, and lets nodes go.
    pub fn nodes(&mut self, actions: impl IntoIterator<Item = Action>) {
        self.nodes.extend(actions);
    }

    /// Works on the nodes.
    pub fn work(&mut self, objects: impl IntoIterator<Item = Object>) {
        self.work.extend(objects);
    }

    /// Drains what is not wanted on the nodes any more, and removes it.
    pub fn remove(&mut self, actions: impl IntoIterator<Item = Action>) {
        self.removals.extend(actions);
    }

    /// Something still works on the nodes, so that those of a pool that leaves stay.
    pub fn hold_nodes(&mut self) {
        self.holds_nodes = true;
    }

    /// The pool is at this phase and at no other.
    pub fn phase(&mut self, phase: SitePhase) {
        self.phase = Some(phase);
    }

    /// Looks again then, at the latest.
    pub fn wake(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Tells people something.
    pub fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Tells how the pool's partition is.
    pub fn partition(&mut self, partition: Partition) {
        self.partition = Some(partition);
    }

    /// Makes a plan of it, and gives how the partition is. `leaves`: the pool is to go from the site.
    pub fn write(self, leaves: bool, observed: &ObservedObjects, plan: &mut Plan) -> Option<Partition> {
        if !(leaves && self.holds_nodes) {
            plan.step(Purpose::Establish, self.nodes);
        }
        plan.step(Purpose::Establish, applies(self.work, observed));
        plan.step(Purpose::Establish, self.removals);
        plan.findings.extend(self.findings);
        plan.phase = self.phase.unwrap_or(plan.phase);
        plan.wake = plan.wake.into_iter().chain(self.wake).min();
        self.partition
    }
}
