//! Attacks on what the whole cluster shares, and reads.

use serde_json::{Value, json};

use crate::admission::objects::*;
use crate::admission::request::{cluster, namespaced};
use crate::admission::{By, Request, Row};
use crate::scene::{BOUND, cluster_node};

const CLUSTER: By = By::Policy("aifactory-site-cluster-scoped");
const NETWORK: By = By::Policy("aifactory-site-network");
const ADMISSION: &str = "admissionregistration.k8s.io/v1";

/// A ClusterNetworkPolicy as the operator writes it.
pub fn network(name: &str, subject: Value, action: &str) -> Value {
    let rule = json!({"name": "all", "action": action, "to": [{"namespaces": {}}]});
    ours(CLUSTER_NETWORK, "ClusterNetworkPolicy", "", name, json!({"spec": {"tier": "Admin", "priority": 10, "subject": subject, "egress": [rule]}}))
}

pub fn network_path(name: &str) -> String {
    cluster(CLUSTER_NETWORK, "clusternetworkpolicies", name)
}

pub fn tenants() -> Value {
    json!({"namespaces": {"matchLabels": {"aifactory.dev/tenant": "true"}}})
}

pub fn rows() -> Vec<Row> {
    let row = |what, request, by: &[By]| Row::new("the cluster's own", what, request, by);
    let policy = |name: &str, subject: Value, action: &str| Request::apply(network_path(name), network(name, subject, action));
    let role = ours(RBAC, "ClusterRole", "", "aif-new", json!({"rules": []}));
    let bound = ours(
        RBAC,
        "ClusterRoleBinding",
        "",
        "aif-new",
        json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "aifactory-lead"}}),
    );
    let volume = ours(
        "v1",
        "PersistentVolume",
        "",
        "aif-new",
        json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/"}}}),
    );
    let class = ours("scheduling.k8s.io/v1", "PriorityClass", "", "aif-new", json!({"value": 5}));
    let definition = cluster("apiextensions.k8s.io/v1", "customresourcedefinitions", "nodesets.slinky.slurm.net");
    vec![
        row("a network policy for everybody", policy("aif-new", json!({"namespaces": {}}), "Deny"), &[NETWORK]),
        row(
            "a network policy for Pods of everybody",
            policy("aif-new", json!({"pods": {"namespaceSelector": {}, "podSelector": {}}}), "Deny"),
            &[NETWORK],
        ),
        row("a network policy that overrules the site's", policy("aif-new", tenants(), "Accept"), &[NETWORK]),
        row("a network policy without our prefix", policy("new", tenants(), "Deny"), &[CLUSTER]),
        row("a ClusterRole", Request::apply(cluster(RBAC, "clusterroles", "aif-new"), role), &[By::Rbac]).widened(CLUSTER),
        row("a member's role", Request::merge(cluster(RBAC, "clusterroles", "aifactory-lead"), json!({"rules": []})), &[By::Rbac]).widened(CLUSTER),
        row("a ClusterRoleBinding", Request::apply(cluster(RBAC, "clusterrolebindings", "aif-new"), bound), &[By::Rbac]).widened(CLUSTER),
        row("a volume on the host", Request::apply(cluster("v1", "persistentvolumes", "aif-new"), volume), &[By::Rbac]).widened(CLUSTER),
        row("a priority", Request::apply(cluster("scheduling.k8s.io/v1", "priorityclasses", "aif-new"), class), &[By::Rbac]).widened(CLUSTER),
        row("a CRD deleted", Request::delete(definition), &[By::Rbac]).widened(CLUSTER),
        // Policies do not guard themselves: RBAC does.
        row("a policy deleted", Request::delete(cluster(ADMISSION, "validatingadmissionpolicies", "aifactory-site-nodes")), &[By::Rbac]),
        row("a binding deleted", Request::delete(cluster(ADMISSION, "validatingadmissionpolicybindings", "aifactory-site-nodes")), &[By::Rbac]),
        row(
            "a policy loosened",
            Request::merge(cluster(ADMISSION, "validatingadmissionpolicies", "aifactory-site-nodes"), json!({"spec": {"failurePolicy": "Ignore"}})),
            &[By::Rbac],
        ),
        row("a webhook", Request::post(cluster(ADMISSION, "mutatingwebhookconfigurations", ""), json!({})), &[By::Rbac]),
    ]
}

/// Reads and impersonation, which no policy sees.
pub fn reads() -> Vec<Row> {
    let row = |what, path: String| Row::new("reads", what, Request::get(path), &[By::Rbac]);
    vec![
        row("all Secrets", cluster("v1", "secrets", "")),
        row("Secrets of kube-system", namespaced("v1", "kube-system", "secrets", "")),
        row("a tenant's Secrets", namespaced("v1", BOUND, "secrets", "")),
        row("a Pod by name", namespaced("v1", BOUND, "pods", "work")),
        row("a log", format!("{}/log", namespaced("v1", BOUND, "pods", "work"))),
        row("all ConfigMaps", cluster("v1", "configmaps", "")),
        row("ConfigMaps of kube-system", namespaced("v1", "kube-system", "configmaps", "")),
        row("another ConfigMap by name", format!("{}?fieldSelector=metadata.name%3Dkube-root-ca.crt", cluster("v1", "configmaps", ""))),
        row("a node's kubelet", format!("{}/proxy/pods", cluster_node("offered"))),
        row("all policies", cluster(ADMISSION, "validatingadmissionpolicies", "")),
        row("cluster roles", cluster(RBAC, "clusterroles", "")),
    ]
}
