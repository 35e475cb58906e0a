//! A hub, and two sites that are a Slurm alone.

use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant, GPUPool};
use aifactory_tests::slurm::{Cluster as Slurm, JobSpec, Options};
use aifactory_tests::{Federation, Observed, Operator, eventually};
use base64::Engine as _;
use serde_json::{Value, json};

use crate::fixture::{FACTORY, NAMESPACE, POOL, World, at, options};

pub const SITES: [&str; 2] = ["bissen", "bettembourg"];
/// Longest wait for something that Slurm's own cycles decide.
pub const CYCLE: Duration = Duration::from_secs(45);

pub struct Scene {
    pub world: World,
    pub slurm: [Slurm; 2],
}

impl Scene {
    /// Factory and pool are Ready.
    pub async fn start(name: &str) -> Self {
        let scene = Self::bare(name).await;
        scene.world.apply(scene.factory()).await;
        scene.world.apply(pool(POOL, "h100")).await;
        scene.world.ready::<AIFactory>(FACTORY).await;
        scene.world.ready::<GPUPool>(POOL).await;
        scene
    }

    /// Nothing of ours is applied.
    pub async fn bare(name: &str) -> Self {
        let (federation, first, second) = tokio::join!(
            async { Federation::builder().name(name).start().await.unwrap() },
            async { Slurm::start(Options::new(SITES[0])).await.unwrap() },
            async { Slurm::start(Options::new(SITES[1])).await.unwrap() },
        );
        Self::around(federation, [first, second]).await
    }

    /// The same with both clusters on one slurmdbd, as most centres have it.
    pub async fn on_one_database(name: &str) -> Self {
        let (federation, slurm) = tokio::join!(async { Federation::builder().name(name).start().await.unwrap() }, async {
            let first = Slurm::start(Options::new(SITES[0])).await.unwrap();
            let second = Slurm::start_beside(&first, Options::new(SITES[1])).await.unwrap();
            [first, second]
        });
        Self::around(federation, slurm).await
    }

    async fn around(federation: Federation, slurm: [Slurm; 2]) -> Self {
        federation.install([NAMESPACE]).await.unwrap();
        let operator = Operator::start(&federation, options()).await.unwrap();
        let scene = Self { world: World { federation, operator }, slurm };
        for slurm in &scene.slurm {
            scene.world.apply(key(slurm)).await;
        }
        scene
    }

    pub fn factory(&self) -> Value {
        json!({
            "apiVersion": "aifactory.dev/v1alpha1", "kind": "AIFactory",
            "metadata": {"name": FACTORY, "namespace": NAMESPACE},
            "spec": {"type": "Factory", "sites": self.slurm.iter().map(site).collect::<Vec<_>>()},
        })
    }

    /// Nobody writes anything for a while, the operator's Lease apart.
    pub async fn at_rest(&self, time: Duration) {
        self.unwritten(self.world.at_rest(time)).await;
    }

    /// Nothing is written at a cluster meanwhile. Where jobs run, their hours move in status.
    pub async fn unwritten(&self, meanwhile: impl Future<Output = ()>) {
        self.slurm.iter().for_each(|slurm| slurm.requests().clear());
        meanwhile.await;
        for slurm in &self.slurm {
            assert_eq!(slurm.requests().writes(), [], "{}", slurm.cluster_name());
        }
    }

    /// The account of a grant in a cluster.
    pub fn account(&self, grant: &AccessGrant, slurm: &Slurm) -> String {
        access(grant, slurm.cluster_name()).account.clone()
    }

    /// The accounts of a grant in both clusters.
    pub fn accounts(&self, grant: &AccessGrant) -> [String; 2] {
        self.slurm.each_ref().map(|slurm| self.account(grant, slurm))
    }

    /// The QOS of a grant's first pool in a cluster.
    pub fn qos(&self, grant: &AccessGrant, slurm: &Slurm) -> String {
        access(grant, slurm.cluster_name()).qos[0].clone()
    }

    /// Every account, QOS and association of the operator at a cluster, as sacctmgr shows them.
    pub async fn picture(slurm: &Slurm) -> Vec<String> {
        let mut lines = Vec::new();
        let qos = "name,flags,grptres,grptresmins,mintresperjob,maxtrespu,maxjobspu,maxwall,grpsubmit,grpjobs";
        let rows = "account,user,partition,qos,defaultqos,parentname,maxsubmit,maxjobs";
        for (kind, format) in [("account", "account,descr,org"), ("qos", qos), ("association", rows)] {
            let text = slurm.sacctmgr(&["-nP", "show", kind, &format!("format={format}")]).await.unwrap();
            lines.extend(text.lines().filter(|line| line.starts_with("grant-")).map(|line| format!("{kind}: {line}")));
        }
        lines.sort();
        lines
    }
}

