//! The network engine: what it adds to a grant and to a site.

use aifactory_api::Reason;

use super::{default_deny, guard_rails, kinds, policies, slurm_policies};
use crate::engine::contract::Engine;
use crate::engine::grant_stages::{GrantScene, GrantStages};
use crate::engine::site_stages::{SiteScene, SiteStages};
use crate::engine::tenancy::Access;
use crate::engine::uses::KindUse;
use crate::model::intent::GrantIntent;
use crate::model::kind::ObjectKind;
use crate::model::report::Finding;

/// Network policies of grants, of a site's Slurm, and over all grants.
pub struct Network;

impl Engine for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn kinds(&self) -> &'static [KindUse] {
        &kinds::KINDS
    }

    fn grant(&self, scene: &GrantScene<'_>, stages: &mut GrantStages) {
        let GrantScene { site, grant, namespace, ownership, access, .. } = *scene;
        if !scene.networks_known {
            stages.fence([default_deny(namespace, ownership)]);
            stages.keep(ObjectKind::NETWORK_POLICY);
            return;
        }
        if access == Access::Locked {
            // The grant's addresses at other sites may be assigned to another grant as soon as this one has ended.
            let apart = GrantIntent { cross_site: None, ..grant.clone() };
            stages.fence(policies(site, &apart, namespace, ownership).objects);
            return;
        }
        let rendered = policies(site, grant, namespace, ownership);
        stages.fence(rendered.objects);
        rendered.findings.into_iter().for_each(|text| stages.find(Finding::note(Reason::InvalidSpec, text)));
    }

    fn site(&self, scene: &SiteScene<'_>, stages: &mut SiteStages) {
        if scene.site.release {
            return;
        }
        stages.want(slurm_policies(scene.site, scene.ownership));
        if scene.served.contains(&ObjectKind::CLUSTER_NETWORK_POLICY) {
            stages.want(guard_rails(scene.site, scene.ownership));
        }
    }
}
