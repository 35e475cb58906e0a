//! An API server in memory with the resources of a hub: it answers patches, and sends them to the hub's controller as a watch would.

// The objects are those of this bench; a field that is not there is null.
#![allow(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use aifactory_api::{AIFactory, AccessGrant, GPUPool, Kind, OwnerRef};
use aifactory_operator::hub::{AnyResource, WatchEvent};
use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::Failure;

/// What is stored, by path.
#[derive(Default)]
struct Stored {
    objects: BTreeMap<String, Value>,
    version: u64,
    writes: u64,
    last_write: Option<Instant>,
    watch: Option<mpsc::UnboundedSender<WatchEvent>>,
}

/// The API server.
#[derive(Clone, Default)]
pub struct Server(Arc<Mutex<Stored>>);

impl Server {
    fn with<T>(&self, of: impl FnOnce(&mut Stored) -> T) -> T {
        of(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A controller watches from now on, in place of the one before; it is sent everything first.
    pub fn watch(&self, watch: mpsc::UnboundedSender<WatchEvent>) -> Result<(), Failure> {
        self.with(|stored| {
            for object in stored.objects.values().filter(|object| owner(object).is_some()) {
                watch.send(event_of(object)?)?;
            }
            let owners: Vec<OwnerRef> = stored.objects.values().filter_map(owner).collect();
            for kind in [Kind::AIFactory, Kind::GPUPool, Kind::AccessGrant] {
                watch.send(WatchEvent::Listed(kind, owners.iter().filter(|owner| owner.kind == kind).cloned().collect()))?;
            }
            stored.watch = Some(watch);
            Ok(())
        })
    }

    /// Somebody applies a resource.
    pub fn apply(&self, mut object: Value) -> Result<(), Failure> {
        let path = path(&object).ok_or("not a resource")?;
        self.with(|stored| {
            let before = stored.objects.get(&path);
            let generation = before.and_then(|before| before["metadata"]["generation"].as_i64()).unwrap_or_default() + 1;
            object["metadata"]["generation"] = json!(generation);
            if let Some(status) = before.and_then(|before| before.get("status")) {
                object["status"] = status.clone();
            }
            stored.store(path, object).map(|_| ())
        })
    }

    /// How many writes it has answered, and when the last one came.
    pub fn writes(&self) -> (u64, Option<Instant>) {
        self.with(|stored| (stored.writes, stored.last_write))
    }

    /// How many grants say that they are Ready in this generation.
    pub fn ready_grants(&self) -> usize {
        self.with(|stored| stored.objects.values().filter(|object| object["kind"] == "AccessGrant" && is_ready(object)).count())
    }

    /// A client whose requests are answered by the runtime of this task, so that their cost is not the controller's.
    pub fn client(&self) -> Client {
        let (requests, mut received) = mpsc::unbounded_channel::<(Method, String, Vec<u8>, tokio::sync::oneshot::Sender<(StatusCode, Vec<u8>)>)>();
        let server = self.clone();
        tokio::spawn(async move {
            while let Some((method, path, body, answer)) = received.recv().await {
                let _ = answer.send(server.answer(&method, &path, &body));
            }
        });
        let service = tower::service_fn(move |request: Request<Body>| {
            let requests = requests.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let (answer, answered) = tokio::sync::oneshot::channel();
                requests.send((parts.method, parts.uri.path().to_owned(), body.to_vec(), answer))?;
                let (status, text) = answered.await?;
                Ok::<_, Failure>(Response::builder().status(status).body(Body::from(text))?)
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Vec<u8>) {
        let patch: Value = serde_json::from_slice(body).unwrap_or_default();
        let found = self.with(|stored| stored.answer(method, path, patch));
        let missing = || json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "none"});
        let (status, answer) = found.map_or_else(|| (StatusCode::NOT_FOUND, missing()), |found| (StatusCode::OK, found));
        (status, serde_json::to_vec(&answer).unwrap_or_default())
    }
}

impl Stored {
    fn answer(&mut self, method: &Method, path: &str, patch: Value) -> Option<Value> {
        if *method == Method::POST {
            return Some(patch);
        }
        let (path, is_status) = path.strip_suffix("/status").map_or((path, false), |path| (path, true));
        let found = self.objects.get(path).cloned();
        if *method == Method::GET {
            return found;
        }
        self.writes += 1;
        self.last_write = Some(Instant::now());
        if !is_status {
            self.objects.insert(path.to_owned(), patch.clone());
            return Some(patch);
        }
        let mut object = found?;
        object["status"] = patch["status"].clone();
        self.store(path.to_owned(), object).ok()
    }

    fn store(&mut self, path: String, mut object: Value) -> Result<Value, Failure> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path, object.clone());
        if let Some(watch) = &self.watch {
            let _ = watch.send(event_of(&object)?);
        }
        Ok(object)
    }
}

fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| {
        condition["type"] == "Ready" && condition["status"] == "True" && condition["observedGeneration"] == object["metadata"]["generation"]
    })
}

fn owner(object: &Value) -> Option<OwnerRef> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    Some(OwnerRef::new(Kind::parse(text("/kind")?)?, text("/metadata/namespace")?, text("/metadata/name")?))
}

fn path(object: &Value) -> Option<String> {
    let owner = owner(object)?;
    let plural = match owner.kind {
        Kind::AIFactory => "aifactories",
        Kind::GPUPool => "gpupools",
        Kind::AccessGrant => "accessgrants",
    };
    Some(format!("/apis/aifactory.dev/v1alpha1/namespaces/{}/{plural}/{}", owner.namespace, owner.name))
}

fn event_of(object: &Value) -> Result<WatchEvent, Failure> {
    let owner = owner(object).ok_or("not a resource")?;
    let resource = match owner.kind {
        Kind::AIFactory => AnyResource::Factory(Arc::new(serde_json::from_value::<AIFactory>(object.clone())?)),
        Kind::GPUPool => AnyResource::Pool(Arc::new(serde_json::from_value::<GPUPool>(object.clone())?)),
        Kind::AccessGrant => AnyResource::Grant(Arc::new(serde_json::from_value::<AccessGrant>(object.clone())?)),
    };
    Ok(WatchEvent::Put(owner, resource))
}
