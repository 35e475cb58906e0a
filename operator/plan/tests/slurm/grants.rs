//! Grants on the stand-in, and passes over them.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::grant::{AfterRetention, MemberRole, RunningWork};
use aifactory_api::pool::PerGpu;
use aifactory_api::slurm::{SiteSlurm, SlurmRest};
use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::engine::slurm_accounts::{AccountPlan, AccountView, Call, RemovalProgress, SlurmScope, held, plan_gone, plan_grant, scope};
use aifactory_plan::model::id::{AccountName, PartitionName, QosName, UserName};
use aifactory_plan::model::intent::*;
use aifactory_plan::site::policy::SitePolicy;
use jiff::{SignedDuration, Timestamp};

use crate::slurm::Cluster;

pub const HUB: &str = "8d3fb7a0c1";

pub fn owner(name: &str) -> OwnerRef {
    OwnerRef::new(Kind::AccessGrant, "programme", name)
}

pub fn site() -> SiteIntent {
    SiteIntent {
        slurm: Some(SiteSlurm {
            cluster_name: "bissen".to_owned(),
            rest: Some(SlurmRest {
                url: "https://slurm.bissen.example:6820".to_owned(),
                token_secret_ref: None,
                key_secret_ref: None,
                user: "slurm".to_owned(),
                ca_bundle: None,
                parent_account: "eu-aif".to_owned(),
            }),
            slinky: None,
        }),
        ..SiteIntent::bare(HUB, OwnerRef::new(Kind::AIFactory, "example", "example"), "uid", "bissen")
    }
}

pub fn pool(entry: &str, partition: &str, minutes: i64) -> GrantPoolIntent {
    GrantPoolIntent {
        pool: entry.to_owned(),
        resource: "nvidia.com/gpu".to_owned(),
        max_gpus: 4,
        per_gpu: PerGpu { cpus: 8, memory_gib: 64 },
        open: true,
        entry: entry.to_owned(),
        budget: Budget { device_minutes: minutes, ..Budget::default() },
        partition: Some(PartitionName::new(partition)),
    }
}

pub fn member(id: &str, user: Option<&str>) -> MemberIntent {
    MemberIntent { id: id.to_owned(), role: MemberRole::Member, subject: None, slurm_user: user.map(UserName::new) }
}

pub fn grant() -> GrantIntent {
    GrantIntent {
        code: "EHPC-AIF-2026PG99-001".to_owned(),
        organisation: "Example SARL".to_owned(),
        desired: Desired::Bound,
        only_if_held: None,
        keep: false,
        barred: Vec::new(),
        members: vec![member("m1", Some("alice")), member("m2", Some("bob"))],
        pools: vec![pool("h100", "gpua", 600), pool("a100", "gpub", 60)],
        caps: MemberCaps { max_gpus: Some(2), max_jobs: None, max_wall_minutes: Some(120) },
        end: End { running_work: RunningWork::Finish, grace_seconds: 1800, retention_seconds: 7200, after_retention: AfterRetention::Delete },
        not_after: Timestamp::MAX,
        storage: "0".to_owned(),
        egress: Vec::new(),
        cross_site: None,
        adopt_previous: false,
    }
}

pub fn ended() -> Desired {
    Desired::Ended { because: Reason::Expired, message: "the time after notAfter; so it is".to_owned(), at: None }
}

pub fn intent(owner: &OwnerRef, uid: &str, grant: &GrantIntent) -> Intent {
    let body = Body::Grant(Box::new(grant.clone()));
    Intent { version: VERSION, owner: owner.clone(), uid: uid.to_owned(), generation: 1, created: Timestamp::UNIX_EPOCH, serial: 0, body }
}

/// A site with its grants, at a time.
pub struct World {
    pub cluster: Cluster,
    pub site: SiteIntent,
    pub policy: SitePolicy,
    pub users: Option<BTreeMap<String, UserName>>,
    pub refused: BTreeMap<OwnerRef, Refusal>,
    pub grants: BTreeMap<OwnerRef, (String, GrantIntent)>,
    /// The last intents of grants that were deleted from the hub while they were being ended.
    pub ending: BTreeMap<OwnerRef, Intent>,
    /// Lost with every restart.
    pub removals: RemovalProgress,
    pub now: Timestamp,
}

