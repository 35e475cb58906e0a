//! What changes meanwhile: drift at a site, the site's own word, pools that move, shares that shrink.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod fixture;

use std::time::{Duration, Instant};

use aifactory_api::{AccessGrant, GPUPool};
use aifactory_tests::{Cluster, GpuNode, eventually, run};
use fixture::{POOL, World, condition, grant, ours, pool};
use k8s_openapi::api::core::v1::{ConfigMap, Event, LimitRange, Namespace, Node, ResourceQuota, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Generous, since the machine may be busy; what the issue bounds is asserted on what was measured.
const LONG: Duration = Duration::from_secs(40);

#[test]
fn drift_is_repaired_and_what_others_do_is_left_alone_and_named() {
    run(async {
        let world = World::start("drift").await;
        world.apply(grant("alpha")).await;
        let bound = world.ready::<AccessGrant>("alpha").await;
        let tenant = world.tenant(&bound);
        let site = world.site("bissen");
        let mut slowest = Duration::ZERO;
        for time in [
            back::<NetworkPolicy>(site, &tenant, "aif-default-deny", json!({"spec": {"policyTypes": ["Ingress"]}})).await,
            back::<NetworkPolicy>(site, &tenant, "aif-egress", json!({"metadata": {"labels": {"aifactory.dev/owner": "nobody"}}})).await,
            back::<ResourceQuota>(site, &tenant, "aifactory", json!({"spec": {"hard": {"requests.nvidia.com/gpu": "99"}}})).await,
            back::<LimitRange>(site, &tenant, "aifactory", json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}}]}})).await,
            back::<ServiceAccount>(site, &tenant, "aifactory", json!({"automountServiceAccountToken": true})).await,
            back::<ConfigMap>(site, &tenant, "aifactory-access", json!({"data": {"state": "something else"}})).await,
        ] {
            slowest = slowest.max(time);
        }
        let bindings: Api<RoleBinding> = Api::namespaced(site.admin(), &tenant);
        let name = bindings.list(&ListParams::default().labels("aifactory.dev/managed=true")).await.unwrap().items[0].name_any();
        slowest = slowest.max(back::<RoleBinding>(site, &tenant, &name, json!({"subjects": []})).await);
        slowest = slowest.max(node_back(site).await);
        eprintln!("drift repaired: at most {slowest:?}");
        assert!(slowest <= Duration::from_secs(1), "{slowest:?}");

        // A field of somebody else stays theirs.
        let quotas: Api<ResourceQuota> = Api::namespaced(site.admin(), &tenant);
        let foreign = json!({"metadata": {"labels": {"team.example.eu/cost": "42"}}, "spec": {"hard": {"count/endpoints": "7"}}});
        quotas.patch("aifactory", &PatchParams::default(), &Patch::Merge(&foreign)).await.unwrap();
        let with_foreign = content(&quotas.get("aifactory").await.unwrap());
        quotas.patch("aifactory", &PatchParams::default(), &Patch::Merge(&json!({"spec": {"hard": {"pods": "12345"}}}))).await.unwrap();
        same(&quotas, "aifactory", &with_foreign, "edited").await;
        let quota = quotas.get("aifactory").await.unwrap();
        assert_eq!(quota.labels()["team.example.eu/cost"], "42");
        assert_eq!(quota.spec.unwrap().hard.unwrap()["count/endpoints"].0, "7");

        foreign_objects(&world, site, &tenant).await;
        deleted_namespace(&world, site, &tenant).await;
        // That data was lost is said for half a minute.
        let api: Api<AccessGrant> = world.api();
        eventually(LONG, "the loss is said no more", async || {
            let sites = api.get("alpha").await?.status.unwrap_or_default().sites;
            match sites.into_iter().find_map(|site| site.message) {
                None => Ok(()),
                Some(message) => Err(message.into()),
            }
        })
        .await
        .unwrap();
        world.counted().await;
        world.at_rest(Duration::from_secs(8)).await;
    });
}

/// Edits an object, then deletes it; returns the longer of the two times until it is as it was.
async fn back<K>(site: &Cluster, namespace: &str, name: &str, change: Value) -> Duration
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(site.admin(), namespace);
    let before = content(&api.get(name).await.unwrap());
    let started = Instant::now();
    api.patch(name, &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
    same(&api, name, &before, "edited").await;
    let edited = started.elapsed();
    let started = Instant::now();
    api.delete(name, &DeleteParams::default()).await.unwrap();
    same(&api, name, &before, "deleted").await;
    edited.max(started.elapsed())
}

