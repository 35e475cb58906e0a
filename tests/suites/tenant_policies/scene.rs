//! A site with tenants: their namespaces as the operator makes them, their members by client certificate, and Nodes that run Pods.

use std::time::Duration;

use aifactory_tests::{Cluster, Federation, GpuNode, Result, SITE_ACCOUNT, SYSTEM_NAMESPACE, eventually};
use kube::Client;
use serde_json::{Value, json};

use crate::admission::objects::*;
use crate::admission::request::{cluster, namespaced};
use crate::admission::{By, Request, Row, await_refused};

/// One pool is granted.
pub const ONE: &str = "aif-one-0123456789";
/// Two pools are granted.
pub const TWO: &str = "aif-two-0123456789";
/// One pool, and Pod Security `baseline`.
pub const BASELINE: &str = "aif-baseline-0123456789";
/// The grant has ended.
pub const LOCKED: &str = "aif-locked-0123456789";
/// The grant is paused.
pub const PAUSED: &str = "aif-paused-0123456789";
/// Somebody else's.
pub const OTHER: &str = "aif-other-0123456789";

pub const LONG: Duration = Duration::from_secs(60);

pub struct Scene {
    pub federation: Federation,
    pub operator: Client,
    pub lead: Client,
    pub member: Client,
    pub reader: Client,
    pub keeper: Client,
}

impl Scene {
    pub async fn prepare() -> Result<Self> {
        let federation = Federation::builder().name("tenant-policies").sites(["bissen"]).start().await?;
        let site = federation.site("bissen")?.clone();
        site.install_site().await?;
        let scene = Self {
            operator: site.kubeconfig_of(SYSTEM_NAMESPACE, SITE_ACCOUNT).await?.client().await?,
            lead: site.client_as("oidc:lead", &[]).await?,
            member: site.client_as("oidc:member", &[]).await?,
            reader: site.client_as("oidc:reader", &[]).await?,
            keeper: site.client_as("oidc:keeper", &[]).await?,
            federation,
        };
        for pool in ["h100", "a100"] {
            scene.node(&site, pool).await?;
        }
        for (namespace, state, pools) in [
            (ONE, "Bound", &["h100"][..]),
            (TWO, "Bound", &["h100", "a100"]),
            (BASELINE, "Bound", &["h100"]),
            (LOCKED, "Locked", &[]),
            (PAUSED, "Paused", &[]),
        ] {
            scene.tenant(namespace, tenant(namespace, state, pools)).await?;
        }
        scene.write(namespace_path(OTHER), tenant(OTHER, "Bound", &["a100"])).await?;
        let baseline = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
        scene.write(namespace_path(BASELINE), with(tenant(BASELINE, "Bound", &["h100"]), baseline)).await?;
        scene.in_force().await?;
        Ok(scene)
    }

    pub fn site(&self) -> &Cluster {
        // The federation has exactly one.
        self.federation.sites().first().unwrap_or_else(|| self.federation.hub())
    }

    pub fn admin(&self) -> Client {
        self.site().admin()
    }

    /// A Node of a pool, labelled and tainted by the operator.
    async fn node(&self, site: &Cluster, pool: &str) -> Result<()> {
        let name = format!("{pool}-0");
        site.add_node(GpuNode::new(&name, 8)).await?;
        site.await_node(&name, LONG).await?;
        let taint = json!({"key": "nvidia.com/gpu", "value": pool, "effect": "NoSchedule"});
        let patch = json!({"metadata": {"labels": {"aifactory.dev/pool": pool}}, "spec": {"taints": [taint]}});
        eventually(LONG, format!("Node {name} is labelled"), async || {
            Request::merge(cluster("v1", "nodes", &name), patch.clone()).send(&self.operator).await.map(drop).map_err(Into::into)
        })
        .await
    }

    /// Writes as the operator, which is confined meanwhile.
    pub async fn write(&self, path: String, object: Value) -> Result<()> {
        eventually(LONG, format!("{path} is written"), async || {
            Request::apply(path.clone(), object.clone()).send(&self.operator).await.map(drop).map_err(Into::into)
        })
        .await
    }

