//! Stores that are set back, by the steps of docs/src/operations/backup.md.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aifactory_api::{AIFactory, AccessGrant, GPUPool};
use aifactory_tests::{Cluster, Federation, Mark, Operator, Snapshot, eventually, run};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::fixture::{self, FACTORY, NAMESPACE, PATIENCE, POOL, World, condition, grant};

type Tenants = Vec<BTreeMap<String, String>>;

#[test]
fn stores_that_are_set_back_lose_no_data_and_revive_no_access() {
    run(async {
        let federation = Federation::builder().name("restores").sites(["bissen", "bettembourg"]).own_stores(true).start().await.unwrap();
        let empty = federation.hub().snapshot().unwrap();
        let mut world = World::on(federation, fixture::options()).await;
        world.factory().await;
        for name in ["kept", "ended", "taken"] {
            world.apply(grant(name)).await;
            world.ready::<AccessGrant>(name).await;
        }
        world.patch_grant("ended", json!({"spec": {"state": "Revoked"}})).await;
        world.phase("ended", "Revoked").await;
        world.ready::<AccessGrant>("ended").await;

        hub_set_back(&world).await;
        hub_rebuilt(&mut world, &empty).await;
        site_set_back(&world).await;
        world.counted().await;
        world.at_rest(Duration::from_secs(3)).await;
    });
}

/// After the snapshot one grant was revoked and one was made.
async fn hub_set_back(world: &World) {
    let snapshot = world.hub().snapshot().unwrap();
    world.patch_grant("taken", json!({"spec": {"state": "Revoked"}})).await;
    world.ready::<AccessGrant>("taken").await;
    world.apply(grant("later")).await;
    let later = world.tenant(&world.ready::<AccessGrant>("later").await);
    let before = tenants(world).await;
    let marks = marks(world);

    world.operator.kill();
    world.hub().restore(&snapshot).await.unwrap();
    // Step 2: what was ended since the snapshot is ended again before the operator runs.
    world.patch_grant("taken", json!({"spec": {"state": "Revoked"}})).await;
    let begun = Instant::now();
    world.operator.restart().await.unwrap();
    for name in ["kept", "ended", "taken"] {
        world.ready::<AccessGrant>(name).await;
    }
    eventually(PATIENCE, "what came after the snapshot is an orphan", async || {
        let factory = world.api::<AIFactory>().get(FACTORY).await?;
        let found = condition(&factory.status.as_ref().unwrap().conditions, "OrphansFound").clone();
        if found.status == "True" && found.message.contains("AccessGrant/example/later") { Ok(()) } else { Err(format!("{found:?}").into()) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()));
    for site in world.federation.sites() {
        assert_eq!(working(site, &later).await, 2, "an orphan is left alone");
    }
    // Step 4.
    world.apply(grant("later")).await;
    world.ready::<AccessGrant>("later").await;
    all_ready(world).await;
    nothing_lost(world, &before, &marks).await;
    eprintln!("hub set back: all Ready {:?} after the start of the operator", begun.elapsed());
}

/// A new cluster: everything from YAML, new UIDs, no status, the same ConfigMap with the hub's id.
async fn hub_rebuilt(world: &mut World, empty: &Snapshot) {
    let before = tenants(world).await;
    let maps: Api<ConfigMap> = Api::namespaced(world.hub().admin(), "aifactory-system");
    let id = maps.get("aifactory-hub").await.unwrap().data;
    let mut kept: Vec<Value> = Vec::new();
    kept.extend(exported(world.api::<AIFactory>().list(&ListParams::default()).await.unwrap().items));
    kept.extend(exported(world.api::<GPUPool>().list(&ListParams::default()).await.unwrap().items));
    kept.extend(exported(world.api::<AccessGrant>().list(&ListParams::default()).await.unwrap().items));
    let uid = world.api::<AccessGrant>().get("kept").await.unwrap().uid();
    let marks = marks(world);

    world.operator.kill();
    world.hub().restore(empty).await.unwrap();
    world.federation.install([NAMESPACE]).await.unwrap();
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "aifactory-hub", "namespace": "aifactory-system"}, "data": id});
    world.apply(config).await;
    for object in kept {
        world.apply(object).await;
    }
    let begun = Instant::now();
    world.operator = Operator::start(&world.federation, fixture::options().name("rebuilt")).await.unwrap();
    all_ready(world).await;
    eprintln!("hub rebuilt: all Ready {:?} after the start of the operator", begun.elapsed());
    assert_ne!(world.api::<AccessGrant>().get("kept").await.unwrap().uid(), uid);
    nothing_lost(world, &before, &marks).await;
}

