//! The hub's controller against an API server of a few lines, with a clock that stands still while anything is to be done: a loop that spins never lets
//! it go on, so the number of polls is bounded.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use aifactory_api::labels;
use aifactory_plan::hub::known_sites::KnownSites;
use aifactory_plan::model::id::HubId;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tower::{BoxError, service_fn};

use super::{Hub, HubRecord, HubSettings};
use crate::client::{ClientSettings, Clients};
use crate::credential::AddressRules;
use crate::credential::reader::{CredentialReader, Looks};
use crate::lease::WriteGate;
use crate::telemetry::event_recorder::EventRecorder;
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;

/// A request that is not a read.
#[derive(Clone, Debug)]
struct Sent {
    path: String,
    manager: String,
    body: Value,
}

type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;
type Answer = Box<dyn Fn(&Sent) -> (StatusCode, Value) + Send + Sync>;

/// An API server that lists these grants, never has news, and answers writes with a function.
struct Server {
    grants: Vec<String>,
    writes: Mutex<Vec<Sent>>,
    answer: Answer,
}

impl Server {
    fn new(grants: Vec<String>, answer: impl Fn(&Sent) -> (StatusCode, Value) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { grants, writes: Mutex::default(), answer: Box::new(answer) })
    }

    fn client(self: &Arc<Self>) -> Client {
        let server = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { server.serve(request).await }
        });
        Client::new(service, "default")
    }

    async fn serve(&self, request: Request<Body>) -> Result<Response<AnswerBody>, BoxError> {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default();
        if parts.method == Method::GET && query.contains("watch=") {
            let silence = futures::stream::pending::<Result<http_body::Frame<Bytes>, Infallible>>();
            return Ok(Response::new(StreamBody::new(silence).boxed_unsync()));
        }
        if parts.method == Method::GET && parts.uri.path().starts_with("/apis/aifactory.dev/v1alpha1/") {
            let items = if parts.uri.path().ends_with("/accessgrants") { self.grants.join(",") } else { String::new() };
            let list = format!(r#"{{"kind": "List", "apiVersion": "v1", "metadata": {{"resourceVersion": "100"}}, "items": [{items}]}}"#);
            return Ok(Response::new(Full::from(list).boxed_unsync()));
        }
        let manager = query.split('&').find_map(|pair| pair.strip_prefix("fieldManager=")).unwrap_or_default().to_owned();
        let sent =
            Sent { path: parts.uri.path().to_owned(), manager, body: serde_json::from_slice(&body.collect_bytes().await?).unwrap_or_default() };
        let (code, answer) = if parts.method == Method::GET { refused(StatusCode::NOT_FOUND) } else { (self.answer)(&sent) };
        if parts.method != Method::GET {
            self.writes.lock().unwrap().push(sent);
        }
        Ok(Response::builder().status(code).body(Full::from(serde_json::to_vec(&answer)?).boxed_unsync())?)
    }

    /// The writes to a path that ends like this.
    fn writes(&self, end: &str) -> Vec<Sent> {
        self.writes.lock().unwrap().iter().filter(|sent| sent.path.ends_with(end)).cloned().collect()
    }
}

fn refused(code: StatusCode) -> (StatusCode, Value) {
    let reason = if code == StatusCode::NOT_FOUND { "NotFound" } else { "Forbidden" };
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code.as_u16(), "message": "no"}))
}

