//! Watching a site: every object of ours, and what others put into tenants' namespaces, as a stream of observations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::labels;
use aifactory_plan::engine;
use aifactory_plan::engine::nodes::NodeView;
use aifactory_plan::model::id::HubId;
use aifactory_plan::model::object::{ObjectKey, ObjectKind};
use aifactory_plan::model::text::shorten;
use aifactory_plan::site::index::IndexedObject;
use aifactory_plan::site::usage::pod_time::PodView;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource as _};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::defined_watch;
use crate::supervise::restarted;
use crate::telemetry::metrics::{Metrics, ProcessTask};
use crate::tolerant_decode::Tolerant;

/// What a ConfigMap holds.
type Data = BTreeMap<String, String>;

/// Something that was seen on a site.
#[derive(Debug)]
pub enum Observation {
    /// An object was made or changed.
    Put(Box<IndexedObject>),
    /// An object is gone, as it was at last.
    Removed(Gone<ObjectKey>),
    /// The objects of a kind are listed from here on; versions that were seen before say nothing any more.
    Listing(ObjectKind),
    /// All objects of a kind were listed: just these exist.
    Listed(ObjectKind, BTreeSet<ObjectKey>),
    /// A node was made or changed; its resourceVersion beside.
    Node(Box<NodeView>, u64),
    /// A node is gone, as it was at last.
    NodeRemoved(Gone<String>),
    /// The nodes are listed from here on.
    NodesListing,
    /// All nodes were listed: just these exist.
    NodesListed(BTreeSet<String>),
    /// A Pod that asks for accelerators was made or changed.
    Pod(Box<PodView>),
    /// Such a Pod is gone; as it was at last.
    PodRemoved(Box<PodView>),
    /// All such Pods were listed: just these exist, by UID.
    PodsListed(BTreeSet<String>),
    /// The watch on Pods failed, with why where nothing can be seen at all.
    PodsUnseen(Option<String>),
    /// Pods are listed anew, since they were not watched from this moment on.
    PodsUnwatched(Timestamp),
    /// The site's own policy; `None`: there is none.
    Policy(Option<Data>),
    /// The site's own map of members to users of its Slurm; `None`: there is none.
    SlurmUsers(Option<Data>),
    /// A watch failed; it is begun again by itself.
    Failed(String),
}

/// What is gone.
#[derive(Debug)]
pub struct Gone<K> {
    /// Its name.
    pub key: K,
    /// Its UID.
    pub uid: String,
    /// Its last resourceVersion.
    pub version: u64,
}

impl<K> Gone<K> {
    fn new(key: K, metadata: &ObjectMeta) -> Self {
        Self { key, uid: metadata.uid.clone().unwrap_or_default(), version: version(metadata) }
    }
}

fn version(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// Begins to watch `kinds`, nodes and the ConfigMaps by which the site admin configures the operator. Ends when the set is dropped.
pub fn watch(
    client: &Client,
    metrics: &Arc<Metrics>,
    hub: &HubId,
    kinds: &BTreeSet<ObjectKind>,
    to: &mpsc::Sender<(u64, Observation)>,
    session: u64,
) -> JoinSet<()> {
    let mut watches = Watches { tasks: JoinSet::new(), client, metrics, to, session };
    for kind in kinds.iter().copied() {
        let hub = hub.clone();
        watches.begin(move |client, to, session| watch_kind(client, kind, hub.clone(), to, session));
    }
    watches.begin(watch_nodes);
    watches.begin(watch_pods);
    watches.begin(|client, to, session| watch_config_map(client, labels::SITE_POLICY, Observation::Policy, to, session));
    watches.begin(|client, to, session| watch_config_map(client, labels::SLURM_USERS, Observation::SlurmUsers, to, session));
    watches.tasks
}

struct Watches<'a> {
    tasks: JoinSet<()>,
    client: &'a Client,
    metrics: &'a Arc<Metrics>,
    to: &'a mpsc::Sender<(u64, Observation)>,
    session: u64,
}

impl Watches<'_> {
    /// Begins a watch, and begins it again where it panics.
    fn begin<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        watch: impl Fn(Client, mpsc::Sender<(u64, Observation)>, u64) -> F + Send + Sync + 'static,
    ) {
        let (client, metrics, to, session) = (self.client.clone(), self.metrics.clone(), self.to.clone(), self.session);
        self.tasks.spawn(async move { restarted(ProcessTask::SiteWatch, &metrics, || watch(client.clone(), to.clone(), session)).await });
    }
}