/// After the snapshot a grant was revoked, and one was made.
async fn site_set_back(world: &World) {
    let site = world.site("bissen");
    let snapshot = site.snapshot().unwrap();
    let kept = world.tenant(&world.ready::<AccessGrant>("kept").await);
    let later = world.tenant(&world.ready::<AccessGrant>("later").await);
    world.patch_grant("later", json!({"spec": {"state": "Revoked"}})).await;
    world.ready::<AccessGrant>("later").await;
    world.apply(grant("newest")).await;
    let newest = world.tenant(&world.ready::<AccessGrant>("newest").await);
    let mut before = tenants(world).await;
    let marks = marks(world);

    // The store knows nothing of the revocation. The operator runs on, and needs no restart to see what came back.
    site.restore(&snapshot).await.unwrap();
    let begun = Instant::now();
    eventually(PATIENCE, "ended access is gone again", async || match working(site, &later).await {
        0 => Ok(()),
        left => Err(format!("{left} bindings").into()),
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()));
    let ended = begun.elapsed();
    eventually(PATIENCE, "the newest is there again", async || match working(site, &newest).await {
        2 => Ok(()),
        found => Err(format!("{found} bindings").into()),
    })
    .await
    .unwrap();
    all_ready(world).await;
    eprintln!("site set back: ended access gone {ended:?} after the restore, all Ready after {:?}", begun.elapsed());
    assert_eq!(working(site, &kept).await, 2);
    eventually(PATIENCE, "the lost data was told, and nothing is left to be told", async || {
        let found = world.api::<AccessGrant>().get("newest").await?;
        let messages: Vec<String> = found.status.into_iter().flat_map(|status| status.sites).filter_map(|site| site.message).collect();
        if messages.is_empty() { Ok(()) } else { Err(format!("{messages:?}").into()) }
    })
    .await
    .unwrap();
    // What the store had never heard of is made anew; the store lost it, nobody else.
    before[0].remove(&newest);
    nothing_lost(world, &before, &marks).await;
}

async fn all_ready(world: &World) {
    world.ready::<AIFactory>(FACTORY).await;
    world.ready::<GPUPool>(POOL).await;
    for grant in world.api::<AccessGrant>().list(&ListParams::default()).await.unwrap() {
        world.ready::<AccessGrant>(&grant.name_any()).await;
    }
    let factory = world.until::<AIFactory>(FACTORY, "OrphansFound", "False").await;
    assert_eq!(condition(&factory.status.as_ref().unwrap().conditions, "SitesReachable").status, "True");
}

/// No namespace went, and nobody got work rights in those of ended grants.
async fn nothing_lost(world: &World, before: &Tenants, marks: &[Mark]) {
    for (found, before) in tenants(world).await.iter().zip(before) {
        for (name, uid) in before {
            assert_eq!(found.get(name), Some(uid), "{name}");
        }
    }
    let ended: Vec<AccessGrant> = world.api::<AccessGrant>().list(&ListParams::default()).await.unwrap().items;
    let ended = ended.iter().filter(|grant| grant.status.as_ref().unwrap().phase == Some(aifactory_api::grant::GrantPhase::Revoked));
    let ended: Vec<String> = ended.map(|grant| world.tenant(grant)).collect();
    assert!(!ended.is_empty());
    for (site, mark) in world.federation.sites().iter().zip(marks) {
        let asked = site.audit().since(*mark).unwrap().only(|request| request.user.contains("aifactory")).writes();
        let gone = asked.clone().only(|request| request.verb == "delete" && request.resource == "namespaces");
        assert!(gone.is_empty(), "{}", gone.summary());
        for tenant in &ended {
            assert_eq!(working(site, tenant).await, 0, "{tenant} at {}", site.name());
            let given = asked.clone().only(|request| {
                request.namespace == *tenant && request.resource == "rolebindings" && request.verb != "delete" && !is_reading(&request.name)
            });
            assert!(given.is_empty(), "{tenant} at {}: {}", site.name(), given.summary());
        }
    }
}

fn is_reading(binding: &str) -> bool {
    binding.starts_with("aif-reader-") || binding.starts_with("aif-keeper-")
}

/// Bindings with which members can do more than read.
async fn working(site: &Cluster, tenant: &str) -> usize {
    let api: Api<RoleBinding> = Api::namespaced(site.admin(), tenant);
    let bindings = api.list(&ListParams::default()).await.unwrap();
    bindings.iter().filter(|binding| matches!(binding.role_ref.name.as_str(), "aifactory-lead" | "aifactory-member")).count()
}

async fn tenants(world: &World) -> Tenants {
    let mut found = Vec::new();
    for site in world.federation.sites() {
        let api: Api<Namespace> = Api::all(site.admin());
        let list = api.list(&ListParams::default().labels("aifactory.dev/tenant=true")).await.unwrap();
        found.push(list.iter().map(|namespace| (namespace.name_any(), namespace.uid().unwrap())).collect());
    }
    found
}

fn marks(world: &World) -> Vec<Mark> {
    world.federation.sites().iter().map(|site| site.audit().mark().unwrap()).collect()
}

/// What a backup as YAML keeps of objects.
fn exported<K: kube::Resource<DynamicType = ()> + serde::Serialize>(objects: Vec<K>) -> Vec<Value> {
    let export = |object: K| {
        let whole = serde_json::to_value(&object).unwrap();
        let meta = object.meta();
        json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()), "spec": whole["spec"],
            "metadata": {"name": meta.name, "namespace": meta.namespace, "annotations": meta.annotations, "labels": meta.labels},
        })
    };
    objects.into_iter().map(export).collect()
}
