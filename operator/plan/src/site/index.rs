//! The index of what is ours on a site: by owner, identity, UID and a digest of the fields that we own, never whole objects.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::nodes::NodeView;
use crate::engine::slinky::{Controllers, NodeSetView};
use crate::model::digest::owned_digest;
use crate::model::object::{ObjectKey, ObjectKind};
use crate::model::plan::{Observed, ObservedObjects};
use crate::model::quantity;
use crate::site::grant::NamespaceView;
use aifactory_api::{Kind, OwnerRef, labels};
use jiff::Timestamp;
use serde_json::Value;

/// Name of the quota that counts Pods and what they ask for.
const QUOTA: &str = "aifactory";

/// An object as seen, reduced to what the index keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Identity.
    pub key: ObjectKey,
    /// Whose it is; `None`: not ours.
    pub owner: Option<OwnerRef>,
    /// UID, digest and whether it is being deleted.
    pub observed: Observed,
    /// Its resourceVersion, which orders what was seen of one object.
    pub version: u64,
    /// More, by kind.
    pub extra: Extra,
}

/// What is kept beside identity and digest.
// It lives for a moment only, on the way into the index.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq)]
pub enum Extra {
    /// Nothing.
    None,
    /// A tenant's namespace.
    Namespace(NamespaceView),
    /// A quota's status.
    Quota(QuotaView),
    /// A NodeSet.
    NodeSet(NodeSetView),
}

/// What is kept of a quota's status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuotaView {
    /// Used amounts, by resource name.
    pub used: BTreeMap<String, i64>,
    /// When it moved last: no Pod comes or goes without that.
    pub moved: Option<Timestamp>,
}

impl QuotaView {
    fn from_json(object: &Value) -> Self {
        let used = object.pointer("/status/used").and_then(Value::as_object).into_iter().flatten();
        let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array).into_iter().flatten();
        Self {
            used: used
                .filter_map(|(name, value)| Some((name.strip_prefix("requests.")?.to_owned(), quantity::parse_count(value.as_str()?)?)))
                .filter(|(_, used)| *used > 0)
                .collect(),
            moved: entries
                .filter(|entry| entry.get("subresource").and_then(Value::as_str) == Some("status"))
                .filter_map(|entry| entry.get("time")?.as_str()?.parse().ok())
                .max(),
        }
    }
}