async fn same<K>(api: &Api<K>, name: &str, before: &Value, what: &str)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    eventually(LONG, format!("{what} {name} is as it was"), async || {
        let found = content(&api.get(name).await?);
        if covers(&found, before) { Ok(()) } else { Err(found.to_string().into()) }
    })
    .await
    .unwrap();
}

/// What is ours of an object, or may be: without identity and status.
fn content<K: serde::Serialize>(object: &K) -> Value {
    let mut value = serde_json::to_value(object).unwrap();
    let labels: Value = value["metadata"]["labels"]
        .as_object()
        .map(|labels| labels.iter().filter(|(key, _)| key.starts_with("aifactory.dev/")).map(|(key, value)| (key.clone(), value.clone())).collect())
        .unwrap_or_default();
    value["metadata"] = json!({"labels": labels});
    value.as_object_mut().unwrap().remove("status");
    value
}

/// Whether everything in `part` is in `whole`, lists as a whole.
fn covers(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part.iter().all(|(key, part)| whole.get(key).is_some_and(|whole| covers(whole, part))),
        (whole, part) => whole == part,
    }
}

async fn node_back(site: &Cluster) -> Duration {
    let nodes: Api<Node> = Api::all(site.admin());
    let started = Instant::now();
    let change = json!({"metadata": {"labels": {"aifactory.dev/pool": null}}, "spec": {"taints": null}});
    nodes.patch("gpu-0", &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
    eventually(LONG, "label and taint of the node are back", async || {
        let node = nodes.get("gpu-0").await?;
        let taints = node.spec.clone().and_then(|spec| spec.taints).unwrap_or_default();
        let tainted = taints.iter().any(|taint| taint.key == "nvidia.com/gpu" && taint.value.as_deref() == Some(POOL));
        if tainted && node.labels().get("aifactory.dev/pool").map(String::as_str) == Some(POOL) { Ok(()) } else { Err(format!("{taints:?}").into()) }
    })
    .await
    .unwrap();
    started.elapsed()
}

async fn foreign_objects(world: &World, site: &Cluster, tenant: &str) {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "debug", "namespace": tenant},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "somebody"}],
    });
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "open", "namespace": tenant},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]},
    });
    site.apply(&binding.to_string()).await.unwrap();
    site.apply(&policy.to_string()).await.unwrap();
    for words in ["debug", "open"] {
        event(world, "alpha", words).await;
    }
    site.delete(&binding.to_string()).await.unwrap();
    site.delete(&policy.to_string()).await.unwrap();

    // A namespace of the name that a grant will have, made by somebody else.
    let maps: Api<ConfigMap> = Api::namespaced(world.hub().admin(), "aifactory-system");
    let hub = maps.get("aifactory-hub").await.unwrap().data.unwrap()["id"].clone();
    let owner = aifactory_api::OwnerRef::new(aifactory_api::Kind::AccessGrant, fixture::NAMESPACE, "taken");
    let name = aifactory_api::name::tenant_namespace(&hub, &owner);
    site.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"mine": "yes"}}}).to_string()).await.unwrap();
    world.apply(grant("taken")).await;
    let api: Api<AccessGrant> = world.api();
    let message = eventually(LONG, "the grant names what is in the way", async || {
        let status = api.get("taken").await?.status.unwrap_or_default();
        let message = status.sites.iter().find(|found| found.name == "bissen").and_then(|found| found.message.clone()).unwrap_or_default();
        if message.contains("ForeignObject") { Ok(message) } else { Err(message.into()) }
    })
    .await
    .unwrap();
    assert!(message.contains(&name) && message.contains("kubectl label namespace"), "{message}");
    let namespaces: Api<Namespace> = Api::all(site.admin());
    let untouched = namespaces.get(&name).await.unwrap();
    assert_eq!(untouched.labels()["mine"], "yes");
    assert!(untouched.labels().keys().all(|key| !key.starts_with("aifactory.dev/")), "{:?}", untouched.labels());
    namespaces.delete(&name, &DeleteParams::default()).await.unwrap();
    world.delete_grant("taken").await;
    world.gone::<AccessGrant>("taken").await;
}

