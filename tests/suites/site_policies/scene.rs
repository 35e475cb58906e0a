//! What is on a site before it is attacked: Namespaces, Nodes and objects of the site, and a tenant's.

use std::time::Duration;

use aifactory_tests::{Cluster, Result, SITE_ACCOUNT, SYSTEM_NAMESPACE, eventually};
use kube::Client;
use serde_json::{Value, json};

use crate::admission::objects::*;
use crate::admission::request::{cluster, namespaced};
use crate::admission::{Request, await_refused};
use crate::node_sets::{additions, node_set, node_set_path};
use crate::{self_test, slurm};

pub const BOUND: &str = "aif-bound-0123456789";
pub const LOCKED: &str = "aif-locked-0123456789";
pub const EXHAUSTED: &str = "aif-exhausted-0123456789";
/// A tenant's Namespace from which somebody has taken our labels.
pub const STRIPPED: &str = "aif-stripped-0123456789";
pub const PLATFORM: &str = "platform";
pub const FOREIGN: &str = "aif-foreign";
pub const SLURM: &str = "slurm";
pub const IMAGES: &str = "example.org/slurmd\nmirror.example.org/";

const SHORT: Duration = Duration::from_secs(60);

/// A site with the clients that attack it.
pub struct Scene {
    pub cluster: Cluster,
    /// The credential that a hub holds.
    pub operator: Client,
    /// The same operator by certificate, in a group that RBAC allows everything.
    pub widened: Client,
}

