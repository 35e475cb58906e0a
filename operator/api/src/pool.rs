//! GPUPool: one homogeneous GPU partition over one or more sites.

mod phase;
mod status;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::factory::{LocalRef, Stage};

pub use phase::{PartitionState, PoolSitePhase};
pub use status::{GPUPoolStatus, NodeCount, PartitionStatus, PoolGpuHours, PoolSiteStatus, PoolSummary};

/// One homogeneous GPU partition.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "aifactory.dev",
    version = "v1alpha1",
    kind = "GPUPool",
    plural = "gpupools",
    shortname = "gpool",
    category = "ai-factory",
    namespaced,
    status = "GPUPoolStatus",
    derive = "PartialEq",
    printcolumn(name = "Factory", type_ = "string", json_path = ".spec.factoryRef.name"),
    printcolumn(name = "Accelerator", type_ = "string", json_path = ".spec.accelerator.model"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.summary.nodes", description = "Ready nodes of those wanted"),
    printcolumn(name = "GPUs", type_ = "string", json_path = ".status.summary.gpus", description = "Allocated GPUs of those there"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Committed",
        type_ = "integer",
        json_path = ".status.gpuHours.committed",
        description = "GPU-hours promised to living grants",
        priority = 1
    ),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1)
)]
#[x_kube(validation = Rule::new("has(self.slurm) != has(self.kubernetes)").message("exactly one of `slurm` and `kubernetes` must be set, since a node is sold once; example: `kubernetes: {}`"))]
#[x_kube(validation = Rule::new("oldSelf.sites.all(o, (has(o.state) && o.state == 'Draining') || self.sites.exists(s, s.name == o.name))").message("sites: a site leaves the list only from state Draining; write `state: Draining` first, and remove the site once its work has ended"))]
#[x_kube(validation = Rule::new("has(self.slurm) || has(self.nodes) || self.sites.all(s, has(s.nodes))").message("nodes: say where nodes come from, for the pool or for each site; example: `nodes: {adopt: {selector: {matchLabels: {nvidia.com/gpu.product: NVIDIA-H200}}}}`"))]
#[x_kube(validation = Rule::new("has(self.slurm) || self.sites.all(s, !has(s.slurm))").message("sites[].slurm: only a pool with `slurm` has partitions; example: `slurm: {partition: h100}` for the pool, `sites: [{name: bissen, slurm: {partition: acc}}]`"))]
#[x_kube(validation = Rule::new("has(oldSelf.slurm) == has(self.slurm)").message("slurm, kubernetes: how a pool is used is immutable; make another pool: drain this one, and apply one of another `metadata.name`"))]
#[serde(rename_all = "camelCase")]
pub struct GPUPoolSpec {
    /// The AIFactory, in the same namespace. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("factoryRef is immutable; make another pool: drain this one, and apply one of another `metadata.name`"))]
    pub factory_ref: LocalRef,
    /// How far the pool is; the lower of this and the site's stage counts.
    #[serde(default = "production")]
    pub stage: Stage,
    /// The accelerator. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("accelerator is immutable, since a pool is one kind of hardware; make another pool: apply one of another `metadata.name`"))]
    pub accelerator: Accelerator,
    /// What one GPU brings with it.
    #[serde(rename = "perGPU")]
    pub per_gpu: PerGpu,
    /// How device-hours become canonical GPU-hours, in which grants are written. Immutable.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("accounting is immutable, since hours already granted and used are converted by it; make another pool: apply one of another `metadata.name`"))]
    pub accounting: Accounting,
    /// The pool as a Slurm partition. Exactly one of slurm and kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm: Option<PoolSlurm>,
    /// The pool as Kubernetes nodes. Exactly one of slurm and kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<PoolKubernetes>,
    /// Where the pool is, 1 to 64 sites. A site leaves the list only from state Draining.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub sites: Vec<PoolSite>,
    /// Where the nodes come from, unless a site says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Nodes>,
    /// Who, in other namespaces, may grant this pool, and how much of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub consumers: Vec<Consumer>,
}

fn production() -> Stage {
    Stage::Production
}

/// A kind of accelerator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Accelerator {
    /// Vendor, for example `nvidia`. Informational.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 40))]
    pub vendor: String,
    /// Model, for example `H100-SXM5-80GB`. Its first part, in lower case, is the Slurm GRES type.
    #[schemars(regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?$"), length(min = 1, max = 63))]
    pub model: String,
    /// The extended resource that Pods ask for, for example `nvidia.com/gpu`.
    #[schemars(
        regex(pattern = r"^(nvidia\.com/(gpu|mig-[0-9]+g\.[0-9]+gb)|amd\.com/gpu|gpu\.intel\.com/(i915|xe)|habana\.ai/gaudi)$"),
        length(max = 63)
    )]
    pub resource_name: String,
    /// GPUs in a node, 1 to 64, for example 4.
    #[schemars(range(min = 1, max = 64))]
    pub per_node: i32,
}

/// What one GPU brings with it: caps CPU and memory of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PerGpu {
    /// CPU cores, 1 to 512, for example 16.
    #[schemars(range(min = 1, max = 512))]
    pub cpus: i32,
    /// Memory in GiB, 1 to 8192, for example 120.
    #[serde(rename = "memoryGiB")]
    #[schemars(range(min = 1, max = 8192))]
    pub memory_gib: i32,
}

