//! Who is in the play: factories, pools, grants, members, sites and their nodes.

use aifactory_api::{Kind, OwnerRef, labels};
use aifactory_plan::engine::nodes::NodeView;
use serde_json::{Value, json};

use super::clock::{DAY, HOUR, Ms, time};

pub const HUB: &str = "8d3fb7a0c1";
/// The host's sites: two Kubernetes clusters.
pub const SITES: [&str; 2] = ["bissen", "bettembourg"];
pub const COUNTRIES: [&str; 2] = ["LU", "DE"];
pub const FACTORIES: [(&str, &str); 2] = [("host", "host"), ("antenna", "antenna")];
/// The site that has a Slurm beside its Kubernetes.
pub const SLURM: usize = 1;
/// Two pools on Kubernetes, and a partition.
pub const POOLS: [&str; 3] = ["h100", "a100", "part"];
/// Two grants of the host's, one of a consumer's.
pub const GRANTS: [(&str, &str); 3] = [("host", "alpha"), ("host", "beta"), ("antenna", "gamma")];
pub const MEMBERS: usize = 4;

pub fn factory(index: usize) -> OwnerRef {
    let (namespace, name) = FACTORIES[index % FACTORIES.len()];
    OwnerRef::new(Kind::AIFactory, namespace, name)
}

pub fn pool(index: usize) -> OwnerRef {
    OwnerRef::new(Kind::GPUPool, "host", POOLS[index % POOLS.len()])
}

pub fn grant(index: usize) -> OwnerRef {
    let (namespace, name) = GRANTS[index % GRANTS.len()];
    OwnerRef::new(Kind::AccessGrant, namespace, name)
}

pub fn grants() -> impl Iterator<Item = OwnerRef> {
    (0..GRANTS.len()).map(grant)
}

/// What members are called at sites: the last one is not one of the factory's users.
pub fn subject(member: usize) -> String {
    if member + 1 == MEMBERS { format!("other:{member}") } else { format!("oidc:{member}") }
}

pub fn member(index: usize, role: &str) -> Value {
    json!({"id": format!("p-{index}"), "role": role, "state": "Active", "kubernetes": {"kind": "User", "name": subject(index)}, "slurm": {"user": format!("u{index}")}})
}

pub fn site_spec(index: usize) -> Value {
    let mut site = json!({
        "name": SITES[index],
        "country": COUNTRIES[index],
        "stage": "Production",
        "kubernetes": {"push": {"kubeconfigSecretRef": {"name": SITES[index], "key": "kubeconfig"}}},
        "network": {"podCIDRs": [format!("10.{}.0.0/16", 64 + index)], "implementation": "Cilium"},
    });
    if index == SLURM {
        site["slurm"] = slurm_spec();
    }
    site
}

pub fn slurm_spec() -> Value {
    json!({
        "clusterName": SITES[SLURM],
        "rest": {
            "url": "https://slurm.bettembourg.example:6820",
            "tokenSecretRef": {"name": "bettembourg-slurm", "key": "token"},
            "parentAccount": "eu-aif",
        },
    })
}

pub fn factory_spec(index: usize) -> Value {
    if index == 0 {
        let sites: Vec<Value> = (0..SITES.len()).map(site_spec).collect();
        json!({"type": "Factory", "sites": sites, "policy": {"subjectPrefixes": ["oidc:"]}})
    } else {
        json!({"type": "Antenna"})
    }
}

pub fn pool_spec(index: usize) -> Value {
    if index == 2 {
        return json!({
            "factoryRef": {"name": "host"},
            "stage": "Production",
            "accelerator": {"vendor": "nvidia", "model": "Any-80GB", "resourceName": "nvidia.com/gpu", "perNode": 4},
            "perGPU": {"cpus": 16, "memoryGiB": 120},
            "slurm": {"partition": "gpua"},
            "sites": [{"name": SITES[SLURM], "count": 2}],
            "consumers": [{"name": "antenna", "namespaces": {"names": ["antenna"]}}],
        });
    }
    let sites: Vec<Value> = SITES.iter().take(if index == 0 { 2 } else { 1 }).map(|name| json!({"name": name, "count": 2})).collect();
    json!({
        "factoryRef": {"name": "host"},
        "stage": "Production",
        "accelerator": {"vendor": "nvidia", "model": "Any-80GB", "resourceName": "nvidia.com/gpu", "perNode": 4},
        "perGPU": {"cpus": 16, "memoryGiB": 120},
        "kubernetes": {},
        "nodes": {"adopt": {"selector": {"matchLabels": {"model": POOLS[index]}}}},
        "sites": sites,
        "consumers": [{"name": "antenna", "namespaces": {"names": ["antenna"]}}],
    })
}

pub fn entry(name: &str, gpus: i64) -> Value {
    json!({"name": name, "poolRef": {"name": name, "namespace": "host"}, "gpuHours": 100, "maxGPUs": gpus})
}

pub fn grant_spec(index: usize, code: usize, now: Ms) -> Value {
    let (namespace, name) = GRANTS[index];
    json!({
        "factoryRef": {"name": namespace},
        "organisation": {"name": "Example SARL", "country": "FR", "category": "SME"},
        "code": format!("EHPC-{name}-{code}"),
        "accessMode": "Playground",
        "members": [member(0, "Lead"), member(1, "Member")],
        "pools": [entry("h100", 4)],
        "notBefore": time(now - HOUR).to_string(),
        "notAfter": time(now + 90 * DAY).to_string(),
        "expiry": {"runningWork": "Finish", "gracePeriod": "1h", "retention": "24h", "afterRetention": "Delete"},
    })
}

/// Nodes of a site: two of each model, offered.
pub fn nodes(site: usize) -> Vec<NodeView> {
    (0..4).map(|index| node(site, index)).collect()
}

pub fn node(site: usize, index: usize) -> NodeView {
    let name = format!("{}-{index}", SITES[site]);
    let gpus = [("nvidia.com/gpu".to_owned(), 4)];
    NodeView {
        uid: format!("node-{name}"),
        name,
        labels: [("model".to_owned(), POOLS[index % 2].to_owned()), (labels::OFFERED.to_owned(), "true".to_owned())].into(),
        taints: Vec::new(),
        ready: true,
        unschedulable: false,
        terminating: false,
        capacity: gpus.clone().into(),
        allocatable: gpus.into(),
    }
}

/// A node as if no pool had ever had it.
pub fn bare(node: &NodeView) -> NodeView {
    let mut bare = node.clone();
    bare.labels.remove(labels::POOL);
    bare.taints.clear();
    bare
}
