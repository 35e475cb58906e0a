//! The index of our objects at a site: by owner, with identity, UID and a digest of the fields that we own, never whole objects.
//!
//! The owner of an object is read from its annotations, which no tenant can write. Labels are for people to select by; an object that has lost them
//! is still found.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::Engines;
use crate::engine::nodes::NodeView;
use crate::engine::tenancy::BindingView;
use crate::engine::uses::Care;
use crate::model::digest::owned_digest;
use crate::model::freshness::{Freshness, Incarnation, Moment};
use crate::model::id::{HubId, TenantNamespace};
use crate::model::object::{ObjectKey, ObjectKind};
use crate::model::plan::{Observed, ObservedObjects};
use crate::model::quantity;
use crate::model::view::{View, Views};
use crate::model::visits::Visits;
use crate::site::grant::NamespaceView;
use aifactory_api::{Kind, OwnerRef, labels};
use jiff::Timestamp;
use serde_json::Value;

pub use crate::engine::tenancy::{Stranger, Strangers};

/// Name of the quota that counts Pods and what they ask for.
const QUOTA: &str = "aifactory";

/// An object as seen, reduced to what the index keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexedObject {
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
// The value is short-lived: it is taken apart on the way into the index.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq)]
pub enum Extra {
    /// Nothing.
    None,
    /// A tenant's namespace.
    Namespace(NamespaceView),
    /// A quota's status.
    Quota(QuotaView),
    /// A role binding.
    Binding(BindingView),
    /// Nothing; marks a foreign object that may widen what a tenant has.
    Widening,
    /// What an engine has read of an object of ours.
    View(View),
    /// What an engine has read of an object, whoever owns it.
    ViewOfAny(View),
}

/// What else changes with an event of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Owners that are to be reconciled.
    pub due: BTreeSet<OwnerRef>,
    /// Grants whose namespace was deleted by others while it was in use.
    pub lost: BTreeSet<OwnerRef>,
    /// Whether a view has changed that engines read for all pools.
    pub pools: bool,
    /// Whether an object with a view is gone: the removal of the site's shared objects may have waited for that.
    pub site: bool,
}

impl Change {
    fn extend(&mut self, other: Change) {
        self.due.extend(other.due);
        self.lost.extend(other.lost);
        self.pools |= other.pools;
        self.site |= other.site;
    }
}

/// What is kept of a quota's status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuotaView {
    /// Used amounts, by resource name.
    pub used: BTreeMap<String, i64>,
    /// When it last changed, which it does with each Pod that comes or goes.
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

