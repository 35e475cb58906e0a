//! AccessGrant: the right of an organisation's members to use pools for a time.

mod phase;
mod status;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::factory::{LocalRef, NetworkPort};

pub use phase::{GrantPhase, SiteRowPhase};
pub use status::{
    AccessGrantStatus, GpuHours, GrantAccess, GrantPoolStatus, GrantSiteStatus, GrantSummary, KubernetesAccess, LocalBudget, MemberCount, SlurmAccess,
};

/// The right of an organisation's members to use pools for a time.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "aifactory.dev",
    version = "v1alpha1",
    kind = "AccessGrant",
    plural = "accessgrants",
    shortname = "grant",
    category = "ai-factory",
    namespaced,
    status = "AccessGrantStatus",
    derive = "PartialEq",
    printcolumn(name = "Org", type_ = "string", json_path = ".status.summary.organisation"),
    printcolumn(name = "Sites", type_ = "string", json_path = ".status.summary.sites", description = "Sites that hold what is asked for, of all"),
    printcolumn(name = "GPUHours", type_ = "string", json_path = ".status.summary.gpuHours"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.summary.expires"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Code", type_ = "string", json_path = ".spec.code", priority = 1),
    printcolumn(name = "Organisation", type_ = "string", json_path = ".spec.organisation.name", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1)
)]
#[x_kube(validation = Rule::new("self.notBefore < self.notAfter").message("notBefore must be before notAfter; example: `notBefore: 2026-12-01T00:00:00Z` and `notAfter: 2027-03-01T00:00:00Z`"))]
#[x_kube(validation = Rule::new("!has(oldSelf.decision) || has(self.decision)").message("decision must not be taken away once it is set; example: `decision: {reference: AIF-2026-12/3, revision: 2}`"))]
#[x_kube(validation = Rule::new("!has(oldSelf.decision) || !has(self.decision) || self.decision.revision >= oldSelf.decision.revision").message("decision.revision must not become lower; example: after `revision: 2` write `revision: 3`"))]
#[x_kube(validation = Rule::new("!has(oldSelf.decision) || !has(self.decision) || self.decision.revision > oldSelf.decision.revision || (self.notBefore >= oldSelf.notBefore && self.notAfter <= oldSelf.notAfter && self.pools.all(p, oldSelf.pools.exists(o, o.name == p.name && o.poolRef.name == p.poolRef.name && o.gpuHours >= p.gpuHours)))").message("decision.revision: more hours, another pool, an earlier notBefore or a later notAfter need a decision of a higher revision; example: `decision: {reference: AIF-2026-12/3, revision: 2}`"))]
#[serde(rename_all = "camelCase")]
pub struct AccessGrantSpec {
    /// The AIFactory that grants, in the same namespace. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("factoryRef is immutable; make another grant: apply one of another `metadata.name`, and revoke this one"))]
    pub factory_ref: LocalRef,
    /// Who is granted access.
    pub organisation: Organisation,
    /// Project code, unique for the programme, for example `EHPC-AIF-2026PG99-001`. Immutable.
    #[schemars(regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?$"), length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("code is immutable, since it names the project for good; make another grant: apply one of another `metadata.name`"))]
    pub code: String,
    /// Access mode of the programme. Informational.
    pub access_mode: AccessMode,
    /// The decision behind the grant. When set, more hours or time need a higher revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Who may work, at most 512, by pseudonym.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub members: Vec<Member>,
    /// What is granted, 1 to 16 pools.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub pools: Vec<GrantPool>,
    /// From when, UTC, for example `2026-12-01T00:00:00Z`.
    pub not_before: Time,
    /// Until when, exclusive, UTC, for example `2027-03-01T00:00:00Z`.
    #[x_kube(validation = Rule::new("self < timestamp('9999-12-30T00:00:00Z')").message("notAfter: must be before 9999-12-30T00:00:00Z; example: `notAfter: 2027-03-01T00:00:00Z`"))]
    pub not_after: Time,
    /// Active, Paused or Revoked. Leave it out of Git, so that an emergency `kubectl patch` survives.
    #[serde(default)]
    pub state: GrantState,
    /// May bind at sites and pools of stage EarlyAccess.
    #[serde(default)]
    pub early_access: bool,
    /// What happens at the end.
    #[serde(default)]
    pub expiry: Expiry,
    /// What data is worked on, and where it may be.
    #[serde(default)]
    pub data: Data,
    /// Storage.
    #[serde(default)]
    pub storage: Storage,
    /// What the members' Pods may reach.
    #[serde(default)]
    pub network: GrantNetwork,
    /// Caps for each member on Slurm pools, on top of the grant's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<MemberLimits>,
}

