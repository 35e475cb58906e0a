//! What pools become, on real API servers: every NodeSet that the pure core renders is taken by Slinky's own definitions and by our strict
//! ones, by the site's admission policies and with the operator's rights, and is stored as it was planned. Node patches likewise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod fixture;
#[path = "slinky/managed.rs"]
mod managed;
#[path = "slinky/site.rs"]
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aifactory_api::{AIFactory, GPUPool, Kind, OwnerRef, labels};
use aifactory_plan::engine::nodes::{self, NodeView, PoolNodes};
use aifactory_plan::engine::slinky::{self, IDLE_SINCE, NodeSetView, PartitionState, RemovalStep};
use aifactory_plan::hub::cache::Cache;
use aifactory_plan::hub::project;
use aifactory_plan::model::digest::owned_digest;
use aifactory_plan::model::id::HubId;
use aifactory_plan::model::intent::{Body, Intent, PoolIntent, Presence, SiteIntent};
use aifactory_plan::model::object::{Object, Ownership};
use aifactory_plan::model::site_key::SiteKey;
use aifactory_tests::slinky::{SlinkyStandIn, definitions, node_sets, real_definitions};
use aifactory_tests::{Cluster, ClusterOptions, Federation, GpuNode, eventually, run_beside};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(60);
const SITE_USER: &str = "system:serviceaccount:aifactory-system:aifactory-site";
const GROUPS: &[&str] = &["system:serviceaccounts", "system:serviceaccounts:aifactory-system"];
const SITE: &str = "bissen";