/// A grant whose factory and pool do not exist.
fn grant(name: &str) -> Value {
    json!({
        "apiVersion": "aifactory.dev/v1alpha1", "kind": "AccessGrant",
        "metadata": {"name": name, "namespace": "n", "uid": format!("u-{name}"), "resourceVersion": "7", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": [labels::FINALIZER]},
        "spec": {
            "factoryRef": {"name": "missing"}, "organisation": {"name": "o", "country": "FR", "category": "SME"}, "code": "EHPC-1",
            "accessMode": "Regular", "members": [{"id": "p-1"}], "notBefore": "2026-01-01T00:00:00Z", "notAfter": "2036-01-01T00:00:00Z",
            "pools": [{"name": "h100", "poolRef": {"name": "missing"}, "gpuHours": 1, "maxGPUs": 1}],
        },
    })
}

/// A grant with the usual "never", which the API server takes and this release can not hold.
fn undecodable(name: &str) -> Value {
    let mut object = grant(name);
    object["spec"]["notAfter"] = json!("9999-12-31T23:59:59Z");
    object
}

/// Runs the hub for a time of the paused clock.
async fn run(server: &Arc<Server>, leads: bool, time: Duration) {
    let client = server.client();
    let settings = ClientSettings { gate: WriteGate::always_open(), addresses: None, requests: None };
    let local = Clients { rpc: client.clone(), watch: client.clone() };
    let (hub, _) = Hub::new(HubSettings {
        namespace: "aifactory-system".to_owned(),
        client: client.clone(),
        watch: client.clone(),
        reader: CredentialReader { hub: client.clone(), local, rules: AddressRules::default(), settings, looks: Looks::default() },
        event_recorder: EventRecorder::new(Events::new(client, "test".to_owned()).0),
        metrics: Arc::new(Metrics::new()),
        test_hooks: false,
    });
    let lead = async {
        if !leads {
            std::future::pending::<()>().await;
        }
        Ok::<_, Infallible>(HubRecord { id: HubId::new("hub"), known: Some(KnownSites::default()) })
    };
    let mut running = pin!(hub.run(lead, tokio::time::sleep(time)));
    let mut polls = 0;
    let done = std::future::poll_fn(|context| {
        polls += 1;
        assert!(polls < 5_000, "the controller spins");
        match running.as_mut().poll(context) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => Poll::Pending,
        }
    });
    done.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_standby_rests_also_with_a_reference_to_nothing() {
    let server = Server::new(vec![grant("dangling").to_string()], |_| refused(StatusCode::FORBIDDEN));
    run(&server, false, Duration::from_secs(3600)).await;
    assert!(server.writes("").is_empty(), "a standby writes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_writes_are_refused_tries_again_with_pauses() {
    let server = Server::new(vec![grant("dangling").to_string()], |_| refused(StatusCode::FORBIDDEN));
    run(&server, true, Duration::from_secs(600)).await;
    let living = server.writes(labels::LIVING_GRANTS).len();
    assert!((2..=121).contains(&living), "the namespaces of living grants were tried {living} times in ten minutes");
    let status = server.writes("/accessgrants/dangling/status").len();
    assert!((2..=40).contains(&status), "the status was tried {status} times in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn one_undecodable_grant_gets_a_condition_until_it_is_stored_and_others_go_on() {
    let failures = Mutex::new(3);
    let server =
        Server::new(vec![grant("first").to_string(), undecodable("never").to_string(), "7".to_owned(), grant("last").to_string()], move |sent| {
            if sent.path.ends_with("/accessgrants/never/status") {
                let mut failures = failures.lock().unwrap();
                if *failures > 0 {
                    *failures -= 1;
                    return refused(StatusCode::INTERNAL_SERVER_ERROR);
                }
                let mut stored = undecodable("never");
                stored["metadata"]["resourceVersion"] = json!("8");
                stored["status"] = sent.body["status"].clone();
                return (StatusCode::OK, stored);
            }
            refused(StatusCode::FORBIDDEN)
        });
    run(&server, true, Duration::from_secs(600)).await;
    let written = server.writes("/accessgrants/never/status");
    assert_eq!(written.len(), 4, "three times refused, and then it stands");
    for sent in &written {
        assert_eq!(sent.manager, labels::CONDITIONS_MANAGER, "under a name of its own");
        let status = sent.body["status"].as_object().unwrap();
        assert_eq!(status.keys().collect::<Vec<_>>(), ["conditions"], "no other field is touched");
        let conditions: Vec<_> = status["conditions"].as_array().unwrap().iter().map(|found| (&found["type"], &found["status"])).collect();
        assert_eq!(conditions, [(&json!("Ready"), &json!("False")), (&json!("Stalled"), &json!("True"))]);
        assert_eq!(status["conditions"][0]["reason"], "Undecodable");
    }
    for name in ["first", "last"] {
        assert!(!server.writes(&format!("/accessgrants/{name}/status")).is_empty(), "{name} is reconciled");
    }
}

#[tokio::test(start_paused = true)]
async fn an_undecodable_grant_is_released_by_a_persons_annotation() {
    let deleted = |confirmed: &str| {
        let mut object = undecodable("never");
        object["metadata"]["deletionTimestamp"] = json!("2026-02-01T00:00:00Z");
        object["metadata"]["annotations"] = json!({labels::RELEASE_UNDECODABLE: confirmed});
        object
    };
    let server = Server::new(vec![deleted("u-another").to_string()], |_| refused(StatusCode::FORBIDDEN));
    run(&server, true, Duration::from_secs(5)).await;
    assert!(server.writes("/accessgrants/never").is_empty(), "nobody has said so");
    let written = server.writes("/accessgrants/never/status");
    assert!(written[0].body["status"]["conditions"][0]["message"].as_str().unwrap().contains("release-undecodable=u-never"));

    let server = Server::new(vec![deleted("u-never").to_string()], |_| refused(StatusCode::NOT_FOUND));
    run(&server, true, Duration::from_secs(5)).await;
    let writes = server.writes("/accessgrants/never");
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].body[0], json!({"op": "test", "path": "/metadata/uid", "value": "u-never"}));
    assert_eq!(writes[0].body[2], json!({"op": "remove", "path": "/metadata/finalizers/0"}));
}
