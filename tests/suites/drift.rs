//! What others do to our objects at a site is put right within a second; what is theirs is left alone and named.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

#[path = "drift/edits.rs"]
mod edits;
mod fixture;
#[path = "drift/foreign.rs"]
mod foreign;
#[path = "drift/lost.rs"]
mod lost;

use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant, GPUPool};
use aifactory_plan::model::object::{ObjectKey, ObjectKind};
use aifactory_tests::{Cluster, Federation, GpuNode, Lent, Mark, Shared, SlinkyStandIn, eventually};
use fixture::{FACTORY, NAMESPACE, PATIENCE, World};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::api::{DynamicObject, ListParams};
use kube::discovery::ApiResource;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

/// Where the scenarios disturb things; it has all engines.
const SITE: &str = "bissen";
const SECOND: i64 = 1000;
/// How long nothing is written once all is right.
const REST: Duration = Duration::from_secs(3);

struct Scene {
    world: World,
    _slinky: SlinkyStandIn,
}

static SHARED: Shared<Scene> = Shared::new();

/// One federation for all scenarios, one scenario at a time.
async fn shared() -> Lent<'static, Scene> {
    let start = async || {
        let federation = Federation::builder().name("drift").sites([SITE, "bettembourg"]).start().await.unwrap();
        let site = federation.site(SITE).unwrap();
        let slinky = SlinkyStandIn::install(site, "slurm", "slurm").await.unwrap();
        site.apply(&cluster_network_policies().to_string()).await.unwrap();
        site.ensure_namespace("aifactory-system").await.unwrap();
        let policy = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "aifactory-site-policy", "namespace": "aifactory-system"},
            "data": {"imagePrefixes": "ghcr.io/slinkyproject/slurmd"}});
        site.apply(&policy.to_string()).await.unwrap();
        site.add_node(GpuNode::new("slurm-0", 4).product("A100")).await.unwrap();
        let world = World::on(federation, fixture::options()).await;
        let mut factory = fixture::factory();
        factory["spec"]["sites"][0]["slurm"] = json!({"clusterName": SITE, "slinky": {"namespace": "slurm", "controllerRef": {"name": "slurm"},
            "image": "ghcr.io/slinkyproject/slurmd:26.05-ubuntu26.04"}});
        let mut batch = fixture::pool("batch");
        batch["spec"].as_object_mut().unwrap().remove("kubernetes");
        batch["spec"]["slurm"] = json!({"partition": "batch"});
        batch["spec"]["sites"] = json!([{"name": SITE, "count": 1}]);
        batch["spec"]["nodes"]["adopt"]["selector"]["matchLabels"] = json!({"nvidia.com/gpu.product": "A100"});
        for object in [factory, fixture::pool(fixture::POOL), batch] {
            world.apply(object).await;
        }
        world.ready::<AIFactory>(FACTORY).await;
        world.ready::<GPUPool>(fixture::POOL).await;
        world.ready::<GPUPool>("batch").await;
        Scene { world, _slinky: slinky }
    };
    SHARED.lend(start).await
}

/// As much of the definition as a site needs to serve the kind.
fn cluster_network_policies() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "clusternetworkpolicies.policy.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in for tests"},
        },
        "spec": {
            "group": "policy.networking.k8s.io", "scope": "Cluster",
            "names": {"kind": "ClusterNetworkPolicy", "plural": "clusternetworkpolicies", "singular": "clusternetworkpolicy"},
            "versions": [{"name": "v1alpha2", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}],
        },
    })
}

/// The API of a kind of ours, and of Nodes beside.
fn api(site: &Cluster, key: &ObjectKey) -> Api<DynamicObject> {
    let (group, version, kind, plural) = key.kind.gvk();
    let resource =
        ApiResource { group: group.into(), version: version.into(), api_version: key.kind.api_version(), kind: kind.into(), plural: plural.into() };
    if key.namespace.is_empty() { Api::all_with(site.admin(), &resource) } else { Api::namespaced_with(site.admin(), &key.namespace, &resource) }
}

