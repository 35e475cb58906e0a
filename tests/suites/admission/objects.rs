//! The operator's objects on a site, as it writes them, and ways to spoil them.

use serde_json::{Value, json};

use super::request::{cluster, namespaced};

pub const RBAC: &str = "rbac.authorization.k8s.io/v1";
pub const NETWORKING: &str = "networking.k8s.io/v1";
pub const SLINKY: &str = "slinky.slurm.net/v1beta1";
pub const CLUSTER_NETWORK: &str = "policy.networking.k8s.io/v1alpha2";

/// Labels on everything of ours.
pub fn our_labels() -> Value {
    json!({"aifactory.dev/managed": "true", "aifactory.dev/owner": "0123456789abcdef"})
}

/// `base` with `change` merged in; `null` takes a field away.
pub fn with(mut base: Value, change: Value) -> Value {
    merge(&mut base, change);
    base
}

fn merge(base: &mut Value, change: Value) {
    match change {
        Value::Object(fields) => {
            if !base.is_object() {
                *base = json!({});
            }
            for (key, value) in fields {
                if value.is_null() {
                    if let Some(object) = base.as_object_mut() {
                        object.remove(&key);
                    }
                } else if let Some(object) = base.as_object_mut() {
                    merge(object.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        other => *base = other,
    }
}

/// Any object with our labels.
pub fn ours(api: &str, kind: &str, namespace: &str, name: &str, body: Value) -> Value {
    let mut metadata = json!({"name": name, "labels": our_labels()});
    if !namespace.is_empty() {
        merge(&mut metadata, json!({"namespace": namespace}));
    }
    with(json!({"apiVersion": api, "kind": kind, "metadata": metadata}), body)
}

/// A grant's namespace with the pools it may use.
pub fn tenant(name: &str, state: &str, pools: &[&str]) -> Value {
    let mut namespace = with(
        ours("v1", "Namespace", "", name, json!({})),
        json!({"metadata": {
            "labels": {
                "aifactory.dev/tenant": "true",
                "aifactory.dev/state": state,
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/enforce-version": "latest",
                "pod-security.kubernetes.io/warn": "restricted",
            },
            "annotations": {
                "aifactory.dev/owner": "AccessGrant/example/grant",
                "aifactory.dev/resources": "nvidia.com/gpu",
            },
        }}),
    );
    for pool in pools {
        merge(&mut namespace, json!({"metadata": {"labels": {(format!("pool.aifactory.dev/{pool}")): "true"}}}));
    }
    if let [only] = pools {
        merge(
            &mut namespace,
            json!({"metadata": {
                "labels": {"aifactory.dev/single-pool": "true"},
                "annotations": {"aifactory.dev/pool": only, "aifactory.dev/pool-resource": "nvidia.com/gpu"},
            }}),
        );
    }
    if state == "Locked" {
        merge(&mut namespace, json!({"metadata": {"labels": {"aifactory.dev/cpu-pods": "true"}}}));
    }
    namespace
}

/// A RoleBinding of one user.
pub fn binding(namespace: &str, name: &str, role: &str, user: &str) -> Value {
    binding_to(namespace, name, role, json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]))
}

/// A RoleBinding of any subjects.
pub fn binding_to(namespace: &str, name: &str, role: &str, subjects: Value) -> Value {
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
    ours(RBAC, "RoleBinding", namespace, name, json!({"roleRef": role, "subjects": subjects}))
}

/// The policy without which no tenant exists.
pub fn default_deny(namespace: &str, name: &str) -> Value {
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    ours(NETWORKING, "NetworkPolicy", namespace, name, json!({"spec": spec}))
}

/// A ConfigMap.
pub fn config_map(namespace: &str, name: &str) -> Value {
    ours("v1", "ConfigMap", namespace, name, json!({"data": {"key": "value"}}))
}

pub fn namespace_path(name: &str) -> String {
    cluster("v1", "namespaces", name)
}

pub fn config_map_path(namespace: &str, name: &str) -> String {
    namespaced("v1", namespace, "configmaps", name)
}

pub fn binding_path(namespace: &str, name: &str) -> String {
    namespaced(RBAC, namespace, "rolebindings", name)
}

pub fn network_policy_path(namespace: &str, name: &str) -> String {
    namespaced(NETWORKING, namespace, "networkpolicies", name)
}

pub fn service_account_path(namespace: &str, name: &str) -> String {
    namespaced("v1", namespace, "serviceaccounts", name)
}

pub fn quota_path(namespace: &str, name: &str) -> String {
    namespaced("v1", namespace, "resourcequotas", name)
}

/// The collections of members' work, whose end the operator orders.
pub fn work_paths(namespace: &str) -> Vec<String> {
    [
        ("v1", "pods"),
        ("batch/v1", "jobs"),
        ("batch/v1", "cronjobs"),
        ("apps/v1", "deployments"),
        ("apps/v1", "statefulsets"),
        ("apps/v1", "replicasets"),
    ]
    .into_iter()
    .map(|(api, resource)| namespaced(api, namespace, resource, ""))
    .collect()
}
