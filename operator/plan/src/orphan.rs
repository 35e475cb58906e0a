//! Orphans: objects of ours whose owner is in none of the hub's fully synced caches, and which no retention covers. A pool's are removed as
//! `pool` removes them.

use crate::object::ObjectKind;
use crate::plan::{ObservedObjects, Plan, Purpose, deletes};
use crate::report::{Detail, SitePhase};

/// Takes access away and leaves the rest: role bindings go. Without them nobody starts anything, so quotas need no change.
pub fn lock(objects: &ObservedObjects) -> Plan {
    let mut plan = Plan::nothing(SitePhase::Locked, Detail::None);
    plan.step(Purpose::RemoveAccess, deletes(objects, [].into_iter(), |kind| kind == ObjectKind::RoleBinding));
    plan
}

/// Deletes everything, access first.
pub fn delete(objects: &ObservedObjects) -> Plan {
    let mut plan = lock(objects);
    plan.phase = SitePhase::Gone;
    let namespaces = deletes(objects, [].into_iter(), |kind| kind == ObjectKind::Namespace);
    if namespaces.is_empty() {
        plan.step(Purpose::Establish, deletes(objects, [].into_iter(), |kind| kind != ObjectKind::RoleBinding));
    } else {
        plan.step(Purpose::Establish, namespaces);
    }
    plan
}
