//! What a factory itself has on a site: the guard rails that no tenant can lift, where the site serves ClusterNetworkPolicies, who reaches its
//! Slurm, and that Slurm itself where it is ours.

use crate::engine::network;
use crate::engine::slinky::managed::{self, ManagedView};
use crate::model::intent::SiteIntent;
use crate::model::object::Ownership;
use crate::model::plan::{Plan, Purpose, applies, deletes};
use crate::model::report::{Detail, SitePhase};

/// Plans the factory's own objects at a site; when the site is released all of them go but what a Slurm of ours has counted.
pub fn plan(site: &SiteIntent, served: bool, view: &ManagedView<'_>) -> Plan {
    if site.left && !site.release {
        // What is said about networks and Slurm is not known, so what is there stays.
        return Plan::nothing(SitePhase::Bound, Detail::None);
    }
    let objects = view.objects;
    let ownership = Ownership::new(&site.hub, &site.factory, &site.factory_uid);
    let mut wanted = Vec::new();
    if !site.release {
        wanted.extend(network::slurm_policies(site, &ownership));
    }
    if served && !site.release {
        wanted.extend(network::guard_rails(site, &ownership));
    }
    let keys: Vec<_> = wanted.iter().map(|object| object.key.clone()).collect();
    let mut plan = Plan::nothing(if site.release { SitePhase::Gone } else { SitePhase::Bound }, Detail::None);
    plan.step(Purpose::Establish, applies(wanted, objects));
    plan.step(Purpose::Establish, deletes(objects, keys.iter(), |kind| !kind.is_managed_slurm()));
    managed::plan(site, &ownership, view, &mut plan);
    plan
}
