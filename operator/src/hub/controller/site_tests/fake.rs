//! Sites and an API server for tests of the hub's controller.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant, GPUPool, Kind, OwnerRef};
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::freshness::Incarnation;
use aifactory_plan::model::id::HubId;
use aifactory_plan::model::intent::{Intent, SiteIntent};
use aifactory_plan::model::report::{Detail, GrantDetail, Report, SitePhase};
use aifactory_plan::model::site_key::SiteKey;
use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tower::{BoxError, service_fn};

use crate::client::{ClientSettings, Clients};
use crate::credential::AddressRules;
use crate::credential::reader::{CredentialReader, Looks};
use crate::hub::controller::{Hub, HubRecord, HubSettings};
use crate::hub::known_sites;
use crate::hub::sites::StartWorker;
use crate::hub::watch::{AnyResource, WatchEvent, Watched};
use crate::lease::WriteGate;
use crate::telemetry::event_recorder::EventRecorder;
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;
use crate::transport::{DesiredSet, FromSite, SiteSender, ToSite, WorkerSender};

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
pub struct Server {
    objects: BTreeMap<String, Value>,
    requests: Vec<String>,
    refuse_config_maps: bool,
    version: u64,
}

type Workers = Arc<Mutex<Vec<(SiteKey, FakeSite)>>>;

/// A hub under test with its surroundings.
pub struct World {
    server: Arc<Mutex<Server>>,
    seen: mpsc::Sender<WatchEvent>,
    workers: Workers,
    _stop: oneshot::Sender<()>,
}

/// The hub's counterpart at one part of a site.
pub struct FakeSite {
    hub: WorkerSender,
    inbox: mpsc::UnboundedReceiver<ToSite>,
    intents: BTreeMap<OwnerRef, Arc<Intent>>,
}

struct FakeWorkers(Workers);

impl StartWorker for FakeWorkers {
    fn start(&self, key: SiteKey, _: CredentialSource, hub: WorkerSender) -> SiteSender {
        let (sender, inbox) = mpsc::unbounded_channel();
        self.0.lock().unwrap().push((key, FakeSite { hub, inbox, intents: BTreeMap::new() }));
        sender
    }
}

impl World {
    pub async fn start(server: Option<Arc<Mutex<Server>>>) -> Self {
        let server = server.unwrap_or_default();
        let (seen, receiver) = mpsc::channel(1024);
        let client = client(server.clone(), seen.clone());
        let clients = Clients { rpc: client.clone(), watch: client.clone() };
        let rules = AddressRules::default();
        let settings = ClientSettings { gate: WriteGate::always_open(), addresses: None, requests: None };
        let (events, publish) = Events::new(client.clone(), "test".to_owned());
        tokio::spawn(publish);
        let workers = Workers::default();
        let (hub, _) = Hub::with_workers(
            HubSettings {
                namespace: "aifactory-system".to_owned(),
                client: client.clone(),
                watch: client.clone(),
                reader: CredentialReader { hub: client.clone(), local: clients, rules, settings, looks: Looks::default() },
                event_recorder: EventRecorder::new(events),
                metrics: Arc::new(Metrics::new()),
                test_hooks: false,
            },
            Box::new(FakeWorkers(workers.clone())),
        );
        let known = known_sites::load(&client, "aifactory-system").await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let lead = async move { Ok::<_, std::convert::Infallible>(HubRecord { id: HubId::new("0123456789abcdef"), known }) };
        tokio::spawn(hub.run_on(receiver, lead, async move {
            let _ = stopped.await;
        }));
        Self { server, seen, workers, _stop: stop }
    }

    /// Another process on what the API server keeps beside the resources.
    pub async fn restart(self) -> Self {
        let server = self.server.clone();
        server.lock().unwrap().objects.retain(|path, _| path.contains("/configmaps/"));
        drop(self);
        World::start(Some(server)).await
    }

    /// Somebody applies a resource.
    pub fn put(&mut self, mut object: Value) {
        let path = path_of(&object);
        let mut server = self.server.lock().unwrap();
        server.version += 1;
        let before = server.objects.get(&path).cloned();
        object["metadata"]["resourceVersion"] = json!(server.version.to_string());
        let generation = before.as_ref().and_then(|before| before["metadata"]["generation"].as_i64()).unwrap_or_default() + 1;
        object["metadata"]["generation"] = json!(generation);
        object["metadata"]["finalizers"] = json!(["aifactory.dev/finalizer"]);
        if let Some(status) = before.and_then(|before| before.get("status").cloned()) {
            object["status"] = status;
        }
        server.objects.insert(path, object.clone());
        drop(server);
        self.seen.try_send(event_of(&object)).unwrap();
    }

