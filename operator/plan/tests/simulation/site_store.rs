//! A site's API server: objects with resourceVersions, the admission policies of `charts/aifactory-site`, and what its watches show.

use std::collections::BTreeMap;

use aifactory_api::labels;
use aifactory_plan::engine::nodes::{NodeView, Taint};
use aifactory_plan::engine::tenancy::BindingView;
use aifactory_plan::model::digest::{Digest, planned_digest};
use aifactory_plan::model::object::{Object, ObjectKey, ObjectKind};
use aifactory_plan::model::plan::{NodePatch, Observed};
use aifactory_plan::site::grant::NamespaceView;
use aifactory_plan::site::index::{Extra, IndexedObject, QuotaView};
use serde_json::{Value, json};

use super::cast::HUB;
use super::clock::Ms;

/// A watch of its own, which may lag behind the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    Kind(ObjectKind),
    Nodes,
    Policy,
}

pub const STREAMS: [Stream; 9] = [
    Stream::Kind(ObjectKind::NAMESPACE),
    Stream::Kind(ObjectKind::NETWORK_POLICY),
    Stream::Kind(ObjectKind::RESOURCE_QUOTA),
    Stream::Kind(ObjectKind::LIMIT_RANGE),
    Stream::Kind(ObjectKind::SERVICE_ACCOUNT),
    Stream::Kind(ObjectKind::ROLE_BINDING),
    Stream::Kind(ObjectKind::CONFIG_MAP),
    Stream::Nodes,
    Stream::Policy,
];

/// What a watch shows.
#[derive(Clone, Debug)]
pub enum Observation {
    Put(Box<IndexedObject>),
    /// With UID and last version.
    Removed(ObjectKey, String, u64),
    Node(Box<NodeView>, u64),
    /// With UID and last version.
    NodeRemoved(String, String, u64),
    Policy(BTreeMap<String, String>),
}

/// Why the site did not take a write.
#[derive(Clone, Debug)]
pub struct Refused {
    pub message: String,
    /// The object that is in the way does not carry our label.
    pub foreign: bool,
    /// Its namespace is being deleted.
    pub terminating: bool,
}

#[derive(Clone, Debug)]
pub struct SiteObject {
    pub uid: u64,
    pub version: u64,
    pub content: Value,
    pub terminating: bool,
    digest: Digest,
    /// Somebody else made it.
    pub foreign: bool,
}

impl SiteObject {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.content["metadata"]["labels"].get(name)?.as_str()
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.content["metadata"]["annotations"].get(name)?.as_str()
    }

    pub fn managed(&self) -> bool {
        self.label(labels::MANAGED) == Some("true")
    }
}

/// What the site's etcd holds; a snapshot of it is a clone.
#[derive(Clone, Debug, Default)]
pub struct Etcd {
    pub objects: BTreeMap<ObjectKey, SiteObject>,
    pub nodes: BTreeMap<String, (NodeView, u64)>,
    pub policy: BTreeMap<String, String>,
    pub claim: Option<String>,
    /// Since when each locked namespace is locked, without a break.
    pub locked: BTreeMap<String, Ms>,
    version: u64,
}

/// A site's API server.
#[derive(Debug, Default)]
pub struct SiteStore {
    pub etcd: Etcd,
    pub events: Vec<(Stream, Observation)>,
    pub writes: usize,
    pub violations: Vec<(&'static str, String)>,
    /// Namespaces whose default deny somebody else took away, until it is there again.
    undenied: std::collections::BTreeSet<String>,
    uids: u64,
}

impl SiteStore {
    fn bump(&mut self) -> u64 {
        self.etcd.version += 1;
        self.etcd.version
    }

    fn uid(&mut self) -> u64 {
        self.uids += 1;
        self.uids
    }

    pub fn namespace(&self, name: &str) -> Option<&SiteObject> {
        self.etcd.objects.get(&ObjectKey::cluster(ObjectKind::NAMESPACE, name))
    }