impl Scene {
    /// Installs the site's part and waits until its policies work.
    pub async fn prepare(cluster: &Cluster) -> Result<Self> {
        cluster.install_site().await?;
        cluster.apply(&engines()).await?;
        let admin = cluster.admin();
        for (name, labels) in [(SLURM, json!({"site.aifactory.dev/engine": "slinky"})), (PLATFORM, json!({})), (FOREIGN, json!({}))] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
            put(cluster, namespace_path(name), namespace).await?;
        }
        put(cluster, config_map_path(SYSTEM_NAMESPACE, "aifactory-site-policy"), site_policy(json!({"imagePrefixes": IMAGES}))).await?;
        for (name, offered) in [("offered", true), ("plain", false)] {
            put(cluster, cluster_node(name), node(name, offered)).await?;
        }
        let scene = Self {
            operator: cluster.kubeconfig_of(SYSTEM_NAMESPACE, SITE_ACCOUNT).await?.client().await?,
            widened: cluster.client_as("aifactory:hub", &["system:masters"]).await?,
            cluster: cluster.clone(),
        };
        put(cluster, namespace_path(BOUND), tenant(BOUND, "Bound", &["h100"])).await?;
        put(cluster, namespace_path(LOCKED), tenant(LOCKED, "Locked", &[])).await?;
        put(cluster, namespace_path(STRIPPED), stripped(STRIPPED)).await?;
        put(cluster, namespace_path(EXHAUSTED), tenant(EXHAUSTED, "Bound", &["h100", "a100"])).await?;
        scene.work_in(EXHAUSTED).await?;
        let other = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other"}, "spec": with(pod_spec(), json!({"nodeSelector": {"aifactory.dev/pool": "a100"}}))});
        put(cluster, namespaced("v1", EXHAUSTED, "pods", "other"), other).await?;
        let used_up = json!({"metadata": {"annotations": {"aifactory.dev/cancel-pods": "h100,a100"}}});
        put(cluster, namespace_path(EXHAUSTED), with(tenant(EXHAUSTED, "Bound", &["a100"]), used_up)).await?;
        scene.fill_tenant().await?;
        scene.fill_site(&admin).await?;
        await_refused(&scene.operator, &self_test::rows("offered", SLURM)).await?;
        Ok(scene)
    }

    async fn fill_tenant(&self) -> Result<()> {
        for (path, object) in [
            (quota_path(BOUND, "aifactory"), ours("v1", "ResourceQuota", BOUND, "aifactory", json!({"spec": {"hard": {"pods": "20"}}}))),
            (service_account_path(BOUND, "aifactory"), ours("v1", "ServiceAccount", BOUND, "aifactory", json!({}))),
            (network_policy_path(BOUND, "aif-default-deny"), default_deny(BOUND, "aif-default-deny")),
            (config_map_path(BOUND, "aifactory-access"), config_map(BOUND, "aifactory-access")),
            (binding_path(BOUND, "aif-lead-0123456789"), binding(BOUND, "aif-lead-0123456789", "aifactory-lead", "oidc:1")),
            (service_account_path(BOUND, "theirs"), json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "theirs"}})),
            (network_policy_path(BOUND, "theirs"), with(default_deny(BOUND, "theirs"), json!({"metadata": {"labels": null}}))),
            (binding_path(BOUND, "theirs"), without_labels(binding(BOUND, "theirs", "view", "oidc:9"))),
            (network_policy_path(BOUND, "aif-other"), without_labels(default_deny(BOUND, "aif-other"))),
            (binding_path(STRIPPED, "theirs"), without_labels(binding(STRIPPED, "theirs", "view", "oidc:9"))),
            (network_policy_path(STRIPPED, "aif-default-deny"), default_deny(STRIPPED, "aif-default-deny")),
            (binding_path(FOREIGN, "aif-lead-0123456789"), without_labels(binding(FOREIGN, "aif-lead-0123456789", "view", "oidc:9"))),
            (network_policy_path(SLURM, "aif-slurm-theirs"), with(default_deny(SLURM, "aif-slurm-theirs"), json!({"metadata": {"labels": null}}))),
            (node_set_path(SLURM, "h100"), node_set(SLURM, "h100", json!({}))),
            (node_set_path(SLURM, "extended"), node_set(SLURM, "extended", additions())),
            (namespaced("v1", SLURM, "secrets", "aif-slurm-jwt"), slurm::key("aif-slurm-jwt", "jwt_hs256.key")),
            (slurm::path("controllers", "theirs"), json!({"apiVersion": SLINKY, "kind": "Controller", "metadata": {"name": "theirs"}, "spec": {}})),
            (binding_path(SLURM, "aifactory-slurm"), {
                let accounts =
                    [SITE_ACCOUNT, "aifactory-operator"].map(|name| json!({"kind": "ServiceAccount", "name": name, "namespace": SYSTEM_NAMESPACE}));
                with(binding_to(SLURM, "aifactory-slurm", "aifactory-slurm", json!(accounts)), json!({"metadata": {"labels": null}}))
            }),
            (node_set_path(SLURM, "theirs"), with(node_set(SLURM, "theirs", json!({})), json!({"metadata": {"labels": null}}))),
        ] {
            put(&self.cluster, path, object).await?;
        }
        self.put_slurm().await?;
        self.work_in(BOUND).await
    }

    /// A Slurm of ours with what the site has added.
    pub async fn put_slurm(&self) -> Result<()> {
        for (plural, object) in slurm::objects() {
            let object = if plural == "controllers" { with(object, slurm::additions()) } else { object };
            put(&self.cluster, slurm::path(plural, "aif-slurm"), object).await?;
        }
        Ok(())
    }

    async fn fill_site(&self, admin: &Client) -> Result<()> {
        put(&self.cluster, config_map_path(SYSTEM_NAMESPACE, "aifactory-claim"), config_map(SYSTEM_NAMESPACE, "aifactory-claim")).await?;
        // With our labels: it is the Namespace that protects them.
        put(&self.cluster, config_map_path(PLATFORM, "thing"), config_map(PLATFORM, "thing")).await?;
        put(&self.cluster, service_account_path(PLATFORM, "thing"), ours("v1", "ServiceAccount", PLATFORM, "thing", json!({}))).await?;
        put(&self.cluster, binding_path(PLATFORM, "theirs"), binding(PLATFORM, "theirs", "view", "oidc:9")).await?;
        self.work_in(PLATFORM).await?;
        eventually(SHORT, "kube-root-ca.crt is there", async || {
            Request::get(config_map_path(BOUND, "kube-root-ca.crt")).send(admin).await.map_err(Into::into)
        })
        .await
        .map(drop)
    }

    /// A Pod and a Job, so that ending the work of a Namespace finds something.
    pub async fn work_in(&self, namespace: &str) -> Result<()> {
        let admin = self.cluster.admin();
        eventually(SHORT, format!("{namespace} has work"), async || {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "work"}, "spec": pod_spec()});
            let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"},
                "spec": {"template": {"spec": pod_spec()}}});
            Request::apply(namespaced("v1", namespace, "pods", "work"), pod).send(&admin).await?;
            Request::apply(namespaced("batch/v1", namespace, "jobs", "work"), job).send(&admin).await?;
            Ok(())
        })
        .await
    }
}

