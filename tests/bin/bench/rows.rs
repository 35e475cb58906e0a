//! What is measured, row by row of the design's table.

use std::time::{Duration, Instant};

use aifactory_api::{AIFactory, AccessGrant};
use aifactory_plan::model::object::ObjectKind;
use aifactory_tests::{Cut, eventually};
use futures::stream::{self, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::Failure;
use crate::arrivals::Arrivals;
use crate::setup::{Bench, LAST, NAMESPACE, at, grant, is_ready};
use crate::table::{Table, percentile};

const SITES: [&str; 2] = ["bissen", "bettembourg"];
const SAMPLES: usize = 40;
const OPERATOR: &str = "system:serviceaccount:aifactory-system:aifactory-operator";

/// P1: from the moment a grant was applied to the last object on two sites, nothing else going on.
pub async fn latency(bench: &Bench, table: &mut Table) -> Result<(), Failure> {
    let mut samples = Vec::new();
    for index in 0..SAMPLES {
        samples.push(one(bench, &format!("p1-{index}"), &SITES, &bench.arrivals.iter().collect::<Vec<_>>()).await?);
    }
    let (p50, p99) = (percentile(&mut samples, 0.5), percentile(&mut samples, 0.99));
    table.figure("P1", "p50_ms", p50);
    table.figure("P1", "p99_ms", p99);
    table.add(
        "P1",
        "grant applied → last object on two sites, idle",
        format!("p50 {p50:.0} ms, p99 {p99:.0} ms"),
        "≤ 100 ms, ≤ 500 ms",
        p50 <= 100.0 && p99 <= 500.0,
    );
    Ok(())
}

async fn one(bench: &Bench, name: &str, sites: &[&str], arrivals: &[&Arrivals]) -> Result<f64, Failure> {
    let started = Instant::now();
    bench.apply_grant(&grant(name, sites, 3600)).await?;
    let namespace = tenant(bench, name).await?;
    let mut last = started;
    for site in arrivals {
        last = last.max(site.complete(&namespace, LAST).await?);
    }
    bench.ready(name).await?;
    Ok(last.duration_since(started).as_secs_f64() * 1e3)
}

/// The namespace is a function of the hub's id and the grant's name.
async fn tenant(bench: &Bench, name: &str) -> Result<String, Failure> {
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(bench.hub().admin(), "aifactory-system");
    let id = maps.get("aifactory-hub").await?.data.unwrap_or_default().remove("id").unwrap_or_default();
    let owner = aifactory_api::OwnerRef::new(aifactory_api::Kind::AccessGrant, NAMESPACE, name);
    Ok(aifactory_api::name::tenant_namespace(&id, &owner))
}

/// P6: a policy is deleted on a site; how long until it is back.
pub async fn drift(bench: &Bench, table: &mut Table) -> Result<(), Failure> {
    let site = bench.federation.site("bissen")?;
    let arrivals = Arrivals::watch(&site.admin(), &[ObjectKind::NETWORK_POLICY]);
    let mut samples = Vec::new();
    for index in 0..SAMPLES {
        let namespace = tenant(bench, &format!("p1-{index}")).await?;
        let policies: Api<NetworkPolicy> = Api::namespaced(site.admin(), &namespace);
        eventually(Duration::from_secs(20), "the policy is seen", async || {
            arrivals.uid(ObjectKind::NETWORK_POLICY, &namespace, "aif-default-deny").map(drop).ok_or_else(|| "not yet".into())
        })
        .await?;
        let uid = arrivals.uid(ObjectKind::NETWORK_POLICY, &namespace, "aif-default-deny").unwrap_or_default();
        let started = Instant::now();
        policies.delete("aif-default-deny", &DeleteParams::default()).await?;
        let back = arrivals.back(ObjectKind::NETWORK_POLICY, &namespace, "aif-default-deny", &uid).await?;
        samples.push(back.duration_since(started).as_secs_f64() * 1e3);
    }
    let (p50, p99) = (percentile(&mut samples, 0.5), percentile(&mut samples, 0.99));
    table.figure("P6", "p50_ms", p50);
    table.figure("P6", "p99_ms", p99);
    table.add("P6", "deleted policy back", format!("p50 {p50:.0} ms, p99 {p99:.0} ms"), "p99 ≤ 1 s", p99 <= 1000.0);
    Ok(())
}

/// P9: a grant is revoked, and another runs out.
pub async fn ending(bench: &Bench, table: &mut Table) -> Result<(), Failure> {
    let mut samples = Vec::new();
    for index in 0..SAMPLES / 2 {
        let name = format!("p1-{index}");
        let namespace = tenant(bench, &name).await?;
        let names: Vec<Vec<String>> = bench.arrivals.iter().map(|site| site.names(ObjectKind::ROLE_BINDING, &namespace)).collect();
        let started = Instant::now();
        bench.patch_grant(&name, json!({"spec": {"state": "Revoked"}})).await?;
        let mut last = started;
        for (site, names) in bench.arrivals.iter().zip(&names) {
            last = last.max(site.gone(ObjectKind::ROLE_BINDING, &namespace, names).await?);
        }
        samples.push(last.duration_since(started).as_secs_f64() * 1e3);
    }
    let (p50, p99) = (percentile(&mut samples, 0.5), percentile(&mut samples, 0.99));
    table.figure("P9", "revoked_p50_ms", p50);
    table.figure("P9", "revoked_p99_ms", p99);
    table.add("P9", "revoked → access gone at both sites", format!("p50 {p50:.0} ms, p99 {p99:.0} ms"), "≤ 1 s", p99 <= 1000.0);

    let mut late = Vec::new();
    for index in 0..5 {
        let name = format!("p9-{index}");
        let until = Timestamp::from_second(Timestamp::now().as_second() + 4)?;
        let mut object = grant(&name, &SITES, 60);
        if let Some(spec) = object.pointer_mut("/spec/notAfter") {
            *spec = json!(until.to_string());
        }
        bench.apply_grant(&object).await?;
        let namespace = bench.ready(&name).await?;
        let names = bench.arrivals.iter().map(|site| site.names(ObjectKind::ROLE_BINDING, &namespace)).collect::<Vec<_>>();
        for (site, names) in bench.arrivals.iter().zip(&names) {
            let gone = site.gone(ObjectKind::ROLE_BINDING, &namespace, names).await?;
            let after = Timestamp::now().duration_since(until).as_secs_f64() - gone.elapsed().as_secs_f64();
            late.push(after * 1e3);
        }
    }
    let worst = percentile(&mut late, 1.0);
    table.figure("P9", "expired_worst_ms", worst);
    table.add("P9", "notAfter → access gone at both sites, worst of 5", format!("{worst:.0} ms"), "≤ 1 s", worst <= 1000.0);
    Ok(())
}

/// P9: a new token in the Secret; how long until the site sees it used.
pub async fn rotation(bench: &Bench, table: &mut Table) -> Result<(), Failure> {
    let site = bench.federation.site("bettembourg")?;
    let fresh = site.site_kubeconfig().await?.to_yaml()?;
    let accepted = site.proxy().traffic().accepted;
    let started = Instant::now();
    bench.federation.put_credential(NAMESPACE, "bettembourg-kubeconfig", &fresh).await?;
    eventually(Duration::from_secs(30), "the site sees new connections", async || {
        if site.proxy().traffic().accepted > accepted + 5 { Ok(()) } else { Err("none yet".into()) }
    })
    .await?;
    let seconds = started.elapsed().as_secs_f64();
    table.figure("P9", "rotated_s", seconds);
    table.add("P9", "credential rotated → connections made with it", format!("{seconds:.1} s"), "≤ 5 s", seconds <= 5.0);
    Ok(())
}

/// P8: a site goes silent; how long until status says so, and what that does to the other one.
pub async fn dead_site(bench: &Bench, table: &mut Table) -> Result<(), Failure> {
    let alive = bench.arrivals.first().ok_or("no site")?;
    let mut before = Vec::new();
    for index in 0..SAMPLES {
        before.push(one(bench, &format!("p8-a-{index}"), &["bissen"], &[alive]).await?);
    }
    let dead = bench.federation.site("bettembourg")?;
    let factories: Api<AIFactory> = bench.api();
    dead.proxy().cut(Cut::Silent).await;
    let started = Instant::now();
    let mut during = Vec::new();
    let noticed = async {
        eventually(Duration::from_secs(60), "the factory says that a site is lost", async || {
            let conditions = factories.get("bench").await?.status.map(|status| status.conditions).unwrap_or_default();
            let lost = conditions.iter().any(|condition| condition.type_ == "SitesReachable" && condition.status == "False");
            if lost { Ok(()) } else { Err("not yet".into()) }
        })
        .await?;
        Ok::<_, Failure>(started.elapsed().as_secs_f64())
    };
    let others = async {
        for index in 0..SAMPLES {
            during.push(one(bench, &format!("p8-b-{index}"), &["bissen"], &[alive]).await?);
        }
        Ok::<_, Failure>(())
    };
    let (seconds, others) = tokio::join!(noticed, others);
    others?;
    let seconds = seconds?;
    dead.proxy().restore().await;
    let (quiet, busy) = (percentile(&mut before, 0.5), percentile(&mut during, 0.5));
    let ratio = (busy / quiet - 1.0) * 100.0;
    table.figure("P8", "noticed_s", seconds);
    table.figure("P8", "others_p50_change_percent", ratio);
    table.add("P8", "silent site noticed", format!("{seconds:.1} s"), "≤ 15 s", seconds <= 15.0);
    table.add("P8", "p50 at the other site meanwhile", format!("{ratio:+.0} % ({quiet:.0} → {busy:.0} ms)"), "within 10 %", ratio <= 10.0);
    eventually(Duration::from_secs(60), "the site is back", async || {
        let conditions = factories.get("bench").await?.status.map(|status| status.conditions).unwrap_or_default();
        let back = conditions.iter().any(|condition| condition.type_ == "SitesReachable" && condition.status == "True");
        if back { Ok(()) } else { Err("not yet".into()) }
    })
    .await?;
    Ok(())
}

/// P2 to P5: many grants at once.
pub async fn bulk(bench: &Bench, table: &mut Table, grants: usize, bare: f64) -> Result<(), Failure> {
    let marks = bench.federation.clusters().map(|cluster| Ok((cluster, cluster.audit().mark()?))).collect::<Result<Vec<_>, Failure>>()?;
    let usage = bench.operator.usage()?;
    let started = Instant::now();
    let objects: Vec<_> = (0..grants).map(|index| grant(&format!("bulk-{index}"), &SITES, 3600)).collect();
    stream::iter(objects.iter().map(Ok::<_, Failure>))
        .try_for_each_concurrent(8, |object| async move { bench.apply_grant(object).await.map(drop) })
        .await?;
    let api = bench.api::<AccessGrant>();
    eventually(Duration::from_secs(300), "all grants are Ready", async || {
        let found = api.list(&ListParams::default()).await?;
        let open = found
            .items
            .iter()
            .filter(|grant| grant.name_any().starts_with("bulk-"))
            .filter(|grant| !is_ready(&grant.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default()));
        match open.count() {
            0 => Ok(()),
            open => Err(format!("{open} are not").into()),
        }
    })
    .await?;
    let seconds = started.elapsed().as_secs_f64();
    let after = bench.operator.usage()?;
    let mut delivered = 0;
    let mut status_writes = 0;
    for (cluster, mark) in marks {
        let writes = cluster.audit().since(mark)?.writes().accepted();
        if cluster.name() == bench.hub().name() {
            status_writes =
                writes.only(|request| request.user == OPERATOR && request.resource == "accessgrants" && request.subresource == "status").len();
        } else {
            delivered += writes.only(|request| request.user.contains("aifactory")).len();
        }
    }
    let cpu = (after.cpu - usage.cpu).as_secs_f64() * 1e3 / delivered.max(1) as f64;
    table.figure("P2", "cpu_ms_per_object", cpu);
    table.add("P2", format!("operator CPU per delivered object ({delivered})"), format!("{cpu:.2} ms"), "≤ 1.0 ms", cpu <= 1.0);
    let ratio = seconds / bare;
    table.figure("P3", "seconds", seconds);
    table.figure("P3", "ratio_to_bare", ratio);
    table.add(
        "P3",
        format!("{grants} grants × 2 sites, first apply → all Ready"),
        format!("{seconds:.1} s, {ratio:.2} × bare"),
        "≤ 1.5 × bare, ≤ 12 s",
        ratio <= 1.5 && seconds <= 12.0,
    );
    let per_grant = status_writes as f64 / grants as f64;
    table.figure("P4", "status_writes_per_new_grant", per_grant);
    table.add("P4", "hub status writes per new grant", format!("{per_grant:.2}"), "≤ 2", per_grant <= 2.0);
    let rss = after.resident_bytes as f64 / f64::from(1 << 20);
    table.figure("P5", "rss_mib", rss);
    table.add(
        "P5",
        format!("memory (RSS) at {} grants × 2 sites", api.list(&ListParams::default()).await?.items.len()),
        format!("{rss:.0} MiB"),
        "≤ 40 MiB",
        rss <= 40.0,
    );
    Ok(())
}

/// P4: a change of a grant that stands.
pub async fn change(bench: &Bench, table: &mut Table) -> Result<(), Failure> {
    let mark = bench.hub().audit().mark()?;
    let changes = 20;
    for index in 0..changes {
        let name = format!("bulk-{index}");
        bench.patch_grant(&name, json!({"spec": {"notAfter": at(7200)}})).await?;
        let api = bench.api::<AccessGrant>();
        eventually(Duration::from_secs(30), format!("{name} is Ready again"), async || {
            let grant = api.get(&name).await?;
            let status = grant.status.clone().unwrap_or_default();
            if status.observed_generation == grant.metadata.generation && is_ready(&status.conditions) { Ok(()) } else { Err("not yet".into()) }
        })
        .await?;
    }
    let writes = bench
        .hub()
        .audit()
        .since(mark)?
        .writes()
        .only(|request| request.user == OPERATOR && request.resource == "accessgrants" && request.subresource == "status")
        .len();
    let per_change = writes as f64 / f64::from(changes);
    table.figure("P4", "status_writes_per_change", per_change);
    table.add("P4", "hub status writes per change of a grant", format!("{per_change:.2}"), "≤ 2", per_change <= 2.0);
    Ok(())
}

/// P13: nothing to do, with all grants of the rows before.
pub async fn rest(bench: &Bench, table: &mut Table) -> Result<(), Failure> {
    eventually(Duration::from_secs(120), "every status is written", async || {
        let metrics = bench.operator.metrics().await?;
        let waiting = ["aifactory_workqueue_depth", "aifactory_status_writes_pending"].map(|name| metrics.sum(name, &[]).unwrap_or_default());
        if waiting == [0.0, 0.0] { Ok(()) } else { Err(format!("queued, pending: {waiting:?}").into()) }
    })
    .await?;
    let marks = bench.federation.clusters().map(|cluster| Ok((cluster, cluster.audit().mark()?))).collect::<Result<Vec<_>, Failure>>()?;
    let before = bench.operator.usage()?;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let cpu = (bench.operator.usage()?.cpu - before.cpu).as_secs_f64();
    let mut writes = 0;
    for (cluster, mark) in marks {
        let written = cluster.audit().since(mark)?.writes();
        writes += written.only(|request| request.user.contains("aifactory") && request.resource != "leases").len();
    }
    let grants = bench.api::<AccessGrant>().list(&ListParams::default()).await?.items.len();
    table.figure("P13", "cpu_seconds_a_minute", cpu);
    table.figure("P13", "writes_a_minute", writes as f64);
    let text = format!("{cpu:.2} s, {writes} writes");
    table.add("P13", format!("CPU of a minute at rest, {grants} grants × 2 sites"), text, "≤ 0.2 s, 0 writes", cpu <= 0.2 && writes == 0);
    Ok(())
}
