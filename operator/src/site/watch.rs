//! Watching a site: every object of ours, and what others put into tenants' namespaces, as a stream of observations.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::labels;
use aifactory_plan::nodes::NodeView;
use aifactory_plan::object::{ObjectKey, ObjectKind};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::index::Seen;

/// Something that was seen on a site.
#[derive(Debug)]
pub enum Observation {
    /// An object was made or changed.
    Put(Box<Seen>),
    /// An object is gone.
    Removed(ObjectKey),
    /// All objects of a kind were listed: just these exist.
    Listed(ObjectKind, BTreeSet<ObjectKey>),
    /// A node was made or changed.
    Node(Box<NodeView>),
    /// A node is gone.
    NodeRemoved(String),
    /// All nodes were listed: just these exist.
    NodesListed(BTreeSet<String>),
    /// The site's own policy; `None`: there is none.
    Policy(Option<BTreeMap<String, String>>),
    /// A watch failed; it is begun again by itself.
    Failed(String),
}

/// Begins to watch `kinds`, nodes and the site's policy. Ends when the set is dropped.
pub fn watch(client: &Client, hub: &str, kinds: &[ObjectKind], to: &mpsc::Sender<(u64, Observation)>, session: u64) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for kind in kinds {
        tasks.spawn(watch_kind(client.clone(), *kind, hub.to_owned(), to.clone(), session));
    }
    tasks.spawn(watch_nodes(client.clone(), to.clone(), session));
    tasks.spawn(watch_policy(client.clone(), to.clone(), session));
    tasks
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

async fn watch_kind(client: Client, kind: ObjectKind, hub: String, to: mpsc::Sender<(u64, Observation)>, session: u64) {
    let api: Api<DynamicObject> = Api::all_with(client, &api_resource(kind));
    let config = match kind {
        // Listing all of them shows what others put into tenants' namespaces.
        ObjectKind::RoleBinding | ObjectKind::NetworkPolicy => watcher::Config::default(),
        // The site role lets us see this one name only.
        ObjectKind::ConfigMap => watcher::Config::default().fields("metadata.name=aifactory-access"),
        ObjectKind::Namespace
        | ObjectKind::ResourceQuota
        | ObjectKind::LimitRange
        | ObjectKind::ServiceAccount
        | ObjectKind::NodeSet
        | ObjectKind::ClusterNetworkPolicy => watcher::Config::default().labels("aifactory.dev/managed=true"),
    };
    let reduce = |object: DynamicObject| -> Option<Seen> {
        let inside = object.metadata.namespace.as_deref().is_none_or(|namespace| namespace.starts_with(labels::PREFIX));
        // Reducing is what costs, and most role bindings of a site are not in a tenant's namespace.
        if !inside && kind != ObjectKind::NodeSet {
            return None;
        }
        Seen::reduce(kind, &serde_json::to_value(object).ok()?, &hub)
    };
    let mut stream = watcher(api, config).default_backoff().boxed();
    let mut listing = BTreeSet::new();
    while let Some(event) = stream.next().await {
        let observation = match event {
            Ok(watcher::Event::Init) => {
                listing.clear();
                continue;
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
            Ok(watcher::Event::Delete(object)) => Observation::Removed(ObjectKey {
                kind,
                namespace: object.metadata.namespace.unwrap_or_default(),
                name: object.metadata.name.unwrap_or_default(),
            }),
            Err(error) => Observation::Failed(format!("{kind:?}: {error}")),
        };
        if to.send((session, observation)).await.is_err() {
            return;
        }
    }
}

async fn watch_nodes(client: Client, to: mpsc::Sender<(u64, Observation)>, session: u64) {
    let api: Api<k8s_openapi::api::core::v1::Node> = Api::all(client);
    let mut stream = watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut listing = BTreeSet::new();
    while let Some(event) = stream.next().await {
        let observation = match event {
            Ok(watcher::Event::Init) => {
                listing.clear();
                continue;
            }
            Ok(watcher::Event::InitApply(node)) => {
                let view = NodeView::from_node(&node);
                listing.insert(view.name.clone());
                Observation::Node(Box::new(view))
            }
            Ok(watcher::Event::InitDone) => Observation::NodesListed(std::mem::take(&mut listing)),
            Ok(watcher::Event::Apply(node)) => Observation::Node(Box::new(NodeView::from_node(&node))),
            Ok(watcher::Event::Delete(node)) => Observation::NodeRemoved(node.metadata.name.unwrap_or_default()),
            Err(error) => Observation::Failed(format!("Node: {error}")),
        };
        if to.send((session, observation)).await.is_err() {
            return;
        }
    }
}

async fn watch_policy(client: Client, to: mpsc::Sender<(u64, Observation)>, session: u64) {
    let api: Api<ConfigMap> = Api::namespaced(client, labels::SYSTEM_NAMESPACE);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", labels::SITE_POLICY));
    let mut stream = watcher(api, config).default_backoff().boxed();
    let mut found = None;
    while let Some(event) = stream.next().await {
        let observation = match event {
            Ok(watcher::Event::Init) => {
                found = None;
                continue;
            }
            Ok(watcher::Event::InitApply(policy)) => {
                found = Some(policy.data.unwrap_or_default());
                continue;
            }
            Ok(watcher::Event::InitDone) => Observation::Policy(found.take()),
            Ok(watcher::Event::Apply(policy)) => Observation::Policy(Some(policy.data.unwrap_or_default())),
            Ok(watcher::Event::Delete(_)) => Observation::Policy(None),
            Err(error) => Observation::Failed(format!("{}: {error}", labels::SITE_POLICY)),
        };
        if to.send((session, observation)).await.is_err() {
            return;
        }
    }
}