    /// Everything that a tenant's namespace holds, and a member in every role.
    pub async fn tenant(&self, namespace: &str, object: Value) -> Result<()> {
        self.write(namespace_path(namespace), object).await?;
        let hard = json!({
            "pods": "200", "requests.nvidia.com/gpu": "64", "requests.amd.com/gpu": "0", "requests.storage": "1Ti",
            "services.loadbalancers": "0", "services.nodeports": "0", "count/jobs.batch": "50",
        });
        let affinity = json!({"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [
            {"scopeName": "CrossNamespacePodAffinity", "operator": "Exists"}]}});
        for (path, object) in [
            (network_policy_path(namespace, "aif-default-deny"), default_deny(namespace, "aif-default-deny")),
            (quota_path(namespace, "aifactory"), ours("v1", "ResourceQuota", namespace, "aifactory", json!({"spec": {"hard": hard}}))),
            (quota_path(namespace, "aifactory-affinity"), ours("v1", "ResourceQuota", namespace, "aifactory-affinity", json!({"spec": affinity}))),
            (config_map_path(namespace, "aifactory-access"), config_map(namespace, "aifactory-access")),
        ] {
            self.write(path, object).await?;
        }
        for role in ["lead", "member", "reader", "keeper"] {
            let name = format!("aif-{role}-0123456789");
            let object = binding(namespace, &name, &format!("aifactory-{role}"), &format!("oidc:{role}"));
            self.write(binding_path(namespace, &name), object).await?;
        }
        let admin = self.admin();
        eventually(LONG, format!("{namespace} takes Pods"), async || {
            Request::get(service_account_path(namespace, "default")).send(&admin).await?;
            for quota in ["aifactory", "aifactory-affinity"] {
                let quota = Request::get(quota_path(namespace, quota)).send(&admin).await?;
                if !quota["status"]["used"].is_object() {
                    return Err("the quota does not count yet".into());
                }
            }
            Ok(())
        })
        .await
    }

    /// Waits until each tenant policy has refused something, and the mutating one has acted.
    async fn in_force(&self) -> Result<()> {
        await_refused(&self.member, &first_refusals()).await?;
        eventually(LONG, "plain Pods get selector and toleration", async || {
            let pod = Request::post(pods(ONE), pod("dry", json!({}))).dry_run().send(&self.member).await?;
            if pod["spec"]["nodeSelector"]["aifactory.dev/pool"] == "h100" { Ok(()) } else { Err(pod.to_string().into()) }
        })
        .await
    }
}

fn first_refusals() -> Vec<Row> {
    let row = |request: Request, policy| Row::new("in force", policy, request.dry_run(), &[By::Policy(policy)]);
    let access = json!({"data": {"x": "y"}});
    let service = json!({"spec": {"externalIPs": ["192.0.2.1"]}});
    let secret =
        json!({"type": "kubernetes.io/service-account-token", "metadata": {"annotations": {"kubernetes.io/service-account.name": "default"}}});
    vec![
        row(Request::post(pods(ONE), pod("dry", json!({"spec": {"nodeName": "h100-0"}}))), "aifactory-tenant-pods"),
        row(Request::post(pods(ONE), pod("dry", json!({"spec": {"priorityClassName": "system-node-critical"}}))), "aifactory-tenant-priority"),
        row(Request::merge(config_map_path(ONE, "aifactory-access"), access), "aifactory-tenant-labels"),
        row(
            Request::post(config_map_path(ONE, ""), plain("ConfigMap", json!({"metadata": {"finalizers": ["example.org/stay"]}}))),
            "aifactory-tenant-finalizers",
        ),
        row(Request::post(namespaced("v1", ONE, "services", ""), with(service_object(), service)), "aifactory-tenant-services"),
        row(Request::post(namespaced("v1", ONE, "secrets", ""), plain("Secret", secret)), "aifactory-tenant-secrets"),
        row(Request::post(claims(ONE), with(claim(), json!({"spec": {"volumeName": "theirs"}}))), "aifactory-tenant-volume-claims"),
    ]
}

pub fn pods(namespace: &str) -> String {
    namespaced("v1", namespace, "pods", "")
}

pub fn claims(namespace: &str) -> String {
    namespaced("v1", namespace, "persistentvolumeclaims", "")
}

/// A core object of a member's.
pub fn plain(kind: &str, change: Value) -> Value {
    with(json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "mine"}}), change)
}

pub fn service_object() -> Value {
    plain("Service", json!({"spec": {"selector": {"app": "mine"}, "ports": [{"port": 80}]}}))
}

pub fn claim() -> Value {
    plain("PersistentVolumeClaim", json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}))
}

/// What a member writes to use one GPU, and nothing more.
pub fn pod(name: &str, change: Value) -> Value {
    with(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod_spec(json!({}))}), change)
}

/// The spec of such a Pod, for templates too.
pub fn pod_spec(change: Value) -> Value {
    let spec = json!({
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container(json!({"limits": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "1"}}))],
    });
    with(spec, change)
}

pub fn container(resources: Value) -> Value {
    json!({
        "name": "main",
        "image": "example.org/train:1",
        "resources": resources,
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    })
}

/// A toleration of a pool's taint.
pub fn toleration(pool: &str) -> Value {
    json!({"key": "nvidia.com/gpu", "operator": "Equal", "value": pool, "effect": "NoSchedule"})
}

/// A Pod that copies data out: no GPU.
pub fn cpu_pod(name: &str) -> Value {
    pod(name, json!({"spec": {"containers": [container(json!({"limits": {"cpu": "1", "memory": "1Gi"}}))]}}))
}

/// Template of a workload with these labels.
pub fn template(label: &str, change: Value) -> Value {
    with(json!({"metadata": {"labels": {"app": label}}, "spec": pod_spec(json!({}))}), change)
}

pub fn job(name: &str, spec: Value, change: Value) -> Value {
    let template = template(name, with(json!({"spec": {"restartPolicy": "Never"}}), change));
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": with(json!({"template": template}), spec)})
}

pub fn workload(kind: &str, name: &str, spec: Value, change: Value) -> Value {
    let base = json!({"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template(name, change)});
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": with(base, spec)})
}