async fn event(world: &World, grant: &str, words: &str) {
    let events: Api<Event> = Api::namespaced(world.hub().admin(), fixture::NAMESPACE);
    eventually(LONG, format!("an Event of {grant} says {words:?}"), async || {
        let notes: Vec<String> = events
            .list(&ListParams::default())
            .await?
            .into_iter()
            .filter(|event| event.involved_object.name.as_deref() == Some(grant) && event.type_.as_deref() == Some("Warning"))
            .filter_map(|event| event.message)
            .collect();
        if notes.iter().any(|note| note.contains(words)) { Ok(()) } else { Err(format!("{notes:?}").into()) }
    })
    .await
    .unwrap();
}

async fn deleted_namespace(world: &World, site: &Cluster, tenant: &str) {
    let namespaces: Api<Namespace> = Api::all(site.admin());
    let old = namespaces.get(tenant).await.unwrap().uid();
    namespaces.delete(tenant, &DeleteParams::default()).await.unwrap();
    let policies: Api<NetworkPolicy> = Api::namespaced(site.admin(), tenant);
    let mut gone = None;
    eventually(LONG, "the namespace is back with what is in it", async || {
        let found = namespaces.get_opt(tenant).await?;
        match &found {
            Some(found) if found.uid() == old => return Err("being deleted".into()),
            None => {
                gone.get_or_insert_with(Instant::now);
                return Err("gone".into());
            }
            Some(_) => {
                gone.get_or_insert_with(Instant::now);
            }
        }
        policies.get("aif-default-deny").await?;
        Ok(())
    })
    .await
    .unwrap();
    let took = gone.unwrap().elapsed();
    eprintln!("a deleted namespace was back {took:?} after it was really gone");
    assert!(took <= Duration::from_secs(2), "{took:?}");
    event(world, "alpha", "deleted by somebody else").await;
}

#[test]
fn the_site_has_the_last_word() {
    run(async {
        let world = World::start("site-word").await;
        for name in ["one", "two"] {
            world.apply(grant(name)).await;
            world.ready::<AccessGrant>(name).await;
        }
        let site = world.site("bissen");
        let policy = |data: Value| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "aifactory-site-policy", "namespace": "aifactory-system"}, "data": data}).to_string()
        };

        let said = Instant::now();
        site.apply(&policy(json!({"refuseGrants": "example/one"}))).await.unwrap();
        let one = site_phase(&world, "one", "Refused").await;
        assert!(one.contains("refuseGrants"), "{one}");
        no_bindings(&world, site, "one").await;
        assert!(said.elapsed() <= Duration::from_secs(5), "{:?}", said.elapsed());
        assert_eq!(
            condition(&world.until::<AccessGrant>("one", "Authorised", "False").await.status.unwrap().conditions, "Authorised").reason,
            "RefusedBySite"
        );

        // `one` was made first, so it is `two` that goes over the cap.
        let said = Instant::now();
        site.apply(&policy(json!({"maxGPUs": "3", "refuseMembers": "p-2"}))).await.unwrap();
        let two = site_phase(&world, "two", "Refused").await;
        assert!(two.contains("maxGPUs"), "{two}");
        assert!(said.elapsed() <= Duration::from_secs(5), "{:?}", said.elapsed());
        site_phase(&world, "one", "Bound").await;
        let one = world.ready::<AccessGrant>("one").await;
        let members = one.status.unwrap().sites.into_iter().find(|site| site.name == "bissen").unwrap().members.unwrap();
        assert_eq!((members.wanted, members.bound, members.waiting), (3, 2, 1));

        site.apply(&policy(json!({"paused": "true"}))).await.unwrap();
        world.apply(grant("three")).await;
        let paused = site_phase(&world, "three", "Pending").await;
        assert!(paused.contains("paused"), "{paused}");
        // Access is taken away all the same.
        world.patch_grant("one", json!({"spec": {"state": "Revoked"}})).await;
        no_bindings(&world, site, "one").await;
        site.apply(&policy(json!({}))).await.unwrap();
        for name in ["two", "three"] {
            world.ready::<AccessGrant>(name).await;
        }
    });
}

