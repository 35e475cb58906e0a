//! A hub with grants in every phase, a team's credentials, and the operator.

use std::time::Duration;

use aifactory_tests::{Cluster, Federation, HUB_ACCOUNT, Result, SYSTEM_NAMESPACE, eventually};
use kube::Client;
use serde_json::{Value, json};

use crate::admission::objects::{binding_path, binding_to, config_map_path, namespace_path, with};
use crate::admission::request::namespaced;
use crate::admission::{By, Request, Row, await_refused};

/// A team with a living grant in every living phase.
pub const TEAM: &str = "team";
pub const LONG: Duration = Duration::from_secs(60);
pub const API: &str = "aifactory.dev/v1alpha1";

pub struct Scene {
    pub federation: Federation,
    pub operator: Client,
}

impl Scene {
    pub async fn prepare() -> Result<Self> {
        let federation = Federation::builder().name("hub-policies").start().await?;
        let hub = federation.hub().clone();
        hub.install_hub().await?;
        let scene = Self { operator: hub.kubeconfig_of(SYSTEM_NAMESPACE, HUB_ACCOUNT).await?.client().await?, federation };
        scene.team(TEAM).await?;
        for phase in ["Active", "Paused", "Exhausted"] {
            scene.grant(TEAM, &phase.to_lowercase(), Some(phase)).await?;
        }
        scene.living(&[TEAM]).await?;
        let admin = scene.admin();
        let first: Vec<Row> = vec![
            Row::new("in force", "grant", Request::delete(grant_path(TEAM, "active")).dry_run(), &[By::Policy("aifactory-hub-living-grants")]),
            Row::new("in force", "namespace", Request::delete(namespace_path(TEAM)).dry_run(), &[By::Policy("aifactory-hub-namespaces")]),
            Row::new("in force", "CRD", Request::delete(definition_path("aifactories")).dry_run(), &[By::Policy("aifactory-hub-definitions")]),
        ];
        await_refused(&admin, &first).await?;
        let data = Request::merge(secret_path(TEAM, "credential"), json!({"data": {"x": "eA=="}})).dry_run();
        await_refused(&scene.operator, &[Row::new("in force", "operator", data, &[By::Policy("aifactory-hub-operator")])]).await?;
        Ok(scene)
    }

    pub fn hub(&self) -> &Cluster {
        self.federation.hub()
    }

    pub fn admin(&self) -> Client {
        self.hub().admin()
    }

    /// A team's namespace with a credential that the operator may read.
    pub async fn team(&self, namespace: &str) -> Result<()> {
        self.hub().ensure_namespace(namespace).await?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "credential", "finalizers": ["example.org/theirs"], "labels": {"team": "x"}},
            "data": {"kubeconfig": "eA=="},
        });
        self.put(secret_path(namespace, "credential"), secret).await?;
        let subjects = json!([{"kind": "ServiceAccount", "name": HUB_ACCOUNT, "namespace": SYSTEM_NAMESPACE}]);
        let binding = with(binding_to(namespace, "aifactory-credentials", "aifactory-credentials", subjects), json!({"metadata": {"labels": null}}));
        self.put(binding_path(namespace, "aifactory-credentials"), binding).await
    }

    /// A grant that the operator has seen, in the phase that its status says, and which may give access.
    pub async fn grant(&self, namespace: &str, name: &str, phase: Option<&str>) -> Result<Value> {
        self.has(grant_path(namespace, name), grant(name), json!({"phase": phase, "mayGiveAccess": true})).await
    }

    /// An object with this status.
    pub async fn has(&self, path: String, object: Value, status: Value) -> Result<Value> {
        self.put(path.clone(), object).await?;
        Request::merge(format!("{path}/status"), json!({"status": status})).send(&self.operator).await.map_err(|source| {
            aifactory_tests::Error::Cluster { cluster: "hub".to_owned(), action: format!("status of {path}"), source: Box::new(source) }
        })
    }

    /// The operator's list of namespaces with living grants.
    pub async fn living(&self, namespaces: &[&str]) -> Result<()> {
        let data: serde_json::Map<String, Value> = namespaces.iter().map(|name| ((*name).to_owned(), json!(""))).collect();
        let list = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "aifactory-living-grants"}, "data": data});
        let path = config_map_path(SYSTEM_NAMESPACE, "aifactory-living-grants");
        eventually(LONG, "living grants are listed", async || {
            Request::apply(path.clone(), list.clone()).send(&self.operator).await.map(drop).map_err(Into::into)
        })
        .await
    }

    pub async fn put(&self, path: String, object: Value) -> Result<()> {
        let admin = self.admin();
        eventually(LONG, format!("{path} is written"), async || {
            Request::apply_as("team", path.clone(), object.clone()).send(&admin).await.map(drop).map_err(Into::into)
        })
        .await
    }
}

pub fn grant(name: &str) -> Value {
    json!({
        "apiVersion": API, "kind": "AccessGrant", "metadata": {"name": name, "finalizers": ["aifactory.dev/finalizer"]},
        "spec": {
            "factoryRef": {"name": "example"},
            "organisation": {"name": "Example SARL", "country": "FR", "category": "SME"},
            "code": "EHPC-AIF-2026PG99-001",
            "accessMode": "Playground",
            "members": [{"id": "p-4711", "role": "Lead", "kubernetes": {"kind": "User", "name": "oidc:4711"}}],
            "pools": [{"name": "h100", "poolRef": {"name": "h100"}, "gpuHours": 5000, "maxGPUs": 16, "sites": [{"name": "bissen"}]}],
            "notBefore": "2026-12-01T00:00:00Z",
            "notAfter": "2027-03-01T00:00:00Z",
        },
    })
}

pub fn pool(name: &str) -> Value {
    json!({
        "apiVersion": API, "kind": "GPUPool", "metadata": {"name": name, "finalizers": ["aifactory.dev/finalizer"]},
        "spec": {
            "factoryRef": {"name": "example"},
            "accelerator": {"vendor": "nvidia", "model": "H100-SXM5-80GB", "resourceName": "nvidia.com/gpu", "perNode": 4},
            "perGPU": {"cpus": 16, "memoryGiB": 120},
            "stage": "Production",
            "kubernetes": {},
            "nodes": {"adopt": {"selector": {"matchLabels": {"gpu": "h100"}}}},
            "sites": [{"name": "bissen"}],
        },
    })
}

pub fn factory(name: &str) -> Value {
    json!({
        "apiVersion": API, "kind": "AIFactory", "metadata": {"name": name, "finalizers": ["aifactory.dev/finalizer"]},
        "spec": {"type": "Factory", "sites": [{"name": "bissen", "country": "LU", "stage": "Production", "kubernetes": {"local": {}}}]},
    })
}

/// What carries the operator's finalizer no more; the operator takes it off.
pub fn let_go() -> Value {
    json!({"metadata": {"finalizers": null}})
}

pub fn pool_path(name: &str) -> String {
    namespaced(API, TEAM, "gpupools", name)
}

pub fn factory_path(name: &str) -> String {
    namespaced(API, TEAM, "aifactories", name)
}

pub fn grant_path(namespace: &str, name: &str) -> String {
    namespaced(API, namespace, "accessgrants", name)
}

pub fn secret_path(namespace: &str, name: &str) -> String {
    namespaced("v1", namespace, "secrets", name)
}

pub fn definition_path(plural: &str) -> String {
    format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.aifactory.dev")
}
