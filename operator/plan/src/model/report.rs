//! Report: the state of one resource at one site, or of the site itself, as the site sends it to the hub. Versioned and serialisable.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::factory::EngineStatus;
use aifactory_api::{OwnerRef, Reason};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::digest::{Digest, digest_of};
use crate::model::id::{AccountName, ClusterName, PartitionName, QosName, TenantNamespace};
use crate::model::intent::{Intent, SiteConfig};

/// The state of one resource at a site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The resource.
    pub owner: OwnerRef,
    /// The UID in the intent that this answers.
    pub uid: String,
    /// The generation in the intent that this answers.
    pub generation: i64,
    /// Digest of the intent that this answers.
    pub answers: Digest,
    /// The phase.
    pub phase: SitePhase,
    /// Whether the site holds just what the intent asks for, now.
    pub settled: bool,
    /// Findings for people, the most important first.
    pub findings: Vec<Finding>,
    /// More, by kind of resource.
    pub detail: Detail,
}

impl Report {
    /// The report that answers an intent at a site that holds just what it asks for.
    pub fn answering(intent: &Intent, phase: SitePhase, detail: Detail) -> Self {
        Self {
            owner: intent.owner.clone(),
            uid: intent.uid.clone(),
            generation: intent.generation,
            answers: digest_of(intent),
            phase,
            settled: true,
            findings: Vec::new(),
            detail,
        }
    }

    /// The report that answers an intent by a plan for it. As long as not all of the plan is `done`, nothing has the phase that is planned, unless that is to
    /// refuse.
    pub fn planned(intent: &Intent, phase: SitePhase, done: bool, findings: Vec<Finding>, detail: Detail) -> Self {
        let settled = done && phase != SitePhase::Pending;
        let phase = if done || phase == SitePhase::Refused { phase } else { SitePhase::Pending };
        Self { settled, findings, ..Self::answering(intent, phase, detail) }
    }
}

/// The phase of a resource at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SitePhase {
    /// Work is under way, or fails.
    Pending,
    /// A pool serves; a grant's members can work.
    Bound,
    /// No new work.
    Paused,
    /// A pool's placement is being drained.
    Draining,
    /// Access is gone, data is kept.
    Locked,
    /// Nothing is there.
    Gone,
    /// The site refuses it.
    Refused,
}

/// A message for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub reason: Reason,
    /// What and where, and what to do.
    pub message: String,
    /// Whether only a person can help.
    pub stalled: bool,
}

impl Finding {
    /// A finding that passes by itself, or is informational.
    pub fn note(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), stalled: false }
    }

    /// A finding that only a person can resolve.
    pub fn stalled(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), stalled: true }
    }
}

/// More, by kind of resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Detail {
    /// Nothing more.
    None,
    /// A pool.
    Pool(PoolDetail),
    /// A grant.
    Grant(GrantDetail),
}

/// A pool at a site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolDetail {
    /// Nodes asked for, or those that match.
    pub wanted: i32,
    /// Ready nodes.
    pub ready: i32,
    /// Nodes of the pool that are not ready.
    pub unhealthy: i32,
    /// GPUs of ready nodes.
    pub gpus: i64,
    /// GPUs that Pods of grants hold; `None` where quotas do not tell pools apart.
    pub allocated: Option<i64>,
    /// The Slurm partition and its state.
    pub partition: Option<(PartitionName, String)>,
}

/// A grant at a site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantDetail {
    /// Its namespace; empty: it has none.
    pub namespace: TenantNamespace,
    /// Active members.
    pub members_wanted: i32,
    /// Those with access.
    pub members_bound: i32,
    /// Those of them who can read, and start no work.
    pub members_reading: i32,
    /// Whether nobody can start work or reach the tenant's objects any more, readers of retained data apart.
    pub access_removed: bool,
    /// Whether default deny is in place.
    pub isolated: bool,
    /// Until when data is kept.
    pub retained_until: Option<Timestamp>,
    /// Its account in Slurm; `None`: it has none.
    pub slurm: Option<SlurmDetail>,
    /// What was used, by name of the grant's entry; empty where nobody counts.
    pub usage: BTreeMap<String, EntryUsage>,
}

/// A grant in one Slurm cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlurmDetail {
    /// ClusterName.
    pub cluster: ClusterName,
    /// The account.
    pub account: AccountName,
    /// QOS and partition by name of the grant's entry.
    pub entries: BTreeMap<String, SlurmEntry>,
}

/// One granted pool in one Slurm cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlurmEntry {
    /// The QOS.
    pub qos: QosName,
    /// The partition.
    pub partition: PartitionName,
    /// The budget that was read there, in device-minutes; `None`: no QOS of ours was read there.
    pub limit: Option<i64>,
}

/// What was used of one granted pool at one site. Device-seconds; integers, so that nothing is rounded twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryUsage {
    /// Used, what runs included.
    pub used: i64,
    /// What running work may still use before its time limits end it.
    pub reserved: i64,
    /// What Slurm's own counter charges beyond `used`: suspended time, and the waiting of heterogeneous jobs.
    pub surcharge: i64,
    /// Whether any of it still runs.
    pub running: bool,
    /// Up to when the records were complete.
    pub complete_through: Option<Timestamp>,
    /// The figure could not be brought up to date lately.
    pub stale: bool,
    /// The site lets nothing more start, since the budget is used up. In Slurm that is decided by its own counter instead.
    #[serde(default)]
    pub closed: bool,
}

/// The state of a site itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteReport {
    /// Whether the site answers.
    pub reachable: bool,
    /// Whether everything that is ours there has been seen since the connection was made.
    pub synced: bool,
    /// What is wrong.
    pub problem: Option<Finding>,
    /// Last time that the site answered.
    pub last_contact: Option<Timestamp>,
    /// UID of the cluster.
    pub cluster_uid: Option<String>,
    /// Version of its API server.
    pub kubernetes_version: Option<String>,
    /// Engines that were found.
    pub engines: Vec<EngineStatus>,
    /// When the credential expires.
    pub credential_expires: Option<Timestamp>,
    /// Resources of which objects were found, retained ones included.
    pub held: BTreeMap<OwnerRef, Held>,
    /// Orphans: resources that are gone from the hub, of which objects were found that no retention covers.
    pub orphans: BTreeSet<OwnerRef>,
    /// Problems in the site's own policy.
    pub policy_problems: Vec<String>,
    /// The configuration that the site's admin keeps for both parts; `None`: not read yet.
    pub config: Option<SiteConfig>,
    /// Whether the claim was released as asked.
    pub released: bool,
}

/// A change, since the last report, of what a synced part holds of one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldChange {
    /// The resource.
    pub owner: OwnerRef,
    /// How its objects are held; `None`: there are none.
    pub held: Option<Held>,
    /// Whether the resource is gone, and nothing is retained of it.
    pub orphan: bool,
}

impl SiteReport {
    /// Whether the report already has what a change would bring.
    pub fn agrees_with(&self, change: &HeldChange) -> bool {
        self.held.get(&change.owner) == change.held.as_ref() && self.orphans.contains(&change.owner) == change.orphan
    }

    /// Applies changes of what is held.
    pub fn apply(&mut self, changes: &[HeldChange]) {
        for HeldChange { owner, held, orphan } in changes {
            match held {
                Some(held) => self.held.insert(owner.clone(), *held),
                None => self.held.remove(owner),
            };
            if *orphan {
                self.orphans.insert(owner.clone())
            } else {
                self.orphans.remove(owner)
            };
        }
    }
}

/// How objects of a resource are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    /// In use.
    Live,
    /// A locked namespace whose annotations name its retention.
    Retained,
}
