//! The federation that is measured: a hub and two sites with a pool on both.

use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant, GPUPool};
use aifactory_plan::model::object::ObjectKind;
use aifactory_tests::{Cluster, Federation, GpuNode, Operator, OperatorOptions, eventually};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::Failure;
use crate::arrivals::Arrivals;

pub const NAMESPACE: &str = "bench";
/// Objects of a grant with two members that are judged: two bindings and the note, which come last.
pub const LAST: usize = 3;

pub struct Bench {
    pub federation: Federation,
    pub operator: Operator,
    pub arrivals: Vec<Arrivals>,
}

impl Bench {
    pub async fn start() -> Result<Self, Failure> {
        let federation = Federation::builder().name("bench").sites(["bissen", "bettembourg"]).start().await?;
        federation.install([NAMESPACE]).await?;
        for site in federation.sites() {
            for node in 0..2 {
                site.add_node(GpuNode::new(format!("gpu-{node}"), 8).product("H100")).await?;
            }
        }
        let operator = Operator::start(&federation, OperatorOptions::new().environment("RUST_LOG", "warn")).await?;
        let kinds = [ObjectKind::ROLE_BINDING, ObjectKind::CONFIG_MAP];
        let arrivals = federation.sites().iter().map(|site| Arrivals::watch(&site.admin(), &kinds)).collect();
        let bench = Self { federation, operator, arrivals };
        bench.hub().apply(&factory().to_string()).await?;
        bench.hub().apply(&pool().to_string()).await?;
        let factories: Api<AIFactory> = bench.api();
        let pools: Api<GPUPool> = bench.api();
        eventually(Duration::from_secs(60), "factory and pool are Ready", async || {
            let factory = factories.get("bench").await?.status.map(|status| status.conditions).unwrap_or_default();
            let pool = pools.get("h100").await?.status.map(|status| status.conditions).unwrap_or_default();
            let open = factory.iter().chain(&pool).find(|condition| condition.type_ == "Ready" && condition.status != "True");
            match open {
                None if is_ready(&factory) && is_ready(&pool) => Ok(()),
                open => Err(format!("{:?}", open.map(|condition| &condition.message)).into()),
            }
        })
        .await?;
        Ok(bench)
    }

    pub fn hub(&self) -> &Cluster {
        self.federation.hub()
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.hub().admin(), NAMESPACE)
    }

    /// Applies a grant without looking anything up, as a pipeline does.
    pub async fn apply_grant(&self, grant: &Value) -> Result<AccessGrant, Failure> {
        let name = grant.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        Ok(self.api::<AccessGrant>().patch(name, &PatchParams::apply("bench").force(), &Patch::Apply(grant)).await?)
    }

    pub async fn patch_grant(&self, name: &str, patch: Value) -> Result<(), Failure> {
        self.api::<AccessGrant>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    pub async fn ready(&self, name: &str) -> Result<String, Failure> {
        let api = self.api::<AccessGrant>();
        Ok(eventually(Duration::from_secs(60), format!("grant {name} is Ready"), async || {
            let status = api.get(name).await?.status.unwrap_or_default();
            if !is_ready(&status.conditions) {
                return Err("not yet".into());
            }
            let access = status.sites.first().and_then(|site| site.access.clone()).and_then(|access| access.kubernetes);
            access.map(|access| access.namespace).ok_or_else(|| "no namespace".into())
        })
        .await?)
    }
}

pub fn is_ready(conditions: &[Condition]) -> bool {
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub fn at(offset: i64) -> String {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    (now + SignedDuration::from_secs(offset)).to_string()
}

pub fn factory() -> Value {
    let site = |name: &str| {
        json!({
            "name": name, "country": "LU", "stage": "Production",
            "kubernetes": {"push": {"kubeconfigSecretRef": {"name": format!("{name}-kubeconfig"), "key": "kubeconfig"}}},
            "network": {"podCIDRs": ["10.42.0.0/16"], "serviceCIDRs": ["10.0.0.0/24"],
                "services": [{"name": "s3", "cidrs": ["192.0.2.0/28"], "ports": [{"port": 443}]}]},
        })
    };
    json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": "AIFactory", "metadata": {"name": "bench", "namespace": NAMESPACE},
        "spec": {"type": "Factory", "sites": [site("bissen"), site("bettembourg")]}})
}

pub fn pool() -> Value {
    json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": "GPUPool", "metadata": {"name": "h100", "namespace": NAMESPACE},
        "spec": {"factoryRef": {"name": "bench"},
            "accelerator": {"vendor": "nvidia", "model": "H100-SXM5-80GB", "resourceName": "nvidia.com/gpu", "perNode": 8},
            "perGPU": {"cpus": 16, "memoryGiB": 120}, "kubernetes": {},
            "sites": [{"name": "bissen"}, {"name": "bettembourg"}],
            "nodes": {"adopt": {"selector": {"matchLabels": {"nvidia.com/gpu.product": "H100"}}}}}})
}

pub fn grant(name: &str, sites: &[&str], not_after: i64) -> Value {
    json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": "AccessGrant", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"factoryRef": {"name": "bench"}, "organisation": {"name": "Example SARL", "country": "FR", "category": "SME"},
            "code": format!("EHPC-AIF-2026PG99-{name}"), "accessMode": "Benchmark",
            "members": [
                {"id": "p-1", "role": "Lead", "kubernetes": {"kind": "User", "name": "oidc:1"}},
                {"id": "p-2", "role": "Member", "kubernetes": {"kind": "User", "name": "oidc:2"}}],
            "pools": [{"name": "h100", "poolRef": {"name": "h100"}, "gpuHours": 100, "maxGPUs": 2,
                "sites": sites.iter().map(|site| json!({"name": site})).collect::<Vec<_>>()}],
            "notBefore": at(-60), "notAfter": at(not_after),
            "network": {"egress": [{"service": "s3"}]}}})
}