    /// The objects of a kind in a namespace.
    pub fn inside<'a>(&'a self, kind: ObjectKind, namespace: &'a str) -> impl Iterator<Item = (&'a ObjectKey, &'a SiteObject)> {
        let from = ObjectKey::namespaced(kind, namespace, "");
        self.etcd.objects.range(from..).take_while(move |(key, _)| key.kind == kind && key.namespace == namespace)
    }

    pub fn paused(&self) -> bool {
        self.etcd.policy.get("paused").is_some_and(|value| value != "false")
    }

    /// What a list of this watch shows now.
    pub fn list(&self, stream: Stream) -> Vec<Observation> {
        match stream {
            Stream::Kind(kind) => {
                let objects = self.etcd.objects.iter().filter(|(key, _)| key.kind == kind && visible(key));
                objects.map(|(key, object)| Observation::Put(Box::new(indexed(key, object)))).collect()
            }
            Stream::Nodes => self.etcd.nodes.values().map(|(node, version)| Observation::Node(Box::new(node.clone()), *version)).collect(),
            Stream::Policy => vec![Observation::Policy(self.etcd.policy.clone())],
        }
    }

    fn put(&mut self, key: ObjectKey, mut object: SiteObject, now: Ms) {
        object.version = self.bump();
        object.digest = planned_digest(&object.content);
        if visible(&key) {
            self.events.push((Stream::Kind(key.kind), Observation::Put(Box::new(indexed(&key, &object)))));
        }
        if key.kind == ObjectKind::NAMESPACE {
            match object.label(labels::STATE) {
                Some(labels::STATE_LOCKED) => {
                    self.etcd.locked.entry(key.name.clone()).or_insert(now);
                }
                _ => {
                    self.etcd.locked.remove(&key.name);
                }
            }
        }
        if key.name == "aif-default-deny" {
            self.undenied.remove(&key.namespace);
        }
        self.etcd.objects.insert(key, object);
    }

    fn take(&mut self, key: &ObjectKey) {
        let version = self.bump();
        if let Some(object) = self.etcd.objects.remove(key)
            && visible(key)
        {
            self.events.push((Stream::Kind(key.kind), Observation::Removed(key.clone(), object.uid.to_string(), version)));
        }
    }

    fn refuse<T>(message: &str) -> Result<T, Refused> {
        Err(Refused { message: message.to_owned(), foreign: false, terminating: false })
    }

    /// Whether the operator may make or change this object.
    fn admit(&self, key: &ObjectKey) -> Result<(), Refused> {
        if self.paused() {
            return Self::refuse("the site has paused the operator");
        }
        let before = self.etcd.objects.get(key);
        let relabelled = before.is_none_or(|found| found.managed() || is_ours(found) || has_our_name(key));
        if !key.namespace.is_empty() {
            let Some(namespace) = self.namespace(&key.namespace) else { return Self::refuse("its namespace is not there") };
            if namespace.terminating && before.is_none() {
                return Err(Refused { message: "being terminated".to_owned(), foreign: false, terminating: true });
            }
            if !in_tenant(namespace) {
                return Self::refuse("the operator writes only in its own Namespaces");
            }
        }
        if relabelled { Ok(()) } else { Err(Refused { message: "only objects with our label".to_owned(), foreign: true, terminating: false }) }
    }

    /// Whether the operator may delete this object.
    fn admit_deletion(&self, key: &ObjectKey, found: Option<&SiteObject>) -> Result<(), Refused> {
        let account = key.kind == ObjectKind::SERVICE_ACCOUNT;
        if key.kind != ObjectKind::ROLE_BINDING && !account && self.paused() {
            return Self::refuse("the site has paused the operator");
        }
        let managed = found.is_none_or(SiteObject::managed);
        let Some(namespace) = self.namespace(&key.namespace) else {
            return if managed {
                Ok(())
            } else {
                Err(Refused { message: "only objects with our label".to_owned(), foreign: true, terminating: false })
            };
        };
        let (ours, stripped) = (found.is_some_and(|found| found.managed() || is_ours(found)), is_ours(namespace));
        let access = match key.kind {
            ObjectKind::ROLE_BINDING => ours || (aifactory_plan::engine::tenancy::has_our_name(&key.name) && (in_tenant(namespace) || stripped)),
            ObjectKind::SERVICE_ACCOUNT => matches!(key.name.as_str(), "default" | "aifactory") && (in_tenant(namespace) || stripped),
            _ => false,
        };
        if access || (in_tenant(namespace) && managed) {
            Ok(())
        } else {
            Err(Refused { message: "not the operator's to delete".to_owned(), foreign: !managed, terminating: false })
        }
    }