/// The API resource of a kind.
pub fn api_resource(kind: ObjectKind) -> ApiResource {
    let (group, version, name, plural) = kind.gvk();
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: kind.api_version(),
        kind: name.to_owned(),
        plural: plural.to_owned(),
    }
}

/// An object as JSON. Of one that can not be decoded there is its metadata, so that it is known to be there, whose it is, and that it is not what a
/// plan wants.
pub fn as_json(object: Tolerant<DynamicObject>) -> Value {
    match object {
        Tolerant::Read(object) => serde_json::to_value(object).unwrap_or_default(),
        Tolerant::Broken(broken) => {
            warn_unreadable("object", &broken.meta);
            json!({"metadata": broken.meta})
        }
    }
}

fn warn_unreadable(what: &str, meta: &ObjectMeta) {
    let (namespace, name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    tracing::warn!(what, namespace, name, "Can not be decoded");
}

async fn watch_kind(client: Client, kind: ObjectKind, hub: HubId, to: mpsc::Sender<(u64, Observation)>, session: u64) {
    let api: Api<Tolerant<DynamicObject>> = Api::all_with(client, &api_resource(kind));
    // By name, and never by label: what lost our label is still ours, and what others put into tenants' namespaces is to be seen.
    let Some(used) = engine::ALL.use_of(kind) else { return };
    let config = if used.api.is_some() { defined_watch::config() } else { watcher::Config::default() };
    let config = match used.name {
        Some(name) => config.fields(&format!("metadata.name={name}")),
        None => config,
    };
    let may_concern =
        |metadata: &ObjectMeta| used.concerns(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default());
    let reduce = |object: Tolerant<DynamicObject>| -> Option<IndexedObject> {
        if !may_concern(object.meta()) {
            return None;
        }
        IndexedObject::reduce(engine::ALL, kind, &as_json(object), &hub)
    };
    let mut stream = watcher(api, config).default_backoff().boxed();
    let mut listing = BTreeSet::new();
    while let Some(event) = stream.next().await {
        let observation = match event {
            Ok(watcher::Event::Init) => {
                listing.clear();
                Observation::Listing(kind)
            }
            Ok(watcher::Event::InitApply(object)) => match reduce(object) {
                Some(seen) => {
                    listing.insert(seen.key.clone());
                    Observation::Put(Box::new(seen))
                }
                None => continue,
            },
            Ok(watcher::Event::InitDone) => Observation::Listed(kind, std::mem::take(&mut listing)),
            Ok(watcher::Event::Apply(object)) => match reduce(object) {
                Some(seen) => Observation::Put(Box::new(seen)),
                None => continue,
            },
            Ok(watcher::Event::Delete(object)) => {
                let metadata = object.meta();
                if !may_concern(metadata) {
                    continue;
                }
                let key =
                    ObjectKey { kind, namespace: metadata.namespace.clone().unwrap_or_default(), name: metadata.name.clone().unwrap_or_default() };
                Observation::Removed(Gone::new(key, metadata))
            }
            Err(error) => Observation::Failed(format!("{kind:?}: {error}")),
        };
        if to.send((session, observation)).await.is_err() {
            return;
        }
    }
}

async fn watch_nodes(client: Client, to: mpsc::Sender<(u64, Observation)>, session: u64) {
    let api: Api<Tolerant<Node>> = Api::all(client);
    let mut stream = watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut listing = BTreeSet::new();
    while let Some(event) = stream.next().await {
        let observation = match event {
            Ok(watcher::Event::Init) => {
                listing.clear();
                Observation::NodesListing
            }
            Ok(watcher::Event::InitApply(Tolerant::Read(node))) => {
                let view = NodeView::from_node(&node);
                listing.insert(view.name.clone());
                Observation::Node(Box::new(view), version(&node.metadata))
            }
            // A node of which nothing is known but its name is left alone, as one that is not there.
            Ok(watcher::Event::InitApply(Tolerant::Broken(broken))) => {
                warn_unreadable("Node", &broken.meta);
                continue;
            }
            Ok(watcher::Event::Apply(Tolerant::Broken(broken))) => {
                warn_unreadable("Node", &broken.meta);
                Observation::NodeRemoved(Gone::new(broken.meta.name.clone().unwrap_or_default(), &broken.meta))
            }
            Ok(watcher::Event::InitDone) => Observation::NodesListed(std::mem::take(&mut listing)),
            Ok(watcher::Event::Apply(Tolerant::Read(node))) => Observation::Node(Box::new(NodeView::from_node(&node)), version(&node.metadata)),
            Ok(watcher::Event::Delete(node)) => Observation::NodeRemoved(Gone::new(node.meta().name.clone().unwrap_or_default(), node.meta())),
            Err(error) => Observation::Failed(format!("Node: {error}")),
        };
        if to.send((session, observation)).await.is_err() {
            return;
        }
    }
}

/// Pods of the whole site, since no selector tells which are in a tenant's namespace; of others' nothing is kept.
async fn watch_pods(client: Client, to: mpsc::Sender<(u64, Observation)>, session: u64) {
    let api: Api<Tolerant<Pod>> = Api::all(client);
    let mut stream = watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut listing = BTreeSet::new();
    // A watch that goes on where it broke has missed nothing; one that lists anew may have.
    let mut broken = None;
    while let Some(event) = stream.next().await {
        let observation = match event {
            Ok(watcher::Event::Init) => {
                listing.clear();
                match broken.take() {
                    Some(since) => Observation::PodsUnwatched(since),
                    None => continue,
                }
            }
            Ok(watcher::Event::InitApply(pod)) => match pod_view(pod) {
                Some(view) => {
                    listing.insert(view.uid.clone());
                    Observation::Pod(Box::new(view))
                }
                None => continue,
            },
            Ok(watcher::Event::InitDone) => Observation::PodsListed(std::mem::take(&mut listing)),
            Ok(watcher::Event::Apply(pod)) => {
                broken = None;
                match pod_view(pod) {
                    Some(view) => Observation::Pod(Box::new(view)),
                    None => continue,
                }
            }
            Ok(watcher::Event::Delete(pod)) => {
                broken = None;
                match pod_view(pod) {
                    Some(view) => Observation::PodRemoved(Box::new(view)),
                    None => continue,
                }
            }
            Err(error) => {
                broken.get_or_insert_with(Timestamp::now);
                Observation::PodsUnseen(unseen(&error))
            }
        };
        if to.send((session, observation)).await.is_err() {
            return;
        }
    }
}

/// What is kept of a Pod. One that can not be decoded is not counted: only the site's kubelets and schedulers write what could make it so.
fn pod_view(pod: Tolerant<Pod>) -> Option<PodView> {
    match pod {
        Tolerant::Read(pod) => PodView::from_pod(&pod),
        Tolerant::Broken(broken) => {
            warn_unreadable("Pod", &broken.meta);
            None
        }
    }
}

/// Why no Pod can be seen. Nothing waits for Pods: a list of them that fails costs the count, and nothing else.
fn unseen(error: &watcher::Error) -> Option<String> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if status.code == 403 =>
        {
            Some("the site's ClusterRole aifactory-site-operator does not let the operator list and watch Pods".to_owned())
        }
        watcher::Error::InitialListFailed(error) => Some(format!("Pods could not be listed: {}", shorten(&error.to_string(), 200))),
        _ => None,
    }
}