impl Seen {
    /// Reduces an object. Ours is what carries our label and the annotations of this hub.
    pub fn reduce(kind: ObjectKind, object: &Value, hub: &str) -> Option<Self> {
        let metadata = object.get("metadata")?;
        let text = |path: &str| metadata.pointer(path).and_then(Value::as_str);
        let key = ObjectKey { kind, namespace: text("/namespace").unwrap_or_default().to_owned(), name: text("/name")?.to_owned() };
        let annotations = metadata.get("annotations").and_then(Value::as_object);
        let annotation = |name: &str| annotations?.get(name)?.as_str();
        let managed = metadata.get("labels").and_then(|labels| labels.get(labels::MANAGED)).and_then(Value::as_str) == Some("true");
        let ours = managed && annotation(labels::HUB) == Some(hub);
        let owner = ours.then(|| annotation(labels::OWNER).and_then(OwnerRef::parse)).flatten();
        let extra = match kind {
            ObjectKind::Namespace => Extra::Namespace(NamespaceView {
                uid: text("/uid").unwrap_or_default().to_owned(),
                terminating: metadata.get("deletionTimestamp").is_some(),
                state: metadata.get("labels").and_then(|labels| labels.get(labels::STATE)).and_then(Value::as_str).unwrap_or_default().to_owned(),
                annotations: annotations
                    .into_iter()
                    .flatten()
                    .filter(|(name, _)| name.starts_with("aifactory.dev/"))
                    .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                    .collect(),
            }),
            ObjectKind::ResourceQuota => Extra::Quota(QuotaView::from_json(object)),
            ObjectKind::NodeSet => Extra::NodeSet(NodeSetView::from_json(object)),
            ObjectKind::NetworkPolicy
            | ObjectKind::LimitRange
            | ObjectKind::ServiceAccount
            | ObjectKind::RoleBinding
            | ObjectKind::ConfigMap
            | ObjectKind::Controller
            | ObjectKind::Accounting
            | ObjectKind::RestApi
            | ObjectKind::Token
            | ObjectKind::Secret
            | ObjectKind::ClusterNetworkPolicy => Extra::None,
        };
        Some(Self {
            key,
            owner,
            observed: Observed {
                uid: text("/uid").unwrap_or_default().to_owned(),
                digest: owned_digest(object, labels::SITE_MANAGER, kind.owns_spec()),
                terminating: metadata.get("deletionTimestamp").is_some(),
            },
            version: text("/resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default(),
            extra,
        })
    }
}

/// All that is ours on a site, and what others put into tenants' namespaces.
#[derive(Debug, Default)]
pub struct Index {
    owners: BTreeMap<OwnerRef, ObservedObjects>,
    owner_of: BTreeMap<ObjectKey, OwnerRef>,
    /// The last version seen of each object, of those that are gone as well until the next listing: the answer to a write may come after the
    /// news that the object went.
    versions: BTreeMap<ObjectKey, u64>,
    /// UIDs of objects that we deleted and the watch may still show.
    deleted: BTreeMap<ObjectKey, String>,
    namespaces: BTreeMap<String, NamespaceView>,
    quotas: BTreeMap<String, QuotaView>,
    node_sets: BTreeMap<ObjectKey, NodeSetView>,
    controllers: Option<Controllers>,
    foreign: BTreeMap<String, BTreeSet<ObjectKey>>,
    nodes: BTreeMap<String, NodeView>,
}

impl Index {
    /// Takes in an object, and says whose visit is due: the owner's, and where it changed hands the former owner's.
    pub fn put(&mut self, seen: Seen) -> BTreeSet<OwnerRef> {
        let mut due = BTreeSet::new();
        let Seen { key, owner, observed, version, extra } = seen;
        if self.deleted.get(&key) == Some(&observed.uid) || self.versions.get(&key).is_some_and(|known| *known >= version) {
            return due;
        }
        if let Some(former) = self.owner_of.get(&key)
            && Some(former) != owner.as_ref()
        {
            due.extend(self.remove_known(&key));
        }
        match extra {
            Extra::Namespace(view) if owner.is_some() => {
                self.namespaces.insert(key.name.clone(), view);
            }
            // The other quota is about affinity only.
            Extra::Quota(view) if owner.is_some() && key.name == QUOTA => {
                self.quotas.insert(key.namespace.clone(), view);
            }
            Extra::NodeSet(view) if owner.is_some() => {
                self.node_sets.insert(key.clone(), view);
            }
            Extra::None | Extra::Namespace(_) | Extra::Quota(_) | Extra::NodeSet(_) => {}
        }
        match owner {
            Some(owner) => {
                self.remove_foreign(&key);
                self.versions.insert(key.clone(), version);
                self.owner_of.insert(key.clone(), owner.clone());
                self.owners.entry(owner.clone()).or_default().insert(key, observed);
                due.insert(owner);
            }
            None if key.namespace.starts_with(labels::PREFIX) && widens(key.kind) => {
                let namespace = key.namespace.clone();
                self.foreign.entry(namespace.clone()).or_default().insert(key);
                due.extend(self.tenant(&namespace).cloned());
            }
            None => {}
        }
        due
    }

    /// Forgets an object that we have just deleted; the watch may still show it for a moment.
    pub fn delete(&mut self, key: &ObjectKey) {
        if let Some(uid) = self.owner_of.get(key).and_then(|owner| self.owners.get(owner)?.get(key)).map(|found| found.uid.clone()) {
            self.deleted.insert(key.clone(), uid);
        }
        self.remove_known(key);
    }

    /// Forgets an object that is gone, and says whose visit is due.
    pub fn remove(&mut self, key: &ObjectKey) -> BTreeSet<OwnerRef> {
        self.deleted.remove(key);
        self.remove_known(key)
    }

    fn remove_known(&mut self, key: &ObjectKey) -> BTreeSet<OwnerRef> {
        let mut due = BTreeSet::new();
        if let Some(owner) = self.owner_of.remove(key) {
            if let Some(objects) = self.owners.get_mut(&owner) {
                objects.remove(key);
                if objects.is_empty() {
                    self.owners.remove(&owner);
                }
            }
            due.insert(owner);
        }
        match key.kind {
            ObjectKind::Namespace => {
                self.namespaces.remove(&key.name);
            }
            ObjectKind::ResourceQuota => {
                if key.name == QUOTA {
                    self.quotas.remove(&key.namespace);
                }
            }
            ObjectKind::NodeSet => {
                self.node_sets.remove(key);
            }
            ObjectKind::NetworkPolicy
            | ObjectKind::LimitRange
            | ObjectKind::ServiceAccount
            | ObjectKind::RoleBinding
            | ObjectKind::ConfigMap
            | ObjectKind::Controller
            | ObjectKind::Accounting
            | ObjectKind::RestApi
            | ObjectKind::Token
            | ObjectKind::Secret
            | ObjectKind::ClusterNetworkPolicy => {}
        }
        if self.remove_foreign(key) {
            due.extend(self.tenant(&key.namespace).cloned());
        }
        due
    }