impl IndexedObject {
    /// Reduces an object. An object is ours if it has the annotations of this hub; a role binding must also refer to the role that its name contains.
    pub fn reduce(engines: Engines, kind: ObjectKind, object: &Value, hub: &HubId) -> Option<Self> {
        let metadata = object.get("metadata")?;
        let text = |path: &str| metadata.pointer(path).and_then(Value::as_str);
        let key = ObjectKey { kind, namespace: text("/namespace").unwrap_or_default().to_owned(), name: text("/name")?.to_owned() };
        let annotations = metadata.get("annotations").and_then(Value::as_object);
        let annotation = |name: &str| annotations?.get(name)?.as_str();
        let binding = (kind == ObjectKind::ROLE_BINDING).then(|| BindingView::from_json(object));
        let as_named = binding.as_ref().is_none_or(|binding| binding.is_as_named(&key.name));
        let ours = as_named && annotation(labels::HUB) == Some(hub.as_str());
        let owner = ours.then(|| annotation(labels::OWNER).and_then(OwnerRef::parse)).flatten();
        let extra = match kind {
            ObjectKind::NAMESPACE => Extra::Namespace(NamespaceView {
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
            ObjectKind::RESOURCE_QUOTA => Extra::Quota(QuotaView::from_json(object)),
            ObjectKind::ROLE_BINDING => binding.map_or(Extra::None, Extra::Binding),
            _ => Self::read(engines, kind, object, owner.is_some()),
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

    /// The view that the engine of a kind keeps of an object.
    fn read(engines: Engines, kind: ObjectKind, object: &Value, ours: bool) -> Extra {
        match engines.use_of(kind).map(|used| used.care) {
            Some(Care::All) => engines.read(kind, object).map_or(Extra::None, Extra::ViewOfAny),
            Some(Care::OwnedAndWidening) if !ours => Extra::Widening,
            Some(_) if ours => engines.read(kind, object).map_or(Extra::None, Extra::View),
            Some(_) | None => Extra::None,
        }
    }

    fn incarnation(&self) -> Incarnation {
        Incarnation::new(&self.observed.uid, self.version)
    }
}

/// All of our objects at a site, and foreign objects in tenants' namespaces that matter.
#[derive(Debug, Default)]
pub struct Index {
    owners: BTreeMap<OwnerRef, ObservedObjects>,
    owner_of: BTreeMap<ObjectKey, OwnerRef>,
    /// The latest point in the order of listings and requests.
    moment: Moment,
    fresh: BTreeMap<ObjectKind, Freshness<ObjectKey>>,
    fresh_nodes: Freshness<String>,
    /// UIDs of Namespaces whose deletion we have ordered.
    ordered: BTreeSet<String>,
    namespaces: BTreeMap<TenantNamespace, NamespaceView>,
    /// Namespaces with our prefix and without an owner.
    occupied: BTreeSet<TenantNamespace>,
    quotas: BTreeMap<TenantNamespace, QuotaView>,
    /// What engines have read.
    views: Views,
    /// Objects of which an engine reads all, whoever owns them.
    of_any: BTreeSet<ObjectKey>,
    strangers: BTreeMap<TenantNamespace, Strangers>,
    /// Role bindings of ours that are to be replaced by others, see [`BindingView::becomes`].
    becoming: BTreeMap<ObjectKey, BindingView>,
    nodes: BTreeMap<String, NodeView>,
    /// What is ours in each namespace.
    by_namespace: BTreeMap<String, BTreeSet<ObjectKey>>,
    /// How many nodes carry the label of a pool, by its name.
    nodes_of_pool: BTreeMap<String, usize>,
    visits: Visits,
}

impl Index {
    /// The moment of a request that begins now, to be passed with its answer.
    pub fn moment(&self) -> Moment {
        self.moment
    }

    /// A new listing of a kind begins.
    pub fn relist(&mut self, kind: ObjectKind) {
        self.moment = self.moment.next();
        self.fresh.entry(kind).or_default().relist(self.moment);
    }

    /// Stores an object from an event of the watch.
    pub fn put(&mut self, seen: IndexedObject) -> Change {
        let state = seen.incarnation();
        if self.fresh.entry(seen.key.kind).or_default().shown(&seen.key, state) { self.take(seen) } else { Change::default() }
    }

    /// Stores an object from the answer to a write that was begun at this moment.
    pub fn answered(&mut self, seen: IndexedObject, asked: Moment) -> Change {
        let state = seen.incarnation();
        if self.fresh.entry(seen.key.kind).or_default().answered(&seen.key, state, asked) { self.take(seen) } else { Change::default() }
    }

    fn take(&mut self, seen: IndexedObject) -> Change {
        let mut change = Change::default();
        let IndexedObject { key, owner, observed, version: _, extra } = seen;
        let former = self.owner_of.get(&key);
        if owner.is_some() && former == owner.as_ref() && self.is_known(&key, &observed, &extra) {
            return change;
        }
        let anew = former.is_some() && self.is_another(&key, &observed.uid);
        if former.is_some() && (former != owner.as_ref() || anew) {
            change.extend(self.forget(&key, anew));
        }
        match extra {
            Extra::Namespace(view) if owner.is_some() => {
                self.occupied.remove(key.name.as_str());
                self.namespaces.insert(TenantNamespace::new(&key.name), view);
            }
            Extra::Namespace(_) if key.name.starts_with(labels::PREFIX) => {
                self.occupied.insert(TenantNamespace::new(&key.name));
                change.due.extend(self.inside(&key.name));
            }
            // The other quota only forbids affinity across namespaces.
            Extra::Quota(view) if owner.is_some() && key.name == QUOTA => {
                self.quotas.insert(TenantNamespace::new(&key.namespace), view);
            }
            Extra::View(view) => {
                self.views.put(key.clone(), view);
            }
            Extra::ViewOfAny(view) => {
                self.of_any.insert(key.clone());
                change.pools |= self.views.put(key.clone(), view);
            }
            Extra::Binding(view) if owner.is_some() => {
                self.becoming.remove(&key);
                if view.becomes.is_some() {
                    self.becoming.insert(key.clone(), view);
                }
            }
            Extra::Binding(view) => change.due.extend(self.stranger(&key, &observed, Some(view))),
            Extra::Widening => change.due.extend(self.stranger(&key, &observed, None)),
            Extra::None | Extra::Namespace(_) | Extra::Quota(_) => {}
        }
        if let Some(owner) = owner {
            self.remove_stranger(&key);
            self.owner_of.insert(key.clone(), owner.clone());
            self.by_namespace.entry(key.namespace.clone()).or_default().insert(key.clone());
            self.owners.entry(owner.clone()).or_default().insert(key, observed);
            change.due.insert(owner);
        }
        change
    }

    fn stranger(&mut self, key: &ObjectKey, observed: &Observed, binding: Option<BindingView>) -> BTreeSet<OwnerRef> {
        if !key.namespace.starts_with(labels::PREFIX) {
            return BTreeSet::new();
        }
        self.strangers.entry(TenantNamespace::new(&key.namespace)).or_default().insert(key.clone(), Stranger { uid: observed.uid.clone(), binding });
        self.inside(&key.namespace)
    }

    /// Whether nothing that is kept of an object differs, as where it is listed once more.
    fn is_known(&self, key: &ObjectKey, observed: &Observed, extra: &Extra) -> bool {
        let same = self.owner_of.get(key).and_then(|owner| self.owners.get(owner)?.get(key)) == Some(observed);
        same && match extra {
            Extra::None | Extra::Widening => true,
            Extra::Namespace(view) => self.namespaces.get(key.name.as_str()) == Some(view),
            Extra::Quota(view) => key.name != QUOTA || self.quotas.get(key.namespace.as_str()) == Some(view),
            Extra::View(view) | Extra::ViewOfAny(view) => self.views.is_known(key, view),
            Extra::Binding(view) => self.becoming.get(key) == Some(view).filter(|view| view.becomes.is_some()),
        }
    }

    /// Whether another Namespace has this name now, so that what was in the former one is gone.
    fn is_another(&self, key: &ObjectKey, uid: &str) -> bool {
        key.kind == ObjectKind::NAMESPACE && self.namespaces.get(key.name.as_str()).is_some_and(|known| known.uid != uid)
    }

    /// The deletion of an object was ordered and taken; it goes when its finalizers have.
    pub fn ordered_deletion(&mut self, key: &ObjectKey) {
        if key.kind == ObjectKind::NAMESPACE
            && let Some(known) = self.namespaces.get(key.name.as_str())
        {
            self.ordered.insert(known.uid.clone());
        }
    }

    /// Forgets an object that we have just deleted by a request that was begun at this moment; the watch may still show it.
    pub fn deleted(&mut self, key: &ObjectKey, asked: Moment) -> Change {
        let ours = self.owner_of.get(key).and_then(|owner| self.owners.get(owner)?.get(key)).map(|found| &found.uid);
        let uid = ours.or_else(|| Some(&self.strangers.get(key.namespace.as_str())?.get(key)?.uid)).cloned();
        match uid {
            Some(uid) if self.fresh.entry(key.kind).or_default().deleted(key, &uid, asked) => {
                self.ordered_deletion(key);
                self.forget(key, true)
            }
            _ => Change::default(),
        }
    }

    /// Forgets an object whose deletion the watch shows, with its last version, unless another one has its name by now.
    pub fn remove(&mut self, key: &ObjectKey, uid: &str, version: u64) -> Change {
        if !self.fresh.entry(key.kind).or_default().went(key, Incarnation::new(uid, version)) {
            return Change::default();
        }
        let mut change = self.forget(key, true);
        change.extend(self.empty(key));
        change
    }

    /// Forgets what was in a Namespace that is gone: the API server deletes a Namespace after all that is in it, and the watches of other kinds may
    /// be behind.
    fn empty(&mut self, namespace: &ObjectKey) -> Change {
        let mut change = Change::default();
        if namespace.kind != ObjectKind::NAMESPACE {
            return change;
        }
        let ours = self.by_namespace.get(&namespace.name).into_iter().flatten();
        let known = ours.chain(self.strangers.get(namespace.name.as_str()).into_iter().flat_map(BTreeMap::keys));
        let inside: Vec<ObjectKey> = self.visits.of(known).cloned().collect();
        for key in inside {
            self.fresh.entry(key.kind).or_default().mark_gone(&key);
            change.extend(self.forget(&key, true));
        }
        change
    }

    /// Forgets everything of a kind that was not seen in a listing that is over now.
    pub fn retain(&mut self, kind: ObjectKind, seen: &BTreeSet<ObjectKey>) -> Change {
        let fresh = self.fresh.entry(kind).or_default();
        let occupied: Vec<ObjectKey> = match kind {
            ObjectKind::NAMESPACE => self.occupied.iter().map(|name| ObjectKey::cluster(kind, name.as_str())).collect(),
            _ => Vec::new(),
        };
        self.views.set_listed(kind);
        let known = self.owner_of.keys().chain(self.strangers.values().flat_map(BTreeMap::keys)).chain(&occupied).chain(&self.of_any);
        let gone: Vec<ObjectKey> = known.filter(|key| key.kind == kind && !seen.contains(key) && !fresh.outlives_listing(key)).cloned().collect();
        let mut change = Change::default();
        for key in gone {
            change.extend(self.forget(&key, true));
            change.extend(self.empty(&key));
        }
        change
    }

    /// Forgets the object of this name. `gone`: it was deleted, and has not only lost its owner.
    fn forget(&mut self, key: &ObjectKey, gone: bool) -> Change {
        let mut change = Change::default();
        if let Some(owner) = self.owner_of.remove(key) {
            if let Some(inside) = self.by_namespace.get_mut(&key.namespace) {
                inside.remove(key);
                if inside.is_empty() {
                    self.by_namespace.remove(&key.namespace);
                }
            }
            if let Some(objects) = self.owners.get_mut(&owner) {
                objects.remove(key);
                if objects.is_empty() {
                    self.owners.remove(&owner);
                }
            }
            change.due.insert(owner);
        }
        match key.kind {
            ObjectKind::NAMESPACE => {
                self.occupied.remove(key.name.as_str());
                if let Some(view) = self.namespaces.remove(key.name.as_str()) {
                    let ordered = self.ordered.remove(&view.uid);
                    if gone && !ordered && view.state != labels::STATE_LOCKED {
                        change.lost.extend(change.due.iter().cloned());
                    }
                }
                change.due.extend(self.inside(&key.name));
            }
            ObjectKind::RESOURCE_QUOTA if key.name == QUOTA => {
                self.quotas.remove(key.namespace.as_str());
            }
            ObjectKind::ROLE_BINDING => {
                self.becoming.remove(key);
            }
            _ => {}
        }
        change.site |= self.views.remove(key);
        change.pools |= self.of_any.remove(key);
        if self.remove_stranger(key) {
            change.due.extend(self.inside(&key.namespace));
        }
        change
    }

    fn remove_stranger(&mut self, key: &ObjectKey) -> bool {
        let Some(known) = self.strangers.get_mut(key.namespace.as_str()) else { return false };
        let removed = known.remove(key).is_some();
        if known.is_empty() {
            self.strangers.remove(key.namespace.as_str());
        }
        removed
    }

    /// A new listing of nodes begins.
    pub fn relist_nodes(&mut self) {
        self.moment = self.moment.next();
        self.fresh_nodes.relist(self.moment);
    }

    /// Stores a node from an event of the watch; returns whether it has changed.
    pub fn put_node(&mut self, node: NodeView, version: u64) -> bool {
        self.fresh_nodes.shown(&node.name, Incarnation::new(&node.uid, version)) && self.take_node(node)
    }

    /// Stores a node from the answer to a patch that was begun at this moment; returns whether it has changed.
    pub fn answered_node(&mut self, node: NodeView, version: u64, asked: Moment) -> bool {
        self.fresh_nodes.answered(&node.name, Incarnation::new(&node.uid, version), asked) && self.take_node(node)
    }

    fn take_node(&mut self, node: NodeView) -> bool {
        self.nodes.get(&node.name) != Some(&node) && {
            self.forget_node(&node.name);
            if let Some(pool) = node.pool() {
                *self.nodes_of_pool.entry(pool.to_owned()).or_default() += 1;
            }
            self.nodes.insert(node.name.clone(), node);
            true
        }
    }

    /// Forgets a node whose deletion the watch shows, with its last version, unless another one has its name by now.
    pub fn remove_node(&mut self, name: &str, uid: &str, version: u64) -> bool {
        self.fresh_nodes.went(&name.to_owned(), Incarnation::new(uid, version)) && self.forget_node(name)
    }

    /// Forgets the nodes that were not seen in a listing that is over now.
    pub fn retain_nodes(&mut self, seen: &BTreeSet<String>) {
        let known = self.nodes.keys().filter(|name| !seen.contains(*name) && !self.fresh_nodes.outlives_listing(name));
        let gone: Vec<String> = known.cloned().collect();
        for name in gone {
            self.forget_node(&name);
        }
    }

    fn forget_node(&mut self, name: &str) -> bool {
        let Some(node) = self.nodes.remove(name) else { return false };
        if let Some(pool) = node.pool()
            && let Some(count) = self.nodes_of_pool.get_mut(pool)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.nodes_of_pool.remove(pool);
            }
        }
        true
    }

    /// How many items its lookups have passed over.
    pub fn visits(&self) -> &Visits {
        &self.visits
    }

    /// The nodes.
    pub fn nodes(&self) -> Vec<&NodeView> {
        self.visits.of(self.nodes.values()).collect()
    }

    /// The objects of an owner.
    pub fn objects(&self, owner: &OwnerRef) -> Option<&ObservedObjects> {
        self.owners.get(owner)
    }

    /// A tenant's namespace.
    pub fn namespace(&self, name: &TenantNamespace) -> Option<&NamespaceView> {
        self.namespaces.get(name)
    }

    /// The namespace that this owner has, whatever its name.
    pub fn namespace_of(&self, owner: &OwnerRef) -> Option<(&TenantNamespace, &NamespaceView)> {
        self.owners.get(owner)?.keys().find(|key| key.kind == ObjectKind::NAMESPACE).and_then(|key| self.namespaces.get_key_value(key.name.as_str()))
    }

    /// Whether a Namespace of this name exists without an owner.
    pub fn is_occupied(&self, namespace: &TenantNamespace) -> bool {
        self.occupied.contains(namespace)
    }

    /// Foreign objects in a namespace that may widen a grant.
    pub fn strangers(&self, namespace: &TenantNamespace) -> Option<&Strangers> {
        self.strangers.get(namespace)
    }

    /// Role bindings of ours in a namespace that others take the place of.
    pub fn becoming(&self, namespace: &TenantNamespace) -> BTreeMap<ObjectKey, BindingView> {
        let first = ObjectKey { kind: ObjectKind::ROLE_BINDING, namespace: namespace.to_string(), name: String::new() };
        let inside = self.visits.of(self.becoming.range(first..)).take_while(|(key, _)| key.namespace == namespace.as_str());
        inside.map(|(key, view)| (key.clone(), view.clone())).collect()
    }

    /// Whether the quota of a namespace counts Pods that hold or wait for accelerators.
    pub fn uses_accelerators(&self, namespace: &TenantNamespace) -> bool {
        self.used(namespace).is_some_and(|used| used.keys().any(|resource| resource.contains('/')))
    }

    /// Amounts in use in a namespace, by resource name.
    pub fn used(&self, namespace: &TenantNamespace) -> Option<&BTreeMap<String, i64>> {
        self.quotas.get(namespace).map(|quota| &quota.used)
    }

    /// When a namespace's quota moved last.
    pub fn moved(&self, namespace: &TenantNamespace) -> Option<Timestamp> {
        self.quotas.get(namespace)?.moved
    }

    /// Every tenant's namespace.
    pub fn namespaces(&self) -> impl Iterator<Item = (&TenantNamespace, &NamespaceView)> {
        self.namespaces.iter()
    }

    /// What engines have read of objects.
    pub fn views(&self) -> &Views {
        &self.views
    }

    /// All owners of something at the site. The nodes of a pool name it without its namespace, which is the factory's.
    pub fn owners(&self, factory: &OwnerRef) -> BTreeSet<OwnerRef> {
        self.visits.of(self.owners.keys().cloned().chain(self.pools_on_nodes(factory))).collect()
    }

    /// The pools whose label nodes have.
    pub fn pools_on_nodes(&self, factory: &OwnerRef) -> impl Iterator<Item = OwnerRef> {
        self.nodes_of_pool.keys().map(|pool| OwnerRef::new(Kind::GPUPool, &factory.namespace, pool))
    }

    /// Whether an owner has something at the site: see [`Index::owners`].
    pub fn owns(&self, factory: &OwnerRef, owner: &OwnerRef) -> bool {
        let nodes = || owner.kind == Kind::GPUPool && owner.namespace == factory.namespace && self.nodes_of_pool.contains_key(&owner.name);
        self.owners.contains_key(owner) || nodes()
    }

    /// The owner of a namespace, by its annotations.
    pub fn tenant(&self, namespace: &str) -> Option<&OwnerRef> {
        self.owner_of.get(&ObjectKey::cluster(ObjectKind::NAMESPACE, namespace))
    }

    /// Who has something in this namespace: its owner by its annotations, or else the owners of the objects in it.
    fn inside(&self, namespace: &str) -> BTreeSet<OwnerRef> {
        match self.tenant(namespace) {
            Some(owner) => BTreeSet::from([owner.clone()]),
            None => {
                let ours = self.visits.of(self.by_namespace.get(namespace).into_iter().flatten());
                ours.filter_map(|key| self.owner_of.get(key)).cloned().collect()
            }
        }
    }
}

#[cfg(test)]
mod tests;
