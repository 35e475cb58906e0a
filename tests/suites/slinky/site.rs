//! A site with Slinky under the operator: a Controller that lets no budget work, who reaches Slurm, and a partition that grows and shrinks
//! while jobs run. The slurmd Pods and their jobs are played by a stand-in.

use std::collections::BTreeSet;

use aifactory_api::{AIFactory, GPUPool};
use aifactory_plan::engine::slinky::{NodeSetView, PartitionState};
use aifactory_tests::slinky::{CONFIGURATION, SlinkyStandIn, node_sets};
use aifactory_tests::{Cluster, Federation, GpuNode, eventually, run_beside};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use serde_json::{Value, json};

use super::SITE;
use super::fixture::{self, FACTORY, PATIENCE, World as Running};

const POOL: &str = "batch";

fn factory() -> Value {
    let mut factory = fixture::factory();
    factory["spec"]["sites"][0]["slurm"] = json!({"clusterName": SITE, "slinky": {
        "namespace": "slurm", "controllerRef": {"name": "slurm"}, "image": "ghcr.io/slinkyproject/slurmd:26.05-ubuntu26.04", "minJobAge": "1s",
        "access": {"loginCIDRs": ["198.51.100.0/24"], "tenants": ["Login"]},
    }});
    factory
}

fn batch(count: i32, state: &str) -> Value {
    let mut batch = fixture::pool(POOL);
    batch["spec"].as_object_mut().unwrap().remove("kubernetes");
    batch["spec"]["slurm"] = json!({"partition": POOL, "maxWallTime": "2h", "default": true, "priorityTier": 10, "preemption": "Requeue"});
    batch["spec"]["sites"] = json!([{"name": SITE, "count": count, "state": state}]);
    batch["spec"]["nodes"]["adopt"]["selector"]["matchLabels"] = json!({"nvidia.com/gpu.product": "A100"});
    batch
}

async fn configure(site: &Cluster, extra_conf: &str) {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("slinky.slurm.net", "v1beta1", "Controller"), "controllers");
    let api: Api<DynamicObject> = Api::namespaced_with(site.admin(), "slurm", &resource);
    api.patch("slurm", &PatchParams::default(), &Patch::Merge(json!({"spec": {"extraConf": extra_conf}}))).await.unwrap();
}

/// What the pool's status says of the site.
async fn message(world: &Running) -> kube::Result<String> {
    let status = world.api::<GPUPool>().get(POOL).await?.status.unwrap_or_default();
    Ok(status.sites.first().and_then(|site| site.message.clone()).unwrap_or_default())
}

async fn until(what: &str, world: &Running, look: impl AsyncFn() -> kube::Result<Option<String>>) {
    eventually(PATIENCE, what, async || match look().await? {
        None => Ok(()),
        Some(other) => Err(other.into()),
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()));
}

#[test]
fn a_partition_under_the_operator() {
    run_beside(async {
        let federation = Federation::builder().name("slinky-site").sites([SITE, "bettembourg"]).start().await.unwrap();
        let site = federation.site(SITE).unwrap();
        let slinky = SlinkyStandIn::install(site, "slurm", "slurm").await.unwrap();
        configure(site, "GresTypes=gpu\nAccountingStorageTRES=gres/gpu:a100\nAccountingStorageEnforce=limits").await;
        site.ensure_namespace("aifactory-system").await.unwrap();
        let policy = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "aifactory-site-policy", "namespace": "aifactory-system"},
            "data": {"imagePrefixes": "ghcr.io/slinkyproject/slurmd"}});
        site.apply(&policy.to_string()).await.unwrap();
        for node in 0..3 {
            site.add_node(GpuNode::new(format!("slurm-{node}"), 4).product("A100")).await.unwrap();
        }
        let world = Running::on(federation, fixture::options()).await;
        world.apply(factory()).await;
        world.apply(batch(1, "Active")).await;
        world.ready::<AIFactory>(FACTORY).await;
        let pool = world.ready::<GPUPool>(POOL).await;
        assert_eq!(pool.status.unwrap().sites[0].partition.as_ref().unwrap().state, PartitionState::Up);
        badly_configured(&world).await;
        reached_as_the_factory_specifies(&world).await;
        grows_and_shrinks(&world, &slinky).await;
    });
}

