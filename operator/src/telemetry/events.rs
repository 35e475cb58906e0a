//! Publishes Events in a task of its own, so that reconciling never waits for them.

use std::collections::BTreeMap;
use std::{future::Future, time::Duration};

use aifactory_api::Kind;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    api::ObjectMeta,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::text;

/// Name under which events are reported.
pub const REPORTER: &str = "aifactory-operator";

/// The API takes 1024 bytes.
const MAX_NOTE: usize = 1000;
const MAX_WAITING: usize = 512;
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a repetition counts as one of the same series: what kube's recorder takes as well.
const SERIES: Duration = Duration::from_secs(360);

/// Something that happened to a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Whether somebody should look at it.
    pub warning: bool,
    /// A reason of the closed set.
    pub reason: &'static str,
    /// The action, as one word.
    pub action: &'static str,
    /// What happened. Names of members do not belong here: whoever may read events may read it.
    pub note: String,
}

/// Queues events and returns at once.
#[derive(Clone, Debug)]
pub struct Events {
    sender: mpsc::Sender<(ObjectReference, NewEvent)>,
}

impl Events {
    /// The handle, and the task that publishes. `instance` names this process, as its Pod's name does.
    pub fn new(client: Client, instance: String) -> (Self, impl Future<Output = ()> + Send) {
        let mut recorders = Recorders::new(client, Reporter { controller: REPORTER.to_owned(), instance: Some(instance) });
        let (sender, mut waiting) = mpsc::channel::<(ObjectReference, NewEvent)>(MAX_WAITING);
        let publish = async move {
            while let Some((regarding, new)) = waiting.recv().await {
                let event = event(new);
                let recorder = recorders.of(event.note.as_deref().unwrap_or_default());
                match timeout(PUBLISH_TIMEOUT, recorder.publish(&event, &regarding)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(error = crate::client::explain(&error), reason = event.reason, "Could not publish an event"),
                    Err(_) => tracing::debug!(reason = event.reason, "An event was not published in time"),
                }
            }
        };
        (Self { sender }, publish)
    }

    /// Hands an event over. With too many waiting it is dropped: events are for people, and conditions hold the state.
    pub fn publish(&self, regarding: ObjectReference, new: NewEvent) {
        if self.sender.try_send((regarding, new)).is_err() {
            tracing::debug!("Dropped an event");
        }
    }
}

/// A recorder for each note. One recorder takes events that differ in their note alone for repetitions, and shows the first note with the new time.
struct Recorders {
    client: Client,
    reporter: Reporter,
    /// By note, each with its last use.
    by_note: BTreeMap<String, (Recorder, Instant)>,
}

impl Recorders {
    fn new(client: Client, reporter: Reporter) -> Self {
        Self { client, reporter, by_note: BTreeMap::new() }
    }

    fn of(&mut self, note: &str) -> Recorder {
        let now = Instant::now();
        self.by_note.retain(|_, (_, used)| now.duration_since(*used) < SERIES);
        let made = || (Recorder::new(self.client.clone(), self.reporter.clone()), now);
        let (recorder, used) = self.by_note.entry(note.to_owned()).or_insert_with(made);
        *used = now;
        recorder.clone()
    }
}

/// What an event about one of our resources refers to.
pub fn regarding(kind: Kind, meta: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!("{}/{}", aifactory_api::GROUP, aifactory_api::VERSION)),
        kind: Some(kind.as_str().to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: None,
        field_path: None,
    }
}

fn event(new: NewEvent) -> Event {
    Event {
        type_: if new.warning { EventType::Warning } else { EventType::Normal },
        reason: new.reason.to_owned(),
        note: Some(text::cut(new.note, MAX_NOTE)),
        action: new.action.to_owned(),
        secondary: None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use aifactory_api::Kind;
    use http::{Method, Request, Response};
    use kube::{Client, api::ObjectMeta, client::Body};
    use serde_json::Value;
    use tower::{BoxError, service_fn};

    use super::{Events, NewEvent, regarding};

    /// Method, path and body of each request.
    type Sent = Arc<Mutex<Vec<(Method, String, Value)>>>;

    /// A client that answers each request with what it was sent, and what that was.
    fn client() -> (Client, Sent) {
        let sent = Sent::default();
        let service = service_fn({
            let sent = Arc::clone(&sent);
            move |request: Request<Body>| {
                let sent = Arc::clone(&sent);
                async move {
                    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
                    let body = request.into_body().collect_bytes().await?;
                    sent.lock().unwrap().push((method, path, serde_json::from_slice(&body)?));
                    Ok::<_, BoxError>(Response::builder().status(201).body(Body::from(body))?)
                }
            }
        });
        (Client::new(service, "default"), sent)
    }

    fn meta() -> ObjectMeta {
        ObjectMeta { name: Some("grant".into()), namespace: Some("example".into()), uid: Some("u-1".into()), ..ObjectMeta::default() }
    }

    #[tokio::test]
    async fn an_event_names_the_resource() {
        let (client, sent) = client();
        let (events, publish) = Events::new(client, "pod-1".to_owned());
        events.publish(
            regarding(Kind::AccessGrant, &meta()),
            NewEvent { warning: true, reason: "RefusedBySite", action: "Bind", note: "x".repeat(3_000) },
        );
        drop(events);
        publish.await;

        let sent = sent.lock().unwrap();
        let [(_, path, event)] = sent.as_slice() else { panic!("{sent:?}") };
        assert_eq!(path, "/apis/events.k8s.io/v1/namespaces/example/events");
        assert_eq!(
            event["regarding"],
            serde_json::json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": "AccessGrant", "namespace": "example", "name": "grant", "uid": "u-1"})
        );
        assert_eq!(
            (event["type"].as_str(), event["reason"].as_str(), event["action"].as_str()),
            (Some("Warning"), Some("RefusedBySite"), Some("Bind"))
        );
        assert!(event["note"].as_str().unwrap().len() <= 1_000);
        assert_eq!(event["reportingController"], "aifactory-operator");
    }

    #[tokio::test]
    async fn another_note_is_another_event_and_the_same_one_a_repetition() {
        let (client, sent) = client();
        let (events, publish) = Events::new(client, "pod-1".to_owned());
        for note in ["SitesReachable=False: bissen", "SitesReachable=False: bettembourg", "SitesReachable=False: bissen"] {
            let new = NewEvent { warning: true, reason: "SiteUnreachable", action: "Reconcile", note: note.to_owned() };
            events.publish(regarding(Kind::AccessGrant, &meta()), new);
        }
        drop(events);
        publish.await;

        let sent = sent.lock().unwrap();
        let notes: Vec<_> = sent.iter().map(|(method, _, event)| (method.as_str(), event["note"].as_str().unwrap())).collect();
        let (bissen, bettembourg) = ("SitesReachable=False: bissen", "SitesReachable=False: bettembourg");
        assert_eq!(notes, [("POST", bissen), ("POST", bettembourg), ("PATCH", bissen)]);
        let [(_, _, first), _, (_, path, repeated)] = sent.as_slice() else { panic!("{sent:?}") };
        assert_eq!(repeated["series"]["count"], 2);
        assert!(path.ends_with(first["metadata"]["name"].as_str().unwrap()), "{path}");
    }
}
