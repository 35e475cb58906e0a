//! P11: grants on a real Slurm cluster, beside a bare client that makes the same batched requests, with the same reading back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aifactory_api::{AIFactory, AccessGrant, GPUPool};
use aifactory_tests::slurm::{Cluster as Slurm, Options, unavailable};
use aifactory_tests::{Federation, Operator, OperatorOptions, eventually};
use base64::Engine as _;
use futures::StreamExt;
use futures::stream::{self, TryStreamExt};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::Failure;
use crate::setup::{NAMESPACE, at, is_ready};
use crate::slurm_bare;
use crate::table::Table;

pub const CLUSTER: &str = "bissen";
/// Below which all accounts are made.
pub const PARENT: &str = "eu-aif";
/// Members of a grant, each a user of their own.
pub const MEMBERS: usize = 2;
const WHAT: &str = "grants × 1 Slurm cluster, first apply → all Bound";
const BAR: &str = "≤ 1.5 × bare, ≤ 3 s";
/// Longer than the period after which everything is read again.
const REST: Duration = Duration::from_secs(35);

/// P11. Without real Slurm the row says why there is no number.
pub async fn grants(table: &mut Table, grants: usize) -> Result<(), Failure> {
    if let Some(why) = unavailable() {
        table.skip("P11", format!("{grants} {WHAT}"), BAR, why);
        return Ok(());
    }
    // On a cluster of its own, and gone before the other starts: neither finds what the other has made.
    let bare = slurm_bare::measure(grants).await?;
    table.figure("P11", "bare_seconds", bare);

    let scene = Scene::start().await?;
    scene.slurm.requests().clear();
    let started = Instant::now();
    let api: Api<AccessGrant> = Api::namespaced(scene.federation.hub().admin(), NAMESPACE);
    let objects: Vec<Value> = (0..grants).map(grant).collect();
    stream::iter(objects.iter().enumerate().map(Ok::<_, Failure>))
        .try_for_each_concurrent(8, |(index, object)| {
            let api = api.clone();
            async move { Ok(api.patch(&format!("p11-{index}"), &PatchParams::apply("bench").force(), &Patch::Apply(object)).await.map(drop)?) }
        })
        .await?;
    let applied = started.elapsed().as_secs_f64();
    tokio::time::timeout(Duration::from_secs(300), all_bound(&api, grants)).await.map_err(|_| "not all grants are Bound and Ready")??;
    let seconds = started.elapsed().as_secs_f64();
    let sent = scene.slurm.requests().requests();
    if std::env::var_os("BENCH_REQUESTS").is_some() {
        sent.iter().for_each(|(method, path)| println!("  {method} {path:.120}"));
    }
    let writes = sent.iter().filter(|(method, _)| method != "GET").count();
    let ratio = seconds / bare;
    for (name, value) in
        [("apply_seconds", applied), ("seconds", seconds), ("ratio_to_bare", ratio), ("requests", sent.len() as f64), ("writes", writes as f64)]
    {
        table.figure("P11", name, value);
    }
    let what = format!("{grants} {WHAT} ({} requests; applied in {applied:.1} s)", sent.len());
    table.add("P11", what, format!("{seconds:.2} s, {ratio:.2} × bare {bare:.2} s"), BAR, ratio <= 1.5 && seconds <= 3.0);

    scene.slurm.requests().clear();
    eventually(2 * REST, "all accounts were read again", async || {
        let read = scene.slurm.requests().requests().iter().filter(|(method, path)| method == "GET" && path.contains("/accounts/")).count();
        if read > 0 { Ok(()) } else { Err("not yet".into()) }
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (reads, writes) = (scene.slurm.requests().requests().len(), scene.slurm.requests().writes().len());
    table.figure("P11", "second_pass_writes", writes as f64);
    table.add("P11", "second pass over them", format!("{writes} writes, {reads} reads"), "reads only", writes == 0);
    Ok(())
}

/// Waits until all grants are Bound and Ready. By a watch: asking for the list again and again would be a good part of the hub's work.
async fn all_bound(api: &Api<AccessGrant>, grants: usize) -> Result<(), Failure> {
    let mut stream = watcher(api.clone(), watcher::Config::default()).default_backoff().applied_objects().boxed();
    let mut ready = BTreeSet::new();
    while ready.len() < grants {
        let grant = stream.try_next().await?.ok_or("the watch ended")?;
        if is_bound(&grant) {
            ready.insert(grant.name_any());
        } else {
            ready.remove(&grant.name_any());
        }
    }
    Ok(())
}

fn is_bound(grant: &AccessGrant) -> bool {
    let Some(status) = &grant.status else { return false };
    status.sites.iter().any(|site| site.name == CLUSTER && site.phase == aifactory_api::grant::SiteRowPhase::Bound) && is_ready(&status.conditions)
}

struct Scene {
    federation: Federation,
    slurm: Slurm,
    _operator: Operator,
}

impl Scene {
    /// A hub, and a site that is a Slurm alone; factory and pool are Ready.
    async fn start() -> Result<Self, Failure> {
        let slurm = Slurm::start(Options::new(CLUSTER)).await?;
        let federation = Federation::builder().name("bench-slurm").start().await?;
        federation.install([NAMESPACE]).await?;
        let operator = Operator::start(&federation, OperatorOptions::new().environment("RUST_LOG", "warn")).await?;
        let hub = federation.hub();
        for object in [credential(&slurm), factory(&slurm), pool()] {
            hub.apply(&object.to_string()).await?;
        }
        let factories: Api<AIFactory> = Api::namespaced(hub.admin(), NAMESPACE);
        let pools: Api<GPUPool> = Api::namespaced(hub.admin(), NAMESPACE);
        eventually(Duration::from_secs(60), "factory and pool are Ready", async || {
            let factory = factories.get("bench").await?.status.map(|status| status.conditions).unwrap_or_default();
            let pool = pools.get("h100").await?.status.map(|status| status.conditions).unwrap_or_default();
            if is_ready(&factory) && is_ready(&pool) { Ok(()) } else { Err(format!("{factory:?} {pool:?}").into()) }
        })
        .await?;
        Ok(Self { federation, slurm, _operator: operator })
    }
}

/// The local users that the site names for the members of a grant.
pub fn user(grant: usize, member: usize) -> String {
    format!("u{grant:04}{member}")
}

fn credential(slurm: &Slurm) -> Value {
    let users: Vec<String> =
        (0..1000).flat_map(|grant| (0..MEMBERS).map(move |member| format!("p-{grant}-{member}: {}", user(grant, member)))).collect();
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bissen-slurm", "namespace": NAMESPACE},
        "data": {"jwt.key": base64(slurm.jwt_key()), "aifactory-slurm-users": base64(users.join("\n").as_bytes())},
    })
}

