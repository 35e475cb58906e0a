//! Plans the objects that a site has once: the factory's own, and those that several owners share. Engines define them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::OwnerRef;

use crate::engine::Engines;
use crate::engine::site_stages::{SiteScene, SiteStages};
use crate::model::intent::{Intent, SiteIntent};
use crate::model::kind::ObjectKind;
use crate::model::object::Ownership;
use crate::model::plan::{ObservedObjects, Plan};
use crate::model::report::{Detail, SitePhase};
use crate::model::view::Views;

/// The state of a whole site.
pub struct FactoryView<'a> {
    /// The engines that the site is driven with.
    pub engines: Engines,
    /// Every intent for the site.
    pub intents: &'a BTreeMap<OwnerRef, Arc<Intent>>,
    /// The factory's objects.
    pub objects: &'a ObservedObjects,
    /// What engines have read.
    pub views: &'a Views,
    /// Kinds that the site serves beside those that every cluster does.
    pub served: &'a BTreeSet<ObjectKind>,
}

/// Plans these objects; when the site is released all of them are removed except those that hold the usage counted by a managed Slurm.
pub fn plan(site: &SiteIntent, view: &FactoryView<'_>) -> Plan {
    if site.left && !site.release {
        // The factory's settings of networks and Slurm are not known, so existing objects stay.
        return Plan::nothing(SitePhase::Bound, Detail::None);
    }
    let ownership = Ownership::new(&site.hub, &site.factory, &site.factory_uid);
    let FactoryView { engines, intents, objects, views, served } = *view;
    let scene = SiteScene { site, ownership: &ownership, intents, observed: objects, views, served };
    let mut stages = SiteStages::default();
    engines.iter().for_each(|engine| engine.site(&scene, &mut stages));
    let mut plan = Plan::nothing(if site.release { SitePhase::Gone } else { SitePhase::Bound }, Detail::None);
    stages.write(objects, &mut plan);
    plan
}