    /// A resource was deleted and made again under its name, and the watch has not told that yet. Returns what it is to tell.
    pub fn made_again_unseen(&mut self, owner: &OwnerRef) -> Value {
        let mut server = self.server.lock().unwrap();
        server.version += 1;
        let version = server.version;
        let object = server.objects.values_mut().find(|object| owner_of(object).as_ref() == Some(owner)).expect("the resource is there");
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        object["metadata"]["uid"] = json!("made-again");
        object.as_object_mut().unwrap().remove("status");
        object.clone()
    }

    /// The watch tells of an object.
    pub fn tell(&mut self, object: &Value) {
        self.seen.try_send(event_of(object)).unwrap();
    }

    /// The resource goes without anybody having ended it.
    pub fn vanish(&mut self, owner: &OwnerRef) {
        let mut server = self.server.lock().unwrap();
        server.version += 1;
        let version = server.version;
        let found = server.objects.values().find(|object| owner_of(object).as_ref() == Some(owner)).expect("the resource is there");
        let uid = found["metadata"]["uid"].as_str().unwrap().to_owned();
        server.objects.retain(|_, object| owner_of(object).as_ref() != Some(owner));
        drop(server);
        self.seen.try_send(WatchEvent::Removed(owner.clone(), Incarnation::new(&uid, version))).unwrap();
    }

    /// Everything was listed.
    pub fn listed(&mut self) {
        let objects: Vec<OwnerRef> = self.server.lock().unwrap().objects.values().filter_map(owner_of).collect();
        for kind in [Kind::AIFactory, Kind::GPUPool, Kind::AccessGrant] {
            let names = objects.iter().filter(|owner| owner.kind == kind).cloned().collect();
            self.seen.try_send(WatchEvent::Listed(kind, names)).unwrap();
        }
    }

    /// The newest worker of a part that no test has taken yet.
    pub async fn worker(&self, key: &SiteKey) -> FakeSite {
        eventually("a worker", || {
            let mut workers = self.workers.lock().unwrap();
            let at = workers.iter().position(|(known, _)| known == key)?;
            Some(workers.remove(at).1)
        })
        .await
    }

    pub fn refuse_config_maps(&self, refuse: bool) {
        self.server.lock().unwrap().refuse_config_maps = refuse;
    }

    pub fn requests(&self, path: &str) -> usize {
        self.server.lock().unwrap().requests.iter().filter(|request| request.contains(path)).count()
    }

    pub fn delete_config_map(&self, name: &str) {
        self.server.lock().unwrap().objects.remove(&format!("/api/v1/namespaces/aifactory-system/configmaps/{name}"));
    }

    pub fn config_map(&self, name: &str) -> Option<Value> {
        self.server.lock().unwrap().objects.get(&format!("/api/v1/namespaces/aifactory-system/configmaps/{name}")).cloned()
    }

    pub fn object(&self, owner: &OwnerRef) -> Option<Value> {
        self.server.lock().unwrap().objects.values().find(|object| owner_of(object).as_ref() == Some(owner)).cloned()
    }

    /// Waits until a resource is gone.
    pub async fn gone(&self, owner: &OwnerRef) {
        eventually("the resource to go", || self.object(owner).is_none().then_some(())).await;
    }
}

impl FakeSite {
    pub fn send(&self, message: FromSite) {
        self.hub.send(message);
    }

    /// The next message about the site.
    pub async fn site_intent(&mut self) -> SiteIntent {
        loop {
            if let ToSite::Site(intent) = self.next().await {
                return *intent;
            }
        }
    }

    /// The order about an owner, which may have come already.
    pub async fn intent_of(&mut self, owner: &OwnerRef) -> Arc<Intent> {
        loop {
            if let Some(intent) = self.intents.get(owner) {
                return intent.clone();
            }
            self.next().await;
        }
    }

