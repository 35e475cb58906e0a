//! What changes meanwhile: the site's own policy, pools that move, shares that shrink.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod fixture;

use std::time::{Duration, Instant};

use aifactory_api::{AccessGrant, GPUPool};
use aifactory_tests::{Cluster, GpuNode, eventually, run_beside};
use fixture::{POOL, World, condition, grant, ours, pool};
use k8s_openapi::api::core::v1::{Namespace, Node, ResourceQuota};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

/// Generous, since the machine may be busy; what the issue bounds is asserted on what was measured.
const LONG: Duration = Duration::from_secs(40);

#[test]
fn the_sites_own_policy_prevails() {
    run_beside(async {
        let world = World::start("site-word").await;
        for name in ["one", "two"] {
            world.apply(grant(name)).await;
            world.ready::<AccessGrant>(name).await;
        }
        let site = world.site("bissen");
        let policy = |data: Value| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "aifactory-site-policy", "namespace": "aifactory-system"}, "data": data}).to_string()
        };

        let changed_at = Instant::now();
        site.apply(&policy(json!({"refuseGrants": "example/one"}))).await.unwrap();
        let one = site_phase(&world, "one", "Refused").await;
        assert!(one.contains("refuseGrants"), "{one}");
        no_bindings(&world, site, "one").await;
        assert!(changed_at.elapsed() <= Duration::from_secs(5), "{:?}", changed_at.elapsed());
        assert_eq!(
            condition(&world.until::<AccessGrant>("one", "Authorised", "False").await.status.unwrap().conditions, "Authorised").reason,
            "RefusedBySite"
        );

        // `one` was made first, so it is `two` that goes over the cap.
        let changed_at = Instant::now();
        site.apply(&policy(json!({"maxGPUs": "3", "refuseMembers": "p-2"}))).await.unwrap();
        let two = site_phase(&world, "two", "Refused").await;
        assert!(two.contains("maxGPUs"), "{two}");
        assert!(changed_at.elapsed() <= Duration::from_secs(5), "{:?}", changed_at.elapsed());
        site_phase(&world, "one", "Bound").await;
        let one = world.ready::<AccessGrant>("one").await;
        let bissen = one.status.unwrap().sites.into_iter().find(|site| site.name == "bissen").unwrap();
        let members = bissen.members.unwrap();
        assert_eq!((members.wanted, members.bound, members.waiting), (3, 2, 1));
        let why = bissen.message.unwrap_or_default();
        assert!(why.contains("MembersWaiting: members p-2 wait: they are listed under refuseMembers"), "{why}");

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
        let explained = phase != "Pending" || !message.is_empty();
        if site.phase.as_str() == phase && explained { Ok(message) } else { Err(format!("{site:?}").into()) }
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
    run_beside(async {
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
            let site = status
                .sites
                .iter()
                .find(|site| site.phase == aifactory_api::grant::SiteRowPhase::Bound)
                .ok_or_else(|| format!("{:?}", status.sites))?;
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
