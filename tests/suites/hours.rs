//! GPU-hours of Pods: exact while the operator watches, kept over its restarts, and silent at rest.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod fixture;

use std::time::Duration;

use aifactory_api::{AccessGrant, labels};
use aifactory_tests::{Cluster, eventually, run_beside};
use fixture::{POOL, World, account, condition, grant, quota_moved};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ResourceQuota};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(120);

#[test]
fn pods_are_counted_to_the_second_across_a_restart() {
    run_beside(async {
        let world = World::start("hours").await;
        let site = world.site("bissen");
        world.apply(wide()).await;
        let namespace = world.tenant(&world.ready::<AccessGrant>("alpha").await);

        let two = begin(site, &namespace, "two", 2).await;
        let one = begin(site, &namespace, "one", 1).await;
        let checkpoint =
            eventually(LONG, "the account is written down", async || account(site, &namespace).await.ok_or_else(|| "not yet".into())).await.unwrap();
        assert!(checkpoint.through < at_least(two, 10), "soon after the first Pod began: {checkpoint:?}");
        let running = used(&world, |hours, includes_running| hours > 0.0 && includes_running).await;
        assert!(running <= 3.0 * hours_between(two, Timestamp::now()) + 0.001, "{running}");

        let checkpoint = eventually(LONG, "both are written down", async || {
            let found = account(site, &namespace).await.ok_or("gone")?;
            let moved = quota_moved(site, &namespace).await?.ok_or("no quota")?;
            if found.through > one && moved < found.through.as_second() { Ok(found) } else { Err(format!("{found:?}, quota {moved}").into()) }
        })
        .await
        .unwrap();
        assert!(checkpoint.through < at_least(one, 15), "soon after the second began: {checkpoint:?}");

        // Killed while both run; one goes when nobody can be in doubt that it is seen.
        world.operator.kill();
        world.operator.restart().await.unwrap();
        world.operator.await_ready(fixture::PATIENCE).await.unwrap();
        let before = account(site, &namespace).await.unwrap();
        eventually(LONG, "the account goes on", async || {
            let now = account(site, &namespace).await.unwrap();
            if now.through > before.through { Ok(()) } else { Err(format!("{now:?}").into()) }
        })
        .await
        .unwrap();
        let two_ended = end(site, &namespace, "two").await;
        let one_ended = {
            used(&world, |_, includes_running| includes_running).await;
            end(site, &namespace, "one").await
        };

        let wanted = 2 * millis(two, two_ended) + millis(one, one_ended);
        let settled = eventually(LONG, "the account is complete", async || {
            let found = account(site, &namespace).await.ok_or("gone")?;
            let moved = quota_moved(site, &namespace).await?.ok_or("no quota")?;
            if found.through >= one_ended && moved < found.through.as_second() { Ok(found) } else { Err(format!("{found:?}, quota {moved}").into()) }
        })
        .await
        .unwrap();
        let counted = settled.milliseconds[POOL];
        eprintln!("counted {counted} device-milliseconds of {wanted}");
        assert!((counted - wanted).abs() <= 2000, "{counted} of {wanted}");
        assert!(settled.gaps.is_empty(), "{settled:?}");

        // Status says the same.
        let api: Api<AccessGrant> = world.api();
        let status = eventually(LONG, "status is complete", async || {
            let status = api.get("alpha").await?.status.unwrap_or_default();
            let hours = &status.pools[0].gpu_hours;
            let through = hours.complete_through.as_ref().map(|at| at.0.as_second());
            let done = hours.includes_running == Some(false) && through == Some(settled.through.as_second());
            if done { Ok(status) } else { Err(format!("{hours:?}").into()) }
        })
        .await
        .unwrap();
        let shown: f64 = status.pools[0].gpu_hours.used.as_ref().unwrap().parse().unwrap();
        assert!((shown * 3600.0 - counted as f64 / 1000.0).abs() <= 1.4, "{shown} hours of {counted} ms");
        assert_eq!(status.pools[0].gpu_hours.granted, "5000");
        let budget = condition(&status.conditions, "WithinBudget");
        assert_eq!((budget.status.as_str(), budget.reason.as_str()), ("True", "AsSpecified"));
        assert!(budget.message.starts_with("h100: 0.0"), "{}", budget.message);
        assert_eq!(status.phase, Some(aifactory_api::grant::GrantPhase::Active));

        // Rest: nobody writes, and a process that starts anew finds nothing to say.
        world.counted().await;
        world.at_rest(Duration::from_secs(8)).await;
        let marks = fixture::marks(&world.federation);
        world.operator.restart().await.unwrap();
        world.operator.await_ready(fixture::PATIENCE).await.unwrap();
        fixture::assert_no_writes(&world.federation, &world.operator, marks, Duration::from_secs(10)).await;
        assert_eq!(account(site, &namespace).await.unwrap(), settled);
    });
}

