//! Slinky as an engine: what it adds to a pool and to a site, and what it reads.

use serde_json::Value;

use super::managed::{self, ManagedView};
use super::{ControllerView, NodeSetView, kinds, partition};
use crate::engine::contract::Engine;
use crate::engine::pool_stages::{PoolScene, PoolStages};
use crate::engine::site_stages::{SiteScene, SiteStages};
use crate::engine::uses::KindUse;
use crate::model::intent::SiteIntent;
use crate::model::kind::ObjectKind;
use crate::model::view::View;

/// Partitions of pools, and a Slurm of ours for the whole site.
pub struct Slinky;

impl Engine for Slinky {
    fn name(&self) -> &'static str {
        "slinky"
    }

    fn kinds(&self) -> &'static [KindUse] {
        &kinds::KINDS
    }

    fn concerns(&self, site: &SiteIntent) -> bool {
        site.slurm.is_some() || site.left
    }

    fn pool(&self, scene: &PoolScene<'_>, stages: &mut PoolStages) {
        partition::pool(scene, stages);
    }

    fn site(&self, scene: &SiteScene<'_>, stages: &mut SiteStages) {
        let view = ManagedView {
            served: kinds::KINDS.iter().filter(|used| used.api.is_some()).all(|used| scene.served.contains(&used.kind)),
            objects: scene.observed,
            node_sets: scene.views.of_kind(ObjectKind::NODE_SET).map(|(_, found)| found).collect(),
        };
        managed::plan(scene.site, scene.ownership, &view, stages);
    }

    fn read(&self, kind: ObjectKind, object: &Value) -> Option<View> {
        match kind {
            ObjectKind::NODE_SET => Some(View::new(NodeSetView::from_json(object))),
            ObjectKind::CONTROLLER => Some(View::new(ControllerView::from_json(object))),
            _ => None,
        }
    }
}