/// Waits for a phase at bissen, and returns the message.
async fn site_phase(world: &World, grant: &str, phase: &str) -> String {
    let api: Api<AccessGrant> = world.api();
    eventually(LONG, format!("{grant} is {phase} at bissen"), async || {
        let status = api.get(grant).await?.status.unwrap_or_default();
        let site = status.sites.into_iter().find(|site| site.name == "bissen").ok_or("not there")?;
        let message = site.message.clone().unwrap_or_default();
        let said = phase != "Pending" || !message.is_empty();
        if site.phase == phase && said { Ok(message) } else { Err(format!("{site:?}").into()) }
    })
    .await
    .unwrap()
}

/// Nobody can work: bindings of readers and keepers of retained data apart.
async fn no_bindings(world: &World, site: &Cluster, grant: &str) {
    let tenant = world.tenant(&world.api::<AccessGrant>().get(grant).await.unwrap());
    let bindings: Api<RoleBinding> = Api::namespaced(site.admin(), &tenant);
    eventually(LONG, format!("nobody works in {tenant}"), async || {
        let names: Vec<String> = bindings.list(&ListParams::default()).await?.into_iter().map(|binding| binding.role_ref.name).collect();
        let working = names.iter().any(|name| matches!(name.as_str(), "aifactory-lead" | "aifactory-member"));
        if working { Err(format!("{names:?}").into()) } else { Ok(()) }
    })
    .await
    .unwrap();
}

