//! A retained namespace whose grant is gone from the hub: what its own marks ask for.

use std::collections::BTreeMap;

use aifactory_api::{Reason, labels};
use jiff::Timestamp;

use crate::engine::network;
use crate::engine::tenancy::{self, BindingView, Mark};
use crate::model::id::TenantNamespace;
use crate::model::intent::SiteIntent;
use crate::model::lifecycle::Ended;
use crate::model::object::{ObjectKey, ObjectKind, Ownership};
use crate::model::plan::{Action, ObservedObjects, Plan, Purpose, applies};
use crate::model::report::{Detail, Finding, SitePhase};
use crate::site::index::Strangers;
use crate::site::policy::SitePolicy;

use super::{NamespaceView, access, marks, staged};

/// A retained namespace as the site worker knows it.
#[derive(Clone, Copy, Debug)]
pub struct Retained<'a> {
    /// Its name.
    pub name: &'a TenantNamespace,
    /// What it says.
    pub view: &'a NamespaceView,
    /// What of ours is in it, the namespace among them.
    pub objects: &'a ObservedObjects,
    /// What of others is in it.
    pub strangers: &'a Strangers,
    /// Role bindings of ours that others take the place of when work with accelerators has ended.
    pub becoming: &'a BTreeMap<ObjectKey, BindingView>,
    /// Whether Pods with accelerators wait or run there.
    pub accelerators_in_use: bool,
}

/// Plans a retained namespace: it stays locked and closed, work in it is cancelled when that is due, and it is deleted or kept.
pub fn plan_retained(site: &SiteIntent, ownership: &Ownership, retained: Retained<'_>, policy: &SitePolicy, now: Timestamp) -> Plan {
    let Retained { name, view, objects, strangers, becoming, accelerators_in_use } = retained;
    let mut plan = Plan::nothing(SitePhase::Locked, Detail::None);
    let working = access::letting_work(objects, strangers);
    let access_gone = working.is_empty();
    plan.step(Purpose::RemoveAccess, working);
    if view.terminating || policy.paused {
        return plan;
    }
    let Some(ended) = Ended::retained(&view.marks(), now) else { return plan };
    plan.wake = ended.deadline(now);
    if ended.over(now) && access_gone {
        if !policy.keep_namespaces {
            let key = ObjectKey::cluster(ObjectKind::NAMESPACE, name.as_str());
            plan.step(Purpose::Establish, staged::outside(objects));
            plan.step(Purpose::Establish, vec![Action::Delete { key, uid: Some(view.uid.clone()) }]);
            return plan;
        }
        plan.findings.push(kept_by_site(name));
    }
    let lock = |ended: &Ended| tenancy::locked_namespace(site, name, &view.annotations, &Mark { annotations: marks::annotations(ended) }, ownership);
    plan.step(Purpose::Establish, applies(vec![lock(&ended)], objects));
    plan.step(Purpose::Establish, applies(vec![network::default_deny(name, ownership)], objects));
    if !accelerators_in_use {
        after_work(name, becoming, objects, ownership, &mut plan);
    }
    if ended.cancels(now) {
        plan.step(Purpose::Establish, vec![Action::EndWork { namespace: name.clone() }]);
        plan.step(Purpose::Establish, applies(vec![lock(&ended.cancelled(now))], objects));
    }
    plan
}

/// Those who may copy data out do so from now on.
fn after_work(
    namespace: &TenantNamespace,
    becoming: &BTreeMap<ObjectKey, BindingView>,
    objects: &ObservedObjects,
    ownership: &Ownership,
    plan: &mut Plan,
) {
    let named = becoming.iter().filter_map(|(key, view)| Some((key, view, view.becomes.as_ref()?)));
    let (mut keepers, mut readers) = (Vec::new(), Vec::new());
    for (key, view, becomes) in named {
        keepers.push(tenancy::binding_after_work(becomes, view, namespace, ownership));
        readers.extend(objects.get(key).map(|found| Action::Delete { key: key.clone(), uid: Some(found.uid.clone()) }));
    }
    plan.step(Purpose::Establish, applies(keepers, objects));
    plan.step(Purpose::Establish, readers);
}

pub(super) fn kept_by_site(namespace: &TenantNamespace) -> Finding {
    Finding::note(
        Reason::RefusedBySite,
        format!("Namespace {namespace} is kept: the site's ConfigMap {} says allowDeletion: \"false\"", labels::SITE_POLICY),
    )
}
