//! How the hub's controller grows: the real one, between an API server in memory and simulated sites.

mod controller;
mod server;
mod sites;

use std::time::{Duration, Instant};

use aifactory_tests::Usage;
use serde_json::{Value, json};

use crate::Failure;
use crate::table::Table;
use controller::Controller;
use server::Server;
use sites::Sites;

/// Sites of the federation.
const SITES: usize = 64;
/// Grants of each pool.
const EACH: usize = 10;
/// Edits of which the mean is taken.
const EDITS: usize = 100;
/// Between two edits: each is done before the next comes.
const PAUSE: Duration = Duration::from_millis(100);

/// What a federation of one size costs, in milliseconds of CPU time unless noted otherwise.
struct Costs {
    grants: usize,
    first_rest: Duration,
    first_cpu: f64,
    resident: u64,
    grant_edit: f64,
    pool_edit: f64,
    restart: Duration,
    restart_cpu: f64,
    restart_writes: u64,
}

/// The row of scale, at three sizes, or at those in `BENCH_SCALE`: `100,1000`.
pub async fn rows(table: &mut Table) -> Result<(), Failure> {
    let mut costs = Vec::new();
    let sizes = match std::env::var("BENCH_SCALE") {
        Ok(text) => text.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?,
        Err(_) => vec![100, 1_000, 10_000],
    };
    for grants in sizes {
        let measured = measure(grants).await?;
        print(table, &measured);
        costs.push(measured);
    }
    let (least, most) = costs.iter().fold((f64::MAX, 0.0_f64), |(least, most), cost| (least.min(cost.grant_edit), most.max(cost.grant_edit)));
    let ratio = most / least;
    table.figure("scale", "grant_edit_ratio", ratio);
    table.add("scale", "CPU of a grant's edit, largest size to smallest", format!("{ratio:.2} ×"), "≤ 1.2 ×", ratio <= 1.2);
    Ok(())
}

fn print(table: &mut Table, costs: &Costs) {
    let Costs { grants, first_rest, first_cpu, resident, grant_edit, pool_edit, restart, restart_cpu, restart_writes } = costs;
    let pools = grants / EACH;
    let figures = [
        ("first_rest_s", first_rest.as_secs_f64()),
        ("first_rest_cpu_ms", *first_cpu),
        ("resident_mib", *resident as f64 / f64::from(1 << 20)),
        ("grant_edit_cpu_ms", *grant_edit),
        ("pool_edit_cpu_ms", *pool_edit),
        ("restart_s", restart.as_secs_f64()),
        ("restart_cpu_ms", *restart_cpu),
        ("restart_writes", *restart_writes as f64),
    ];
    for (name, value) in figures {
        table.figure("scale", &format!("{name}_at_{grants}"), value);
    }
    let what = |what: &str| format!("{SITES} sites, {pools} pools, {grants} grants: {what}");
    let text = format!("{:.1} s, CPU {:.0} ms, {} MiB in all", first_rest.as_secs_f64(), first_cpu, resident >> 20);
    table.add("scale", what("first rest"), text, "", true);
    table.add("scale", what("one edit"), format!("grant {grant_edit:.2} ms, pool {pool_edit:.2} ms"), "", true);
    let text = format!("{:.1} s, CPU {restart_cpu:.0} ms, {restart_writes} writes", restart.as_secs_f64());
    table.add("scale", what("restart"), text, "≤ 10 s, 0 writes", restart.as_secs() < 10 && *restart_writes == 0);
}

