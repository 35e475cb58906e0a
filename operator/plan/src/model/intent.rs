//! Intent: the desired state of one resource at one site. Versioned and serialisable, so that any transport can carry it.

use std::collections::BTreeMap;

use aifactory_api::factory::{Dns, FactoryPolicy, NetworkPort, NetworkService, SiteAccess};
use aifactory_api::grant::{AfterRetention, KubernetesSubject, MemberRole, RunningWork};
use aifactory_api::pool::{Accelerator, Accounting, PerGpu, Preemption};
use aifactory_api::slurm::SiteSlurm;
use aifactory_api::{OwnerRef, Reason};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::budget;
use crate::model::id::{HubId, PartitionName, UserName};

/// Version of these types on the wire.
pub const VERSION: u32 = 1;

/// What a site needs of the factory that it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteIntent {
    /// [`VERSION`].
    pub version: u32,
    /// Id of the hub.
    pub hub: HubId,
    /// The factory.
    pub factory: OwnerRef,
    /// The factory's UID.
    pub factory_uid: String,
    /// Name of the site.
    pub site: String,
    /// UID of the cluster that the site has been so far, if known.
    pub expected_uid: Option<String>,
    /// UID of a cluster that a person has accepted as the site's new identity.
    pub accepted_uid: Option<String>,
    /// Whether the site is to be released: its claim is removed once nothing of ours is left.
    pub release: bool,
    /// Whether the hub has stored that this part of the site may hold something of it. Until then nothing is written there, the claim included.
    #[serde(default)]
    pub recorded: bool,
    /// The factory does not name this part any more, or can not be read: nothing is given there, and access is only removed. The fields on networks
    /// and services are then empty because they are not known.
    #[serde(default)]
    pub left: bool,
    /// Ranges of the whole factory that tenants' egress never opens: pods, services, nodes, management.
    pub protected: Vec<String>,
    /// Where this site's Pods resolve names.
    pub dns: Dns,
    /// Services of this site that grants may name.
    pub services: Vec<NetworkService>,
    /// Information for members.
    pub access: SiteAccess,
    /// The site's Slurm.
    pub slurm: Option<SiteSlurm>,
    /// Rules for all grants.
    pub policy: FactoryPolicy,
    /// Resource names of all pools at this site: each gets quota 0 where it is not granted.
    pub accelerators: Vec<String>,
    /// Types of GPU in the partitions of all Slurm pools at this site, sorted.
    #[serde(default)]
    pub gres_types: Vec<String>,
    /// The configuration that the site's admin keeps on the site's Kubernetes, for its Slurm. `None`: not read yet.
    pub config: Option<SiteConfig>,
}

impl SiteIntent {
    /// A site that the hub has recorded and for which its factory configures nothing.
    pub fn bare(hub: &str, factory: OwnerRef, factory_uid: &str, site: &str) -> Self {
        Self {
            version: VERSION,
            hub: HubId::new(hub),
            factory,
            factory_uid: factory_uid.to_owned(),
            site: site.to_owned(),
            expected_uid: None,
            accepted_uid: None,
            release: false,
            recorded: true,
            left: false,
            protected: Vec::new(),
            dns: Dns::default(),
            services: Vec::new(),
            access: SiteAccess::default(),
            slurm: None,
            policy: FactoryPolicy::default(),
            accelerators: Vec::new(),
            gres_types: Vec::new(),
            config: None,
        }
    }
}

/// The ConfigMaps by which a site's admin configures the operator at both parts of the site.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteConfig {
    /// ConfigMap `aifactory-site-policy`, as it is.
    pub policy: BTreeMap<String, String>,
    /// ConfigMap `aifactory-slurm-users`: member id to local user.
    pub users: BTreeMap<String, UserName>,
}

/// The desired state of one pool or grant at one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// [`VERSION`].
    pub version: u32,
    /// The resource.
    pub owner: OwnerRef,
    /// Its UID.
    pub uid: String,
    /// The generation that this intent was made from.
    pub generation: i64,
    /// When the resource was created: where a cap is short, earlier ones come first.
    pub created: Timestamp,
    /// How often the part was sent another intent for this resource before.
    pub serial: i64,
    /// What is wanted.
    pub body: Body,
}

impl Intent {
    /// The grant that this intent ends.
    pub fn ended_grant(&self) -> Option<&GrantIntent> {
        match &self.body {
            Body::Grant(grant) if matches!(grant.desired, Desired::Ended { .. }) => Some(grant),
            Body::Grant(_) | Body::Pool(_) => None,
        }
    }