    /// Server-side apply.
    pub fn apply(&mut self, object: &Object, now: Ms) -> Result<IndexedObject, Refused> {
        self.writes += 1;
        self.admit(&object.key)?;
        let found = self.etcd.objects.get(&object.key);
        if object.updates.as_ref().is_some_and(|uid| found.is_none_or(|found| found.uid.to_string() != *uid)) {
            return Err(Refused { message: "the object with this UID is gone".to_owned(), foreign: false, terminating: true });
        }
        if object.key.kind == ObjectKind::ROLE_BINDING {
            self.check_fence(&object.key);
        }
        let before = self.etcd.objects.get(&object.key);
        if let Some(found) = before
            && found.content == object.content
        {
            return Ok(indexed(&object.key, found));
        }
        let (uid, terminating) = match before {
            Some(found) => (found.uid, found.terminating),
            None => (self.uid(), false),
        };
        let next = SiteObject { uid, version: 0, content: object.content.clone(), terminating, digest: object.digest(), foreign: false };
        self.put(object.key.clone(), next, now);
        Ok(indexed(&object.key, &self.etcd.objects[&object.key]))
    }

    /// O8: a tenant never exists with a binding and without default deny.
    fn check_fence(&mut self, binding: &ObjectKey) {
        let deny = ObjectKey::namespaced(ObjectKind::NETWORK_POLICY, binding.namespace.clone(), "aif-default-deny");
        if !self.etcd.objects.contains_key(&deny) && !self.undenied.contains(&binding.namespace) {
            self.violations.push(("O8", format!("{binding} is made before default deny")));
        }
    }

    /// Deletes for the operator.
    pub fn delete(&mut self, key: &ObjectKey, uid: Option<&str>) -> Result<Deletion, Refused> {
        self.writes += 1;
        let found = self.etcd.objects.get(key);
        let default = key.kind == ObjectKind::SERVICE_ACCOUNT && key.name == "default" && self.namespace(&key.namespace).is_some();
        if found.is_none() && !default {
            return Ok(Deletion::Nothing);
        }
        if uid.is_some_and(|uid| found.is_some_and(|found| uid != found.uid.to_string())) {
            return Ok(Deletion::Nothing);
        }
        self.admit_deletion(key, found)?;
        if key.kind == ObjectKind::NAMESPACE {
            if self.etcd.policy.get("allowDeletion").is_some_and(|value| value != "true") {
                return Self::refuse("the site does not let the operator delete Namespaces");
            }
            self.terminate(&key.name);
            return Ok(Deletion::Ordered);
        }
        self.take(key);
        // The API server answers the deletion of these with the object, as for one that goes later.
        Ok(if matches!(key.kind, ObjectKind::SERVICE_ACCOUNT | ObjectKind::RESOURCE_QUOTA) { Deletion::Ordered } else { Deletion::Gone })
    }

    /// A namespace is being deleted from now on.
    pub fn terminate(&mut self, name: &str) {
        let key = ObjectKey::cluster(ObjectKind::NAMESPACE, name);
        if let Some(mut object) = self.etcd.objects.get(&key).cloned().filter(|object| !object.terminating) {
            object.terminating = true;
            let now = self.etcd.locked.get(name).copied().unwrap_or_default();
            self.put(key, object, now);
        }
    }