    fn remove_foreign(&mut self, key: &ObjectKey) -> bool {
        let Some(keys) = self.foreign.get_mut(&key.namespace) else { return false };
        let removed = keys.remove(key);
        if keys.is_empty() {
            self.foreign.remove(&key.namespace);
        }
        removed
    }

    /// Forgets everything of a kind that was not seen again in a fresh listing.
    pub fn retain(&mut self, kind: ObjectKind, seen: &BTreeSet<ObjectKey>) -> BTreeSet<OwnerRef> {
        self.deleted.retain(|key, _| key.kind != kind || seen.contains(key));
        self.versions.retain(|key, _| key.kind != kind || seen.contains(key));
        let gone: Vec<ObjectKey> =
            self.owner_of.keys().chain(self.foreign.values().flatten()).filter(|key| key.kind == kind && !seen.contains(key)).cloned().collect();
        gone.iter().flat_map(|key| self.remove(key)).collect()
    }

    /// Takes in a node.
    pub fn put_node(&mut self, node: NodeView) -> bool {
        self.nodes.get(&node.name) != Some(&node) && {
            self.nodes.insert(node.name.clone(), node);
            true
        }
    }

    /// Forgets a node.
    pub fn remove_node(&mut self, name: &str) -> bool {
        self.nodes.remove(name).is_some()
    }

    /// Forgets the nodes that were not seen again in a fresh listing.
    pub fn retain_nodes(&mut self, seen: &BTreeSet<String>) {
        self.nodes.retain(|name, _| seen.contains(name));
    }

    /// The nodes.
    pub fn nodes(&self) -> Vec<&NodeView> {
        self.nodes.values().collect()
    }

    /// The objects of an owner.
    pub fn objects(&self, owner: &OwnerRef) -> Option<&ObservedObjects> {
        self.owners.get(owner)
    }

    /// A tenant's namespace.
    pub fn namespace(&self, name: &str) -> Option<&NamespaceView> {
        self.namespaces.get(name)
    }

    /// The namespace that this owner has, whatever its name.
    pub fn namespace_of(&self, owner: &OwnerRef) -> Option<(&str, &NamespaceView)> {
        self.owners
            .get(owner)?
            .keys()
            .find(|key| key.kind == ObjectKind::Namespace)
            .and_then(|key| self.namespaces.get_key_value(&key.name).map(|(name, view)| (name.as_str(), view)))
    }

    /// What others put into a namespace that widens a grant.
    pub fn foreign(&self, namespace: &str) -> Vec<ObjectKey> {
        self.foreign.get(namespace).into_iter().flatten().cloned().collect()
    }

    /// Amounts in use in a namespace, by resource name.
    pub fn used(&self, namespace: &str) -> Option<&BTreeMap<String, i64>> {
        self.quotas.get(namespace).map(|quota| &quota.used)
    }

    /// When a namespace's quota moved last.
    pub fn moved(&self, namespace: &str) -> Option<Timestamp> {
        self.quotas.get(namespace)?.moved
    }

    /// Every tenant's namespace.
    pub fn namespaces(&self) -> impl Iterator<Item = (&String, &NamespaceView)> {
        self.namespaces.iter()
    }

    /// A NodeSet.
    pub fn node_set(&self, key: &ObjectKey) -> Option<&NodeSetView> {
        self.node_sets.get(key)
    }

    /// The NodeSets of all pools.
    pub fn node_sets(&self) -> Vec<&NodeSetView> {
        self.node_sets.values().collect()
    }

    /// Takes in the Controllers as they are, and says whether that is news.
    pub fn set_controllers(&mut self, controllers: Controllers) -> bool {
        self.controllers.as_ref() != Some(&controllers) && {
            self.controllers = Some(controllers);
            true
        }
    }

    /// The Controllers; `None`: not read yet.
    pub fn controllers(&self) -> Option<&Controllers> {
        self.controllers.as_ref()
    }

    /// Everybody who owns something here; nodes belong to pools of the factory's namespace.
    pub fn owners(&self, factory: &OwnerRef) -> BTreeSet<OwnerRef> {
        let pools =
            self.nodes.values().filter_map(|node| node.labels.get(labels::POOL)).map(|pool| OwnerRef::new(Kind::GPUPool, &factory.namespace, pool));
        self.owners.keys().cloned().chain(pools).collect()
    }

    /// Whose namespace this is.
    pub fn tenant(&self, namespace: &str) -> Option<&OwnerRef> {
        self.owner_of.get(&ObjectKey::cluster(ObjectKind::Namespace, namespace))
    }
}

/// Kinds by which somebody else can give more than a grant gives.
fn widens(kind: ObjectKind) -> bool {
    matches!(kind, ObjectKind::RoleBinding | ObjectKind::NetworkPolicy)
}
