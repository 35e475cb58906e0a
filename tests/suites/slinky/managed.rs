//! A Slurm that the operator sets up: keys, Accounting, Controller, RestApi and Token. slurm-operator, which would make Pods of them, does not run here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aifactory_api::{AIFactory, GPUPool};
use aifactory_tests::slinky::{SlinkyStandIn, definitions, real_definitions};
use aifactory_tests::{Cluster, Federation, GpuNode, eventually, run_beside};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use serde_json::{Value, json};

use super::SITE;
use super::fixture::{self, FACTORY, World as Running};

const POOL: &str = "batch";
/// What a site refused is tried again after a minute.
const PATIENCE: Duration = Duration::from_secs(120);
const NAME: &str = "aif-slurm";
const KINDS: [(&str, &str); 4] = [("Controller", "controllers"), ("Accounting", "accountings"), ("RestApi", "restapis"), ("Token", "tokens")];

fn factory() -> Value {
    let mut factory = fixture::factory();
    factory["spec"]["sites"][0]["slurm"] = json!({"clusterName": SITE, "slinky": {
        "namespace": "slurm", "image": "ghcr.io/slinkyproject/slurmd:26.05-ubuntu26.04", "minJobAge": "1s",
        "managed": {
            "slurmctldImage": "ghcr.io/slinkyproject/slurmctld:26.05-ubuntu26.04",
            "slurmdbdImage": "ghcr.io/slinkyproject/slurmdbd:26.05-ubuntu26.04",
            "slurmrestdImage": "ghcr.io/slinkyproject/slurmrestd:26.05-ubuntu26.04",
            "accounting": {"host": "mariadb.slurm.svc", "passwordSecretRef": {"name": "aifactory-slurm-db", "key": "password"}},
            "storage": {"size": "10Gi"},
        },
    }});
    factory
}

fn batch() -> Value {
    let mut batch = fixture::pool(POOL);
    batch["spec"].as_object_mut().unwrap().remove("kubernetes");
    batch["spec"]["slurm"] = json!({"partition": POOL, "maxWallTime": "2h"});
    batch["spec"]["sites"] = json!([{"name": SITE, "count": 1}]);
    batch["spec"]["nodes"]["adopt"]["selector"]["matchLabels"] = json!({"nvidia.com/gpu.product": "A100"});
    batch["spec"]["accelerator"]["model"] = json!("A100-SXM4-40GB");
    batch
}

fn api(site: &Cluster, kind: &str) -> Api<DynamicObject> {
    let plural = KINDS.iter().find(|(name, _)| *name == kind).unwrap().1;
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("slinky.slurm.net", "v1beta1", kind), plural);
    Api::namespaced_with(site.admin(), "slurm", &resource)
}

/// Which of the kinds are there.
async fn there(site: &Cluster) -> kube::Result<Vec<&'static str>> {
    let mut found = Vec::new();
    for (kind, _) in KINDS {
        if api(site, kind).get_opt(NAME).await?.is_some() {
            found.push(kind);
        }
    }
    Ok(found)
}

async fn keys(site: &Cluster) -> BTreeMap<String, (String, String, Vec<u8>)> {
    let secrets = Api::<Secret>::namespaced(site.admin(), "slurm").list(&Default::default()).await.unwrap().items;
    let ours = secrets.into_iter().filter(|secret| secret.metadata.name.as_deref().unwrap().starts_with("aif-"));
    ours.map(|secret| {
        assert_eq!(secret.immutable, Some(true));
        let (field, key) = secret.data.unwrap().pop_first().unwrap();
        (secret.metadata.name.unwrap(), (secret.metadata.resource_version.unwrap(), field, key.0))
    })
    .collect()
}

async fn until(what: &str, world: &Running, look: impl AsyncFn() -> kube::Result<Option<String>>) {
    eventually(PATIENCE, what, async || match look().await? {
        None => Ok(()),
        Some(other) => Err(other.into()),
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()));
}

/// What the factory's status says of the site.
async fn message(world: &Running) -> kube::Result<String> {
    let status = world.api::<AIFactory>().get(FACTORY).await?.status.unwrap_or_default();
    Ok(status.sites.into_iter().find(|site| site.name == SITE).and_then(|site| site.message).unwrap_or_default())
}

async fn prepare(site: &Cluster, definitions: &[PathBuf]) {
    for path in definitions {
        site.apply_path(path).await.unwrap();
    }
    site.ensure_namespace("aifactory-system").await.unwrap();
    let slurm = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "slurm", "labels": {"site.aifactory.dev/engine": "slinky"}}});
    let policy = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "aifactory-site-policy", "namespace": "aifactory-system"},
        "data": {"imagePrefixes": "ghcr.io/slinkyproject/"}});
    for object in [slurm, policy] {
        site.apply(&object.to_string()).await.unwrap();
    }
    site.add_node(GpuNode::new("slurm-0", 4).product("A100")).await.unwrap();
}

fn bound() -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "aifactory-slurm", "namespace": "slurm"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "aifactory-slurm"},
        "subjects": [{"kind": "ServiceAccount", "name": "aifactory-site", "namespace": "aifactory-system"},
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "aifactory:hub"}]})
}

