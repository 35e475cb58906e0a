//! A grant at a site in ordered stages, to which engines add: remove access, fence, inside, give access, usage.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::tenancy::{Access, Strangers, lets_work};
use crate::model::id::TenantNamespace;
use crate::model::intent::{GrantIntent, MemberIntent, SiteIntent};
use crate::model::kind::ObjectKind;
use crate::model::object::{Object, ObjectKey, Ownership};
use crate::model::plan::{Action, Deletion, ObservedObjects, Plan, Purpose, applies, deletes};
use crate::model::report::Finding;

/// The stages of a grant, in this order, for objects in Kubernetes and for calls to Slurm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GrantStage {
    /// Access is removed. No failure elsewhere delays this.
    RemoveAccess,
    /// Members are kept apart from others, and within bounds.
    Fence,
    /// Objects that members need once they have access.
    Inside,
    /// Members get access.
    GiveAccess,
    /// Objects that are not wanted any more are removed.
    Sweep,
    /// Work that is over its budget is ended.
    Usage,
}

/// What an engine sees of a grant: what its life cycle has decided, and what is there.
pub struct GrantScene<'a> {
    /// The site. Its accelerators are all that the grant has ever named.
    pub site: &'a SiteIntent,
    /// The grant, in which pools are closed whose budget is used up.
    pub grant: &'a GrantIntent,
    /// Its namespace.
    pub namespace: &'a TenantNamespace,
    /// Who owns its objects.
    pub ownership: &'a Ownership,
    /// What members may do.
    pub access: Access,
    /// The members whom the site takes.
    pub members: &'a [MemberIntent],
    /// Annotations of the namespace beside its owner.
    pub annotations: &'a BTreeMap<String, String>,
    /// The resources that the namespace names already.
    pub resources: Option<&'a str>,
    /// GPUs that Pods of closed pools still hold, by pool.
    pub held: &'a BTreeMap<String, i64>,
    /// Pools whose budget is used up.
    pub used_up: &'a BTreeSet<&'a str>,
    /// Whether work with accelerators goes on.
    pub working: bool,
    /// Whether the factory's network settings are known; where not, existing network policies stay as they are.
    pub networks_known: bool,
    /// The grant's objects as they are there.
    pub observed: &'a ObservedObjects,
    /// Objects of others in its namespace.
    pub strangers: &'a Strangers,
    /// Kinds that the site serves beside those that every cluster does.
    pub served: &'a BTreeSet<ObjectKind>,
}

/// The stages of a grant. Whatever engines add, and in whatever order they do, access is removed first and given last, and what gives access by its
/// kind is never written with the fence.
#[derive(Debug)]
pub struct GrantStages {
    access: Access,
    with_removal: Vec<Deletion>,
    removals: Vec<Deletion>,
    objects: BTreeMap<GrantStage, Vec<Object>>,
    usage: Vec<Action>,
    kept: BTreeSet<ObjectKind>,
    findings: Vec<Finding>,
}

impl GrantStages {
    /// Empty stages. `access` is what members may do, and so the most that an engine can give.
    pub fn new(access: Access) -> Self {
        Self {
            access,
            with_removal: Vec::new(),
            removals: Vec::new(),
            objects: BTreeMap::new(),
            usage: Vec::new(),
            kept: BTreeSet::new(),
            findings: Vec::new(),
        }
    }

    /// Adds actions that remove access, beside the removal of our own objects that are not wanted any more.
    pub fn remove_access(&mut self, deletions: impl IntoIterator<Item = Deletion>) {
        self.removals.extend(deletions);
    }

    /// Adds actions before the removal of access; they run only where there is access to remove.
    pub fn with_removal(&mut self, deletions: impl IntoIterator<Item = Deletion>) {
        self.with_removal.extend(deletions);
    }

    /// Adds objects that keep members apart from others, and within bounds.
    pub fn fence(&mut self, objects: impl IntoIterator<Item = Object>) {
        self.want(GrantStage::Fence, objects);
    }

    /// Adds objects that are written after the fence and before members get access.
    pub fn inside(&mut self, objects: impl IntoIterator<Item = Object>) {
        self.want(GrantStage::Inside, objects);
    }

    /// Adds objects that give access.
    pub fn give_access(&mut self, objects: impl IntoIterator<Item = Object>) {
        self.want(GrantStage::GiveAccess, objects);
    }

    fn want(&mut self, stage: GrantStage, objects: impl IntoIterator<Item = Object>) {
        for object in objects {
            let ObjectKey { kind, name, .. } = &object.key;
            // Whatever stage an engine uses: an object whose kind gives access is written after everything that bounds it, and not wanted where
            // nobody may work.
            let stage = if kind.gives_access() {
                if self.access != Access::Open && (*kind != ObjectKind::ROLE_BINDING || lets_work(name)) {
                    continue;
                }
                GrantStage::GiveAccess
            } else if kind.fences() {
                GrantStage::Fence
            } else {
                stage
            };
            self.objects.entry(stage).or_default().push(object);
        }
    }

    /// Adds actions that end work over its budget, after everything else.
    pub fn usage(&mut self, actions: impl IntoIterator<Item = Action>) {
        self.usage.extend(actions);
    }

    /// Keeps objects of this kind, also where they are not wanted.
    pub fn keep(&mut self, kind: ObjectKind) {
        self.kept.insert(kind);
    }

    /// Adds a finding.
    pub fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// The objects that give access.
    pub fn access(&self) -> &[Object] {
        self.objects.get(&GrantStage::GiveAccess).map(Vec::as_slice).unwrap_or_default()
    }

    /// Adds the removal of access to a plan; returns whether there is any.
    pub fn write_removals(&self, observed: &ObservedObjects, plan: &mut Plan) -> bool {
        let mut removals = deletes(observed, self.wanted().iter(), ObjectKind::gives_access);
        removals.extend(self.removals.iter().cloned().map(Action::from));
        let removes = !removals.is_empty();
        if removes {
            plan.step(Purpose::RemoveAccess, self.with_removal.iter().cloned().map(Action::from).collect());
            plan.step(Purpose::RemoveAccess, removals);
        }
        removes
    }

    /// Adds everything that comes after the removal of access, in order; and last, what is not wanted any more goes.
    pub fn write_rest(self, observed: &ObservedObjects, plan: &mut Plan) {
        let wanted = self.wanted();
        for objects in self.objects.into_values() {
            // Cluster-scoped objects come first, since the namespace is one of them.
            let (around, within): (Vec<Object>, Vec<Object>) = objects.into_iter().partition(|object| object.key.namespace.is_empty());
            plan.step(Purpose::Establish, applies(around, observed));
            plan.step(Purpose::Establish, applies(within, observed));
        }
        plan.step(Purpose::Establish, deletes(observed, wanted.iter(), |kind| kind.is_swept() && !self.kept.contains(&kind)));
        plan.step(Purpose::Establish, self.usage);
        plan.findings.extend(self.findings);
    }

    fn wanted(&self) -> BTreeSet<ObjectKey> {
        self.objects.values().flatten().map(|object| object.key.clone()).collect()
    }
}