fn factory(slurm: &Slurm) -> Value {
    let rest = json!({"url": slurm.rest_url(), "keySecretRef": {"name": "bissen-slurm", "key": "jwt.key"}, "parentAccount": PARENT});
    json!({
        "apiVersion": "aifactory.dev/v1alpha1", "kind": "AIFactory", "metadata": {"name": "bench", "namespace": NAMESPACE},
        "spec": {"type": "Factory", "sites": [{
            "name": CLUSTER, "country": "LU", "stage": "Production", "slurm": {"clusterName": CLUSTER, "rest": rest},
        }]},
    })
}

fn pool() -> Value {
    json!({
        "apiVersion": "aifactory.dev/v1alpha1", "kind": "GPUPool", "metadata": {"name": "h100", "namespace": NAMESPACE},
        "spec": {
            "factoryRef": {"name": "bench"},
            "accelerator": {"vendor": "nvidia", "model": "H100-SXM5-80GB", "resourceName": "nvidia.com/gpu", "perNode": 4},
            "perGPU": {"cpus": 2, "memoryGiB": 1}, "slurm": {"partition": "h100"}, "sites": [{"name": CLUSTER, "count": 1}],
        },
    })
}

fn grant(index: usize) -> Value {
    let name = format!("p11-{index}");
    json!({
        "apiVersion": "aifactory.dev/v1alpha1", "kind": "AccessGrant", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "factoryRef": {"name": "bench"}, "organisation": {"name": "Example SARL", "country": "FR", "category": "SME"},
            "code": format!("EHPC-AIF-2026PG99-{name}"), "accessMode": "Benchmark",
            "members": (0..MEMBERS).map(|member| json!({"id": format!("p-{index}-{member}")})).collect::<Vec<_>>(),
            "pools": [{"name": "h100", "poolRef": {"name": "h100"}, "gpuHours": 100, "maxGPUs": 2}],
            "notBefore": at(-60), "notAfter": at(3600),
        },
    })
}
