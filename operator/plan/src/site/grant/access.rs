//! Who has access to a grant's namespace, and what takes it away.

use std::collections::BTreeSet;

use aifactory_api::Reason;

use crate::engine::tenancy::{self, BindingView, has_our_name};
pub(super) use crate::engine::tenancy::{letting_work, none_lets_work, only, stale};
use crate::model::intent::{Desired, MemberIntent};
use crate::model::object::{Object, ObjectKey, ObjectKind};
use crate::model::plan::Action;
use crate::model::report::Finding;
use crate::model::text::bounded;

use super::Planner;

impl Planner<'_> {
    /// Members who can still do more than read, by role bindings of others.
    pub(super) fn widened(&self) -> Vec<(&ObjectKey, &BindingView, Vec<&MemberIntent>)> {
        let members = || self.grant.members.iter().chain(&self.grant.barred);
        let foreign = self.view.strangers.iter().filter(|(key, _)| !has_our_name(&key.name));
        let wide = foreign.filter_map(|(key, found)| Some((key, found.binding.as_ref().filter(|binding| binding.is_more_than_reading())?)));
        wide.map(|(key, binding)| (key, binding, members().filter(|member| binding.binds(member)).collect::<Vec<_>>()))
            .filter(|(_, _, members)| !members.is_empty())
            .collect()
    }

    /// What others put into the namespace that widens the grant.
    pub(super) fn foreign(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self.keep_access().into_iter().collect();
        for (kind, reason, what) in [
            (ObjectKind::ROLE_BINDING, Reason::ForeignBinding, "role bindings"),
            (ObjectKind::NETWORK_POLICY, Reason::ForeignPolicy, "network policies"),
        ] {
            let named = self.view.strangers.keys().filter(|key| key.kind == kind && !(kind == ObjectKind::ROLE_BINDING && has_our_name(&key.name)));
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

    /// What goes before access is removed, where some is.
    pub(super) fn tokens(&self, wanted: bool) -> Vec<Action> {
        if wanted { tenancy::tokens(&self.namespace).map(Action::from).into() } else { Vec::new() }
    }
}
