//! What an AccessGrant says about itself.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GrantPhase, SiteRowPhase};

/// What the operator found.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessGrantStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the grant stands, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<GrantPhase>,
    /// Whether the grant may still give access at a site. It is `false` only while every part of a site that may hold the grant has said that it
    /// gives none; `true` also where a site that may hold it can not be asked. As long as it is not `false`, a deletion must be confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_give_access: Option<bool>,
    /// Conditions, keyed by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Ready-made strings for printing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<GrantSummary>,
    /// The granted pools, keyed by name of the entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub pools: Vec<GrantPoolStatus>,
    /// The sites, keyed by name. A site of another factory than the one that grants is named `namespace/site`, or `namespace/factory/site` where the factory
    /// is not named like its namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub sites: Vec<GrantSiteStatus>,
}

/// A granted pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantPoolStatus {
    /// Name of the entry.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Its hours.
    #[serde(default)]
    pub gpu_hours: GpuHours,
}

/// Canonical GPU-hours of a grant, with up to four decimals, for example `1234.5`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuHours {
    /// What was granted, for example `5000`.
    #[schemars(length(max = 32))]
    pub granted: String,
    /// What was used at all sites, for example `1234.5`; left out where nobody counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub used: Option<String>,
    /// Up to when every site's records were complete when the figure last moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_through: Option<Time>,
    /// Whether work that still runs is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub includes_running: Option<bool>,
}

/// The budget of a granted pool at one site, as the site's own Slurm counts it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LocalBudget {
    /// Name of the grant's entry.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// What is counted: `gres/gpu-minutes` in Slurm, `device-minutes` of Pods on Kubernetes; of devices, whatever the pool's `accounting`.
    #[schemars(length(max = 32))]
    pub unit: String,
    /// What the site lets the grant use, used ones included; left out while not confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// What was used, in whole minutes, from job records or the time of Pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<i64>,
    /// What Slurm's own counter, which enforces, stands at: it also counts suspended time and the waiting of heterogeneous jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<i64>,
}

/// Ready-made strings for `kubectl get`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantSummary {
    /// The organisation, cut to 16 characters, for example `Example SARL`: a name of 128 would break the line.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub organisation: String,
    /// Sites that hold what is asked for, of all, for example `2/2`.
    #[schemars(length(max = 32))]
    pub sites: String,
    /// GPU-hours used, where somebody counts, and granted, for example `1234/5000`.
    #[schemars(length(max = 64))]
    pub gpu_hours: String,
    /// Day of the end, for example `2027-03-01`.
    #[schemars(length(max = 32))]
    pub expires: String,
}

/// The grant at one site.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantSiteStatus {
    /// The site's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Where the grant stands at this site.
    pub phase: SiteRowPhase,
    /// Members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<MemberCount>,
    /// Where members go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<GrantAccess>,
    /// The grant's budgets at this site, as the site counts them, keyed by name of the grant's entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub budgets: Vec<LocalBudget>,
    /// Who ends access in time: the hub, for sites that it reaches by push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub expiry_enforced_by: Option<String>,
    /// What is wrong, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// Members at a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemberCount {
    /// Active members.
    #[schemars(range(min = 0))]
    pub wanted: i32,
    /// Those with access.
    #[schemars(range(min = 0))]
    pub bound: i32,
    /// Those without a subject or local user here, or refused by the site.
    #[schemars(range(min = 0))]
    pub waiting: i32,
}

/// Where members go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantAccess {
    /// Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesAccess>,
    /// Slurm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm: Option<SlurmAccess>,
    /// Login hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 253)))]
    pub login_hosts: Vec<String>,
}

/// What members write into a job: `--account`, `--partition` and `--qos`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SlurmAccess {
    /// ClusterName.
    #[schemars(length(max = 40))]
    pub cluster: String,
    /// The account.
    #[schemars(length(max = 64))]
    pub account: String,
    /// The QOS of each pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub qos: Vec<String>,
    /// The partition of each pool, in the order of `qos`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 40)))]
    pub partitions: Vec<String>,
}

/// Where members find their namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KubernetesAccess {
    /// URL of the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub server: Option<String>,
    /// The namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
}