impl AccessGrant {
    /// Whether the grant may still give access somewhere, as status says: without our finalizer nothing was ever given, and with it only a word of
    /// every site that may hold the grant says no.
    pub fn may_give_access(&self) -> bool {
        let ours = self.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == crate::labels::FINALIZER);
        ours && self.status.as_ref().and_then(|status| status.may_give_access) != Some(false)
    }
}

/// Caps for each member on Slurm pools.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberLimits {
    /// GPUs of one member at the same time in one pool at one site, 1 to 1000000, for example 4.
    #[serde(default, rename = "maxGPUsPerMember", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_gpus_per_member: Option<i64>,
    /// Jobs of one member that run at the same time in one pool at one site, 1 to 1000000, for example 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_jobs_per_member: Option<i64>,
    /// Longest run time of a job, in hours or minutes, for example `12h` or `90m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,4}(m|h)$"), length(max = 6))]
    pub max_wall_time: Option<String>,
}

/// Who is granted access.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Organisation {
    /// Name, for example `Example SARL`.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Country of registration, ISO 3166-1 alpha-2, for example `FR`. Informational.
    #[schemars(regex(pattern = r"^[A-Z]{2}$"), length(max = 2))]
    pub country: String,
    /// Category. Informational.
    pub category: OrganisationCategory,
}

impl Organisation {
    /// At most 16 characters, for a column.
    pub fn short_name(&self) -> String {
        if self.name.chars().count() <= 16 {
            return self.name.clone();
        }
        let start: String = self.name.chars().take(15).collect();
        format!("{}…", start.trim_end())
    }
}

/// Category of an organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OrganisationCategory {
    /// Start-up.
    Startup,
    /// Small or medium-sized enterprise.
    SME,
    /// Other industry.
    Industry,
    /// University or research institute.
    Academia,
    /// Public sector.
    PublicSector,
    /// A value that this release does not know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Access mode of the programme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum AccessMode {
    Playground,
    FastLane,
    LargeScale,
    Science,
    Regular,
    ExtremeScale,
    Development,
    Benchmark,
    National,
    Training,
    PayPerUse,
    Strategic,
    Emergency,
    /// A value that this release does not know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// The decision behind a grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    /// Reference, for example `AIF-2026-11/17`.
    #[schemars(length(min = 1, max = 128))]
    pub reference: String,
    /// Revision, 1 to 1000000, for example 2. More hours, another pool or a longer time need a higher one.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub revision: i64,
    /// Day of the decision, for example `2026-11-17`. Informational.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), length(max = 10))]
    pub date: Option<String>,
}

/// Somebody who may work.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Pseudonym, for example `p-4711`. Never a name or an e-mail address.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9._]*[a-z0-9])?$"), length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("!self.contains('@')").message("members[].id: a pseudonym, never a name or an e-mail address; example: `id: p-4711`"))]
    pub id: String,
    /// What the member may do.
    #[serde(default)]
    pub role: MemberRole,
    /// Active, or Suspended: no access at all.
    #[serde(default)]
    pub state: MemberState,
    /// The member at Kubernetes sites.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesSubject>,
    /// The member at Slurm sites. A site's own map `aifactory-slurm-users` wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm: Option<SlurmUser>,
}

/// A user as the sites' Slurm knows it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!(self.user in ['root', 'slurm', 'nobody', 'munge', 'daemon'])").message("members[].slurm.user: users of the system are nobody's members; example: `user: u4711`"))]
pub struct SlurmUser {
    /// Local user name, for example `u4711`.
    #[schemars(regex(pattern = r"^[a-z_][-a-z0-9_]*$"), length(min = 1, max = 32))]
    pub user: String,
}

/// What a member may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum MemberRole {
    /// Works, and sees who else does.
    Lead,
    /// Works.
    #[default]
    Member,
    /// Reads; also what unknown values mean.
    #[serde(other)]
    Reader,
}

/// State of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemberState {
    /// May work.
    #[default]
    Active,
    /// May not; also what unknown values mean.
    #[serde(other)]
    Suspended,
}

/// A user or group as the sites' API servers know it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!self.name.startsWith('system:')").message("members[].kubernetes.name: users and groups of the system are nobody's members; example: `name: oidc:4711`"))]
pub struct KubernetesSubject {
    /// User or Group.
    #[serde(default)]
    pub kind: SubjectKind,
    /// Name, for example `oidc:4711`; never `system:`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Kind of subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum SubjectKind {
    /// A user.
    #[default]
    User,
    /// A group.
    Group,
}

