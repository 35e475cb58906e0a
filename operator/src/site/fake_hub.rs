//! A hub with one Secret for tests of sites' controllers, and a way to run a controller that fails the test when it spins.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use aifactory_api::slurm::SiteSlurm;
use aifactory_api::{Kind, OwnerRef};
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::intent::{Body, Desired, GrantIntent, Intent, SiteConfig, SiteIntent, VERSION};
use aifactory_plan::model::site_key::SiteKey;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body as HttpBody;
use serde_json::json;
use tokio::time::sleep;
use tower::{BoxError, service_fn};

use crate::client::{ClientSettings, Clients};
use crate::credential::AddressRules;
use crate::credential::reader::{CredentialReader, Looks};
use crate::lease::WriteGate;
use crate::site::controller::{Core, Driver};
use crate::telemetry::metrics::Metrics;
use crate::transport::{HubReceiver, Incarnation, hub_channel};

/// The hub's API server, which has a Secret or not, and counts reads of it.
#[derive(Clone, Default)]
pub struct FakeHub {
    secret: Arc<Mutex<Option<BTreeMap<&'static str, &'static str>>>>,
    reads: Arc<AtomicU32>,
}

impl FakeHub {
    /// The Secret has these keys from now on.
    pub fn put(&self, secret: BTreeMap<&'static str, &'static str>) {
        *self.secret.lock().unwrap() = Some(secret);
    }

    /// How often a Secret was read.
    pub fn reads(&self) -> u32 {
        self.reads.load(Ordering::Relaxed)
    }

    /// A reader of credentials at this hub.
    pub fn reader(&self) -> CredentialReader {
        let hub = self.clone();
        let service = service_fn(move |request: Request<HttpBody>| {
            let hub = hub.clone();
            async move {
                sleep(Duration::from_millis(5)).await;
                let (code, answer) = hub.answer(request.method(), request.uri().path());
                Ok::<_, BoxError>(Response::builder().status(code).body(HttpBody::from(serde_json::to_vec(&answer)?))?)
            }
        });
        let client = Client::new(service, "default");
        CredentialReader {
            hub: client.clone(),
            local: Clients { rpc: client.clone(), watch: client },
            rules: AddressRules::default(),
            settings: ClientSettings { gate: WriteGate::always_open(), addresses: None, requests: None },
            looks: Looks::default(),
        }
    }

    fn answer(&self, method: &Method, path: &str) -> (StatusCode, serde_json::Value) {
        if path.contains("/secrets/") {
            if method == Method::GET {
                self.reads.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(secret) = self.secret.lock().unwrap().as_ref() {
                let data: BTreeMap<_, _> = secret.iter().map(|(key, value)| (key, STANDARD.encode(value))).collect();
                let meta = json!({"name": "site", "namespace": "team", "uid": "1"});
                return (StatusCode::OK, json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": data}));
            }
        }
        (StatusCode::NOT_FOUND, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": ""}))
    }
}

/// Where the site's credential is.
pub fn source() -> CredentialSource {
    CredentialSource::Secret { namespace: "team".to_owned(), name: "site".to_owned(), key: "credential".to_owned() }
}

/// The factory of the tests.
pub fn factory() -> OwnerRef {
    OwnerRef::new(Kind::AIFactory, "team", "factory")
}

/// What a site must know of its factory.
pub fn site_intent(slurm: Option<SiteSlurm>) -> SiteIntent {
    SiteIntent { slurm, config: Some(SiteConfig::default()), ..SiteIntent::bare("hub", factory(), "uid", "site") }
}

/// A driver's core for this part, with what it sends to the hub.
pub fn core<D: Driver>(key: SiteKey, hub: &FakeHub) -> (Core<D>, HubReceiver) {
    let (to_hub, from_site) = hub_channel();
    let to_hub = to_hub.of(key.clone(), Incarnation(1));
    (Core::new(key, source(), hub.reader(), to_hub, Arc::new(Metrics::new())), from_site)
}

/// The intent for a grant that asks for this.
pub fn grant(desired: Desired) -> Arc<Intent> {
    let owner = OwnerRef::new(Kind::AccessGrant, "team", "alpha");
    let body = Body::Grant(Box::new(GrantIntent::bare("EHPC-1", desired)));
    Arc::new(Intent { version: VERSION, owner, uid: "1".to_owned(), generation: 1, created: Timestamp::UNIX_EPOCH, serial: 0, body })
}

/// Runs a controller; panics when it is polled more than `most` times, since a paused clock never advances while a task spins.
pub async fn polled_at_most<T>(most: u32, worker: impl Future<Output = T>) -> T {
    let mut worker = Box::pin(worker);
    let mut polls = 0;
    poll_fn(|context| {
        polls += 1;
        assert!(polls <= most, "the worker spins: it was polled {polls} times");
        let poll = worker.as_mut().poll(context);
        if poll.is_ready() { poll } else { Poll::Pending }
    })
    .await
}