    /// Whether this intent removes the access of all members of a grant, or of one whom the intent `before` named.
    pub fn takes_access(&self, before: Option<&Intent>) -> bool {
        let Body::Grant(grant) = &self.body else { return false };
        let former = match before.map(|before| &before.body) {
            Some(Body::Grant(before)) => before.members.as_slice(),
            Some(Body::Pool(_)) | None => &[],
        };
        // A changed role or subject removes the former access as well.
        grant.desired != Desired::Bound || former.iter().any(|member| !grant.members.contains(member))
    }
}

/// What is wanted of a pool or a grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// A pool.
    Pool(PoolIntent),
    /// A grant.
    Grant(Box<GrantIntent>),
}

/// A pool at one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolIntent {
    /// Active, draining or absent.
    pub presence: Presence,
    /// The accelerator.
    pub accelerator: Accelerator,
    /// What one GPU brings with it.
    pub per_gpu: PerGpu,
    /// Nodes wanted; `None`: all that match.
    pub wanted: Option<u32>,
    /// Where its nodes come from.
    pub nodes: NodeSource,
    /// How the pool is used.
    pub engine: PoolEngine,
}

/// Where the nodes of a pool come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeSource {
    /// Existing nodes that the site offers.
    Adopt {
        /// Labels that a node must have. Without any, none is selected.
        selector: BTreeMap<String, String>,
    },
}

/// Whether a pool is at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// In use.
    Active,
    /// No new work.
    Draining,
    /// Not there, or not there any more: nothing of it remains.
    Absent,
}

/// How a pool is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PoolEngine {
    /// As Kubernetes nodes.
    Kubernetes,
    /// As a Slurm partition.
    Slurm {
        /// The partition's name at this site.
        partition: PartitionName,
        /// Longest run time in minutes.
        max_wall_minutes: Option<u32>,
        /// Its place among the site's partitions.
        #[serde(default)]
        rank: Rank,
    },
}

/// A partition's place among those of its site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rank {
    /// Whether jobs that name no partition go there.
    pub default: bool,
    /// PriorityTier; `None`: Slurm's own default.
    pub priority_tier: Option<i32>,
    /// What happens to its jobs when a higher tier needs their nodes; `None`: the cluster's own setting.
    pub preemption: Option<Preemption>,
}

/// A grant at one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrantIntent {
    /// The project code.
    pub code: String,
    /// Name of the organisation.
    pub organisation: String,
    /// The desired state at the site.
    pub desired: Desired,
    /// Why the site must not establish the grant if it does not hold it yet.
    pub only_if_held: Option<Refusal>,
    /// Something that the grant names can not be read now: a pool, a factory, or the site's entry there. `pools`, `egress` and `cross_site` may then
    /// lack what earlier intents had, and `members` may list subjects that were not checked.
    ///
    /// The site makes and opens nothing: no namespace, binding, association, account, QOS or quota that it does not hold already, though a member is
    /// listed. It closes nothing because it is missing from the intent: quotas, pool labels, QOS, partitions and network policies stay as they are
    /// found. What does act: members who are not listed lose access, `Paused` and `Scheduled` let nothing new start, and `Ended` ends access as
    /// always. The site reports what it holds as settled, with `Bound` or `Paused` as its phase, and counts the members that have access.
    #[serde(default)]
    pub keep: bool,
    /// Active members only.
    pub members: Vec<MemberIntent>,
    /// Those who are to have no access, with their subjects: suspended members, and members whom the factory does not allow. They are given nothing; a
    /// binding of others by which one of them can work is found by them.
    #[serde(default)]
    pub barred: Vec<MemberIntent>,
    /// The granted pools at this site.
    pub pools: Vec<GrantPoolIntent>,
    /// Caps for each member, where Slurm runs the work.
    pub caps: MemberCaps,
    /// What happens at the end.
    pub end: End,
    /// When the grant ends, exclusive.
    pub not_after: Timestamp,
    /// Storage quota, a Kubernetes quantity.
    pub storage: String,
    /// Where Pods may go.
    pub egress: Vec<EgressIntent>,
    /// Addresses of this grant, here and at linked sites.
    pub cross_site: Option<CrossSiteIntent>,
    /// Take over what an earlier grant of this name with another code left.
    pub adopt_previous: bool,
}

impl GrantIntent {
    /// A grant of this code without members and pools, which keeps nothing once it has ended.
    pub fn bare(code: &str, desired: Desired) -> Self {
        let end = End { running_work: RunningWork::Finish, grace_seconds: 0, retention_seconds: 0, after_retention: AfterRetention::Retain };
        Self {
            code: code.to_owned(),
            organisation: String::new(),
            desired,
            only_if_held: None,
            keep: false,
            members: Vec::new(),
            barred: Vec::new(),
            pools: Vec::new(),
            caps: MemberCaps::default(),
            end,
            not_after: Timestamp::MAX,
            storage: "0".to_owned(),
            egress: Vec::new(),
            cross_site: None,
            adopt_previous: false,
        }
    }
}

