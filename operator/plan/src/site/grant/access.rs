//! Who has access to a grant's namespace, and what takes it away.

use std::collections::BTreeSet;

use aifactory_api::Reason;

use crate::engine::tenancy::{BindingView, has_our_name, lets_work};
use crate::model::intent::{Desired, MemberIntent};
use crate::model::object::{Object, ObjectKey, ObjectKind};
use crate::model::plan::{Action, ObservedObjects, deletes};
use crate::model::report::Finding;
use crate::model::text::bounded;
use crate::site::index::Strangers;

use super::Planner;

/// The deletions of role bindings that are ours, or have a name that only ours have, and are not wanted. `wanted`: the bindings that members shall
/// have.
pub(super) fn stale(observed: &ObservedObjects, strangers: &Strangers, wanted: &BTreeSet<&ObjectKey>) -> Vec<Action> {
    let mut actions = deletes(observed, wanted.iter().copied(), |kind| kind == ObjectKind::RoleBinding);
    let impostors = impostors(strangers).filter(|(key, binding)| !wanted.contains(key) || !binding.is_as_named(&key.name));
    actions.extend(impostors.map(|(key, _)| Action::Delete { key: key.clone(), uid: strangers.get(key).map(|found| found.uid.clone()) }));
    actions
}

/// Our role bindings that let somebody work, by their names. In a locked namespace none of them is right.
pub(super) fn letting_work(observed: &ObservedObjects, strangers: &Strangers) -> Vec<Action> {
    let reading: BTreeSet<&ObjectKey> = observed.keys().filter(|key| key.kind == ObjectKind::RoleBinding && !lets_work(&key.name)).collect();
    stale(observed, strangers, &reading)
}

/// Role bindings that have a name of ours and do not say that they are ours, or are not to the role of their name.
fn impostors(strangers: &Strangers) -> impl Iterator<Item = (&ObjectKey, &BindingView)> {
    strangers.iter().filter(|(key, _)| has_our_name(&key.name)).filter_map(|(key, found)| Some((key, found.binding.as_ref()?)))
}

/// Whether the site shows positively that role bindings of ours give nothing but what is wanted: each of them is as planned, and no other is there,
/// not even one that is being deleted.
pub(super) fn only(observed: &ObservedObjects, strangers: &Strangers, wanted: &[Object]) -> bool {
    let as_planned =
        |key: &ObjectKey| wanted.iter().find(|object| object.key == *key).is_some_and(|object| Some(object.digest()) == digest(observed, key));
    let ours = observed.keys().filter(|key| key.kind == ObjectKind::RoleBinding);
    ours.into_iter().all(as_planned) && impostors(strangers).next().is_none()
}

fn digest(observed: &ObservedObjects, key: &ObjectKey) -> Option<crate::model::digest::Digest> {
    observed.get(key)?.digest
}

impl Planner<'_> {
    /// Members who can still do more than read, by role bindings of others.
    pub(super) fn widened(&self) -> Vec<(&ObjectKey, &BindingView, Vec<&MemberIntent>)> {
        let foreign = self.view.strangers.iter().filter(|(key, _)| !has_our_name(&key.name));
        let wide = foreign.filter_map(|(key, found)| Some((key, found.binding.as_ref().filter(|binding| binding.is_more_than_reading())?)));
        wide.map(|(key, binding)| (key, binding, self.grant.members.iter().filter(|member| binding.binds(member)).collect::<Vec<_>>()))
            .filter(|(_, _, members)| !members.is_empty())
            .collect()
    }

    /// What others put into the namespace that widens the grant.
    pub(super) fn foreign(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self.keep_access().into_iter().collect();
        for (kind, reason, what) in [
            (ObjectKind::RoleBinding, Reason::ForeignBinding, "role bindings"),
            (ObjectKind::NetworkPolicy, Reason::ForeignPolicy, "network policies"),
        ] {
            let named = self.view.strangers.keys().filter(|key| key.kind == kind && !(kind == ObjectKind::RoleBinding && has_our_name(&key.name)));
            let names: Vec<String> = named.map(|key| key.name.clone()).collect();
            if !names.is_empty() {
                let message = format!(
                    "{what} of somebody else in Namespace {} widen this grant: {}. They are left alone; delete them if they are not meant",
                    self.namespace,
                    bounded(&names)
                );
                findings.push(Finding::note(reason, message));
            }
        }
        findings
    }

    /// Where access is to be gone: role bindings of others by which members keep more than reading.
    fn keep_access(&self) -> Option<Finding> {
        let wide = self.widened();
        let ended = matches!(self.grant.desired, Desired::Ended { .. }) || self.view.refused.is_some();
        let (first, _, _) = wide.first().filter(|_| ended)?;
        let members: BTreeSet<String> = wide.iter().flat_map(|(_, _, members)| members.iter().map(|member| member.id.clone())).collect();
        let bindings: Vec<String> = wide.iter().map(|(key, binding, _)| format!("{} ({} {})", key.name, binding.role_kind, binding.role)).collect();
        let message = format!(
            "members {} can still do more than read in Namespace {}, by role bindings of somebody else: {}. Whoever administers the site takes \
             them away with: kubectl delete rolebinding {} -n {}",
            bounded(&members.into_iter().collect::<Vec<_>>()),
            self.namespace,
            bounded(&bindings),
            first.name,
            self.namespace,
        );
        Some(Finding::stalled(Reason::ForeignBinding, message))
    }

    /// Whether access is gone: our bindings give no more than is wanted, and no member keeps more than reading by a binding of somebody else.
    pub(super) fn access_gone(&self, wanted: &[Object]) -> bool {
        only(self.view.objects, self.view.strangers, wanted) && self.widened().is_empty()
    }

    /// Deletes the ServiceAccounts, so that tokens which members may have seen stop; both are made anew. Before the bindings: a crash in
    /// between leaves the bindings, and so the reason to do it again. By name, since a ServiceAccount that lost our label is still one.
    pub(super) fn tokens(&self, wanted: bool) -> Vec<Action> {
        let account = |name: &str| ObjectKey::namespaced(ObjectKind::ServiceAccount, self.namespace.clone(), name);
        if wanted { ["default", "aifactory"].map(|name| Action::Delete { key: account(name), uid: None }).into() } else { Vec::new() }
    }
}