/// The partition works all the same; what it lacks is named literally, until it is there.
async fn badly_configured(world: &Running) {
    until("each missing line is named, and no other", world, async || {
        let message = message(world).await?;
        let missing = ["AccountingStorageTRES=gres/gpu", "AccountingStorageEnforce=associations,limits,qos,safe"];
        let named =
            message.starts_with("SlurmConfiguration: ") && missing.iter().all(|line| message.contains(line)) && !message.contains("GresTypes=");
        Ok((!named).then_some(message))
    })
    .await;
    configure(world.site(SITE), CONFIGURATION).await;
    until("nothing is missing", world, async || Ok(Some(message(world).await?).filter(|message| !message.is_empty()))).await;
}

async fn reached_as_the_factory_specifies(world: &Running) {
    let api: Api<NetworkPolicy> = Api::namespaced(world.site(SITE).admin(), "slurm");
    let names = async || -> kube::Result<BTreeSet<String>> {
        Ok(api.list(&ListParams::default()).await?.items.into_iter().filter_map(|policy| policy.metadata.name).collect())
    };
    let wanted: BTreeSet<String> = ["default-deny", "slurmctld", "slurmd", "slurmdbd", "database", "slurmrestd", "login"]
        .iter()
        .map(|name| format!("aif-slurm-{name}"))
        .collect();
    until("Slurm is closed", world, async || {
        let found = names().await?;
        Ok((found != wanted).then(|| format!("{found:?}")))
    })
    .await;
    // What somebody takes away is back.
    api.delete("aif-slurm-default-deny", &DeleteParams::default()).await.unwrap();
    until("the default deny is back", world, async || {
        let found = names().await?;
        Ok((found != wanted).then(|| format!("{found:?}")))
    })
    .await;
    let mut without = factory();
    without["spec"]["sites"][0]["slurm"]["slinky"].as_object_mut().unwrap().remove("access");
    world.apply(without).await;
    until("the namespace is the site admin's again", world, async || {
        let found = names().await?;
        Ok((!found.is_empty()).then(|| format!("{found:?}")))
    })
    .await;
}

async fn grows_and_shrinks(world: &Running, slinky: &SlinkyStandIn) {
    let api = node_sets(world.site(SITE).admin(), Some("slurm"));
    let view = async || -> kube::Result<NodeSetView> { Ok(NodeSetView::from_json(&serde_json::to_value(api.get(POOL).await?).unwrap())) };
    let first = view().await.unwrap();
    assert_eq!(first.config, "State=UP MaxTime=02:00:00 Default=YES PriorityTier=10 PreemptMode=REQUEUE");
    world.apply(batch(3, "Active")).await;
    until("three nodes take jobs", world, async || {
        let view = view().await?;
        Ok((view.replicas != 3 || view.idle != 3).then(|| format!("{view:?}")))
    })
    .await;
    // Two nodes run jobs: one goes at once, the busy ones only when their jobs have ended.
    slinky.set_busy(POOL, 2);
    until("two nodes are busy", world, async || Ok(Some(view().await?.allocated).filter(|busy| *busy != 2).map(|busy| busy.to_string()))).await;
    world.apply(batch(1, "Active")).await;
    until("the NodeSet wants one node and keeps the busy ones", world, async || {
        let view = view().await?;
        Ok((view.replicas != 1 || view.pods != 2 || view.allocated != 2).then(|| format!("{view:?}")))
    })
    .await;
    assert_eq!(slinky.crashes(), [] as [String; 0]);
    slinky.set_busy(POOL, 1);
    until("one node is left", world, async || Ok(Some(view().await?.pods).filter(|pods| *pods != 1).map(|pods| pods.to_string()))).await;
    world.apply(batch(1, "Draining")).await;
    until("the partition drains while a job runs", world, async || {
        let view = view().await?;
        Ok((!view.config.starts_with("State=DRAIN ") || view.replicas != 1 || view.allocated != 1).then(|| format!("{view:?}")))
    })
    .await;
    slinky.set_busy(POOL, 0);
    world.delete_confirmed::<GPUPool>(POOL).await;
    until("the NodeSet goes when nothing runs in it", world, async || Ok(api.get_opt(POOL).await?.map(|_| "still there".to_owned()))).await;
    assert_eq!(slinky.crashes(), [] as [String; 0]);
}