/// The desired state of a grant at a site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Desired {
    /// Not in force yet: nothing, and if something is held already, paused.
    Scheduled,
    /// Members work.
    Bound,
    /// No new work.
    Paused,
    /// No access any more.
    Ended {
        /// Why.
        because: Reason,
        /// Why, in words.
        message: String,
        /// When access ends, for an end by the clock; otherwise it ends when the site first receives the intent.
        at: Option<Timestamp>,
    },
}

/// A refusal, with a message for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// Why, in words, and what to do.
    pub message: String,
}

/// An active member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MemberIntent {
    /// Pseudonym.
    pub id: String,
    /// Role.
    pub role: MemberRole,
    /// The member's subject at Kubernetes sites; `None`: the member waits.
    pub subject: Option<KubernetesSubject>,
    /// The member's user in Slurm, unless the site's own map has another; `None`: the member waits.
    pub slurm_user: Option<UserName>,
}

/// A granted pool at one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrantPoolIntent {
    /// Name of the pool, which is the node label's value.
    pub pool: String,
    /// The extended resource.
    pub resource: String,
    /// GPUs at the same time at this site.
    pub max_gpus: i64,
    /// What one GPU brings with it.
    pub per_gpu: PerGpu,
    /// Whether new work may start: not while the placement drains.
    pub open: bool,
    /// Name of the grant's entry.
    pub entry: String,
    /// What the site may still let the grant use, of which the hub keeps account.
    pub budget: Budget,
    /// The Slurm partition; `None`: the pool is used through Kubernetes.
    pub partition: Option<PartitionName>,
}

impl GrantIntent {
    /// Device-seconds after which nothing more starts in a pool on Kubernetes, over all entries that name it. Pools with the same resource share one
    /// quota, so that all of its GPUs may be in use in one of them.
    pub fn closes_at(&self, pool: &str) -> i64 {
        let here = || self.pools.iter().filter(|named| named.partition.is_none());
        let minutes = here().filter(|named| named.pool == pool).fold(0_i64, |sum, named| sum.saturating_add(named.budget.device_minutes));
        let resource = here().find(|named| named.pool == pool).map(|named| named.resource.as_str());
        let sharing = here().filter(|named| Some(named.resource.as_str()) == resource);
        budget::closes_at(minutes, sharing.fold(0, |sum, named| sum.saturating_add(named.max_gpus)))
    }
}

/// A grant's budget in one pool at one site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Device-minutes that the site may let the grant use from its beginning on, used ones included.
    pub device_minutes: i64,
    /// The pool's exact conversion.
    pub accounting: Accounting,
    /// How often the hub has assigned another figure: a report that answers an earlier assignment confirms nothing, though the figure may be the
    /// same.
    pub serial: u64,
}

/// Caps for each member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberCaps {
    /// GPUs at the same time.
    pub max_gpus: Option<i64>,
    /// Jobs that run at the same time.
    pub max_jobs: Option<i64>,
    /// Run time of a job, in minutes.
    pub max_wall_minutes: Option<i64>,
}

/// What happens at the end of a grant. Durations in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Finish or cancel what runs.
    pub running_work: RunningWork,
    /// How long what is to be cancelled may go on.
    pub grace_seconds: i64,
    /// How long data is kept.
    pub retention_seconds: i64,
    /// What happens then.
    pub after_retention: AfterRetention,
}

/// A destination that Pods may reach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EgressIntent {
    /// A service that this site names.
    Service(String),
    /// A range, less what is protected.
    Range {
        /// The range.
        cidr: String,
        /// Ports; at least one.
        ports: Vec<NetworkPort>,
    },
}

/// A grant's addresses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrossSiteIntent {
    /// Addresses at this site.
    pub own: Vec<String>,
    /// Addresses at linked sites, by site. Only those that no other grant names.
    pub peers: BTreeMap<String, Vec<String>>,
}

impl PoolIntent {
    /// The intent for a pool of which only the name is known, and which is to be removed.
    pub fn absent() -> Self {
        Self {
            presence: Presence::Absent,
            accelerator: Accelerator { vendor: String::new(), model: String::new(), resource_name: String::new(), per_node: 1 },
            per_gpu: PerGpu { cpus: 1, memory_gib: 1 },
            wanted: Some(0),
            nodes: NodeSource::Adopt { selector: BTreeMap::new() },
            engine: PoolEngine::Kubernetes,
        }
    }

    /// Labels by which nodes of the site are selected.
    pub fn selector(&self) -> &BTreeMap<String, String> {
        match &self.nodes {
            NodeSource::Adopt { selector } => selector,
        }
    }
}
