//! Role bindings that give more than is wanted, and their removal.

use std::collections::BTreeSet;

use super::binding::{BindingView, has_our_name, lets_work};
use super::strangers::Strangers;
use crate::model::digest::Digest;
use crate::model::id::TenantNamespace;
use crate::model::object::{Object, ObjectKey, ObjectKind};
use crate::model::plan::{Action, Deletion, ObservedObjects, deletes};

/// Deletions of role bindings that are not wanted and are ours, or have a name that only ours have. `wanted`: the bindings that members are to have.
pub fn stale(observed: &ObservedObjects, strangers: &Strangers, wanted: &BTreeSet<&ObjectKey>) -> Vec<Action> {
    let mut actions = deletes(observed, wanted.iter().copied(), ObjectKind::gives_access);
    actions.extend(stale_impostors(strangers, wanted).map(Action::from));
    actions
}

/// The deletions of role bindings that have a name of ours and are not ours, where they are not wanted or are not to the role of their name.
pub fn stale_impostors(strangers: &Strangers, wanted: &BTreeSet<&ObjectKey>) -> impl Iterator<Item = Deletion> {
    let impostors = impostors(strangers).filter(|(key, binding)| !wanted.contains(key) || !binding.is_as_named(&key.name));
    impostors.map(|(key, _)| Deletion { key: key.clone(), uid: strangers.get(key).map(|found| found.uid.clone()) })
}

/// Deletions of all role bindings that let a member work, for a locked namespace.
pub fn letting_work(observed: &ObservedObjects, strangers: &Strangers) -> Vec<Action> {
    let reading: BTreeSet<&ObjectKey> = observed.keys().filter(|key| key.kind == ObjectKind::ROLE_BINDING && !lets_work(&key.name)).collect();
    stale(observed, strangers, &reading)
}

/// Role bindings that have a name of ours and not our annotations, or refer to another role than their name contains.
fn impostors(strangers: &Strangers) -> impl Iterator<Item = (&ObjectKey, &BindingView)> {
    strangers.iter().filter(|(key, _)| has_our_name(&key.name)).filter_map(|(key, found)| Some((key, found.binding.as_ref()?)))
}

/// Whether the index proves that no binding of ours gives more access than is wanted: all bindings are as planned, and no other is there, not even
/// one that is being deleted.
pub fn only(observed: &ObservedObjects, strangers: &Strangers, wanted: &[Object]) -> bool {
    let as_planned =
        |key: &ObjectKey| wanted.iter().find(|object| object.key == *key).is_some_and(|object| Some(object.digest()) == digest(observed, key));
    let ours = observed.keys().filter(|key| key.kind.gives_access());
    ours.into_iter().all(as_planned) && impostors(strangers).next().is_none()
}

/// Whether the index proves that no binding of ours lets anybody work, not even one that is being deleted.
pub fn none_lets_work(observed: &ObservedObjects, strangers: &Strangers) -> bool {
    let works = |key: &ObjectKey| key.kind.gives_access() && (key.kind != ObjectKind::ROLE_BINDING || lets_work(&key.name));
    !observed.keys().any(works) && impostors(strangers).next().is_none()
}

fn digest(observed: &ObservedObjects, key: &ObjectKey) -> Option<Digest> {
    observed.get(key)?.digest
}

/// Deletes the ServiceAccounts, so that tokens which members may have copied stop to work; both are created again. This comes before the bindings:
/// after a crash in between, the bindings are still there, and the deletion is planned again. By name, since a ServiceAccount that has lost our label
/// still has tokens.
pub fn tokens(namespace: &TenantNamespace) -> [Deletion; 2] {
    let account = |name: &str| ObjectKey::namespaced(ObjectKind::SERVICE_ACCOUNT, namespace.as_str(), name);
    ["default", "aifactory"].map(|name| Deletion { key: account(name), uid: None })
}
