//! What a site has once: the factory's own objects, and those that several owners share. Which these are, engines say.

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

/// What the site worker knows of a whole site.
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

/// Plans what a site has once; when the site is released all of it goes but what a Slurm of ours has counted.
pub fn plan(site: &SiteIntent, view: &FactoryView<'_>) -> Plan {
    if site.left && !site.release {
        // What is said about networks and Slurm is not known, so what is there stays.
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