#[test]
fn a_gap_is_reported_and_an_ended_grant_keeps_its_hours() {
    run_beside(async {
        let world = World::start("gaps").await;
        let site = world.site("bissen");
        world.apply(wide()).await;
        let namespace = world.tenant(&world.ready::<AccessGrant>("alpha").await);
        begin(site, &namespace, "seen", 1).await;
        let checkpoint =
            eventually(LONG, "the account is written down", async || account(site, &namespace).await.ok_or_else(|| "not yet".into())).await.unwrap();

        world.operator.kill();
        let unseen = begin(site, &namespace, "unseen", 2).await;
        assert!(end(site, &namespace, "unseen").await >= unseen);
        world.operator.restart().await.unwrap();
        world.operator.await_ready(fixture::PATIENCE).await.unwrap();
        let api: Api<AccessGrant> = world.api();
        let message = eventually(LONG, "the gap is said", async || {
            let status = api.get("alpha").await?.status.unwrap_or_default();
            let row = status.sites.iter().find(|row| row.name == "bissen").and_then(|row| row.message.clone()).unwrap_or_default();
            if row.contains("UsageGap") { Ok(row) } else { Err(row.into()) }
        })
        .await
        .unwrap();
        assert!(message.contains(&format!("between {}", Timestamp::from_second(checkpoint.through.as_second()).unwrap())), "{message}");
        end(site, &namespace, "seen").await;
        let kept = eventually(LONG, "the account is complete", async || {
            let found = account(site, &namespace).await.ok_or("gone")?;
            let resting = quota_moved(site, &namespace).await?.ok_or("no quota")? < found.through.as_second();
            if found.through > checkpoint.through && resting { Ok(found) } else { Err(format!("{found:?}").into()) }
        })
        .await
        .unwrap();
        assert_eq!(kept.gaps.len(), 1);

        // Deleted, and made again inside the retention.
        world.delete_grant("alpha").await;
        world.gone::<AccessGrant>("alpha").await;
        assert_eq!(account(site, &namespace).await.unwrap().milliseconds, kept.milliseconds);
        world.apply(wide()).await;
        world.ready::<AccessGrant>("alpha").await;
        let again = used(&world, |hours, _| hours > 0.0).await;
        assert!((again * 3_600_000.0 - kept.milliseconds[POOL] as f64).abs() <= 1400.0, "{again} hours of {kept:?}");
    });
}