impl SubjectKind {
    /// As RBAC writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            SubjectKind::User => "User",
            SubjectKind::Group => "Group",
        }
    }
}

/// A granted pool.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.sites) || self.sites.map(s, has(s.maxGPUs) ? s.maxGPUs : 0).sum() <= self.maxGPUs").message("pools[].sites[].maxGPUs: their sum must not be more than the entry's maxGPUs; example: `maxGPUs: 16` and `sites: [{name: bissen, maxGPUs: 12}, {name: bettembourg, maxGPUs: 4}]`"))]
#[x_kube(validation = Rule::new("!has(self.sites) || self.sites.map(s, has(s.gpuHours) ? s.gpuHours : 0).sum() <= self.gpuHours").message("pools[].sites[].gpuHours: their sum must not be more than the entry's gpuHours; example: `gpuHours: 5000` and `sites: [{name: bissen, gpuHours: 3000}, {name: bettembourg, gpuHours: 2000}]`"))]
pub struct GrantPool {
    /// Name of the entry, for example `h100`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 63))]
    pub name: String,
    /// The GPUPool.
    pub pool_ref: PoolRef,
    /// Budget in canonical GPU-hours, 1 to 1000000000000, for example 5000. Counts towards a consumer's cap. On a Slurm pool Slurm itself enforces it; on
    /// Kubernetes nothing more starts when it is used up, and running Pods end where `expiry.runningWork` is Cancel.
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    pub gpu_hours: i64,
    /// GPUs at the same time over all sites, 1 to 1000000, for example 16.
    #[serde(rename = "maxGPUs")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_gpus: i64,
    /// At which of the pool's sites, and how the GPUs are split. Left out: at all, split by their nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub sites: Vec<GrantPoolSite>,
}

/// A GPUPool, in the grant's namespace unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct PoolRef {
    /// Its name, for example `h100`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), length(min = 1, max = 63))]
    pub name: String,
    /// Its namespace, for example `ardenne`, where the pool lists this grant's namespace under `consumers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// A site of a granted pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantPoolSite {
    /// A site of the pool, for example `bissen`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 40))]
    pub name: String,
    /// GPUs at the same time at this site, 0 to 1000000, for example 12. Left out: the rest of `maxGPUs`, split by nodes.
    #[serde(default, rename = "maxGPUs", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_gpus: Option<i64>,
    /// Budget at this site in canonical GPU-hours, 0 to 1000000000000, for example 3000. Left out: the rest of the entry's `gpuHours`, split by nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000_000_i64))]
    pub gpu_hours: Option<i64>,
}

/// State of a grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GrantState {
    /// In force between `notBefore` and `notAfter`.
    #[default]
    Active,
    /// Ended.
    Revoked,
    /// No new work; what runs goes on. Also what unknown values mean.
    #[serde(other)]
    Paused,
}

/// What happens at the end of a grant.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expiry {
    /// Finish: running work may finish. Cancel: it is cancelled after `gracePeriod`; and on Kubernetes, Pods of a pool whose `gpuHours` are used up are
    /// cancelled with 10 seconds to end.
    #[serde(default)]
    pub running_work: RunningWork,
    /// How long running work may go on when it is to be cancelled, for example `1h`, `30m` or `0s`.
    #[serde(default = "default_grace")]
    #[schemars(regex(pattern = r"^(0|[1-9][0-9]{0,6})(s|m|h)$"), length(max = 8))]
    pub grace_period: String,
    /// How long data is kept, for example `4320h` (180 days).
    #[serde(default = "default_retention")]
    #[schemars(regex(pattern = r"^(0|[1-9][0-9]{0,6})(s|m|h)$"), length(max = 8))]
    pub retention: String,
    /// Retain: data stays until a person deletes it. Delete: it is deleted after `retention`.
    #[serde(default)]
    pub after_retention: AfterRetention,
}

impl Default for Expiry {
    fn default() -> Self {
        Self {
            running_work: RunningWork::default(),
            grace_period: default_grace(),
            retention: default_retention(),
            after_retention: AfterRetention::default(),
        }
    }
}

fn default_grace() -> String {
    "1h".to_owned()
}

fn default_retention() -> String {
    "4320h".to_owned()
}

/// What happens to running work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunningWork {
    /// It is cancelled after the grace period.
    Cancel,
    /// It may finish; also what unknown values mean.
    #[default]
    #[serde(other)]
    Finish,
}

