//! The main job, end to end on real API servers: the examples become just the objects that they mean, each at the right site, and stay so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant, GPUPool, Kind, OwnerRef};
use aifactory_plan::hub::cache::Cache;
use aifactory_plan::hub::project;
use aifactory_plan::model::id::HubId;
use aifactory_plan::model::intent::{Body, PoolEngine};
use aifactory_plan::model::plan::{Action, ObservedObjects};
use aifactory_plan::site::grant::{self, GrantView};
use aifactory_plan::site::policy::SitePolicy;
use aifactory_tests::{Federation, Operator, SlinkyStandIn, eventually, examples, layout, two_sites_nodes};
use fixture::{Conditioned, options, ours, summary};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

const SITE_POLICY: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: aifactory-site-policy, namespace: aifactory-system}
data: {imagePrefixes: ghcr.io/slinkyproject/slurmd}
";

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_become_just_the_objects_that_they_mean_and_rest() {
    let federation = Federation::builder().name("lifecycle").sites(["bissen", "bettembourg"]).start().await.unwrap();
    let mut stand_ins = Vec::new();
    for site in federation.sites() {
        for node in two_sites_nodes(site.name()) {
            site.add_node(node).await.unwrap();
        }
        site.ensure_namespace("aifactory-system").await.unwrap();
        site.apply(SITE_POLICY).await.unwrap();
        stand_ins.push(SlinkyStandIn::install(site, "slurm", &format!("slurm-{}", site.name())).await.unwrap());
    }
    federation.install(["ardenne"]).await.unwrap();
    let operator = Operator::start(&federation, options()).await.unwrap();
    for folder in ["two-sites", "antenna"] {
        let manifests = examples(&layout::root().join("examples").join(folder)).unwrap();
        manifests.apply(&federation.hub().admin(), "test").await.unwrap();
    }
    let world = all_ready(&federation).await;
    assert_eq!(world.grants().count(), 6);

    let expected = expected(&federation, &world).await;
    for site in federation.sites() {
        let found: BTreeSet<String> = ours(site).await.into_iter().filter(|object| !object.ends_with("/aifactory-claim")).collect();
        assert_eq!(found, expected[site.name()], "objects at {}", site.name());
        let nodes: Api<Node> = Api::all(site.admin());
        for node in nodes.list(&ListParams::default()).await.unwrap() {
            let pool = node.labels().get("aifactory.dev/pool").cloned();
            let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
            assert!(pool.is_some(), "every node of the examples is in a pool");
            assert!(taints.iter().any(|taint| taint.value == pool && taint.effect == "NoSchedule"), "{taints:?}");
        }
    }

    counted(&federation).await;
    let rest = std::env::var("AIFACTORY_REST_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    fixture::at_rest(&federation, &operator, Duration::from_secs(rest)).await;
    let marks = fixture::marks(&federation);
    operator.restart().await.unwrap();
    operator.await_ready(fixture::PATIENCE).await.unwrap();
    fixture::assert_no_writes(&federation, &operator, marks, Duration::from_secs(10)).await;
}

/// Waits until everything on the hub is Ready, and returns it.
async fn all_ready(federation: &Federation) -> Cache {
    let client = federation.hub().admin();
    eventually(Duration::from_secs(90), "every resource is Ready", async || {
        let mut world = Cache::default();
        let mut open = Vec::new();
        for factory in Api::<AIFactory>::all(client.clone()).list(&ListParams::default()).await? {
            check(&mut open, &factory);
            world.put_factory(owner(Kind::AIFactory, &factory), Arc::new(factory));
        }
        for pool in Api::<GPUPool>::all(client.clone()).list(&ListParams::default()).await? {
            check(&mut open, &pool);
            world.put_pool(owner(Kind::GPUPool, &pool), Arc::new(pool));
        }
        for grant in Api::<AccessGrant>::all(client.clone()).list(&ListParams::default()).await? {
            check(&mut open, &grant);
            world.put_grant(owner(Kind::AccessGrant, &grant), Arc::new(grant));
        }
        if open.is_empty() { Ok(world) } else { Err(open.join("; ").into()) }
    })
    .await
    .unwrap()
}

fn check<K: Conditioned>(open: &mut Vec<String>, object: &K) {
    let ready = object.conditions().iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if !ready {
        open.push(format!("{}: {}", object.name_any(), summary(object.conditions())));
    }
}

fn owner<K: Conditioned>(kind: Kind, object: &K) -> OwnerRef {
    OwnerRef::new(kind, object.namespace().unwrap(), object.name_any())
}

/// What the pure core renders for each site, by name.
async fn expected(federation: &Federation, world: &Cache) -> BTreeMap<String, BTreeSet<String>> {
    let maps: Api<ConfigMap> = Api::namespaced(federation.hub().admin(), "aifactory-system");
    let hub = HubId::new(&maps.get("aifactory-hub").await.unwrap().data.unwrap()["id"]);
    let (none, now) = (BTreeSet::new(), jiff::Timestamp::now());
    let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (owner, _) in world.grants() {
        for (key, intent) in project::grant(world, owner, &none, now).unwrap().sites {
            let site = project::site(world, &hub, &key, None).unwrap();
            let Body::Grant(body) = &intent.body else { unreachable!() };
            let (objects, policy) = (ObservedObjects::new(), SitePolicy::default());
            let view = GrantView::of(&objects, &policy);
            for action in grant::plan(&site, &intent, body, &view, now).steps.into_iter().flat_map(|step| step.actions) {
                let Action::Apply(object) = action else { panic!("a new grant only applies") };
                let (_, _, kind, _) = object.key.kind.gvk();
                expected.entry(key.site.clone()).or_default().insert(format!("{kind} {}/{}", object.key.namespace, object.key.name));
            }
        }
    }
    for (owner, _) in world.pools() {
        for (key, intent) in project::pool(world, owner, &none).sites {
            let Body::Pool(body) = &intent.body else { unreachable!() };
            if let PoolEngine::Slurm { partition, .. } = &body.engine {
                expected.entry(key.site.clone()).or_default().insert(format!("NodeSet slurm/{partition}"));
            }
        }
    }
    expected
}

/// Mere numbers are written at most every 30 s.
async fn counted(federation: &Federation) {
    let pools: Api<GPUPool> = Api::namespaced(federation.hub().admin(), "ardenne");
    let factories: Api<AIFactory> = Api::namespaced(federation.hub().admin(), "ardenne");
    let antenna: Api<AIFactory> = Api::namespaced(federation.hub().admin(), "antenna-ie");
    eventually(Duration::from_secs(90), "the numbers are written", async || {
        let committed = async |pool: &str| {
            Ok::<_, kube::Error>(pools.get(pool).await?.status.and_then(|status| status.gpu_hours).map(|hours| (hours.committed, hours.used)))
        };
        let hours = (committed("h200").await?, committed("teaching").await?);
        let guests = antenna.get("cliffside").await?.status.and_then(|status| status.summary).map(|summary| summary.grants);
        let factory = factories.get("ardenne").await?.status.unwrap_or_default();
        let grants = factory.summary.map(|summary| summary.grants);
        let bound: i32 = factory.sites.iter().map(|site| site.grants).sum();
        let done = hours == (Some((98_000, Some(0))), Some((1_500, Some(0)))) && grants == Some(4) && bound == 8 && guests == Some(2);
        if done { Ok(()) } else { Err(format!("{hours:?} {grants:?} {bound} {guests:?}").into()) }
    })
    .await
    .unwrap();
}