    /// The namespaces that are being deleted, and go.
    pub fn finish_terminating(&mut self) {
        let gone: Vec<String> = self
            .etcd
            .objects
            .iter()
            .filter(|(key, object)| key.kind == ObjectKind::NAMESPACE && object.terminating)
            .map(|(key, _)| key.name.clone())
            .collect();
        for name in gone {
            let inside: Vec<ObjectKey> = self.etcd.objects.keys().filter(|key| key.namespace == name).cloned().collect();
            inside.iter().for_each(|key| self.take(key));
            self.take(&ObjectKey::cluster(ObjectKind::NAMESPACE, name.clone()));
            self.etcd.locked.remove(&name);
        }
    }

    pub fn end_work(&mut self, namespace: &str) -> Result<(), Refused> {
        self.writes += 1;
        if self.paused() {
            return Self::refuse("the site has paused the operator");
        }
        match self.namespace(namespace).and_then(|found| found.label(labels::STATE)) {
            Some(labels::STATE_LOCKED) => Ok(()),
            _ => Self::refuse("work ends in locked namespaces only"),
        }
    }

    /// A JSON Patch of a node; `None`: something else is there than the patch expects.
    pub fn patch_node(&mut self, patch: &NodePatch) -> Result<Option<(NodeView, u64)>, Refused> {
        self.writes += 1;
        if self.paused() {
            return Self::refuse("the site has paused the operator");
        }
        let Some((node, _)) = self.etcd.nodes.get(&patch.node) else { return Ok(None) };
        let Some(next) = patched(node, &patch.operations) else { return Ok(None) };
        self.set_node(next);
        Ok(self.etcd.nodes.get(&patch.node).cloned())
    }

    pub fn set_node(&mut self, node: NodeView) {
        let version = self.bump();
        self.events.push((Stream::Nodes, Observation::Node(Box::new(node.clone()), version)));
        self.etcd.nodes.insert(node.name.clone(), (node, version));
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some((node, _)) = self.etcd.nodes.remove(name) {
            let version = self.bump();
            self.events.push((Stream::Nodes, Observation::NodeRemoved(name.to_owned(), node.uid, version)));
        }
    }

    pub fn set_policy(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.etcd.policy.insert(key.to_owned(), value.to_owned()),
            None => self.etcd.policy.remove(key),
        };
        self.events.push((Stream::Policy, Observation::Policy(self.etcd.policy.clone())));
    }

    /// Somebody at the site edits an object by hand.
    pub fn edit(&mut self, key: &ObjectKey, now: Ms, by: impl FnOnce(&mut Value)) {
        if let Some(mut object) = self.etcd.objects.get(key).cloned() {
            by(&mut object.content);
            self.put(key.clone(), object, now);
        }
    }

    /// Somebody at the site deletes an object by hand.
    pub fn delete_by_hand(&mut self, key: &ObjectKey) {
        if key.kind == ObjectKind::NAMESPACE {
            self.terminate(&key.name);
        } else {
            if key.name == "aif-default-deny" {
                self.undenied.insert(key.namespace.clone());
            }
            self.take(key);
        }
    }

    /// Somebody else's binding in a tenant's namespace.
    pub fn foreign_binding(&mut self, namespace: &str, subject: &str, now: Ms) {
        if self.namespace(namespace).is_none_or(|found| found.terminating) {
            return;
        }
        let key = ObjectKey::namespaced(ObjectKind::ROLE_BINDING, namespace, "debug");
        let content = json!({
            "metadata": {"name": "debug", "namespace": namespace},
            "roleRef": {"kind": "ClusterRole", "name": "edit"},
            "subjects": [{"kind": "User", "name": subject}],
        });
        let uid = self.uid();
        let digest = planned_digest(&content);
        self.put(key, SiteObject { uid, version: 0, content, terminating: false, digest, foreign: true }, now);
    }

    /// The etcd is set back to a snapshot. What happened there since is forgotten, the numbers of versions too.
    pub fn restore(&mut self, snapshot: &Etcd) {
        self.etcd = snapshot.clone();
        self.events.clear();
    }
}

/// What a deletion came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    Gone,
    /// It goes later, or it is not told.
    Ordered,
    Nothing,
}