pub fn access<'a>(grant: &'a AccessGrant, site: &str) -> &'a aifactory_api::grant::SlurmAccess {
    let row =
        grant.status.as_ref().unwrap().sites.iter().find(|row| row.name == site).unwrap_or_else(|| panic!("no site {site}: {:?}", grant.status));
    row.access.as_ref().unwrap().slurm.as_ref().unwrap()
}

/// Canonical hours that status says were used of the first pool.
pub fn used(grant: &AccessGrant) -> Option<f64> {
    grant.status.as_ref()?.pools.first()?.gpu_hours.used.as_ref()?.parse().ok()
}

pub fn key(slurm: &Slurm) -> Value {
    let users = (1..=5).map(|n| format!("p-{n}: {}", USERS[n - 1])).collect::<Vec<_>>().join("\n");
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": format!("{}-slurm", slurm.cluster_name()), "namespace": NAMESPACE},
        "data": {
            "jwt.key": base64::engine::general_purpose::STANDARD.encode(slurm.jwt_key()),
            "aifactory-slurm-users": base64::engine::general_purpose::STANDARD.encode(users),
        },
    })
}

pub const USERS: [&str; 5] = ["alice", "bob", "carol", "dave", "erin"];

pub fn site(slurm: &Slurm) -> Value {
    let name = slurm.cluster_name();
    json!({
        "name": name, "country": "LU", "stage": "Production",
        "slurm": {"clusterName": name, "rest": {
            "url": slurm.rest_url(), "keySecretRef": {"name": format!("{name}-slurm"), "key": "jwt.key"}, "parentAccount": "eu-aif",
        }},
        "access": {"loginHosts": [format!("login.{name}.example.eu")]},
    })
}

pub fn pool(name: &str, partition: &str) -> Value {
    json!({
        "apiVersion": "aifactory.dev/v1alpha1", "kind": "GPUPool",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "factoryRef": {"name": FACTORY},
            "accelerator": {"vendor": "nvidia", "model": "H100-SXM5-80GB", "resourceName": "nvidia.com/gpu", "perNode": 4},
            "perGPU": {"cpus": 2, "memoryGiB": 1},
            "slurm": {"partition": partition},
            "sites": SITES.map(|name| json!({"name": name, "count": 1})),
        },
    })
}

/// A grant of so many hours on the pool at both sites; members p-1 and p-2 are alice and bob.
pub fn grant(name: &str, hours: i64) -> Value {
    json!({
        "apiVersion": "aifactory.dev/v1alpha1", "kind": "AccessGrant",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "factoryRef": {"name": FACTORY},
            "organisation": {"name": "Example SARL", "country": "FR", "category": "SME"},
            "code": format!("EHPC-AIF-2026PG99-{name}"),
            "accessMode": "Playground",
            "members": [{"id": "p-1", "role": "Lead"}, {"id": "p-2"}],
            "pools": [{"name": POOL, "poolRef": {"name": POOL}, "gpuHours": hours, "maxGPUs": 8}],
            "notBefore": at(-60), "notAfter": at(3600),
        },
    })
}

/// A job of a member in a grant's account.
pub fn job(account: &str, gpus: u32) -> JobSpec {
    JobSpec { account: Some(account.to_owned()), partition: Some("h100".to_owned()), gpus, minutes: 5, seconds: 1, ..JobSpec::default() }
}

/// What members do.
pub trait Work {
    /// Submits what Slurm must take.
    async fn takes(&self, user: &str, job: &JobSpec) -> u32;
    /// Submits what Slurm must refuse; returns the error.
    async fn refuses(&self, user: &str, job: &JobSpec) -> i64;
    async fn cancel(&self, id: u32);
    /// Seconds that a job has run, as its record says.
    async fn elapsed(&self, id: u32) -> i64;
}

impl Work for Slurm {
    async fn takes(&self, user: &str, job: &JobSpec) -> u32 {
        self.submit(user, job.clone()).await.unwrap_or_else(|refused| panic!("{user} {job:?}: {refused:?}"))
    }

    async fn refuses(&self, user: &str, job: &JobSpec) -> i64 {
        match self.submit(user, job.clone()).await {
            Ok(id) => panic!("{user} {job:?}: taken as {id}"),
            Err(refused) => refused.code,
        }
    }

    async fn cancel(&self, id: u32) {
        self.rest("DELETE", &format!("/slurm/v0.0.44/job/{id}"), None).await.unwrap();
    }

    async fn elapsed(&self, id: u32) -> i64 {
        let answer = self.rest("GET", &format!("/slurmdb/v0.0.44/job/{id}"), None).await.unwrap();
        answer.pointer("/jobs/0/time/elapsed").and_then(Value::as_i64).unwrap_or_else(|| panic!("{answer}"))
    }
}

/// Waits for something that a cluster says.
pub async fn until<T>(what: &str, patience: Duration, look: impl AsyncFnMut() -> Result<T, Observed>) -> T {
    eventually(patience, what.to_owned(), look).await.unwrap()
}
