//! A pool at a site in ordered stages, to which engines add: nodes, the work on them, and the draining of what is not wanted.

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

/// The stages of a pool. Nodes are taken before anything runs on them; what runs on them is drained before it is removed, and a pool that leaves
/// releases its nodes once nothing holds them any more.
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
    /// Its state, as status shows it.
    pub state: String,
    /// What is wrong with it although every step of the plan is done; `None`: nothing.
    pub trouble: Option<Finding>,
    /// Findings about it in any case.
    pub findings: Vec<Finding>,
}

impl PoolStages {
    /// Adds patches that take and release nodes.
    pub fn nodes(&mut self, actions: impl IntoIterator<Item = Action>) {
        self.nodes.extend(actions);
    }

    /// Adds work on the nodes.
    pub fn work(&mut self, objects: impl IntoIterator<Item = Object>) {
        self.work.extend(objects);
    }

    /// Adds the draining and removal of work that is not wanted on the nodes any more.
    pub fn remove(&mut self, actions: impl IntoIterator<Item = Action>) {
        self.removals.extend(actions);
    }

    /// Work still runs on the nodes, so that a pool that leaves keeps them.
    pub fn hold_nodes(&mut self) {
        self.holds_nodes = true;
    }

    /// Sets the pool's phase.
    pub fn phase(&mut self, phase: SitePhase) {
        self.phase = Some(phase);
    }

    /// Plans again at this time at the latest.
    pub fn wake(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Adds a finding.
    pub fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Sets the state of the pool's partition.
    pub fn partition(&mut self, partition: Partition) {
        self.partition = Some(partition);
    }

    /// Makes a plan of the stages, and returns the state of the partition. `leaves`: the pool is to leave the site.
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