async fn comes_and_goes(name: &str, definitions: &[PathBuf], agreed: bool) {
    let federation = Federation::builder().name(name).sites([SITE, "bettembourg"]).start().await.unwrap();
    prepare(federation.site(SITE).unwrap(), definitions).await;
    let stand_in = SlinkyStandIn::start(federation.site(SITE).unwrap()).await.unwrap();
    if agreed {
        federation.site(SITE).unwrap().apply(&bound().to_string()).await.unwrap();
    }
    let world = Running::on(federation, fixture::options()).await;
    let site = world.site(SITE);
    world.apply(factory()).await;
    world.apply(batch()).await;
    if !agreed {
        until("the refusal is said", &world, async || {
            let message = message(&world).await?;
            Ok((!message.contains("Secret slurm/aif-slurm-")).then_some(message))
        })
        .await;
        assert_eq!(there(site).await.unwrap(), [] as [&str; 0]);
        site.apply(&bound().to_string()).await.unwrap();
    }
    world.ready::<AIFactory>(FACTORY).await;
    world.ready::<GPUPool>(POOL).await;
    until("all of it is there", &world, async || {
        let found = there(site).await?;
        Ok((found.len() != KINDS.len()).then(|| format!("{found:?}")))
    })
    .await;
    let made = keys(site).await;
    let sizes: Vec<_> = made.iter().map(|(name, (_, field, key))| (name.as_str(), field.as_str(), key.len())).collect();
    assert_eq!(sizes, [("aif-slurm-jwt", "jwt_hs256.key", 32), ("aif-slurm-key", "slurm.key", 1024)]);
    until("slurm.conf knows the type, and nothing is missing", &world, async || {
        let controller = api(site, "Controller").get(NAME).await?;
        let lines = controller.data["spec"]["extraConf"].as_str().unwrap_or_default().to_owned();
        let pool = world.api::<GPUPool>().get(POOL).await?.status.unwrap_or_default().sites[0].message.clone();
        let message = message(&world).await?;
        let right = lines.lines().any(|line| line == "AccountingStorageTRES=gres/gpu,gres/gpu:a100") && pool.is_none() && message.is_empty();
        Ok((!right).then(|| format!("{lines}\n{pool:?}\n{message}")))
    })
    .await;

    // What somebody changes or takes away is back, with the keys that are there.
    api(site, "Accounting").delete(NAME, &DeleteParams::default()).await.unwrap();
    let wrong = json!({"spec": {"inplaceReconfigure": false}});
    api(site, "Controller").patch(NAME, &PatchParams::default(), &Patch::Merge(wrong)).await.unwrap();
    until("it is as it was", &world, async || {
        let in_place = api(site, "Controller").get(NAME).await?.data["spec"]["inplaceReconfigure"] == true;
        let found = there(site).await?;
        Ok((!in_place || found.len() != KINDS.len()).then(|| format!("{in_place} {found:?}")))
    })
    .await;
    world.at_rest(Duration::from_secs(5)).await;
    world.restart_writes_nothing(Duration::from_secs(5)).await;
    assert_eq!(keys(site).await, made);
    no_key_is_published(&world, &made).await;

    // The site's Slurm is no longer ours: partitions first, and what has counted stays.
    let mut without = factory();
    without["spec"]["sites"][0]["slurm"]["slinky"].as_object_mut().unwrap().remove("managed");
    without["spec"]["sites"][0]["slurm"]["slinky"]["controllerRef"] = json!({"name": "slurm"});
    stand_in.set_busy(POOL, 1);
    world.delete_confirmed::<GPUPool>(POOL).await;
    world.apply(without).await;
    until("the Controller waits for the partition", &world, async || {
        let message = message(&world).await?;
        Ok((!message.contains("stays until its partitions are gone: batch")).then_some(message))
    })
    .await;
    stand_in.set_busy(POOL, 0);
    until("only the account is left", &world, async || {
        let found = there(site).await?;
        Ok((found != ["Accounting"]).then(|| format!("{found:?}")))
    })
    .await;
    assert_eq!(stand_in.crashes(), [] as [String; 0]);
    assert_eq!(keys(site).await, made);
}

/// Keys are on the site, and nowhere else.
async fn no_key_is_published(world: &Running, made: &BTreeMap<String, (String, String, Vec<u8>)>) {
    let hub = world.hub().admin();
    let factory = serde_json::to_string(&world.api::<AIFactory>().get(FACTORY).await.unwrap()).unwrap();
    let pool = serde_json::to_string(&world.api::<GPUPool>().get(POOL).await.unwrap()).unwrap();
    let events = Api::<k8s_openapi::api::events::v1::Event>::all(hub).list(&Default::default()).await.unwrap();
    let texts = [factory, pool, serde_json::to_string(&events).unwrap(), world.operator.log().unwrap_or_default()];
    for (_, _, key) in made.values() {
        let published = serde_json::to_value(k8s_openapi::ByteString(key.clone())).unwrap();
        for text in &texts {
            assert!(!text.contains(published.as_str().unwrap()), "a key is published");
        }
    }
}

#[test]
fn a_slurm_that_the_operator_sets_up() {
    run_beside(comes_and_goes("slurm-managed", &[definitions()], false));
}

#[test]
fn the_real_definitions_take_a_slurm_of_ours() {
    let directory = real_definitions();
    if !directory.is_dir() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must have Slinky's definitions in {}", directory.display());
        eprintln!("SKIPPED: Slinky's definitions are not in {}", directory.display());
        return;
    }
    let kinds = ["nodesets", "controllers", "accountings", "restapis", "tokens"];
    let paths: Vec<PathBuf> = kinds.map(|kind| file(&directory, kind)).to_vec();
    run_beside(comes_and_goes("slurm-managed-real", &paths, true));
}

fn file(directory: &Path, kind: &str) -> PathBuf {
    directory.join(format!("slinky.slurm.net_{kind}.yaml"))
}