async fn measure(grants: usize) -> Result<Costs, Failure> {
    let (server, sites) = (Server::default(), Sites::new(tokio::runtime::Handle::current()));
    fill(&server, grants)?;
    let begun = Instant::now();
    let controller = Controller::start(&server, sites.clone()).await?;
    while server.ready_grants() < grants {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let first_rest = controller.rest().await? - begun;
    let first_cpu = milliseconds(controller.cpu()?);
    let resident = Usage::of(std::process::id())?.resident_bytes;
    let grant_edit = edits(&controller, EDITS, |edit| server.apply(grant(edit * grants / EDITS, grants, 100 + edit))).await?;
    let pool_edit = edits(&controller, EDITS / EACH, |edit| server.apply(pool(edit, 17 + edit))).await?;
    // Numbers alone are written now and then; a restart would write what waits.
    tokio::time::sleep(Duration::from_secs(31)).await;
    controller.rest().await?;
    controller.stop().await?;
    let (writes, begun) = (server.writes().0, Instant::now());
    let controller = Controller::start(&server, sites).await?;
    let restart = controller.rest().await? - begun;
    let restart_cpu = milliseconds(controller.cpu()?);
    let restart_writes = server.writes().0 - writes;
    controller.stop().await?;
    Ok(Costs { grants, first_rest, first_cpu, resident, grant_edit, pool_edit, restart, restart_cpu, restart_writes })
}

/// The mean CPU time of an edit, with all that it entails.
async fn edits(controller: &Controller, count: usize, edit: impl Fn(usize) -> Result<(), Failure>) -> Result<f64, Failure> {
    let before = controller.cpu()?;
    for index in 0..count {
        edit(index)?;
        tokio::time::sleep(PAUSE).await;
    }
    controller.rest().await?;
    Ok(milliseconds(controller.cpu()? - before) / count as f64)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn fill(server: &Server, grants: usize) -> Result<(), Failure> {
    let sites: Vec<Value> = (0..SITES)
        .map(|index| {
            json!({"name": site(index), "country": "LU", "stage": "Production", "kubernetes": {"local": {}},
                "network": {"podCIDRs": [format!("10.{index}.0.0/16")]}})
        })
        .collect();
    server.apply(object("AIFactory", "example", "example", json!({"type": "Factory", "sites": sites, "policy": {"subjectPrefixes": ["oidc:"]}})))?;
    server.apply(object("AIFactory", "antenna", "antenna", json!({"type": "Antenna", "sites": []})))?;
    (0..grants / EACH).try_for_each(|index| server.apply(pool(index, 16)))?;
    (0..grants).try_for_each(|index| server.apply(grant(index, grants, 100)))
}

fn site(index: usize) -> String {
    format!("site-{}", index % SITES)
}

fn pool(index: usize, cpus: usize) -> Value {
    let spec = json!({"factoryRef": {"name": "example"}, "stage": "Production", "kubernetes": {}, "sites": [{"name": site(index), "count": 16}],
        "accelerator": {"vendor": "nvidia", "model": "H100-SXM5-80GB", "resourceName": "nvidia.com/gpu", "perNode": 4},
        "perGPU": {"cpus": cpus, "memoryGiB": 120}, "nodes": {"adopt": {"selector": {"matchLabels": {"pool": format!("p{index}")}}}},
        "consumers": [{"name": "antenna", "namespaces": {"names": ["antenna"]}, "gpuHours": 100_000}]});
    object("GPUPool", "example", &format!("p{index}"), spec)
}

fn grant(index: usize, grants: usize, hours: usize) -> Value {
    let pool = format!("p{}", index % (grants / EACH));
    let spec = json!({"factoryRef": {"name": "antenna"}, "organisation": {"name": "Example", "country": "FR", "category": "SME"},
        "code": format!("EHPC-{index}"), "accessMode": "Playground",
        "members": [{"id": "p-1", "role": "Lead", "kubernetes": {"kind": "User", "name": "oidc:1"}}],
        "pools": [{"name": "main", "poolRef": {"name": pool, "namespace": "example"}, "gpuHours": hours, "maxGPUs": 1}],
        "notBefore": "2026-01-01T00:00:00Z", "notAfter": "2199-01-01T00:00:00Z"});
    object("AccessGrant", "antenna", &format!("g{index:05}"), spec)
}

fn object(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": kind, "spec": spec, "metadata": {
        "name": name, "namespace": namespace, "uid": format!("{kind}-{namespace}-{name}"), "finalizers": [aifactory_api::labels::FINALIZER],
        "creationTimestamp": "2026-01-01T00:00:00Z"}})
}
