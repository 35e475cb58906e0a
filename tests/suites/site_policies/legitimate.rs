//! What the operator does all day, which must pass.

use kube::Client;
use serde_json::{Value, json};

use crate::admission::objects::*;
use crate::admission::request::{cluster, namespaced};
use crate::admission::{Request, passes};
use crate::cluster_wide::{network, network_path, tenants};
use crate::node_sets::{node_set, node_set_path};
use crate::scene::{SLURM, cluster_node};

/// The life of one grant in `namespace`, in order; then of a pool, a partition and the factory.
pub fn requests(namespace: &str, node: &str) -> Vec<(&'static str, Request)> {
    let mut requests = grant(namespace);
    requests.extend(end_of_grant(namespace));
    requests.extend(pool(node));
    requests.extend(crate::slurm::legitimate());
    requests.extend(factory());
    requests
}

fn grant(namespace: &str) -> Vec<(&'static str, Request)> {
    let quota = |name: &str| {
        let quota = ours("v1", "ResourceQuota", namespace, name, json!({"spec": {"hard": {"pods": "10"}}}));
        Request::apply(quota_path(namespace, name), quota)
    };
    let limits = json!({"spec": {"limits": [{"type": "Container", "default": {"memory": "1Gi"}}]}});
    let account = ours("v1", "ServiceAccount", namespace, "aifactory", json!({"automountServiceAccountToken": false}));
    let mut requests = vec![
        ("Namespace", Request::apply(namespace_path(namespace), tenant(namespace, "Bound", &["h100"]))),
        ("the same again", Request::apply(namespace_path(namespace), tenant(namespace, "Bound", &["h100"]))),
        ("NetworkPolicy", Request::apply(network_policy_path(namespace, "aif-default-deny"), default_deny(namespace, "aif-default-deny"))),
        ("quota", quota("aifactory")),
        ("quota for affinity", quota("aifactory-affinity")),
        ("limits", {
            let limits = ours("v1", "LimitRange", namespace, "aifactory", limits);
            Request::apply(namespaced("v1", namespace, "limitranges", "aifactory"), limits)
        }),
        ("ServiceAccount", Request::apply(service_account_path(namespace, "aifactory"), account)),
        ("ConfigMap", Request::apply(config_map_path(namespace, "aifactory-access"), config_map(namespace, "aifactory-access"))),
        ("two pools", Request::apply(namespace_path(namespace), tenant(namespace, "Bound", &["h100", "a100"]))),
        ("pause", Request::apply(namespace_path(namespace), tenant(namespace, "Paused", &[]))),
    ];
    for (role, name) in [
        ("aifactory-lead", "aif-lead-0123456789"),
        ("aifactory-member", "aif-member-0123456789"),
        ("aifactory-reader", "aif-reader-0123456789"),
        ("aifactory-keeper", "aif-keeper-0123456789"),
    ] {
        requests.push(("RoleBinding", Request::apply(binding_path(namespace, name), binding(namespace, name, role, "oidc:4711"))));
    }
    let group = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "oidc:course"}]);
    let name = "aif-member-abcdefabcd";
    requests.push(("RoleBinding of a Group", Request::apply(binding_path(namespace, name), binding_to(namespace, name, "aifactory-member", group))));
    requests
}

fn end_of_grant(namespace: &str) -> Vec<(&'static str, Request)> {
    let mut requests = vec![
        ("lock", Request::apply(namespace_path(namespace), tenant(namespace, "Locked", &[]))),
        ("RoleBinding deleted", Request::delete(binding_path(namespace, "aif-lead-0123456789"))),
        ("ServiceAccount deleted", Request::delete(service_account_path(namespace, "aifactory"))),
        ("default ServiceAccount deleted", Request::delete(service_account_path(namespace, "default"))),
    ];
    requests.extend(work_paths(namespace).into_iter().map(|path| ("work ended", Request::delete(path))));
    requests.push(("Namespace deleted", Request::delete(namespace_path(namespace))));
    requests
}