/// A pool as a user writes it, less what all have in common.
fn pool(name: &str, spec: Value) -> GPUPool {
    let mut whole = json!({
        "apiVersion": "aifactory.dev/v1alpha1", "kind": "GPUPool",
        "metadata": {"name": name, "namespace": "example", "uid": format!("uid-{name}"), "generation": 1},
        "spec": {
            "factoryRef": {"name": "example"},
            "accelerator": {"vendor": "nvidia", "model": "H100-SXM5-80GB", "resourceName": "nvidia.com/gpu", "perNode": 4},
            "perGPU": {"cpus": 16, "memoryGiB": 120},
            "slurm": {"partition": name, "maxWallTime": "24h"},
            "sites": [{"name": SITE}],
            "nodes": {"adopt": {"selector": {"matchLabels": {"nvidia.com/gpu.product": name}}}},
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        whole["spec"][key] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

fn pools() -> Vec<GPUPool> {
    let accelerator = |vendor: &str, model: &str, resource: &str, per_node: i32| json!({"vendor": vendor, "model": model, "resourceName": resource, "perNode": per_node});
    vec![
        pool("h100", json!({})),
        pool("draining", json!({"sites": [{"name": SITE, "state": "Draining"}]})),
        pool("minutes", json!({"slurm": {"partition": "minutes", "maxWallTime": "90m"}})),
        pool("long", json!({"slurm": {"partition": "long", "maxWallTime": "99999h"}})),
        pool("ranked", json!({"slurm": {"partition": "ranked", "default": true, "priorityTier": 65533, "preemption": "Suspend"}})),
        pool("unlimited", json!({"slurm": {"partition": "unlimited"}})),
        pool("renamed", json!({"slurm": {"partition": "h100"}, "sites": [{"name": SITE, "slurm": {"partition": "acc-2"}}]})),
        pool("mi300", json!({"accelerator": accelerator("amd", "MI300X", "amd.com/gpu", 8)})),
        pool("mig", json!({"accelerator": accelerator("nvidia", "A100-SXM4-40GB", "nvidia.com/mig-1g.5gb", 56)})),
        pool("xe", json!({"accelerator": accelerator("intel", "Max1550", "gpu.intel.com/xe", 6)})),
        pool("gaudi", json!({"accelerator": accelerator("habana", "Gaudi3", "habana.ai/gaudi", 8)})),
        // Quantities with a larger unit in their shortest form: 32 k CPUs, 512 Ti memory.
        pool("large", json!({"perGPU": {"cpus": 500, "memoryGiB": 8192}, "accelerator": accelerator("nvidia", "L40S", "nvidia.com/gpu", 64)})),
        pool("with.dots", json!({"slurm": {"partition": "a".repeat(40)}})),
    ]
}

fn owner(pool: &GPUPool) -> OwnerRef {
    OwnerRef::new(Kind::GPUPool, "example", pool.metadata.name.as_deref().unwrap())
}

/// The site's intent and the pools' intents, as the hub projects them.
fn projected() -> (SiteIntent, Vec<(Intent, PoolIntent)>) {
    let factory: AIFactory = serde_json::from_value(json!({
        "apiVersion": "aifactory.dev/v1alpha1", "kind": "AIFactory",
        "metadata": {"name": "example", "namespace": "example", "uid": "uid-factory"},
        "spec": {
            "type": "Factory",
            "sites": [{
                "name": SITE, "country": "LU", "stage": "Production",
                "kubernetes": {"push": {"kubeconfigSecretRef": {"name": "bissen-kubeconfig"}}},
                "slurm": {"clusterName": "bissen", "slinky": {
                    "namespace": "slurm", "controllerRef": {"name": "slurm"}, "image": "ghcr.io/slinkyproject/slurmd:26.05-ubuntu26.04",
                    "minJobAge": "1s",
                }},
            }],
        },
    }))
    .unwrap();
    let mut world = Cache::default();
    let factory_ref = OwnerRef::new(Kind::AIFactory, "example", "example");
    world.put_factory(factory_ref.clone(), Arc::new(factory));
    for pool in pools() {
        world.put_pool(owner(&pool), Arc::new(pool));
    }
    let key = SiteKey::new(factory_ref, SITE);
    let site = project::site(&world, &HubId::new("hub-1"), &key, None).unwrap();
    let intents = pools().into_iter().map(|pool| {
        let projection = project::pool(&world, &owner(&pool), &BTreeSet::new());
        assert_eq!(projection.problems, []);
        let intent = projection.sites[&key].clone();
        let Body::Pool(body) = intent.body.clone() else { panic!("a pool") };
        (intent, body)
    });
    (site, intents.collect())
}

fn ownership(intent: &Intent) -> Ownership {
    Ownership::new(&HubId::new("hub-1"), &intent.owner, &intent.uid)
}

fn rendered(site: &SiteIntent, intent: &Intent, pool: &PoolIntent, replicas: u32) -> Object {
    slinky::node_set(site, &intent.owner.name, pool, replicas, &ownership(intent)).unwrap_or_else(|refusal| panic!("{}", refusal.message))
}

async fn federation(name: &str) -> Federation {
    Federation::builder().name(name).hub(ClusterOptions::hub("site").controller_manager(false)).start().await.expect("a federation")
}

/// A site with the roles and policies of the chart, a Slurm namespace, and a client with the operator's rights.
async fn site_client(cluster: &Cluster) -> Client {
    cluster.install_site().await.unwrap();
    cluster
        .apply(
            "
apiVersion: v1
kind: Namespace
metadata:
  name: slurm
  labels: {site.aifactory.dev/engine: slinky}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: aifactory-site-policy, namespace: aifactory-system}
data: {imagePrefixes: ghcr.io/slinkyproject/slurmd}
",
        )
        .await
        .unwrap();
    cluster.client_as(SITE_USER, GROUPS).await.unwrap()
}

async fn apply(client: &Client, object: &Object) -> kube::Result<DynamicObject> {
    let params = PatchParams::apply(labels::SITE_MANAGER).force().validation_strict();
    node_sets(client.clone(), Some(&object.key.namespace)).patch(&object.key.name, &params, &Patch::Apply(&object.content)).await
}

fn assert_stored(stored: &DynamicObject, planned: &Object) {
    let value = serde_json::to_value(stored).unwrap();
    assert_eq!(owned_digest(&value, labels::SITE_MANAGER, false), Some(planned.digest()), "{value:#}\nis not as planned:\n{:#}", planned.content);
}

/// Applies every shape, twice, and then drains it; and a field that is not known is refused.
async fn every_shape_is_taken_and_stored_as_planned(cluster: &Cluster, operator: &Client) {
    let (site, intents) = projected();
    // Policies are in force a moment after they are stored.
    eventually(LONG, "NodeSets with an image that the site does not run are refused", async || {
        let mut foreign = site.clone();
        foreign.slurm.as_mut().unwrap().slinky.as_mut().unwrap().image = "docker.io/other/slurmd:1".to_owned();
        match apply(operator, &rendered(&foreign, &intents[0].0, &intents[0].1, 1)).await {
            Err(kube::Error::Api(status)) if status.message.contains("imagePrefixes") => Ok(()),
            other => Err(format!("{other:?}").into()),
        }
    })
    .await
    .unwrap();
    for (intent, pool) in &intents {
        for replicas in [0, 3] {
            let planned = rendered(&site, intent, pool, replicas);
            let first = apply(operator, &planned).await.unwrap_or_else(|error| panic!("{}: {error}", planned.key));
            assert_stored(&first, &planned);
            let second = apply(operator, &planned).await.unwrap();
            assert_eq!(first.metadata.resource_version, second.metadata.resource_version, "{}: nothing to change", planned.key);
            // What others add does not make it differ; what they change does.
            let annotate = json!({"metadata": {"annotations": {"site": "x"}}});
            let api = node_sets(cluster.admin(), Some("slurm"));
            let annotated = api.patch(&planned.key.name, &PatchParams::default(), &Patch::Merge(annotate)).await.unwrap();
            assert_stored(&annotated, &planned);
            let opened = json!({"spec": {"partition": {"config": "State=DRAIN MaxTime=00:01:00"}}});
            let taken = api.patch(&planned.key.name, &PatchParams::default(), &Patch::Merge(opened)).await.unwrap();
            assert_ne!(owned_digest(&serde_json::to_value(taken).unwrap(), labels::SITE_MANAGER, false), Some(planned.digest()));
            assert_stored(&apply(operator, &planned).await.unwrap(), &planned);
        }
        let stored = node_sets(operator.clone(), Some("slurm")).get(&rendered(&site, intent, pool, 3).key.name).await.unwrap();
        let view = NodeSetView::from_json(&serde_json::to_value(&stored).unwrap());
        assert_eq!((view.replicas, view.observed_generation), (3, 0));
    }
    let mut unknown = rendered(&site, &intents[0].0, &intents[0].1, 1);
    unknown.content["spec"]["taintKubeNodes"] = json!(true);
    let refused = apply(&cluster.admin(), &unknown).await.expect_err("an unknown field");
    assert!(refused.to_string().contains("taintKubeNodes"), "{refused}");
}

/// From the first apply to the delete, with the status that slurm-operator would give.
async fn a_partition_comes_and_goes(cluster: &Cluster, operator: &Client) {
    let stand_in = SlinkyStandIn::start(cluster).await.unwrap();
    let (site, intents) = projected();
    let (intent, pool) = &intents[0];
    let planned = rendered(&site, intent, pool, 4);
    let api = node_sets(operator.clone(), Some("slurm"));
    let look = async || -> Result<NodeSetView, kube::Error> {
        Ok(NodeSetView::from_json(&serde_json::to_value(api.get(&planned.key.name).await?).unwrap()))
    };
    // A clock of the test's own, which goes on when there is nothing else to wait for.
    let mut now = Timestamp::now();
    apply(operator, &planned).await.unwrap();
    stand_in.set_busy("h100", 3);
    eventually(LONG, "the partition is up with jobs", async || {
        let view = look().await?;
        let report = slinky::partition_state(Some(&view));
        if report.state == PartitionState::Up && report.ready == 4 && view.allocated == 3 { Ok(()) } else { Err(format!("{report:?}").into()) }
    })
    .await
    .unwrap();
    let mut messages: Vec<String> = Vec::new();
    eventually(LONG, "the NodeSet may be deleted", async || {
        let view = look().await?;
        match slinky::removal(&planned.key, Some(&view), &ownership(intent), SignedDuration::from_mins(5), now) {
            RemovalStep::Drain(object) => {
                let stored = apply(operator, &object).await?;
                assert_stored(&stored, &object);
                Err("drained".into())
            }
            RemovalStep::Wait { message, until } => {
                now = until.unwrap_or(now);
                if message.contains("still run jobs") {
                    assert_eq!(slinky::partition_state(Some(&view)).state, PartitionState::Draining);
                    stand_in.set_busy("h100", 0);
                }
                if messages.last() != Some(&message) {
                    messages.push(message.clone());
                }
                Err(message.into())
            }
            RemovalStep::Delete => Ok(()),
        }
    })
    .await
    .unwrap();
    let place = |text: &str| messages.iter().position(|message| message.contains(text)).unwrap_or_else(|| panic!("{text:?} in {messages:#?}"));
    assert!(place("3 nodes still run jobs") < place("MinJobAge"));
    let last = api.get(&planned.key.name).await.unwrap();
    assert!(last.metadata.annotations.unwrap().contains_key(IDLE_SINCE));
    // It is used again after all: the mark goes.
    let back = apply(operator, &planned).await.unwrap();
    assert_stored(&back, &planned);
    assert!(!back.metadata.annotations.unwrap().contains_key(IDLE_SINCE));
    // The stand-in notices who does it the short way.
    stand_in.set_busy("h100", 1);
    eventually(LONG, "jobs run again", async || if look().await?.allocated == 1 { Ok(()) } else { Err("none".into()) }).await.unwrap();
    assert_eq!(stand_in.crashes(), [] as [String; 0]);
    api.delete("h100", &DeleteParams::default()).await.unwrap();
    eventually(LONG, "slurmctld crashes", async || if stand_in.crashes() == ["h100"] { Ok(()) } else { Err("not yet".into()) }).await.unwrap();
}

#[test]
fn our_strict_definitions_take_all_that_we_render() {
    run_beside(async {
        let federation = federation("slinky-strict").await;
        let cluster = federation.hub();
        cluster.apply_path(definitions()).await.unwrap();
        let operator = site_client(cluster).await;
        every_shape_is_taken_and_stored_as_planned(cluster, &operator).await;
        a_partition_comes_and_goes(cluster, &operator).await;
    });
}

#[test]
fn the_real_definitions_take_all_that_we_render() {
    run_beside(async {
        let definitions = real_definitions();
        if !definitions.is_dir() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must have Slinky's definitions in {}", definitions.display());
            eprintln!("SKIPPED: Slinky's definitions are not in {}", definitions.display());
            return;
        }
        let federation = federation("slinky-real").await;
        let cluster = federation.hub();
        for kind in ["nodesets", "controllers"] {
            cluster.apply_path(definitions.join(format!("slinky.slurm.net_{kind}.yaml"))).await.unwrap();
        }
        let operator = site_client(cluster).await;
        every_shape_is_taken_and_stored_as_planned(cluster, &operator).await;
        a_partition_comes_and_goes(cluster, &operator).await;
    });
}

/// The nodes' part of a reconcile, until nothing is left to patch.
async fn settle(client: &Client, pools: &BTreeMap<OwnerRef, &PoolIntent>) -> kube::Result<BTreeMap<OwnerRef, PoolNodes>> {
    let api: Api<Node> = Api::all(client.clone());
    for _ in 0..3 {
        let views: Vec<NodeView> = api.list(&Default::default()).await?.items.iter().map(NodeView::from_node).collect();
        let assigned = nodes::assign(pools, &views.iter().collect::<Vec<_>>());
        let patches: Vec<_> = assigned.values().flat_map(|nodes| &nodes.patches).collect();
        if patches.is_empty() {
            return Ok(assigned);
        }
        for patch in patches {
            patch_node(client, patch).await?;
        }
    }
    panic!("nodes do not come to rest");
}

async fn patch_node(client: &Client, patch: &aifactory_plan::model::plan::NodePatch) -> kube::Result<Node> {
    let operations = serde_json::from_value(patch.operations.clone()).unwrap();
    let params = PatchParams { field_manager: Some(labels::SITE_MANAGER.to_owned()), ..PatchParams::default() };
    Api::<Node>::all(client.clone()).patch(&patch.node, &params, &Patch::<Node>::Json(operations)).await
}

#[test]
fn nodes_take_label_and_taint_and_give_them_back() {
    run_beside(async {
        let federation = federation("pool-nodes").await;
        let cluster = federation.hub();
        let operator = site_client(cluster).await;
        for (name, product) in [("a", "h100"), ("b", "h100"), ("c", "other")] {
            cluster.add_node(GpuNode::new(name, 4).product(product)).await.unwrap();
        }
        cluster.add_node(GpuNode::new("kept", 4).product("h100").offered(false)).await.unwrap();
        let api: Api<Node> = Api::all(cluster.admin());
        let foreign = json!({"spec": {"taints": [
            {"key": "rack", "value": "7", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "2026-11-21T05:00:00Z"},
        ]}});
        api.patch("b", &PatchParams::default(), &Patch::Merge(foreign)).await.unwrap();
        let (_, intents) = projected();
        let (intent, pool) = &intents[0];
        let pools = BTreeMap::from([(intent.owner.clone(), pool)]);
        let views: Vec<NodeView> = api.list(&Default::default()).await.unwrap().items.iter().map(NodeView::from_node).collect();
        let planned = nodes::assign(&pools, &views.iter().collect::<Vec<_>>());
        let assigned = settle(&operator, &pools).await.unwrap();
        assert_eq!(assigned[&intent.owner].held, ["a", "b"]);
        assert_eq!(assigned[&intent.owner].not_offered, 1);
        // A plan of what was before does nothing: label and taints are not what they were.
        for patch in &planned[&intent.owner].patches {
            let stale = patch_node(&operator, patch).await.expect_err("a stale patch");
            assert!(matches!(&stale, kube::Error::Api(status) if status.code == 422), "{stale}");
        }
        let b = api.get("b").await.unwrap();
        let taints: Vec<String> =
            b.spec.unwrap().taints.unwrap().into_iter().map(|taint| format!("{}={}", taint.key, taint.value.unwrap_or_default())).collect();
        assert_eq!(taints, ["rack=7", "node.kubernetes.io/unreachable=", "nvidia.com/gpu=h100"]);
        // Drift.
        let drift = json!({"metadata": {"labels": {(labels::POOL): null}}, "spec": {"taints": null}});
        api.patch("a", &PatchParams::default(), &Patch::Merge(drift)).await.unwrap();
        settle(&operator, &pools).await.unwrap();
        assert_eq!(NodeView::from_node(&api.get("a").await.unwrap()).pool(), Some("h100"));
        let mut absent = pool.clone();
        absent.presence = Presence::Absent;
        let assigned = settle(&operator, &BTreeMap::from([(intent.owner.clone(), &absent)])).await.unwrap();
        assert_eq!(assigned[&intent.owner].findings, []);
        for name in ["a", "b", "c", "kept"] {
            let view = NodeView::from_node(&api.get(name).await.unwrap());
            assert_eq!(view.pool(), None, "{name}");
            let before = views.iter().find(|view| view.name == name).unwrap();
            // The drift of node a took all taints away, those of others too.
            assert_eq!(view.taints, if name == "a" { Vec::new() } else { before.taints.clone() }, "{name}");
        }
    });
}
