//! What a grant is given at one part of a site that it names.

use aifactory_api::Reason;
use aifactory_api::factory::{AIFactory, Site};
use aifactory_api::grant::AccessGrant;
use aifactory_api::pool::{GPUPool, PlacementState, PoolSite};

use super::cross_site::cross_site;
use super::intent::{egress, skeleton};
use super::{Scope, refusal};
use crate::hub::project::residency;
use crate::hub::project::wrap::wrap;
use crate::model::intent::{Body, Desired, GrantPoolIntent, Intent, Refusal};
use crate::model::site_key::{Part, SiteKey};

/// One part of a site, with all that the entries of a grant place there.
#[derive(Default)]
pub struct Placement {
    pub pools: Vec<GrantPoolIntent>,
    /// Why the grant must not be there, and is ended where it is.
    pub refused: Option<Refusal>,
    /// Why the grant must not be given there, though it may stay where it is.
    pub only_if_held: Option<Refusal>,
    /// Why it is not known what the grant is to have there: the factory does not name the site, or not this part of it.
    pub broken: Option<Refusal>,
}

impl Placement {
    /// Adds the restrictions of residency, stages and a drained placement.
    pub fn restrict(&mut self, grant: &AccessGrant, (factory, pool): (&AIFactory, &GPUPool), site: &Site, placed: &PoolSite) {
        if !residency::allows(&grant.spec.data.residency, &site.country) {
            self.refused.get_or_insert_with(|| {
                refusal(
                    Reason::ResidencyNotAllowed,
                    format!("data.residency allows {}, and site {} is in {}", grant.spec.data.residency.join(", "), site.name, site.country),
                )
            });
        }
        if let Some(refusal) = not_new(grant, (factory, pool), site, placed) {
            self.only_if_held.get_or_insert(refusal);
        }
    }

    /// The intent. `unresolved`: something else that the grant names is missing, so that the placement may be incomplete.
    pub fn intent(&self, scope: &Scope<'_>, key: &SiteKey, unresolved: Option<&Refusal>) -> Intent {
        let grant = scope.grant;
        let kept = self.broken.as_ref().or(unresolved);
        let (desired, ending) = match &self.refused {
            Some(refused) if !scope.asked.ended() => (Desired::Ended { because: refused.reason, message: refused.message.clone(), at: None }, true),
            _ => (scope.asked.desired(grant), scope.asked.ended()),
        };
        let factory = scope.cache.factory(&key.factory);
        let mut body = skeleton(grant, factory.map(|factory| &factory.spec.policy), desired);
        body.keep |= kept.is_some() && !ending;
        body.only_if_held = kept.or(self.only_if_held.as_ref()).cloned();
        body.pools = self.pools.clone();
        body.egress = egress(grant);
        body.cross_site = factory.and_then(|factory| cross_site(scope.cache, scope.owner, grant, key, factory));
        wrap(scope.owner, &grant.metadata, Body::Grant(Box::new(body)))
    }
}

/// Why no new grant may be placed here.
fn not_new(grant: &AccessGrant, (factory, pool): (&AIFactory, &GPUPool), site: &Site, placed: &PoolSite) -> Option<Refusal> {
    if factory.metadata.deletion_timestamp.is_some() {
        let name = factory.metadata.name.as_deref().unwrap_or_default();
        return Some(refusal(Reason::Draining, format!("AIFactory {name} is being deleted, and lets its sites go")));
    }
    let name = pool.metadata.name.as_deref().unwrap_or_default();
    let early = grant.spec.early_access;
    if placed.state == PlacementState::Draining || pool.metadata.deletion_timestamp.is_some() {
        return Some(refusal(Reason::Draining, format!("GPUPool {name} is being drained at site {}", site.name)));
    }
    let admitted = pool.spec.stage.admits(early) && site.stage.admits(early);
    (!admitted).then(|| {
        refusal(
            Reason::StageNotReady,
            format!(
                "GPUPool {name} is in stage {:?} and site {} in {:?}; grants bind in Production, and with earlyAccess in EarlyAccess",
                pool.spec.stage, site.name, site.stage
            ),
        )
    })
}

/// What the site lacks that a pool of this engine needs there.
pub fn lacking(key: &SiteKey, site: &Site, pool: &str) -> Option<Refusal> {
    match key.part {
        Part::Kubernetes if site.kubernetes.is_none() => {
            Some(refusal(Reason::EngineMissing, format!("site {} has no Kubernetes, which GPUPool {pool} needs", site.name)))
        }
        Part::Slurm if site.slurm.as_ref().is_none_or(|slurm| slurm.rest.is_none()) => Some(refusal(
            Reason::BudgetNotEnforceable,
            format!(
                "GPUPool {pool} is a Slurm partition, and site {0} names no REST of its Slurm, without which no budget is enforced; add sites[].slurm.rest \
                 to site {0} of AIFactory {1}",
                site.name, key.factory.name
            ),
        )),
        Part::Kubernetes | Part::Slurm => None,
    }
}
