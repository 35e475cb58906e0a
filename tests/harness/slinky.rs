//! A stand-in for Slinky's slurm-operator, which can not run here: it fills the status of NodeSets and plays the jobs of their nodes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::error::Result;
use crate::layout;

/// Who the stand-in is, to its API server.
pub const SLINKY_USER: &str = "slurm-operator";
/// What slurm.conf needs for budgets to work.
pub const CONFIGURATION: &str =
    "GresTypes=gpu\nAccountingStorageTRES=gres/gpu\nAccountingStorageEnforce=associations,limits,qos,safe\nPriorityType=priority/multifactor\n";
const RETRY: Duration = Duration::from_millis(200);

/// Our own strict definitions of the Slinky kinds.
pub fn definitions() -> PathBuf {
    layout::root().join("tests/data/slinky-crd.yaml")
}

/// Slinky's own definitions, which are there in CI.
pub fn real_definitions() -> PathBuf {
    layout::root().join("../shared/crds/slinky")
}

/// NodeSets, of all or of one namespace.
pub fn node_sets(client: Client, namespace: Option<&str>) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("slinky.slurm.net", "v1beta1", "NodeSet"), "nodesets");
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    }
}

/// Fills NodeSet status on a cluster until it is dropped.
pub struct SlinkyStandIn {
    slurm: Arc<Slurm>,
    task: JoinHandle<()>,
}

impl fmt::Debug for SlinkyStandIn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SlinkyStandIn").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Slurm {
    nodes: Mutex<Nodes>,
    changed: Notify,
}

#[derive(Default)]
struct Nodes {
    /// Nodes that run jobs, by NodeSet.
    busy: BTreeMap<String, i64>,
    /// Nodes that are down, by NodeSet.
    down: BTreeMap<String, i64>,
    /// NodeSets that went while something of Slurm still pointed at them.
    crashes: Vec<String>,
}

impl SlinkyStandIn {
    /// Installs our definitions and what a site's administrator makes, a namespace for Slurm with a Controller in it, and starts.
    pub async fn install(cluster: &Cluster, namespace: &str, controller: &str) -> Result<Self> {
        cluster.apply_path(definitions()).await?;
        let namespaced = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"site.aifactory.dev/engine": "slinky", "pod-security.kubernetes.io/enforce": "privileged"}},
        });
        let key = |name: &str| json!({"name": format!("{controller}-{name}"), "key": format!("{name}.key")});
        let controlled = json!({
            "apiVersion": "slinky.slurm.net/v1beta1", "kind": "Controller",
            "metadata": {"name": controller, "namespace": namespace},
            "spec": {"clusterName": controller, "slurmKeyRef": key("slurm"), "jwtKeyRef": key("jwt"), "inplaceReconfigure": true,
                "accountingRef": {"name": controller}, "extraConf": CONFIGURATION},
        });
        for manifest in [namespaced, controlled] {
            cluster.apply(&manifest.to_string()).await?;
        }
        Self::start(cluster).await
    }

    /// Starts on a cluster that has the definitions.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let client = cluster.client_as(SLINKY_USER, &["system:masters"]).await?;
        let slurm = Arc::new(Slurm::default());
        let task = tokio::spawn(run(client, Arc::clone(&slurm)));
        Ok(Self { slurm, task })
    }

    /// So many nodes of the NodeSet run jobs from now on.
    pub fn set_busy(&self, node_set: &str, nodes: i64) {
        self.slurm.nodes().busy.insert(node_set.to_owned(), nodes);
        self.slurm.changed.notify_one();
    }

    /// So many nodes of the NodeSet are down from now on.
    pub fn set_down(&self, node_set: &str, nodes: i64) {
        self.slurm.nodes().down.insert(node_set.to_owned(), nodes);
        self.slurm.changed.notify_one();
    }

    /// NodeSets that were deleted while jobs ran or Pods were left, which crashes slurmctld.
    pub fn crashes(&self) -> Vec<String> {
        self.slurm.nodes().crashes.clone()
    }
}

impl Drop for SlinkyStandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Slurm {
    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self, node_set: &DynamicObject) -> Value {
        let name = node_set.metadata.name.as_deref().unwrap_or_default();
        let spec = node_set.data.get("spec").unwrap_or(&Value::Null);
        let known = |field: &str| node_set.data.pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or_default();
        let desired = spec.get("replicas").and_then(Value::as_i64).unwrap_or(1).max(0);
        let nodes = self.nodes();
        // Nodes with jobs are drained and stay until these have ended.
        let busy = nodes.busy.get(name).copied().unwrap_or_default().clamp(0, desired.max(known("replicas")));
        let pods = desired.max(busy);
        let down = nodes.down.get(name).copied().unwrap_or_default().clamp(0, pods - busy);
        json!({
            "observedGeneration": node_set.metadata.generation,
            "nodeSetHash": hash(spec),
            "selector": format!("app.kubernetes.io/instance={name},app.kubernetes.io/name=slurmd"),
            "desired": desired,
            "replicas": pods,
            "readyReplicas": pods - down,
            "updatedReplicas": pods,
            "availableReplicas": pods - down,
            "unavailableReplicas": down,
            "slurmIdle": pods - busy - down,
            "slurmAllocated": busy,
            "slurmDown": down,
            "slurmDrain": pods - desired,
        })
    }
}

/// Of the template alone, as a change of the number is no update.
fn hash(spec: &Value) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    for field in ["slurmd", "template", "extraConf"] {
        spec.get(field).map(Value::to_string).hash(&mut hasher);
    }
    format!("{:x}", hasher.finish())
}

fn version(object: &DynamicObject) -> u64 {
    object.metadata.resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

async fn run(client: Client, slurm: Arc<Slurm>) {
    let mut known: BTreeMap<(String, String), DynamicObject> = BTreeMap::new();
    let mut events = watcher(node_sets(client.clone(), None), watcher::Config::default()).default_backoff().boxed();
    let key = |object: &DynamicObject| (object.metadata.namespace.clone().unwrap_or_default(), object.metadata.name.clone().unwrap_or_default());
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                    // Our own writes are known before the watch brings them.
                    let known = known.entry(key(&object)).or_insert_with(|| object.clone());
                    if version(known) < version(&object) {
                        *known = object;
                    }
                }
                Some(Ok(watcher::Event::Delete(object))) => {
                    known.remove(&key(&object));
                    let count = |field: &str| object.data.pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or_default();
                    if count("slurmAllocated") > 0 || count("replicas") > 0 {
                        slurm.nodes().crashes.push(object.metadata.name.unwrap_or_default());
                    }
                }
                Some(Ok(watcher::Event::Init)) => known.clear(),
                Some(Ok(watcher::Event::InitDone) | Err(_)) => {}
                None => return,
            },
            () = slurm.changed.notified() => {}
        }
        for ((namespace, name), object) in &mut known {
            let status = slurm.status(object);
            if object.data.get("status") == Some(&status) {
                continue;
            }
            let api = node_sets(client.clone(), Some(namespace));
            match api.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await {
                Ok(written) => *object = written,
                Err(kube::Error::Api(refused)) if refused.is_not_found() => {}
                Err(_) => {
                    tokio::time::sleep(RETRY).await;
                    slurm.changed.notify_one();
                }
            }
        }
    }
}
