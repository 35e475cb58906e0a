//! Nodes as an engine: what they add to a pool.

use crate::engine::contract::Engine;
use crate::engine::pool_stages::{PoolScene, PoolStages};
use crate::model::plan::Action;

/// Labels and taints of the nodes of pools. The engine names no kind: nodes have no owner, and a watch of their own.
pub struct Nodes;

impl Engine for Nodes {
    fn name(&self) -> &'static str {
        "nodes"
    }

    fn pool(&self, scene: &PoolScene<'_>, stages: &mut PoolStages) {
        stages.nodes(scene.nodes.patches.iter().cloned().map(Action::PatchNode));
        scene.nodes.findings.iter().cloned().for_each(|finding| stages.find(finding));
    }
}