    /// What the site was told last about an owner.
    pub fn last_intent_of(&mut self, owner: &OwnerRef) -> Option<Arc<Intent>> {
        self.received();
        self.intents.get(owner).cloned()
    }

    pub async fn withdrawn(&mut self, owner: &OwnerRef) {
        loop {
            match self.next().await {
                ToSite::Withdraw(withdrawn) if withdrawn == *owner => return,
                _ => {}
            }
        }
    }

    pub async fn everything(&mut self) -> DesiredSet {
        loop {
            if let ToSite::Everything(set) = self.next().await {
                return *set;
            }
        }
    }

    /// What has come in and nobody has looked at yet.
    pub fn received(&mut self) -> Vec<ToSite> {
        let mut received = Vec::new();
        while let Ok(message) = self.inbox.try_recv() {
            self.note(&message);
            received.push(message);
        }
        received
    }

    /// Whether the hub has ended this worker.
    pub fn ended(&mut self) -> bool {
        self.received();
        self.inbox.is_closed()
    }

    pub async fn end(&mut self) {
        let end = async { while self.inbox.recv().await.is_some() {} };
        tokio::time::timeout(PATIENCE, end).await.expect("the hub ends the worker");
    }

    async fn next(&mut self) -> ToSite {
        let message = tokio::time::timeout(PATIENCE, self.inbox.recv()).await.expect("a message from the hub").expect("the worker is not ended");
        self.note(&message);
        message
    }

    fn note(&mut self, message: &ToSite) {
        if let ToSite::Put(intent) = message {
            self.intents.insert(intent.owner.clone(), intent.clone());
        }
    }
}

/// A report that says that access is gone and nothing is there.
pub fn gone(intent: &Intent) -> Report {
    Report::answering(intent, SitePhase::Gone, Detail::Grant(GrantDetail { access_removed: true, ..GrantDetail::default() }))
}

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            match look() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited for {what}"))
}

pub fn site(name: &str) -> Value {
    json!({"name": name, "country": "LU", "stage": "Production",
        "kubernetes": {"push": {"kubeconfigSecretRef": {"name": format!("{name}-kubeconfig"), "key": "kubeconfig"}}},
        "network": {"podCIDRs": ["10.1.0.0/16"], "serviceCIDRs": ["10.2.0.0/16"], "nodeCIDRs": ["10.3.0.0/16"],
            "dns": {"namespace": "kube-system", "podLabels": {"k8s-app": "kube-dns"}}}})
}

pub fn factory(change: Value) -> Value {
    merged(
        json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": "AIFactory",
            "metadata": {"name": "ardenne", "namespace": "ardenne", "uid": "factory-1", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"type": "Factory", "sites": [site("bissen")]}}),
        change,
    )
}

pub fn pool(change: Value) -> Value {
    merged(
        json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": "GPUPool",
            "metadata": {"name": "h100", "namespace": "ardenne", "uid": "pool-1", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"factoryRef": {"name": "ardenne"}, "stage": "Production",
                "accelerator": {"vendor": "nvidia", "model": "H100", "resourceName": "nvidia.com/gpu", "perNode": 4},
                "perGPU": {"cpus": 8, "memoryGiB": 64}, "kubernetes": {},
                "nodes": {"adopt": {"selector": {"matchLabels": {"gpu": "h100"}}}}, "sites": [{"name": "bissen", "count": 1}]}}),
        change,
    )
}

pub fn grant(change: Value) -> Value {
    merged(
        json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": "AccessGrant",
            "metadata": {"name": "voxelia", "namespace": "ardenne", "uid": "grant-1", "creationTimestamp": "2026-01-02T00:00:00Z"},
            "spec": {"factoryRef": {"name": "ardenne"}, "organisation": {"name": "Voxelia", "country": "FR", "category": "SME"},
                "code": "EHPC-AIF-2026PG99-001", "accessMode": "Playground",
                "members": [{"id": "p-1", "role": "Lead", "kubernetes": {"kind": "User", "name": "oidc:1"}}],
                "pools": [{"name": "h100", "poolRef": {"name": "h100"}, "gpuHours": 10, "maxGPUs": 1}],
                "notBefore": "2026-01-01T00:00:00Z", "notAfter": "2199-01-01T00:00:00Z"}}),
        change,
    )
}

