//! The stages of a site, to which engines add objects of the factory itself, and objects that several owners share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::OwnerRef;

use crate::model::intent::{Intent, SiteIntent};
use crate::model::kind::ObjectKind;
use crate::model::object::{Object, Ownership};
use crate::model::plan::{Action, ObservedObjects, Plan, Purpose, applies, deletes};
use crate::model::report::Finding;
use crate::model::view::Views;

/// What an engine sees of a whole site.
pub struct SiteScene<'a> {
    /// The site. Where it is released nothing is wanted there any more.
    pub site: &'a SiteIntent,
    /// The owner of these objects: the factory.
    pub ownership: &'a Ownership,
    /// The intents of all owners at the site.
    pub intents: &'a BTreeMap<OwnerRef, Arc<Intent>>,
    /// The factory's objects as they are there.
    pub observed: &'a ObservedObjects,
    /// What engines have read of objects at the site.
    pub views: &'a Views,
    /// Kinds that the site serves beside those that every cluster does.
    pub served: &'a BTreeSet<ObjectKind>,
}

/// The stages of a site: what is wanted, what is not wanted any more, and then what an engine does step by step.
#[derive(Debug, Default)]
pub struct SiteStages {
    wanted: Vec<Object>,
    steps: Vec<Vec<Action>>,
    findings: Vec<Finding>,
}

impl SiteStages {
    /// Adds objects that are wanted.
    pub fn want(&mut self, objects: impl IntoIterator<Item = Object>) {
        self.wanted.extend(objects);
    }

    /// Adds a step after the wanted objects and the steps before.
    pub fn step(&mut self, actions: Vec<Action>) {
        self.steps.push(actions);
    }

    /// Adds a finding.
    pub fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Writes the stages into a plan.
    pub fn write(self, observed: &ObservedObjects, plan: &mut Plan) {
        let keys: BTreeSet<_> = self.wanted.iter().map(|object| object.key.clone()).collect();
        plan.step(Purpose::Establish, applies(self.wanted, observed));
        plan.step(Purpose::Establish, deletes(observed, keys.iter(), ObjectKind::is_swept));
        for step in self.steps {
            plan.step(Purpose::Establish, step);
        }
        plan.findings.extend(self.findings);
    }
}