/// A tenant's Namespace without a label, whose annotations still say whose it is.
pub fn stripped(name: &str) -> Value {
    with(tenant(name, "Bound", &["h100"]), json!({"metadata": {"labels": null, "annotations": {"aifactory.dev/hub": "hub"}}}))
}

pub fn without_labels(object: Value) -> Value {
    with(object, json!({"metadata": {"labels": null}}))
}

/// Writes as the site's administrator.
pub async fn put(cluster: &Cluster, path: String, object: Value) -> Result<()> {
    let admin = cluster.admin();
    eventually(SHORT, format!("{path} is written"), async || {
        Request::apply_as("site", path.clone(), object.clone()).send(&admin).await.map(drop).map_err(Into::into)
    })
    .await
}

pub fn site_policy(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "aifactory-site-policy"}, "data": data})
}

pub fn cluster_node(name: &str) -> String {
    cluster("v1", "nodes", name)
}

/// A Node with a taint, a label and an annotation of the site's.
pub fn node(name: &str, offered: bool) -> Value {
    let mut labels = json!({"kubernetes.io/arch": "amd64"});
    if offered {
        labels = with(labels, json!({"site.aifactory.dev/offered": "true"}));
    }
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {"example.org/site": "x"}},
        "spec": {"taints": [{"key": "example.org/site", "value": "x", "effect": "NoSchedule"}]},
    })
}

/// A Pod that Pod Security `restricted` takes.
pub fn pod_spec() -> Value {
    json!({
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "nodeSelector": {"aifactory.dev/pool": "h100"},
        "containers": [{
            "name": "main",
            "image": "example.org/train:1",
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        }],
    })
}

/// The engines' kinds, as far as requests to them need them.
fn engines() -> String {
    let crd = |group: &str, version: &str, kind: &str, plural: &str, scope: &str, subresources: Value| {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            // The API server protects the group of network policies by this annotation.
            "metadata": {"name": format!("{plural}.{group}"), "annotations": {"api-approved.kubernetes.io": "https://example.org/not-for-use"}},
            "spec": {
                "group": group, "scope": scope,
                "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
                "versions": [{
                    "name": version, "served": true, "storage": true, "subresources": subresources,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                }],
            },
        })
        .to_string()
    };
    let scalable = json!({"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}});
    [
        crd("slinky.slurm.net", "v1beta1", "NodeSet", "nodesets", "Namespaced", scalable),
        crd("slinky.slurm.net", "v1beta1", "Controller", "controllers", "Namespaced", json!({})),
        crd("slinky.slurm.net", "v1beta1", "Accounting", "accountings", "Namespaced", json!({})),
        crd("slinky.slurm.net", "v1beta1", "RestApi", "restapis", "Namespaced", json!({})),
        crd("slinky.slurm.net", "v1beta1", "Token", "tokens", "Namespaced", json!({})),
        crd("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies", "Cluster", json!({})),
    ]
    .join("\n---\n")
}