/// Objects merge field by field, lists of objects item by item; everything else is replaced.
fn merged(mut object: Value, change: Value) -> Value {
    merge(&mut object, change);
    object
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(change)) if into.len() == change.len() && change.iter().all(Value::is_object) => {
            into.iter_mut().zip(change).for_each(|(into, change)| merge(into, change));
        }
        (into, change) => *into = change,
    }
}

fn plural(kind: &str) -> &'static str {
    match kind {
        "AIFactory" => "aifactories",
        "GPUPool" => "gpupools",
        _ => "accessgrants",
    }
}

fn path_of(object: &Value) -> String {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let plural = plural(text("/kind"));
    format!("/apis/aifactory.dev/v1alpha1/namespaces/{}/{plural}/{}", text("/metadata/namespace"), text("/metadata/name"))
}

fn owner_of(object: &Value) -> Option<OwnerRef> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    let kind = match text("/kind")? {
        "AIFactory" => Kind::AIFactory,
        "GPUPool" => Kind::GPUPool,
        "AccessGrant" => Kind::AccessGrant,
        _ => return None,
    };
    Some(OwnerRef::new(kind, text("/metadata/namespace")?, text("/metadata/name")?))
}

fn event_of(object: &Value) -> WatchEvent {
    let owner = owner_of(object).expect("a resource");
    let resource: AnyResource = match owner.kind {
        Kind::AIFactory => serde_json::from_value::<AIFactory>(object.clone()).expect("a factory").wrap(),
        Kind::GPUPool => serde_json::from_value::<GPUPool>(object.clone()).expect("a pool").wrap(),
        Kind::AccessGrant => serde_json::from_value::<AccessGrant>(object.clone()).expect("a grant").wrap(),
    };
    WatchEvent::Put(owner, resource)
}

fn client(server: Arc<Mutex<Server>>, to: mpsc::Sender<WatchEvent>) -> Client {
    let service = service_fn(move |request: Request<Body>| {
        let (server, to) = (server.clone(), to.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            let (status, answer) = answer(&server, &to, &parts.method, parts.uri.path(), &body);
            Ok::<_, BoxError>(Response::builder().status(status).body(Body::from(serde_json::to_vec(&answer)?))?)
        }
    });
    Client::new(service, "default")
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason}))
}

fn answer(server: &Mutex<Server>, to: &mpsc::Sender<WatchEvent>, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
    let mut server = server.lock().unwrap();
    server.requests.push(format!("{method} {path}"));
    if server.refuse_config_maps && method == Method::PATCH && path.contains("/configmaps/") {
        return failure(503, "ServiceUnavailable");
    }
    let (path, status) = path.strip_suffix("/status").map_or((path, false), |path| (path, true));
    if *method == Method::POST {
        return (201, serde_json::from_slice(body).unwrap_or_default());
    }
    if *method == Method::GET {
        return server.objects.get(path).cloned().map_or_else(|| failure(404, "NotFound"), |found| (200, found));
    }
    assert_eq!(*method, Method::PATCH, "{path}");
    let patch: Value = serde_json::from_slice(body).unwrap();
    if path.contains("/configmaps/") {
        server.objects.insert(path.to_owned(), patch.clone());
        return (200, patch);
    }
    let Some(mut object) = server.objects.get(path).cloned() else { return failure(404, "NotFound") };
    if status {
        let meant = &patch["metadata"]["resourceVersion"];
        if !meant.is_null() && *meant != object["metadata"]["resourceVersion"] {
            return failure(409, "Conflict");
        }
        object["status"] = patch["status"].clone();
    } else {
        let patch: json_patch::Patch = serde_json::from_value(patch).unwrap();
        if json_patch::patch(&mut object, &patch).is_err() {
            return failure(422, "Invalid");
        }
    }
    server.version += 1;
    object["metadata"]["resourceVersion"] = json!(server.version.to_string());
    let over = object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty) && object["metadata"].get("deletionTimestamp").is_some();
    if over {
        server.objects.remove(path);
        to.try_send(WatchEvent::Removed(owner_of(&object).unwrap(), Incarnation::new(object["metadata"]["uid"].as_str().unwrap(), server.version)))
            .unwrap();
    } else {
        server.objects.insert(path.to_owned(), object.clone());
        to.try_send(event_of(&object)).unwrap();
    }
    (200, object)
}