impl World {
    pub fn new(grants: impl IntoIterator<Item = (&'static str, GrantIntent)>) -> Self {
        Self {
            cluster: Cluster::new(),
            site: site(),
            policy: SitePolicy::default(),
            users: Some(BTreeMap::new()),
            refused: BTreeMap::new(),
            grants: grants.into_iter().map(|(name, grant)| (owner(name), ("uid-1".to_owned(), grant))).collect(),
            ending: BTreeMap::new(),
            removals: RemovalProgress::default(),
            now: "2026-11-21T09:00:00Z".parse().expect("a time"),
        }
    }

    pub fn grant(&mut self, name: &str) -> &mut GrantIntent {
        &mut self.grants.get_mut(&owner(name)).expect("a grant").1
    }

    pub fn scope(&self) -> SlurmScope {
        scope(&self.site)
    }

    pub fn account(&self, name: &str) -> AccountName {
        self.scope().account(&owner(name))
    }

    pub fn qos(&self, name: &str, entry: &str) -> QosName {
        self.scope().qos(&owner(name), entry)
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// A plan for each grant, known or only found.
    pub fn plans(&self) -> BTreeMap<OwnerRef, AccountPlan> {
        let snapshot = self.cluster.read();
        let scope = self.scope();
        let held = held(&snapshot, &scope);
        let owners: BTreeSet<OwnerRef> = self.grants.keys().chain(held.keys()).cloned().collect();
        let plan = |owner: &OwnerRef| {
            let account = held.get(owner).map_or_else(|| scope.account(owner), |held| held.account.clone());
            let busy = self.cluster.busy(&account);
            let view = AccountView {
                snapshot: &snapshot,
                policy: &self.policy,
                users: self.users.as_ref(),
                refused: self.refused.get(owner),
                busy: &busy,
                removals: &self.removals,
            };
            match self.grants.get(owner) {
                Some((uid, grant)) => plan_grant(&self.site, &intent(owner, uid, grant), grant, &view, self.now),
                None => plan_gone(&self.site, owner, &held[owner], self.ending.get(owner), &view, self.now),
            }
        };
        owners.iter().map(|owner| (owner.clone(), plan(owner))).collect()
    }

    pub fn plan(&self, name: &str) -> AccountPlan {
        self.plans().remove(&owner(name)).expect("a plan")
    }

    /// One round; `None`: nothing is left to be asked. At most `limit` calls are made, as if the operator were killed then.
    pub fn round(&mut self, limit: usize, check: &mut dyn FnMut(&OwnerRef, &Call, &Cluster)) -> Option<()> {
        let mut calls: Vec<(OwnerRef, Call)> =
            self.plans().into_iter().flat_map(|(owner, plan)| plan.calls.into_iter().map(move |call| (owner.clone(), call))).collect();
        if calls.is_empty() {
            return None;
        }
        calls.sort_by_key(|(_, call)| call.stage());
        for (owner, call) in calls.iter().take(limit) {
            if let Err(error) = self.cluster.apply(call) {
                panic!("{owner}: {call} was refused with {error}");
            }
            self.removals.record(call);
            check(owner, call, &self.cluster);
        }
        Some(())
    }

    /// Rounds until nothing is left to be asked; how many.
    pub fn settle(&mut self) -> usize {
        self.settle_checked(&mut |_, _, _| {})
    }

    pub fn settle_checked(&mut self, check: &mut dyn FnMut(&OwnerRef, &Call, &Cluster)) -> usize {
        for round in 0..12 {
            if self.round(usize::MAX, check).is_none() {
                return round;
            }
        }
        panic!("not settled: {:#?}", self.plans().values().map(|plan| &plan.calls).collect::<Vec<_>>());
    }
}
