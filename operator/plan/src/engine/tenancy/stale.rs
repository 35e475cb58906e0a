//! Role bindings that give more than is wanted, and what takes them away.

use std::collections::BTreeSet;

use super::binding::{BindingView, has_our_name, lets_work};
use super::strangers::Strangers;
use crate::model::digest::Digest;
use crate::model::id::TenantNamespace;
use crate::model::object::{Object, ObjectKey, ObjectKind};
use crate::model::plan::{Action, Deletion, ObservedObjects, deletes};

/// The deletions of what gives access and is ours, or has a name that only ours have, and is not wanted. `wanted`: what members shall have.
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

/// The deletions of what lets somebody work. In a locked namespace none of it is right.
pub fn letting_work(observed: &ObservedObjects, strangers: &Strangers) -> Vec<Action> {
    let reading: BTreeSet<&ObjectKey> = observed.keys().filter(|key| key.kind == ObjectKind::ROLE_BINDING && !lets_work(&key.name)).collect();
    stale(observed, strangers, &reading)
}

/// Role bindings that have a name of ours and do not say that they are ours, or are not to the role of their name.
fn impostors(strangers: &Strangers) -> impl Iterator<Item = (&ObjectKey, &BindingView)> {
    strangers.iter().filter(|(key, _)| has_our_name(&key.name)).filter_map(|(key, found)| Some((key, found.binding.as_ref()?)))
}

/// Whether the site shows positively that nothing of ours gives more access than is wanted: all that gives some is as planned, and nothing else is
/// there, not even what is being deleted.
pub fn only(observed: &ObservedObjects, strangers: &Strangers, wanted: &[Object]) -> bool {
    let as_planned =
        |key: &ObjectKey| wanted.iter().find(|object| object.key == *key).is_some_and(|object| Some(object.digest()) == digest(observed, key));
    let ours = observed.keys().filter(|key| key.kind.gives_access());
    ours.into_iter().all(as_planned) && impostors(strangers).next().is_none()
}

/// Whether the site shows positively that nothing of ours lets anybody work, not even what is being deleted.
pub fn none_lets_work(observed: &ObservedObjects, strangers: &Strangers) -> bool {
    let works = |key: &ObjectKey| key.kind.gives_access() && (key.kind != ObjectKind::ROLE_BINDING || lets_work(&key.name));
    !observed.keys().any(works) && impostors(strangers).next().is_none()
}

fn digest(observed: &ObservedObjects, key: &ObjectKey) -> Option<Digest> {
    observed.get(key)?.digest
}

/// Deletes the ServiceAccounts, so that tokens which members may have seen stop; both are made anew. Before the bindings: a crash in between leaves
/// the bindings, and so the reason to do it again. By name, since a ServiceAccount that lost our label is still one.
pub fn tokens(namespace: &TenantNamespace) -> [Deletion; 2] {
    let account = |name: &str| ObjectKey::namespaced(ObjectKind::SERVICE_ACCOUNT, namespace.as_str(), name);
    ["default", "aifactory"].map(|name| Deletion { key: account(name), uid: None })
}