#[test]
fn a_budget_that_is_used_up_lets_nothing_more_start_until_it_is_raised() {
    run_beside(async {
        let world = World::bare("budget").await;
        world.apply(fixture::factory()).await;
        let mut minutes = fixture::pool(POOL);
        minutes["spec"]["accounting"] = json!({"canonicalGPUHours": 60, "perDeviceHours": 1});
        world.apply(minutes).await;
        let mut small = wide();
        small["spec"]["pools"][0]["gpuHours"] = json!(2);
        world.apply(small).await;
        let namespace = world.tenant(&world.ready::<AccessGrant>("alpha").await);
        let (bissen, bettembourg) = (world.site("bissen"), world.site("bettembourg"));
        let api: Api<AccessGrant> = world.api();
        let row = async |site: &str| {
            let status = api.get("alpha").await?.status.unwrap_or_default();
            let row = status.sites.iter().find(|row| row.name == site).and_then(|row| row.message.clone());
            Ok::<_, kube::Error>((status.phase.map(|phase| phase.to_string()).unwrap_or_default(), row.unwrap_or_default(), status))
        };

        // A minute of a device for each site, of which half is held back: four GPUs have it after seven and a half seconds.
        let began = begin(bissen, &namespace, "long", 4).await;
        let closed = closed(bissen, &namespace).await;
        let lasted = millis(began, closed);
        eprintln!("closed {lasted} ms after the Pod was bound");
        assert!((6_500..15_000).contains(&lasted), "{lasted}");
        let refused = create(bissen, &namespace, "more", 1).await.unwrap_err().to_string();
        assert!(refused.contains("no pool is granted here at present, so no Pod can start; see the ConfigMap aifactory-access"), "{refused}");
        let quotas: Api<ResourceQuota> = Api::namespaced(bissen.admin(), &namespace);
        let quota = async || quotas.get("aifactory").await.unwrap().spec.unwrap().hard.unwrap()["requests.nvidia.com/gpu"].0.clone();
        assert_eq!(quota().await, "4", "what runs keeps its GPUs");
        let notes: Api<ConfigMap> = Api::namespaced(bissen.client_as("oidc:2", &[]).await.unwrap(), &namespace);
        let note = notes.get("aifactory-access").await.unwrap().data.unwrap_or_default();
        assert_eq!(note["state"], "The GPU-hours for this site are used up: nothing new starts.");
        let pods: Api<Pod> = Api::namespaced(bissen.admin(), &namespace);
        assert!(pods.get("long").await.unwrap().metadata.deletion_timestamp.is_none(), "what runs may finish");
        let phase = eventually(LONG, "the site says so", async || {
            let (phase, message, _) = row("bissen").await?;
            if message.contains("Exhausted: pool h100") { Ok(phase) } else { Err(format!("{phase} {message}").into()) }
        })
        .await
        .unwrap();
        assert_eq!(phase, "Active", "the other site has its part");

        // Unless the grant says that what runs is cancelled: then the part is not passed.
        world.patch_grant("alpha", json!({"spec": {"expiry": {"runningWork": "Cancel"}}})).await;
        gone(bissen, &namespace, "long").await;
        let began = begin(bettembourg, &namespace, "last", 4).await;
        let ended = gone(bettembourg, &namespace, "last").await;
        let lasted = millis(began, ended);
        eprintln!("cancelled {lasted} ms after the Pod was bound");
        assert!((6_500..15_000).contains(&lasted), "{lasted}");
        let exhausted = eventually(LONG, "nothing is left", async || {
            let (phase, message, status) = row("bettembourg").await?;
            if phase == "Exhausted" { Ok(status) } else { Err(format!("{phase} {message}").into()) }
        })
        .await
        .unwrap();
        for (kind, status) in [("WithinBudget", "False"), ("Usable", "False"), ("Ready", "True")] {
            let found = condition(&exhausted.conditions, kind);
            assert_eq!((found.status.as_str(), found.reason.as_str()), (status, "Exhausted"), "{kind}");
        }
        let before = used(&world, |hours, running| hours > 0.0 && !running).await;

        world.patch_grant("alpha", json!({"spec": {"pools": [{"name": POOL, "poolRef": {"name": POOL}, "gpuHours": 200, "maxGPUs": 8}]}})).await;
        for site in [bissen, bettembourg] {
            eventually(LONG, "new Pods are taken again", async || Ok(create(site, &namespace, "again", 1).await?)).await.unwrap();
            end(site, &namespace, "again").await;
        }
        assert!(used(&world, |hours, _| hours >= before).await >= before, "what was used stays counted");
        eventually(LONG, "the grant is in use again", async || {
            let (phase, message, _) = row("bissen").await?;
            if phase == "Active" && message.is_empty() { Ok(()) } else { Err(format!("{phase} {message}").into()) }
        })
        .await
        .unwrap();
        world.at_rest(Duration::from_secs(5)).await;
    });
}