/// An exact conversion: `perDeviceHours` hours of one device are `canonicalGPUHours` canonical GPU-hours. Half of a dual-die module, for example, is 1 per 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Accounting {
    /// Canonical GPU-hours, 1 to 1000, for example 1.
    #[serde(rename = "canonicalGPUHours", default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub canonical_gpu_hours: i64,
    /// Device-hours, 1 to 1000, for example 2.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub per_device_hours: i64,
}

fn one() -> i64 {
    1
}

impl Default for Accounting {
    fn default() -> Self {
        Self { canonical_gpu_hours: 1, per_device_hours: 1 }
    }
}

/// The pool as a Slurm partition.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolSlurm {
    /// Partition name, for example `h100`; neither `default` nor `all`, which are words of Slurm's own.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 40))]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['default', 'all'])").message("partition: DEFAULT and ALL are words of Slurm's own; example: `h100`"))]
    pub partition: String,
    /// Longest run time of a job, in hours or minutes, for example `24h` or `90m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,4}(m|h)$"), length(max = 6))]
    pub max_wall_time: Option<String>,
    /// Whether jobs that name no partition go here. Of several pools at one site, Slurm takes one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// PriorityTier, 0 to 65533, for example 10: Slurm starts jobs of higher tiers first, whatever else their priority. Left out: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65533))]
    pub priority_tier: Option<i32>,
    /// What a job here must bear when a partition of a higher tier needs its nodes, for example `Requeue`. Left out: what the whole Slurm cluster
    /// says. It takes effect where slurm.conf has `PreemptType=preempt/partition_prio`; `Suspend` needs `PreemptMode=SUSPEND,GANG` there as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemption: Option<Preemption>,
}

/// What happens to jobs whose nodes a higher tier needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Preemption {
    /// They go back into the queue.
    Requeue,
    /// They are cancelled.
    Cancel,
    /// They are suspended and go on later.
    Suspend,
    /// They run to their end; also what unknown values mean.
    #[serde(other)]
    Off,
}

/// The pool as Kubernetes nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolKubernetes {}

/// The pool at one site.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolSite {
    /// A site of the factory, for example `bissen`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 40))]
    pub name: String,
    /// Nodes wanted here, 0 to 25000, for example 16. Left out: all that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 25000))]
    pub count: Option<i32>,
    /// Active, or Draining: no new grants or work, running work ends, data is kept.
    #[serde(default)]
    pub state: PlacementState,
    /// The partition's name at this site, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm: Option<PoolSiteSlurm>,
    /// Where the nodes come from at this site, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Nodes>,
}

/// State of a pool at a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PlacementState {
    /// In use.
    #[default]
    Active,
    /// No new grants or work; also what unknown values mean.
    #[serde(other)]
    Draining,
}

/// The partition at one site.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolSiteSlurm {
    /// Partition name, for example `acc`; neither `default` nor `all`, which are words of Slurm's own.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 40))]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['default', 'all'])").message("partition: DEFAULT and ALL are words of Slurm's own; example: `h100`"))]
    pub partition: String,
}

/// Where nodes come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Nodes {
    /// Nodes that exist already, which the site has labelled `site.aifactory.dev/offered: "true"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub adopt: Option<Adopt>,
}

/// The one source that is named.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source<'a> {
    /// Nodes that exist already.
    Adopt(&'a Adopt),
}

impl Nodes {
    /// The source that is named; `None`: one that this release does not know, which selects nothing.
    pub fn source(&self) -> Option<Source<'_>> {
        self.adopt.as_ref().map(Source::Adopt)
    }
}

/// Nodes that exist already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Adopt {
    /// Which of them.
    pub selector: NodeSelector,
}

/// Labels that a node must have.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelector {
    /// 1 to 16 labels, for example `nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3`.
    #[schemars(schema_with = "crate::schema::node_labels")]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('aifactory.dev/'))").message("matchLabels: labels of aifactory.dev are the operator's own; example: `nvidia.com/gpu.product: NVIDIA-H200`"))]
    pub match_labels: BTreeMap<String, String>,
}

/// Somebody in other namespaces who may grant this pool.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Consumer {
    /// Name of the entry, for example `antenna-ie`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 63))]
    pub name: String,
    /// Their namespaces on the hub.
    pub namespaces: Namespaces,
    /// Cap on the sum of their grants' GPU-hours, 1 to 1000000000000, for example 200000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    pub gpu_hours: Option<i64>,
    /// Cap on the sum of their grants' `maxGPUs`, 1 to 1000000, for example 64.
    #[serde(default, rename = "maxGPUs", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_gpus: Option<i64>,
    /// When their share ends, exclusive, UTC, for example `2027-12-31T00:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self < timestamp('9999-12-30T00:00:00Z')").message("consumers[].notAfter: must be before 9999-12-30T00:00:00Z; example: `notAfter: 2027-12-31T00:00:00Z`"))]
    pub not_after: Option<Time>,
}

/// Namespaces by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Namespaces {
    /// Names, for example `antenna-ie`.
    #[schemars(length(min = 1, max = 32), inner(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 63)))]
    pub names: Vec<String>,
}