fn visible(key: &ObjectKey) -> bool {
    match key.kind {
        ObjectKind::CONFIG_MAP => key.name == "aifactory-access",
        ObjectKind::LIMIT_RANGE | ObjectKind::SERVICE_ACCOUNT => key.name == "aifactory",
        _ => true,
    }
}

fn in_tenant(namespace: &SiteObject) -> bool {
    namespace.managed() && namespace.label(labels::TENANT) == Some("true")
}

/// Whether its annotations say that it is the operator's, whatever became of its labels.
fn is_ours(object: &SiteObject) -> bool {
    object.annotation(labels::HUB).is_some() && object.annotation(labels::OWNER).is_some()
}

fn has_our_name(key: &ObjectKey) -> bool {
    let name = key.name.as_str();
    let policy = ["default-deny", "dns", "namespace", "egress", "cross-site"].iter().any(|policy| name == format!("aif-{policy}"));
    policy || aifactory_plan::engine::tenancy::has_our_name(name) || matches!(name, "aifactory" | "aifactory-affinity" | "aifactory-access")
}

/// The object as the worker's watch reduces it.
pub fn indexed(key: &ObjectKey, object: &SiteObject) -> IndexedObject {
    let binding = (key.kind == ObjectKind::ROLE_BINDING).then(|| BindingView::from_json(&object.content));
    let as_named = binding.as_ref().is_none_or(|binding| binding.is_as_named(&key.name));
    let ours = as_named && object.annotation(labels::HUB) == Some(HUB);
    let owner = object.annotation(labels::OWNER).filter(|_| ours).and_then(aifactory_api::OwnerRef::parse);
    let extra = match key.kind {
        ObjectKind::NAMESPACE => {
            let annotations = object.content["metadata"]["annotations"].as_object().into_iter().flatten();
            Extra::Namespace(NamespaceView {
                uid: object.uid.to_string(),
                terminating: object.terminating,
                state: object.label(labels::STATE).unwrap_or_default().to_owned(),
                annotations: annotations.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect(),
            })
        }
        ObjectKind::RESOURCE_QUOTA => Extra::Quota(QuotaView::default()),
        ObjectKind::NETWORK_POLICY if owner.is_none() => Extra::Widening,
        ObjectKind::ROLE_BINDING => binding.map_or(Extra::None, Extra::Binding),
        _ => Extra::None,
    };
    IndexedObject {
        key: key.clone(),
        owner,
        observed: Observed { uid: object.uid.to_string(), digest: (!object.foreign).then_some(object.digest), terminating: object.terminating },
        version: object.version,
        extra,
    }
}

fn patched(node: &NodeView, operations: &Value) -> Option<NodeView> {
    let mut next = node.clone();
    let taints = |node: &NodeView| match node.taints.as_slice() {
        [] => Value::Null,
        taints => Value::Array(taints.iter().map(Taint::to_json).collect()),
    };
    for operation in operations.as_array().expect("a patch") {
        let (op, path, value) = (operation["op"].as_str().expect("op"), operation["path"].as_str().expect("path"), &operation["value"]);
        let label = path.strip_prefix("/metadata/labels/").map(|name| name.replace("~1", "/").replace("~0", "~"));
        match (op, label, path) {
            ("test", Some(label), _) => {
                let found = next.labels.get(&label).map_or(Value::Null, |found| json!(found));
                (found == *value).then_some(())?;
            }
            ("test", None, "/metadata/uid") => (json!(next.uid) == *value).then_some(())?,
            ("test", None, _) => (taints(&next) == *value).then_some(())?,
            ("remove", Some(label), _) => {
                next.labels.remove(&label);
            }
            (_, Some(label), _) => {
                next.labels.insert(label, value.as_str().expect("a label").to_owned());
            }
            ("remove", None, _) => next.taints.clear(),
            (_, None, _) => next.taints = value.as_array().expect("taints").iter().map(taint).collect(),
        }
    }
    Some(next)
}

fn taint(value: &Value) -> Taint {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    Taint { key: text("key"), value: text("value"), effect: text("effect"), time_added: value["timeAdded"].as_str().map(str::to_owned) }
}
