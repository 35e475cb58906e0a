//! What a GPUPool says about itself.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::phase::{PartitionState, PoolSitePhase};
use crate::factory::GpuCount;

/// What the operator found.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GPUPoolStatus {
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
    pub summary: Option<PoolSummary>,
    /// GPU-hours that grants were promised, in the sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_hours: Option<PoolGpuHours>,
    /// Grants that name the pool and may still give access somewhere. While there are any, a deletion must be confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub living_grants: Option<i32>,
    /// The sites, keyed by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub sites: Vec<PoolSiteStatus>,
}

/// Ready-made strings for `kubectl get`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolSummary {
    /// Ready nodes of those wanted, for example `23/24`.
    #[schemars(length(max = 32))]
    pub nodes: String,
    /// Allocated GPUs of those there, for example `24/92`.
    #[schemars(length(max = 32))]
    pub gpus: String,
}

/// GPU-hours of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolGpuHours {
    /// Promised to living grants, in canonical GPU-hours.
    #[schemars(range(min = 0))]
    pub committed: i64,
    /// Used by all grants, in whole canonical GPU-hours; left out where nobody counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub used: Option<i64>,
}

/// The pool at one site.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolSiteStatus {
    /// The site's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Where the pool stands at this site.
    pub phase: PoolSitePhase,
    /// Nodes.
    #[serde(default)]
    pub nodes: NodeCount,
    /// GPUs.
    #[serde(default)]
    pub gpus: GpuCount,
    /// The Slurm partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<PartitionStatus>,
    /// What is wrong, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// Nodes of a pool at a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeCount {
    /// Asked for; where nothing was asked for, those that match.
    #[schemars(range(min = 0))]
    pub wanted: i32,
    /// Ready, schedulable and with all GPUs.
    #[schemars(range(min = 0))]
    pub ready: i32,
    /// Of the pool, but not ready.
    #[schemars(range(min = 0))]
    pub unhealthy: i32,
}

/// A Slurm partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PartitionStatus {
    /// Its name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// How it is.
    pub state: PartitionState,
}
