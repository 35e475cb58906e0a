//! What an AIFactory says about itself.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator found.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AIFactoryStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions, keyed by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Numbers for printing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<FactorySummary>,
    /// Grants that name the factory or one of its pools, and may still give access somewhere. While there are any, a deletion must be confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub living_grants: Option<i32>,
    /// The sites, keyed by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub sites: Vec<FactorySiteStatus>,
}

/// Ready-made strings for `kubectl get`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FactorySummary {
    /// Reachable sites of all, for example `2/2`.
    #[schemars(length(max = 32))]
    pub sites: String,
    /// Allocated GPUs of those there, for example `24/96`.
    #[schemars(length(max = 32))]
    pub gpus: String,
    /// Number of grants that name the factory.
    #[schemars(range(min = 0))]
    pub grants: i32,
}

/// What is known of a site.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FactorySiteStatus {
    /// The site's name.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
    /// Whether the site answers.
    #[serde(default)]
    pub reachable: bool,
    /// Why it does not, or what else is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Identity of the cluster: the UID of its namespace `kube-system`.
    #[serde(default, rename = "clusterUID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub cluster_uid: Option<String>,
    /// Version of its API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub kubernetes_version: Option<String>,
    /// Engines that were found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub engines: Vec<EngineStatus>,
    /// GPUs of this factory's pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<GpuCount>,
    /// Number of pools placed here.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub pools: i32,
    /// Number of grants bound here.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub grants: i32,
    /// Whether the hub knows that a part of the site, its Kubernetes or its Slurm, may hold something of it. While it is `true`, the site stays in the
    /// spec, and what it is reached by does not change.
    #[serde(default)]
    pub claimed: bool,
    /// Number of owners whose objects are here though they are gone.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub orphans: i32,
    /// The credential in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialStatus>,
    /// Last time that the site answered; only while it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_contact_time: Option<Time>,
}

/// An engine that was found on a site.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct EngineStatus {
    /// Name, for example `Slinky`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Served API version, for example `v1beta1`.
    #[schemars(length(max = 63))]
    pub version: String,
}

/// GPUs, counted as Kubernetes counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GpuCount {
    /// GPUs of ready nodes.
    #[schemars(range(min = 0))]
    pub capacity: i64,
    /// GPUs that Pods of grants hold.
    #[schemars(range(min = 0))]
    pub allocated: i64,
}

/// The credential in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialStatus {
    /// When it expires, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}
