//! How a site holds something of a pool, a grant or its factory.

use aifactory_api::{Kind, OwnerRef};

use super::index::Index;
use crate::engine::tenancy::{self, Strangers};
use crate::model::plan::ObservedObjects;
use crate::model::report::{Detail, Held, Report};

static NO_OBJECTS: ObservedObjects = ObservedObjects::new();
static NO_STRANGERS: Strangers = Strangers::new();

/// What the site holds of an owner whose objects are in the index. What is kept for its retention holds the site up no more, unless a member can still work
/// there. `report` is the last one about the owner; `None`: the hub has it no more.
pub fn held(index: &Index, owner: &OwnerRef, report: Option<&Report>) -> Held {
    let retained = index.namespace_of(owner).is_some_and(|(_, view)| view.retained()) || only_what_stays_is_left(index, owner);
    if retained && !lets_work(index, owner, report) { Held::Retained } else { Held::Live }
}

/// Whether a member of a grant may still work there: as was reported last, or where the grant is gone, by bindings of ours.
fn lets_work(index: &Index, owner: &OwnerRef, report: Option<&Report>) -> bool {
    match report.map(|report| &report.detail) {
        Some(Detail::Grant(detail)) => !detail.access_removed,
        Some(Detail::Pool(_) | Detail::None) => false,
        None => {
            let strangers = index.namespace_of(owner).and_then(|(namespace, _)| index.strangers(namespace)).unwrap_or(&NO_STRANGERS);
            !tenancy::none_lets_work(index.objects(owner).unwrap_or(&NO_OBJECTS), strangers)
        }
    }
}

/// Whether the factory has only objects left that stay when a site is released, such as Slurm's accounting.
fn only_what_stays_is_left(index: &Index, owner: &OwnerRef) -> bool {
    owner.kind == Kind::AIFactory && index.objects(owner).is_some_and(|objects| objects.keys().all(|key| key.kind.stays()))
}
