//! The site's own policy: the ConfigMap `aifactory-site-policy`, which the site's admin writes and the operator obeys.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::{OwnerRef, Reason, labels};
use serde::{Deserialize, Serialize};

use crate::model::intent::{Body, Desired, Intent, Refusal};

/// What the site allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SitePolicy {
    /// Nothing is written but the removal of access.
    pub paused: bool,
    /// The site refuses the deletion of namespaces.
    pub keep_namespaces: bool,
    /// Grants that the site refuses: `namespace/name` on the hub, or a project code.
    pub refuse_grants: BTreeSet<String>,
    /// Members that the site refuses: pseudonyms or subjects.
    pub refuse_members: BTreeSet<String>,
    /// Sum of the GPUs that grants may hold here.
    pub max_gpus: Option<i64>,
    /// What could not be read, for people.
    pub problems: Vec<String>,
}

impl SitePolicy {
    /// Reads the ConfigMap's data. A value that can not be read counts as the most restrictive one.
    pub fn parse(data: &BTreeMap<String, String>) -> Self {
        let mut policy = Self::default();
        for (key, value) in data {
            let value = value.trim();
            match key.as_str() {
                "paused" => policy.paused = policy.flag(key, value, true),
                "allowDeletion" => policy.keep_namespaces = !policy.flag(key, value, false),
                "refuseGrants" => policy.refuse_grants = list(value),
                "refuseMembers" => policy.refuse_members = list(value),
                "maxGPUs" => {
                    policy.max_gpus = Some(value.parse::<i64>().ok().filter(|n| *n >= 0).unwrap_or_else(|| {
                        policy.problems.push(format!("{key}: {value:?} is not a whole number; 0 is assumed. Example: \"64\""));
                        0
                    }));
                }
                // The API server enforces it as the parameter of an admission policy.
                "imagePrefixes" => {}
                other => policy.problems.push(format!("{other}: not a known key, ignored")),
            }
        }
        policy
    }

    fn flag(&mut self, key: &str, value: &str, cautious: bool) -> bool {
        value.parse().unwrap_or_else(|_| {
            self.problems.push(format!("{key}: {value:?} is neither \"true\" nor \"false\"; \"{cautious}\" is assumed"));
            cautious
        })
    }

    /// Why the site refuses a grant that it names, whatever others hold.
    pub fn refused_by_name(&self, intent: &Intent) -> Option<Refusal> {
        let Body::Grant(grant) = &intent.body else { return None };
        let name = format!("{}/{}", intent.owner.namespace, intent.owner.name);
        let named = self.refuse_grants.contains(&name) || self.refuse_grants.contains(&grant.code);
        named.then(|| refusal(format!("the site refuses this grant: {name} is listed under refuseGrants of its ConfigMap {}", policy_name())))
    }

    /// The GPUs that a grant claims of `maxGPUs`; `None`: it claims nothing.
    pub fn claimed_gpus(intent: &Intent) -> Option<i64> {
        let Body::Grant(grant) = &intent.body else { return None };
        let living = matches!(grant.desired, Desired::Bound | Desired::Paused) && grant.only_if_held.is_none();
        living.then(|| grant.pools.iter().map(|pool| pool.max_gpus).sum())
    }

    /// Why the site refuses a grant for which `maxGPUs` does not leave enough.
    pub fn over(cap: i64, held: i128, wanted: i128) -> Refusal {
        refusal(format!(
            "the site allows {cap} GPUs (maxGPUs of its ConfigMap {}); earlier grants hold {held} and this one asks for {wanted}",
            policy_name()
        ))
    }

    /// The grants that the site refuses, with messages: by name, or since earlier grants use up `maxGPUs`.
    pub fn refusals<'a>(&self, intents: impl Iterator<Item = &'a Intent>) -> BTreeMap<OwnerRef, Refusal> {
        let mut refused = BTreeMap::new();
        if self.refuse_grants.is_empty() && self.max_gpus.is_none() {
            return refused;
        }
        let mut living = Vec::new();
        for intent in intents {
            if let Some(refusal) = self.refused_by_name(intent) {
                refused.insert(intent.owner.clone(), refusal);
            } else if let Some(gpus) = Self::claimed_gpus(intent) {
                living.push((intent.created, &intent.owner, gpus));
            }
        }
        let Some(cap) = self.max_gpus else { return refused };
        living.sort();
        let mut sum: i64 = 0;
        for (_, owner, gpus) in living {
            if sum.saturating_add(gpus) <= cap {
                sum += gpus;
            } else {
                refused.insert(owner.clone(), Self::over(cap, sum.into(), gpus.into()));
            }
        }
        refused
    }
}

fn policy_name() -> String {
    format!("{}/{}", labels::SYSTEM_NAMESPACE, labels::SITE_POLICY)
}

fn refusal(message: String) -> Refusal {
    Refusal { reason: Reason::RefusedBySite, message }
}

fn list(text: &str) -> BTreeSet<String> {
    text.split([',', '\n']).map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
}
