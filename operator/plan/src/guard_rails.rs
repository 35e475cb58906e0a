//! What a factory itself has on a site: the guard rails that no tenant can lift, where the site serves ClusterNetworkPolicies, and who reaches its
//! Slurm.

use crate::intent::SiteIntent;
use crate::network;
use crate::object::Ownership;
use crate::plan::{ObservedObjects, Plan, Purpose, applies, deletes};
use crate::report::{Detail, SitePhase};

/// Plans the factory's own objects at a site; all of them go when the site is released.
pub fn plan(site: &SiteIntent, served: bool, objects: &ObservedObjects) -> Plan {
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
    plan.step(Purpose::Establish, deletes(objects, keys.iter(), |_| true));
    plan
}
