//! The grants that a site refuses, decided again only where an intent or the site's policy has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::OwnerRef;
use jiff::Timestamp;

use super::policy::SitePolicy;
use crate::model::intent::{Intent, Refusal};
use crate::model::quota::{Amount, Caps, Claim, Position, Quota};
use crate::model::visits::Visits;

/// Refusals by grant, as the site's policy has them.
#[derive(Debug, Default)]
pub struct Refusals {
    policy: SitePolicy,
    /// The GPUs of all grants, where the site caps them.
    gpus: Option<Quota>,
    positions: BTreeMap<OwnerRef, Position>,
    /// Those that the policy names.
    named: BTreeMap<OwnerRef, Refusal>,
    all: BTreeMap<OwnerRef, Refusal>,
}

impl Refusals {
    /// All refusals.
    pub fn all(&self) -> &BTreeMap<OwnerRef, Refusal> {
        &self.all
    }

    /// Sets the site's policy; returns the grants whose refusal has changed.
    pub fn set_policy(&mut self, policy: &SitePolicy, intents: &BTreeMap<OwnerRef, Arc<Intent>>) -> BTreeSet<OwnerRef> {
        let caps = |gpus| Caps { hours: None, gpus: Some(gpus) };
        let before = std::mem::take(&mut self.all);
        *self = Self {
            policy: policy.clone(),
            gpus: policy.max_gpus.map(|gpus| Quota::new(caps(gpus), Timestamp::MIN, Visits::default())),
            ..Self::default()
        };
        for (owner, intent) in intents {
            self.set(owner, Some(intent));
        }
        let owners = before.keys().chain(self.all.keys());
        owners.filter(|owner| before.get(*owner) != self.all.get(*owner)).cloned().collect()
    }

    /// Stores the intent for a pool or grant, `None`: there is none any more; returns the grants whose refusal has changed.
    pub fn set(&mut self, owner: &OwnerRef, intent: Option<&Intent>) -> BTreeSet<OwnerRef> {
        let named = intent.and_then(|intent| self.policy.refused_by_name(intent));
        let claimed = intent.filter(|_| named.is_none()).and_then(|intent| Some((intent.created, SitePolicy::claimed_gpus(intent)?)));
        match named {
            Some(refusal) => self.named.insert(owner.clone(), refusal),
            None => self.named.remove(owner),
        };
        let mut concerned = BTreeSet::from([owner.clone()]);
        if let Some(quota) = &mut self.gpus {
            let position = claimed.map(|(created, _)| (created, owner.clone()));
            if let Some(former) = self.positions.remove(owner).filter(|former| Some(former) != position.as_ref()) {
                concerned.extend(quota.set(&former, None));
            }
            if let Some((position, (_, gpus))) = position.zip(claimed) {
                let amount = Amount { hours: 0, gpus: gpus.into() };
                concerned.extend(quota.set(&position, Some(Claim { amount, until: Timestamp::MAX })));
                self.positions.insert(owner.clone(), position);
            }
        }
        concerned.into_iter().filter(|owner| self.decide(owner)).collect()
    }

    /// Decides for one grant; returns whether its refusal has changed.
    fn decide(&mut self, owner: &OwnerRef) -> bool {
        let refusal = self.named.get(owner).cloned().or_else(|| {
            let refused = self.gpus.as_ref()?.refusal(self.positions.get(owner)?, Timestamp::MIN)?;
            Some(SitePolicy::over(self.policy.max_gpus?, refused.held.gpus, refused.wanted.gpus))
        });
        let before = match &refusal {
            Some(refusal) => self.all.insert(owner.clone(), refusal.clone()),
            None => self.all.remove(owner),
        };
        before != refusal
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]

    use aifactory_api::Kind;
    use aifactory_api::pool::PerGpu;
    use jiff::SignedDuration;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::model::intent::{Body, Budget, GrantIntent, GrantPoolIntent, VERSION};

    fn owner(index: u8) -> OwnerRef {
        OwnerRef::new(Kind::AccessGrant, "team", format!("g{index}"))
    }

    fn intent(index: u8, created: u8, paused: bool, gpus: i64) -> Intent {
        let body = json!({"code": format!("EHPC-{}", index % 2), "organisation": "Example SARL", "desired": if paused { "Paused" } else { "Scheduled" },
            "only_if_held": null, "members": [], "pools": [], "caps": {"max_gpus": null, "max_jobs": null, "max_wall_minutes": null},
            "end": {"running_work": "Finish", "grace_seconds": 0, "retention_seconds": 0, "after_retention": "Retain"},
            "not_after": "2027-01-01T00:00:00Z", "storage": "1Gi", "egress": [], "cross_site": null, "adopt_previous": false});
        let mut grant: GrantIntent = serde_json::from_value(body).expect("a grant");
        grant.pools.push(GrantPoolIntent {
            pool: "p".to_owned(),
            resource: "nvidia.com/gpu".to_owned(),
            max_gpus: gpus,
            per_gpu: PerGpu { cpus: 1, memory_gib: 1 },
            open: true,
            entry: "e".to_owned(),
            budget: Budget::default(),
            partition: None,
        });
        let (owner, created) = (owner(index), Timestamp::UNIX_EPOCH + SignedDuration::from_secs(created.into()));
        Intent { version: VERSION, owner, uid: "1".to_owned(), generation: 1, created, serial: 0, body: Body::Grant(Box::new(grant)) }
    }

    proptest! {
        #[test]
        fn refusals_are_those_of_all_intents_together(
            steps in proptest::collection::vec((0..8u8, 0..4u8, any::<bool>(), 0..9i64, prop::bool::weighted(0.8), proptest::option::weighted(0.1, 0..24i64)), 1..40),
        ) {
            let (mut refusals, mut intents, mut policy) = (Refusals::default(), BTreeMap::new(), SitePolicy::default());
            for (index, created, paused, gpus, wanted, cap) in steps {
                let intent = intent(index, created, paused, gpus);
                let before = refusals.all().clone();
                let mut returned = BTreeSet::new();
                if cap.is_some() {
                    policy = SitePolicy { max_gpus: cap, refuse_grants: [format!("team/g{index}"), "EHPC-1".to_owned()].into(), ..SitePolicy::default() };
                    returned.extend(refusals.set_policy(&policy, &intents));
                }
                let intent = wanted.then(|| Arc::new(intent));
                returned.extend(refusals.set(&owner(index), intent.as_deref()));
                match intent {
                    Some(intent) => intents.insert(owner(index), intent),
                    None => intents.remove(&owner(index)),
                };
                let expected = policy.refusals(intents.values().map(AsRef::as_ref));
                prop_assert_eq!(refusals.all(), &expected);
                for at in (0..8).map(owner).filter(|at| before.get(at) != expected.get(at)) {
                    prop_assert!(returned.contains(&at), "{} was not named", at);
                }
            }
        }
    }
}