#[test]
fn placements_move_and_shares_shrink_and_exactly_the_right_objects_go() {
    run(async {
        let world = World::start("moving").await;
        let (bissen, bettembourg) = (world.site("bissen"), world.site("bettembourg"));
        for site in world.federation.sites() {
            site.add_node(GpuNode::new("spare-0", 4).product("H200")).await.unwrap();
        }
        let mut other = pool("h200");
        other["spec"]["sites"] = json!([{"name": "bissen"}, {"name": "bettembourg"}]);
        other["spec"]["nodes"]["adopt"]["selector"]["matchLabels"] = json!({"nvidia.com/gpu.product": "H200"});
        other["spec"]["consumers"] = json!([{"name": "guests", "namespaces": {"names": ["guests"]}, "maxGPUs": 4}]);
        world.apply(other.clone()).await;
        world.ready::<GPUPool>("h200").await;
        world.apply(grant("mover")).await;
        world.apply(grant("stayer")).await;
        let mover = world.ready::<AccessGrant>("mover").await;
        world.ready::<AccessGrant>("stayer").await;
        let tenant = world.tenant(&mover);

        // To another pool: the same namespace, the other label and taint.
        world.patch_grant("mover", json!({"spec": {"pools": [{"name": "h200", "poolRef": {"name": "h200"}, "gpuHours": 100, "maxGPUs": 2}]}})).await;
        world.ready::<AccessGrant>("mover").await;
        for site in [bissen, bettembourg] {
            let found = Api::<Namespace>::all(site.admin()).get(&tenant).await.unwrap();
            assert!(found.labels().contains_key("pool.aifactory.dev/h200") && !found.labels().contains_key("pool.aifactory.dev/h100"));
        }

        // A site is drained, then removed: bissen keeps everything, bettembourg loses access to h100's grants and the nodes' labels.
        let before = ours(bissen).await;
        let mut drained = pool(POOL);
        drained["spec"]["sites"][1]["state"] = json!("Draining");
        world.apply(drained.clone()).await;
        let stayer = world.tenant(&world.api::<AccessGrant>().get("stayer").await.unwrap());
        let quotas: Api<ResourceQuota> = Api::namespaced(bettembourg.admin(), &stayer);
        eventually(LONG, "no new work at the drained site", async || {
            let hard = quotas.get("aifactory").await?.spec.and_then(|spec| spec.hard).unwrap_or_default();
            let gpus = hard.get("requests.nvidia.com/gpu").map(|quantity| quantity.0.clone());
            if gpus.as_deref() == Some("0") { Ok(()) } else { Err(format!("{gpus:?}").into()) }
        })
        .await
        .unwrap();
        drained["spec"]["sites"].as_array_mut().unwrap().remove(1);
        world.apply(drained).await;
        no_bindings_at(bettembourg, &stayer).await;
        let locked = Api::<Namespace>::all(bettembourg.admin());
        eventually(LONG, "data is kept at the removed site", async || {
            let found = locked.get(&stayer).await?;
            let state = found.labels().get("aifactory.dev/state").cloned();
            if state.as_deref() == Some("Locked") { Ok(()) } else { Err(format!("{state:?}").into()) }
        })
        .await
        .unwrap();
        eventually(LONG, "the nodes of the removed site are released", async || {
            let held = Api::<Node>::all(bettembourg.admin()).list(&ListParams::default().labels("aifactory.dev/pool=h100")).await?;
            if held.items.is_empty() { Ok(()) } else { Err(format!("{} nodes", held.items.len()).into()) }
        })
        .await
        .unwrap();
        world.ready::<AccessGrant>("stayer").await;
        let bissen_only = |objects: Vec<String>| objects.into_iter().filter(|object| !object.contains("aif-mover")).collect::<Vec<_>>();
        assert_eq!(bissen_only(ours(bissen).await), bissen_only(before), "nothing of others changes at the other site");

        // A consumer's cap is lowered, then withdrawn.
        world.hub().ensure_namespace("guests").await.unwrap();
        let guest_factory = json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": "AIFactory", "metadata": {"name": "guests", "namespace": "guests"}, "spec": {"type": "Antenna"}});
        world.apply(guest_factory).await;
        let mut guest = grant("guest");
        guest["metadata"]["namespace"] = json!("guests");
        guest["spec"]["factoryRef"]["name"] = json!("guests");
        guest["spec"]["pools"] = json!([{"name": "h200", "poolRef": {"name": "h200", "namespace": "example"}, "gpuHours": 100, "maxGPUs": 4}]);
        world.apply(guest).await;
        let guests: Api<AccessGrant> = Api::namespaced(world.hub().admin(), "guests");
        let authorised = async |status: &str, reason: &str| {
            eventually(LONG, format!("Authorised={status} {reason}"), async || {
                let conditions = guests.get("guest").await?.status.unwrap_or_default().conditions;
                let found = conditions.iter().find(|found| found.type_ == "Authorised").ok_or("no condition")?;
                if found.status == status && found.reason == reason { Ok(()) } else { Err(format!("{found:?}").into()) }
            })
            .await
            .unwrap();
        };
        authorised("True", "AsSpecified").await;
        let namespace = eventually(LONG, "the guest is bound", async || {
            let status = guests.get("guest").await?.status.unwrap_or_default();
            let site = status.sites.iter().find(|site| site.phase == "Bound").ok_or_else(|| format!("{:?}", status.sites))?;
            Ok(site.access.clone().unwrap().kubernetes.unwrap().namespace)
        })
        .await
        .unwrap();
        other["spec"]["consumers"][0]["maxGPUs"] = json!(3);
        let lowered = Instant::now();
        world.apply(other.clone()).await;
        authorised("False", "ConsumerCapExceeded").await;
        no_bindings_at(bissen, &namespace).await;
        assert!(lowered.elapsed() <= Duration::from_secs(10), "{:?}", lowered.elapsed());
        other["spec"]["consumers"][0]["maxGPUs"] = json!(4);
        world.apply(other.clone()).await;
        authorised("True", "AsSpecified").await;
        other["spec"].as_object_mut().unwrap().remove("consumers");
        world.hub().delete_consumers("h200").await;
        authorised("False", "NotAConsumer").await;
        no_bindings_at(bissen, &namespace).await;
        no_bindings_at(bettembourg, &namespace).await;
    });
}

async fn no_bindings_at(site: &Cluster, tenant: &str) {
    let bindings: Api<RoleBinding> = Api::namespaced(site.admin(), tenant);
    eventually(LONG, format!("nobody works in {tenant} at {}", site.name()), async || {
        let names: Vec<String> = bindings.list(&ListParams::default()).await?.into_iter().map(|binding| binding.role_ref.name).collect();
        let working = names.iter().any(|name| matches!(name.as_str(), "aifactory-lead" | "aifactory-member"));
        if working { Err(format!("{names:?}").into()) } else { Ok(()) }
    })
    .await
    .unwrap();
}

trait DeleteConsumers {
    async fn delete_consumers(&self, pool: &str);
}

impl DeleteConsumers for Cluster {
    async fn delete_consumers(&self, pool: &str) {
        let pools: Api<GPUPool> = Api::namespaced(self.admin(), fixture::NAMESPACE);
        pools.patch(pool, &PatchParams::default(), &Patch::Merge(json!({"spec": {"consumers": null}}))).await.unwrap();
    }
}