/// Waits until a Pod is gone, and returns when.
async fn gone(site: &Cluster, namespace: &str, name: &str) -> Timestamp {
    let pods: Api<Pod> = Api::namespaced(site.admin(), namespace);
    eventually(LONG, format!("Pod {name} is cancelled"), async || {
        if pods.get_opt(name).await?.is_none() { Ok(Timestamp::now()) } else { Err("it runs".into()) }
    })
    .await
    .unwrap()
}

/// Waits until the site's namespace lists no open pool, and returns when.
async fn closed(site: &Cluster, namespace: &str) -> Timestamp {
    let namespaces: Api<Namespace> = Api::all(site.admin());
    eventually(LONG, format!("nothing more starts at {}", site.name()), async || {
        let labels = namespaces.get(namespace).await?.metadata.labels.unwrap_or_default();
        if labels.contains_key(&format!("{}{POOL}", labels::POOL_PREFIX)) { Err("the pool is open".into()) } else { Ok(Timestamp::now()) }
    })
    .await
    .unwrap()
}

/// A grant with four GPUs at each of both sites.
fn wide() -> Value {
    let mut grant = grant("alpha");
    grant["spec"]["pools"][0]["maxGPUs"] = json!(8);
    grant
}

/// A member asks for a Pod that runs until it is deleted.
async fn create(site: &Cluster, namespace: &str, name: &str, gpus: i64) -> kube::Result<Pod> {
    let gpus = gpus.to_string();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "nodeSelector": {"aifactory.dev/pool": POOL},
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "train", "image": "example.eu/train:1",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "resources": {"requests": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": gpus}, "limits": {"memory": "1Gi", "nvidia.com/gpu": gpus}}}],
        },
    });
    let pods: Api<Pod> = Api::namespaced(site.client_as("oidc:2", &[]).await.unwrap(), namespace);
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await
}

/// Starts a Pod, and returns when it was bound.
async fn begin(site: &Cluster, namespace: &str, name: &str, gpus: i64) -> Timestamp {
    create(site, namespace, name, gpus).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(site.admin(), namespace);
    eventually(LONG, format!("Pod {name} runs"), async || {
        let status = pods.get(name).await?.status.unwrap_or_default();
        let bound = status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled" && condition.status == "True");
        match bound.and_then(|condition| condition.last_transition_time.as_ref()).filter(|_| status.phase.as_deref() == Some("Running")) {
            Some(at) => Ok(at.0),
            None => Err(format!("{status:?}").into()),
        }
    })
    .await
    .unwrap()
}

/// Deletes a Pod at once, and returns when.
async fn end(site: &Cluster, namespace: &str, name: &str) -> Timestamp {
    let pods: Api<Pod> = Api::namespaced(site.admin(), namespace);
    pods.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    Timestamp::now()
}

/// Waits for a figure in status, in hours.
async fn used(world: &World, wanted: impl Fn(f64, bool) -> bool) -> f64 {
    let api: Api<AccessGrant> = world.api();
    eventually(LONG, "used hours are in status", async || {
        let status = api.get("alpha").await?.status.unwrap_or_default();
        let hours = status.pools.first().map(|pool| pool.gpu_hours.clone()).ok_or("no figure")?;
        let shown = hours.used.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default();
        if wanted(shown, hours.includes_running == Some(true)) { Ok(shown) } else { Err(format!("{hours:?}").into()) }
    })
    .await
    .unwrap()
}

fn at_least(from: Timestamp, seconds: i64) -> Timestamp {
    Timestamp::from_second(from.as_second() + seconds).unwrap()
}

fn millis(from: Timestamp, to: Timestamp) -> i64 {
    to.as_millisecond() - from.as_millisecond()
}

fn hours_between(from: Timestamp, to: Timestamp) -> f64 {
    millis(from, to) as f64 / 3_600_000.0
}
