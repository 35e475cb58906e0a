//! Plans: what a site should hold, and the steps that lead there.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::model::digest::Digest;
use crate::model::id::TenantNamespace;
use crate::model::object::{Object, ObjectKey, ObjectKind};
use crate::model::report::{Detail, Finding, SitePhase};

/// The part of an object of ours that the operator keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The object's UID.
    pub uid: String,
    /// Digest of the fields that we own; `None` where we own none.
    pub digest: Option<Digest>,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// Objects of one owner, as observed.
pub type ObservedObjects = BTreeMap<ObjectKey, Observed>;

/// The plan for one resource at one site.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What to do, strictly in this order. Empty: the site holds just what is wanted.
    pub steps: Vec<Step>,
    /// Where the resource stands once the steps are done.
    pub phase: SitePhase,
    /// What people should know.
    pub findings: Vec<Finding>,
    /// More for the report.
    pub detail: Detail,
    /// When to look again, since the clock changes what is wanted.
    pub wake: Option<Timestamp>,
}

/// Actions that may run side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// What they are for.
    pub purpose: Purpose,
    /// The actions.
    pub actions: Vec<Action>,
}

/// What a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Purpose {
    /// Removes access. A failure does not stop the steps after it.
    RemoveAccess,
    /// Everything else. A failure stops the steps after it.
    Establish,
}

/// One request to the site.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Action {
    /// Server-side apply.
    Apply(Object),
    /// Create a Secret with a key of so many random bytes, unless there is one of the name already: a key is never changed and never read.
    CreateKey {
        /// The Secret without its data.
        object: Object,
        /// Under which name the Secret holds the key.
        field: String,
        /// Its length.
        bytes: usize,
    },
    /// Delete, if it is still the one with this UID. Without a UID: whatever has the name.
    Delete {
        /// What.
        key: ObjectKey,
        /// Its UID.
        uid: Option<String>,
    },
    /// Order the end of all work in a namespace.
    EndWork {
        /// The namespace.
        namespace: TenantNamespace,
    },
    /// Order the end of a Pod.
    EndPod {
        /// Its namespace.
        namespace: TenantNamespace,
        /// Its name.
        name: String,
        /// Seconds that it has to end.
        grace: u32,
    },
    /// Change label and taint of a Node.
    PatchNode(NodePatch),
}

/// An action that must be a deletion, checked by type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// What.
    pub key: ObjectKey,
    /// Its UID; `None`: whatever has the name.
    pub uid: Option<String>,
}

impl From<Deletion> for Action {
    fn from(deletion: Deletion) -> Self {
        let Deletion { key, uid } = deletion;
        Action::Delete { key, uid }
    }
}

/// A change of one Node. It fails where the Node is another one or is not what it was when it was planned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodePatch {
    /// The Node's name.
    pub node: String,
    /// Its UID.
    pub uid: String,
    /// The operations, as RFC 6902 has them.
    pub operations: Value,
}

impl Plan {
    /// A plan without steps.
    pub fn nothing(phase: SitePhase, detail: Detail) -> Self {
        Self { steps: Vec::new(), phase, findings: Vec::new(), detail, wake: None }
    }

    /// Adds a step, unless it is empty.
    pub fn step(&mut self, purpose: Purpose, actions: Vec<Action>) {
        if !actions.is_empty() {
            self.steps.push(Step { purpose, actions });
        }
    }
}

/// The applies for `wanted`: none for an object whose owned fields are as planned.
pub fn applies(wanted: Vec<Object>, observed: &ObservedObjects) -> Vec<Action> {
    wanted
        .into_iter()
        .filter_map(|object| match observed.get(&object.key) {
            Some(found) => (!found.terminating && found.digest != Some(object.digest())).then(|| object.update_of(&found.uid)),
            None => Some(object),
        })
        .map(Action::Apply)
        .collect()
}

/// The deletes of observed objects that are not wanted, of the kinds that `select` takes.
pub fn deletes<'a>(observed: &ObservedObjects, wanted: impl Iterator<Item = &'a ObjectKey>, select: impl Fn(ObjectKind) -> bool) -> Vec<Action> {
    let wanted: std::collections::BTreeSet<_> = wanted.collect();
    observed
        .iter()
        .filter(|(key, found)| select(key.kind) && !found.terminating && !wanted.contains(key))
        .map(|(key, found)| Action::Delete { key: key.clone(), uid: Some(found.uid.clone()) })
        .collect()
}