/// Watches a ConfigMap by which the site admin configures the operator.
async fn watch_config_map(
    client: Client,
    name: &str,
    observation: fn(Option<Data>) -> Observation,
    to: mpsc::Sender<(u64, Observation)>,
    session: u64,
) {
    let api: Api<Tolerant<ConfigMap>> = Api::namespaced(client, labels::SYSTEM_NAMESPACE);
    let data = |found: Tolerant<ConfigMap>| match found {
        Tolerant::Read(found) => found.data.unwrap_or_default(),
        // Nothing is given by rules that nobody could read.
        Tolerant::Broken(broken) => {
            warn_unreadable("ConfigMap", &broken.meta);
            if name == labels::SITE_POLICY { Data::from([("paused".to_owned(), "true".to_owned())]) } else { Data::new() }
        }
    };
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut stream = watcher(api, config).default_backoff().boxed();
    let mut found = None;
    while let Some(event) = stream.next().await {
        let observation = match event {
            Ok(watcher::Event::Init) => {
                found = None;
                continue;
            }
            Ok(watcher::Event::InitApply(applied)) => {
                found = Some(data(applied));
                continue;
            }
            Ok(watcher::Event::InitDone) => observation(found.take()),
            Ok(watcher::Event::Apply(applied)) => observation(Some(data(applied))),
            Ok(watcher::Event::Delete(_)) => observation(None),
            Err(error) => Observation::Failed(format!("{name}: {error}")),
        };
        if to.send((session, observation)).await.is_err() {
            return;
        }
    }
}
