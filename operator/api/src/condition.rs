//! Condition types and the closed set of reasons. `docs/` explains each reason; a test holds both together.

use std::fmt;

/// Types of our conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The sites hold what spec and clock ask for now.
    Ready,
    /// Work is under way, and progress is possible.
    Reconciling,
    /// Only a person can help.
    Stalled,
    /// AccessGrant: members can start work now.
    Usable,
    /// AIFactory, GPUPool, AccessGrant: every site that this needs answers.
    SitesReachable,
    /// AIFactory: every engine that the sites name is there.
    EnginesReady,
    /// AIFactory: objects of ours without an owner were found.
    OrphansFound,
    /// GPUPool: the wanted nodes are there and healthy.
    NodesReady,
    /// GPUPool: the Slurm partition is up.
    PartitionReady,
    /// AccessGrant: consumer, capacity, stage, residency and site policy allow it.
    Authorised,
    /// AccessGrant: every site has bound it.
    Bound,
    /// AccessGrant: network policies keep it apart from others.
    NetworkIsolated,
    /// AccessGrant: work may still be charged to the budget.
    WithinBudget,
    /// AccessGrant: every site has confirmed that access is gone.
    AccessRemoved,
}

impl ConditionType {
    /// The type as written in status.
    pub fn as_str(self) -> &'static str {
        match self {
            ConditionType::Ready => "Ready",
            ConditionType::Reconciling => "Reconciling",
            ConditionType::Stalled => "Stalled",
            ConditionType::Usable => "Usable",
            ConditionType::SitesReachable => "SitesReachable",
            ConditionType::EnginesReady => "EnginesReady",
            ConditionType::OrphansFound => "OrphansFound",
            ConditionType::NodesReady => "NodesReady",
            ConditionType::PartitionReady => "PartitionReady",
            ConditionType::Authorised => "Authorised",
            ConditionType::Bound => "Bound",
            ConditionType::NetworkIsolated => "NetworkIsolated",
            ConditionType::WithinBudget => "WithinBudget",
            ConditionType::AccessRemoved => "AccessRemoved",
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why a condition is what it is: a stable, closed set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Reason] = &[$(Reason::$name,)+];

            /// The reason as written in status and events.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)+ }
            }

            /// What it means, as its documentation says.
            pub fn meaning(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Not looked at yet.
    Pending,
    /// All is as asked for.
    AsSpecified,
    /// Changes are on their way to the sites.
    InProgress,
    /// The time before `notBefore`; nothing is given yet.
    Scheduled,
    /// Paused by `spec.state`.
    Paused,
    /// The time after `notAfter`.
    Expired,
    /// Revoked by `spec.state`.
    Revoked,
    /// The resource is being deleted.
    Deleting,
    /// The grant is living, so access is not removed.
    AccessGiven,
    /// Nobody has access any more at any site.
    AccessGone,
    /// A site that must confirm can not be asked.
    AwaitingSite,
    /// A site does not answer.
    SiteUnreachable,
    /// A site has no credential, or one that can not be used.
    CredentialInvalid,
    /// The Secret does not exist, or lacks the key.
    SecretNotFound,
    /// The operator may not read Secrets in this namespace.
    SecretForbidden,
    /// The site refused the credential.
    Unauthorized,
    /// The site belongs to another factory or hub.
    SiteClaimed,
    /// Another cluster answers where the site was.
    SiteIdentityChanged,
    /// The site's admission policies are missing or not in force.
    SitePoliciesMissing,
    /// The site's own policy or an admission policy of the site refuses.
    RefusedBySite,
    /// The site has paused the operator.
    PausedBySite,
    /// Agents are not served by this release.
    PullNotServed,
    /// The site was given up by annotation.
    SiteAbandoned,
    /// The named AIFactory does not exist.
    FactoryNotFound,
    /// The named GPUPool does not exist.
    PoolNotFound,
    /// The pool has no such site, or the factory has none.
    SiteNotFound,
    /// The pool does not list the grant's namespace under `consumers`.
    NotAConsumer,
    /// The consumer's share has ended.
    ConsumerExpired,
    /// The consumer's GPU-hours or GPUs are used up by earlier grants.
    ConsumerCapExceeded,
    /// More GPUs are asked for than the pool has.
    CapacityExceeded,
    /// The stage of pool or site does not allow new grants.
    StageNotReady,
    /// The placement is being drained; no new grants.
    Draining,
    /// The pool or the grant no longer names the site.
    PlacementRemoved,
    /// The site is outside the grant's residency.
    ResidencyNotAllowed,
    /// A Slurm pool without a REST endpoint can not enforce a budget.
    BudgetNotEnforceable,
    /// The budget is used up; more hours bring it back, with what was used kept.
    Exhausted,
    /// The usage could not be read lately; the figure is old.
    UsageStale,
    /// The site's Pods were not watched for a while; Pods that began and were deleted then are not counted.
    UsageGap,
    /// A member has no local user at the site.
    LocalAccountMissing,
    /// Members wait who have no usable subject on Kubernetes or are refused by the site, or no member can start work.
    MembersWaiting,
    /// Slurm's REST serves no version that the operator knows.
    SlurmVersionUnknown,
    /// Slurm refuses the token: it is expired, of another cluster, or of no administrator.
    SlurmTokenRefused,
    /// Slurm's database does not answer.
    SlurmDatabaseDown,
    /// Slurm's controller does not answer.
    SlurmControllerDown,
    /// The cluster has another name than `slurm.clusterName`, or is not registered in the database.
    SlurmClusterMismatch,
    /// Slurm is not configured so that a budget works; the message names each missing line.
    SlurmConfiguration,
    /// The parent account does not exist.
    ParentAccountMissing,
    /// Slurm answered with success, and the change was not there when it was read back.
    NotWritten,
    /// Two pools select the same node.
    NodeClaimedTwice,
    /// Fewer nodes than asked for.
    NodesMissing,
    /// Some nodes are not healthy.
    NodesUnhealthy,
    /// The engine that this needs is missing on the site, or serves another version.
    EngineMissing,
    /// The partition is not up.
    PartitionNotReady,
    /// The site makes another thing of an object than was written, so it is not in force as planned.
    ChangedBySite,
    /// An object of our name exists that is not ours.
    ForeignObject,
    /// A role binding of somebody else widens a grant.
    ForeignBinding,
    /// A network policy of somebody else widens a grant.
    ForeignPolicy,
    /// What an earlier grant of this name, with another code, left is still there.
    PreviousIncarnation,
    /// Pools still use the factory.
    PoolsRemain,
    /// Grants still use the pool.
    GrantsRemain,
    /// Sites still hold objects of ours.
    SitesRemain,
    /// Objects of ours whose owner is gone were found.
    OrphansFound,
    /// No orphans.
    NoOrphans,
    /// This does not concern the resource.
    NotApplicable,
    /// A value that the API server accepted can not be used.
    InvalidSpec,
    /// The stored object can not be read by this release.
    Undecodable,
    /// A defect in the operator; the message says where.
    InternalError,
    /// The site answered a request with an error.
    SiteError,
    /// A namespace with members' data was deleted by somebody else; it was made anew, empty.
    DataLost,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