/// What people would call the content of an object: all but status and what the API server keeps for itself.
fn content(object: &DynamicObject) -> Value {
    let mut value = serde_json::to_value(object).unwrap();
    value.as_object_mut().unwrap().remove("status");
    value["metadata"] = json!({"labels": value["metadata"]["labels"], "annotations": value["metadata"]["annotations"]});
    value
}

/// A new grant that is Ready, with the name of its namespace.
async fn tenant(world: &World, name: &str) -> String {
    world.apply(fixture::grant(name)).await;
    let grant = world.ready::<AccessGrant>(name).await;
    world.tenant(&grant)
}

async fn end(world: &World, name: &str) {
    world.delete_grant(name).await;
    world.gone::<AccessGrant>(name).await;
}

/// Milliseconds from the answer to the first of others' writes of an object to the answer to our last, since the mark.
async fn took(site: &Cluster, mark: Mark, key: &ObjectKey) -> i64 {
    took_on(site, mark, key.kind.gvk().3, &key.namespace, &key.name).await
}

async fn took_on(site: &Cluster, mark: Mark, plural: &str, namespace: &str, name: &str) -> i64 {
    // The log gives a Namespace its own name as its namespace.
    let place = if plural == "namespaces" { name } else { namespace };
    // An object can be seen a moment before the log tells of the request that wrote it.
    eventually(PATIENCE, format!("the log tells who wrote {plural} {name}"), async || {
        let about = site.audit().since(mark)?.writes().accepted();
        let about = about.only(|request| request.resource == plural && request.name == name && request.namespace == place);
        let theirs = about.iter().position(|request| request.user == aifactory_tests::ADMIN_USER).ok_or("nobody wrote")?;
        let back = about.iter().skip(theirs).rfind(|request| request.user.contains("aifactory")).ok_or("we did not write")?;
        Ok(milliseconds(&about[theirs].answered, &back.answered))
    })
    .await
    .unwrap()
}

fn milliseconds(from: &str, to: &str) -> i64 {
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    time(to).duration_since(time(from)).as_millis().try_into().unwrap()
}

/// Waits for a Warning about a grant that has this reason and says these words.
async fn warned(world: &World, grant: &str, reason: &str, words: &[&str]) -> String {
    let events: Api<Event> = Api::namespaced(world.hub().admin(), NAMESPACE);
    eventually(PATIENCE, format!("a Warning {reason} about {grant}"), async || {
        let all = events.list(&ListParams::default().fields(&format!("involvedObject.name={grant}"))).await?.items;
        let warnings = all.iter().filter(|event| event.type_.as_deref() == Some("Warning") && event.reason.as_deref() == Some(reason));
        let notes: Vec<String> = warnings.filter_map(|event| event.message.clone()).collect();
        match notes.iter().find(|note| words.iter().all(|word| note.contains(word))) {
            Some(note) => Ok(note.clone()),
            None => Err(format!("{notes:?}; all: {:?}", all.iter().map(|event| event.name_any()).collect::<Vec<_>>()).into()),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()))
}

/// Nothing of ours is written at any site, nor about grants; factory and pool may still count what was, and say so once.
async fn rest(world: &World) {
    let marks = fixture::marks(&world.federation);
    tokio::time::sleep(REST).await;
    for (cluster, mark) in marks {
        let requests = cluster.audit().since(mark).unwrap().only(|request| request.user.contains("aifactory")).writes().without_leases();
        let writes = requests.only(|request| !matches!(request.resource.as_str(), "aifactories" | "gpupools"));
        assert!(writes.is_empty(), "writes at rest on {}: {}\n{}", cluster.name(), writes.summary(), world.log_tail());
    }
}

fn key(kind: ObjectKind, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::namespaced(kind, namespace, name)
}
