//! What an engine is to the rest of the operator.

use serde_json::Value;

use crate::engine::grant_stages::{GrantScene, GrantStages};
use crate::engine::pool_stages::{PoolScene, PoolStages};
use crate::engine::site_stages::{SiteScene, SiteStages};
use crate::engine::uses::KindUse;
use crate::model::intent::SiteIntent;
use crate::model::kind::ObjectKind;
use crate::model::view::View;

/// A system that does work at a site: what it works with, what it adds to plans, and how it reads what is there.
///
/// An engine says what is wanted, and in which stage. When that is written, in which order, and when it goes, is up to the stages and to the life
/// cycle of the owner; so no engine can give access before the fence stands, or keep anybody in by forgetting to let go.
pub trait Engine: Sync {
    /// Its name, for people who read logs and tests.
    fn name(&self) -> &'static str;

    /// The kinds that it works with. Watches, discovery and the site's role follow from them.
    fn kinds(&self) -> &'static [KindUse] {
        &[]
    }

    /// Whether it has anything to do at a site; where not, nothing of it is watched.
    fn concerns(&self, _site: &SiteIntent) -> bool {
        true
    }

    /// Adds to a grant that is in force, paused or locked. What is not added any more goes.
    fn grant(&self, _scene: &GrantScene<'_>, _stages: &mut GrantStages) {}

    /// Adds to a pool.
    fn pool(&self, _scene: &PoolScene<'_>, _stages: &mut PoolStages) {}

    /// Adds what a site has once: objects of the factory, and those that several owners share.
    fn site(&self, _scene: &SiteScene<'_>, _stages: &mut SiteStages) {}

    /// Whether what it adds to a site depends on who has something there.
    fn shares(&self) -> bool {
        false
    }

    /// Reads an object of one of its kinds; `None`: nothing beside identity and digest is kept.
    fn read(&self, _kind: ObjectKind, _object: &Value) -> Option<View> {
        None
    }
}
