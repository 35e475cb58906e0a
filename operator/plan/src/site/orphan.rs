//! Orphans: objects of ours whose owner is in none of the hub's fully synced caches, and which no retention covers. A pool's are removed as
//! `pool` removes them.

use crate::engine::tenancy;
use crate::model::id::TenantNamespace;
use crate::model::intent::SiteIntent;
use crate::model::object::{ObjectKind, Ownership};
use crate::model::plan::{Action, ObservedObjects, Plan, Purpose, applies, deletes};
use crate::model::report::{Detail, SitePhase};

/// Removes access and closes the quota; stored data stays.
pub fn lock(site: &SiteIntent, ownership: &Ownership, objects: &ObservedObjects) -> Plan {
    let mut plan = Plan::nothing(SitePhase::Locked, Detail::None);
    plan.step(Purpose::RemoveAccess, remove_access(objects));
    let namespaces = objects.iter().filter(|(key, found)| key.kind == ObjectKind::NAMESPACE && !found.terminating);
    let quotas = namespaces.map(|(key, _)| tenancy::closed_quota(site, &TenantNamespace::new(&key.name), ownership)).collect();
    plan.step(Purpose::Establish, applies(quotas, objects));
    plan
}

fn remove_access(objects: &ObservedObjects) -> Vec<Action> {
    deletes(objects, [].into_iter(), ObjectKind::gives_access)
}

/// Deletes everything, access first.
pub fn delete(objects: &ObservedObjects) -> Plan {
    let mut plan = Plan::nothing(SitePhase::Gone, Detail::None);
    plan.step(Purpose::RemoveAccess, remove_access(objects));
    let namespaces = deletes(objects, [].into_iter(), |kind| kind == ObjectKind::NAMESPACE);
    if namespaces.is_empty() {
        plan.step(Purpose::Establish, deletes(objects, [].into_iter(), |kind| !kind.gives_access()));
    } else {
        plan.step(Purpose::Establish, namespaces);
    }
    plan
}