fn pool(node: &str) -> Vec<(&'static str, Request)> {
    let labelled = |pool: Value| {
        Request::merge(
            cluster_node(node),
            json!({"metadata": {"labels": {"aifactory.dev/pool": pool}, "annotations": {"aifactory.dev/owner": "GPUPool/example/h100"}}}),
        )
    };
    vec![
        ("Node labelled", labelled(json!("h100"))),
        ("Node unlabelled", labelled(Value::Null)),
        ("NodeSet", Request::apply(node_set_path(SLURM, "a100"), node_set(SLURM, "a100", json!({})))),
        ("NodeSet with slurmd's image for logs", {
            let logs = json!({"logfile": {"image": "example.org/slurmd:26.05"}});
            Request::apply(node_set_path(SLURM, "a100"), node_set(SLURM, "a100", logs))
        }),
        ("NodeSet with additions of the site", Request::apply(node_set_path(SLURM, "extended"), node_set(SLURM, "extended", json!({"replicas": 3})))),
        (
            "NodeSet changed",
            Request::apply(
                node_set_path(SLURM, "a100"),
                node_set(SLURM, "a100", json!({"replicas": 0, "slurmd": {"image": "mirror.example.org/any/slurmd@sha256:0"}})),
            ),
        ),
        ("NodeSet deleted", Request::delete(node_set_path(SLURM, "a100"))),
        ("who reaches Slurm", Request::apply(network_policy_path(SLURM, "aif-slurm-slurmctld"), default_deny(SLURM, "aif-slurm-slurmctld"))),
        ("who reaches Slurm, no more", Request::delete(network_policy_path(SLURM, "aif-slurm-slurmctld"))),
    ]
}

/// Our taint put on a Node and taken off, with a test for what is there: the list is atomic, and others write it too.
pub async fn taints(operator: &Client, node: &str) -> Result<(), String> {
    let taint = json!({"key": "nvidia.com/gpu", "value": "h100", "effect": "NoSchedule"});
    for wanted in [true, false] {
        let found = passes(operator, "Node read", &Request::get(cluster_node(node))).await?;
        let before: Vec<Value> = found["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let mut after: Vec<Value> = before.iter().filter(|present| present["key"] != taint["key"]).cloned().collect();
        if wanted {
            after.push(taint.clone());
        }
        let patch = json!([{"op": "test", "path": "/spec/taints", "value": before}, {"op": "replace", "path": "/spec/taints", "value": after}]);
        passes(operator, "Node tainted", &Request::json_patch(cluster_node(node), patch)).await?;
    }
    Ok(())
}

fn factory() -> Vec<(&'static str, Request)> {
    let claim = |hub: &str| {
        let claim = ours("v1", "ConfigMap", "aifactory-system", "aifactory-claim", json!({"data": {"hub": hub}}));
        Request::apply(config_map_path("aifactory-system", "aifactory-claim"), claim)
    };
    let admission = "admissionregistration.k8s.io/v1";
    vec![
        ("claim", claim("a")),
        ("claim changed", claim("b")),
        ("ClusterNetworkPolicy", Request::apply(network_path("aif-guard"), network("aif-guard", tenants(), "Deny"))),
        ("ClusterNetworkPolicy deleted", Request::delete(network_path("aif-guard"))),
        ("site policy read", Request::get(config_map_path("aifactory-system", "aifactory-site-policy"))),
        ("cluster's identity read", Request::get(namespace_path("kube-system"))),
        ("Nodes read", Request::get(cluster_node(""))),
        ("bindings of others read", Request::get(cluster(RBAC, "rolebindings", ""))),
        ("policies of others read", Request::get(cluster(NETWORKING, "networkpolicies", ""))),
        ("Pods read, to count GPU-hours", Request::get(cluster("v1", "pods", ""))),
        ("our ConfigMaps read", Request::get(format!("{}?fieldSelector=metadata.name%3Daifactory-access", cluster("v1", "configmaps", "")))),
        ("a policy read", Request::get(cluster(admission, "validatingadmissionpolicies", "aifactory-site-nodes"))),
        ("a binding read", Request::get(cluster(admission, "validatingadmissionpolicybindings", "aifactory-tenant-pods"))),
        ("the version read", Request::get("/version")),
    ]
}
