//! Watches the three kinds on the hub. An object that can not be decoded becomes an event of its own, and does not break the watch for the others.

use std::collections::BTreeSet;
use std::sync::Arc;

use aifactory_api::grant::GrantPhase;
use aifactory_api::{AIFactory, AccessGrant, ConditionType, GPUPool, Kind, OwnerRef};
use aifactory_plan::model::freshness::Incarnation;
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::broken::{Undecodable, conditions_of};
use crate::client::defined_watch;
use crate::tolerant_decode::{Broken, Tolerant};

/// One of our resources.
#[derive(Clone, Debug)]
pub enum AnyResource {
    /// A factory.
    Factory(Arc<AIFactory>),
    /// A pool.
    Pool(Arc<GPUPool>),
    /// A grant.
    Grant(Arc<AccessGrant>),
}

impl AnyResource {
    /// Its metadata.
    pub fn meta(&self) -> &ObjectMeta {
        match self {
            AnyResource::Factory(factory) => factory.meta(),
            AnyResource::Pool(pool) => pool.meta(),
            AnyResource::Grant(grant) => grant.meta(),
        }
    }

    /// Its phase, or for a factory or a pool whether it is ready, from a closed set for metrics.
    pub fn phase(&self) -> &'static str {
        match self {
            AnyResource::Grant(grant) => grant.status.as_ref().and_then(|status| status.phase).map_or("Unknown", GrantPhase::as_str),
            AnyResource::Factory(_) | AnyResource::Pool(_) => {
                let ready = self.conditions().iter().find(|condition| condition.type_ == ConditionType::Ready.as_str());
                match ready.map(|ready| ready.status.as_str()) {
                    Some("True") => "Ready",
                    Some("False") => "NotReady",
                    _ => "Unknown",
                }
            }
        }
    }

    /// The conditions in its status.
    pub fn conditions(&self) -> &[Condition] {
        let conditions = match self {
            AnyResource::Factory(factory) => factory.status.as_ref().map(|status| &status.conditions),
            AnyResource::Pool(pool) => pool.status.as_ref().map(|status| &status.conditions),
            AnyResource::Grant(grant) => grant.status.as_ref().map(|status| &status.conditions),
        };
        conditions.map(Vec::as_slice).unwrap_or_default()
    }
}

/// An event of a watch on the hub.
#[derive(Debug)]
pub enum WatchEvent {
    /// A resource was made or changed.
    Put(OwnerRef, AnyResource),
    /// A resource is gone, as of this version.
    Removed(OwnerRef, Incarnation),
    /// A new listing of a kind begins.
    Listing(Kind),
    /// All of a kind were listed: just these exist.
    Listed(Kind, BTreeSet<OwnerRef>),
    /// A resource can not be decoded.
    Undecodable(OwnerRef, Box<Undecodable>),
}

/// A kind of ours, as the watch needs it.
pub trait Watched:
    Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static
{
    const KIND: Kind;
    fn wrap(self) -> AnyResource;
}

impl Watched for AIFactory {
    const KIND: Kind = Kind::AIFactory;
    fn wrap(self) -> AnyResource {
        AnyResource::Factory(Arc::new(self))
    }
}

impl Watched for GPUPool {
    const KIND: Kind = Kind::GPUPool;
    fn wrap(self) -> AnyResource {
        AnyResource::Pool(Arc::new(self))
    }
}

impl Watched for AccessGrant {
    const KIND: Kind = Kind::AccessGrant;
    fn wrap(self) -> AnyResource {
        AnyResource::Grant(Arc::new(self))
    }
}

/// Watches a kind until the receiver is gone.
pub async fn watch<K: Watched>(client: Client, to: mpsc::Sender<WatchEvent>) {
    let api: Api<Tolerant<K>> = Api::all(client);
    let mut stream = watcher(api, defined_watch::config()).default_backoff().boxed();
    let mut listing = BTreeSet::new();
    while let Some(event) = stream.next().await {
        let seen = match event {
            Ok(watcher::Event::Init) => {
                listing.clear();
                WatchEvent::Listing(K::KIND)
            }
            // An object without a name can not be reconciled or named in a message.
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object) | watcher::Event::Delete(object))
                if object.meta().name.is_none() =>
            {
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                listing.insert(owner_of::<K>(object.meta()));
                event_of(object)
            }
            Ok(watcher::Event::InitDone) => WatchEvent::Listed(K::KIND, std::mem::take(&mut listing)),
            Ok(watcher::Event::Apply(object)) => event_of(object),
            Ok(watcher::Event::Delete(object)) => WatchEvent::Removed(owner_of::<K>(object.meta()), incarnation(object.meta())),
            Err(error) => {
                tracing::warn!(kind = %K::KIND, %error, "The watch on the hub failed");
                continue;
            }
        };
        if to.send(seen).await.is_err() {
            return;
        }
    }
}

/// The event for an object, whether it was listed, watched or the answer to a write.
pub fn event_of<K: Watched>(object: Tolerant<K>) -> WatchEvent {
    let owner = owner_of::<K>(object.meta());
    match object.into_result() {
        Ok(object) => WatchEvent::Put(owner, without_managed_fields(object).wrap()),
        Err(broken) => {
            let Broken { mut meta, why, text } = *broken;
            meta.managed_fields = None;
            WatchEvent::Undecodable(owner, Box::new(Undecodable { meta, conditions: conditions_of(&text), why }))
        }
    }
}

/// UID and version, which order the states of a resource that were seen.
pub fn incarnation(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Incarnation {
    Incarnation::parse(meta.uid.as_deref().unwrap_or_default(), meta.resource_version.as_deref().unwrap_or_default())
}

fn without_managed_fields<K: Watched>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

fn owner_of<K: Watched>(meta: &ObjectMeta) -> OwnerRef {
    OwnerRef::new(K::KIND, meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}
