//! The interface between an engine and the rest of the operator.

use serde_json::Value;

use crate::engine::grant_stages::{GrantScene, GrantStages};
use crate::engine::pool_stages::{PoolScene, PoolStages};
use crate::engine::site_stages::{SiteScene, SiteStages};
use crate::engine::uses::KindUse;
use crate::model::intent::SiteIntent;
use crate::model::kind::ObjectKind;
use crate::model::view::View;

/// A system that does work at a site: the kinds that it writes, what it adds to plans, and how it reads objects.
///
/// An engine adds the objects that are wanted to stages. The stages and the life cycle of the owner decide when these are written, in which order,
/// and when they are removed. So no engine can give access before a member is fenced in, or keep access alive by forgetting to remove it.
pub trait Engine: Sync {
    /// Its name, for people who read logs and tests.
    fn name(&self) -> &'static str;

    /// The kinds that it works with. Watches, discovery and the site's role follow from them.
    fn kinds(&self) -> &'static [KindUse] {
        &[]
    }

    /// Whether it has anything to do at a site; otherwise none of its kinds is watched there.
    fn concerns(&self, _site: &SiteIntent) -> bool {
        true
    }

    /// Adds to the stages of a grant that is in force, paused or locked. Objects that are not added any more are removed.
    fn grant(&self, _scene: &GrantScene<'_>, _stages: &mut GrantStages) {}

    /// Adds to the stages of a pool.
    fn pool(&self, _scene: &PoolScene<'_>, _stages: &mut PoolStages) {}

    /// Adds the objects that a site has once: those of the factory, and those that several owners share.
    fn site(&self, _scene: &SiteScene<'_>, _stages: &mut SiteStages) {}

    /// Whether its objects of a site depend on which owners have something there.
    fn shares(&self) -> bool {
        false
    }

    /// Reads an object of one of its kinds; `None`: nothing beside identity and digest is kept.
    fn read(&self, _kind: ObjectKind, _object: &Value) -> Option<View> {
        None
    }
}