/// What happens to data after the retention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AfterRetention {
    /// It is deleted.
    Delete,
    /// It stays; also what unknown values mean.
    #[default]
    #[serde(other)]
    Retain,
}

impl AfterRetention {
    /// As the annotation says it.
    pub fn as_str(self) -> &'static str {
        match self {
            AfterRetention::Retain => "Retain",
            AfterRetention::Delete => "Delete",
        }
    }
}

/// What data is worked on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Data {
    /// Classification. Informational.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classification: Option<DataClassification>,
    /// Where data may be: ISO 3166-1 alpha-2 codes, or `EU` or `EEA`, for example `[FR, DE]`. Empty: anywhere. A site outside is refused, and it is checked again at every reconcile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 40), inner(regex(pattern = r"^([A-Z]{2}|EEA)$"), length(max = 3)))]
    pub residency: Vec<String>,
}

/// Classification of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DataClassification {
    /// Anybody may see it.
    Public,
    /// For the organisation.
    Internal,
    /// Confidential.
    Confidential,
    /// About persons.
    Personal,
    /// A value that this release does not know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Storage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Storage {
    /// Sum of all volumes at each site, for example `5Ti` or `500Gi`.
    #[serde(default = "default_storage")]
    #[schemars(regex(pattern = r"^(0|[1-9][0-9]{0,6}(Gi|Ti))$"), length(max = 9))]
    pub quota: String,
}

impl Default for Storage {
    fn default() -> Self {
        Self { quota: default_storage() }
    }
}

fn default_storage() -> String {
    "100Gi".to_owned()
}

/// What the members' Pods may reach.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantNetwork {
    /// Where to, beside DNS and the grant's own Pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub egress: Vec<Egress>,
    /// Traffic between this grant's own addresses at linked sites.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cross_site: Option<CrossSite>,
}

/// Exactly one of service and cidr.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.service) != has(self.cidr)").message("network.egress[]: exactly one of `service` and `cidr` must be set; example: `{service: s3}`"))]
#[x_kube(validation = Rule::new("has(self.cidr) == (has(self.ports) && self.ports.size() > 0)").message("network.egress[].ports: needed with `cidr`, and not allowed with `service`, which has its own; example: `{cidr: 203.0.113.0/24, ports: [{port: 443}]}`"))]
pub struct Egress {
    /// A service that the site names, for example `s3`. Sites without it are skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 40))]
    pub service: Option<String>,
    /// A range, for example `203.0.113.0/24`. Protected ranges inside it stay closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 43))]
    #[x_kube(validation = Rule::new("isCIDR(self) && cidr(self).masked() == cidr(self)").message("network.egress[].cidr must be a CIDR without host bits; example: `203.0.113.0/24`"))]
    #[x_kube(validation = Rule::new(crate::schema::not_reserved()).message("network.egress[].cidr must not lie inside link-local, loopback, multicast or metadata ranges such as 169.254.0.0/16; example: `203.0.113.0/24`"))]
    pub cidr: Option<String>,
    /// Ports, required with `cidr`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub ports: Vec<NetworkPort>,
}

/// Traffic between a grant's own addresses.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrossSite {
    /// The grant's addresses, site by site. Addresses of this grant alone: another grant that names an overlapping range is refused.
    #[schemars(length(min = 2, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["site".into()]))]
    pub addresses: Vec<SiteAddresses>,
}

/// A grant's addresses at one site.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteAddresses {
    /// The site, for example `bissen`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 40))]
    pub site: String,
    /// Ranges, for example `192.0.2.16/28`.
    #[schemars(length(min = 1, max = 8), inner(length(min = 3, max = 43)))]
    #[x_kube(validation = Rule::new(crate::schema::NO_HOST_BITS).message("network.crossSite.addresses[].cidrs: each must be a CIDR without host bits; examples: `10.42.0.0/16`, `2001:db8::/48`"))]
    #[x_kube(validation = Rule::new(crate::schema::none_reserved()).message("network.crossSite.addresses[].cidrs: must not lie inside link-local, loopback, multicast or metadata ranges such as 169.254.0.0/16 and fe80::/10; example: `10.42.0.0/16`"))]
    #[x_kube(validation = Rule::new("self.all(c, !isCIDR(c) || cidr(c).prefixLength() >= (cidr(c).ip().family() == 4 ? 16 : 48))").message("network.crossSite.addresses[].cidrs: addresses of one grant are not wider than /16 (IPv6: /48); example: `198.51.100.16/28`"))]
    pub cidrs: Vec<String>,
}
