//! Executes a plan's steps on a site: the only code that writes there.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use aifactory_api::{OwnerRef, Reason, labels};
use aifactory_plan::engine;
use aifactory_plan::engine::nodes::NodeView;
use aifactory_plan::model::digest::differences;
use aifactory_plan::model::id::{HubId, TenantNamespace};
use aifactory_plan::model::object::{Object, ObjectKey};
use aifactory_plan::model::plan::NodePatch;
use aifactory_plan::model::plan::{Action, Purpose, Step};
use aifactory_plan::model::report::Finding;
use aifactory_plan::model::text::shorten;
use aifactory_plan::site::altered::{Altered, withhold_access};
use aifactory_plan::site::index::IndexedObject;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::discovery::ApiResource;
use kube::{Api, Client, Resource as _};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::contact::explain;
use super::watch::{api_resource, as_json};
use crate::tolerant_decode::{Tolerant, taken};

/// Longest wait for one write.
const WRITE: Duration = Duration::from_secs(15);

/// The results of a plan's steps.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Applied objects, as the API server answered with them.
    pub applied: Vec<IndexedObject>,
    /// Objects that are gone.
    pub deleted: Vec<ObjectKey>,
    /// Objects whose deletion was accepted, and that go once their finalizers are removed.
    pub ordered: Vec<ObjectKey>,
    /// Patched nodes, as the API server answered with them, with their resourceVersions.
    pub nodes: Vec<(NodeView, u64)>,
    /// Objects that the site stored otherwise than they were written, such as through a mutating webhook.
    pub altered: Vec<Altered>,
    /// Failures, in the order of the steps.
    pub failures: Vec<Failure>,
}

/// A request that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The finding for people.
    pub finding: Finding,
    /// What the driver does about it.
    pub follows: Follows,
}

/// What the driver does about a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// The request may pass the next time, and is sent again with a back-off.
    Retry,
    /// The site did not answer, or refuses the credential: the connection is made again, and then everything is planned again.
    Reconnect,
    /// The site has refused, and does so until a person changes something there: the request is sent again, but seldom.
    Person,
}

/// How many requests that remove access run beyond the cap.
const RESERVED: usize = 4;

/// Writes to one site, with a cap on requests at a time.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    cap: Arc<Semaphore>,
    /// Slots for requests that remove access, so that these never wait for slow answers to others.
    reserved: Arc<Semaphore>,
    hub: HubId,
}

impl Applier {
    /// A writer with at most `cap` requests at a time.
    pub fn new(client: Client, hub: &HubId, cap: usize) -> Self {
        Self { client, cap: Arc::new(Semaphore::new(cap)), reserved: Arc::new(Semaphore::new(RESERVED)), hub: hub.clone() }
    }

    /// Carries out the steps in order; the actions of one step run side by side.
    pub async fn execute(&self, owner: &OwnerRef, steps: Vec<Step>) -> Outcome {
        let mut outcome = Outcome::default();
        for mut step in steps {
            if outcome.altered.iter().any(|altered| altered.key.kind.fences()) {
                withhold_access(&mut step);
            }
            let mut running: FuturesUnordered<_> = step.actions.into_iter().map(|action| self.act(action, step.purpose)).collect();
            let mut failures = Vec::new();
            while let Some(done) = running.next().await {
                match done {
                    Ok(Done::Applied(seen, altered)) => {
                        outcome.applied.push(*seen);
                        outcome.altered.extend(altered);
                    }
                    Ok(Done::Deleted(key)) => outcome.deleted.push(key),
                    Ok(Done::Ordered(key)) => outcome.ordered.push(key),
                    Ok(Done::Node(node, version)) => outcome.nodes.push((*node, version)),
                    Ok(Done::Nothing) => {}
                    Err(failure) => failures.push(failure),
                }
            }
            let failed = !failures.is_empty();
            // Requests of a step end in any order; their failures are sorted, so that a report does not change with that order.
            failures.sort_by(|one, other| one.finding.message.cmp(&other.finding.message));
            outcome.failures.extend(failures);
            tracing::debug!(%owner, purpose = ?step.purpose, failed, "Executed a step of the plan");
            if failed && (step.purpose == Purpose::Establish || outcome.failures.iter().any(|failure| failure.follows == Follows::Reconnect)) {
                break;
            }
        }
        outcome
    }

    async fn act(&self, action: Action, purpose: Purpose) -> Result<Done, Failure> {
        let permit = match purpose {
            Purpose::RemoveAccess => tokio::select! {
                biased;
                permit = self.cap.acquire() => permit,
                permit = self.reserved.acquire() => permit,
            },
            Purpose::Establish => self.cap.acquire().await,
        };
        let Ok(_permit) = permit else { return Ok(Done::Nothing) };
        match action {
            Action::Apply(object) => self.apply(object).await,
            Action::CreateKey { object, field, bytes } => self.create_key(object, &field, bytes).await,
            Action::Delete { key, uid } => self.delete(key, uid).await,
            Action::EndWork { namespace } => self.end_work(&namespace).await,
            Action::EndPod { namespace, name, grace } => self.end_pod(&namespace, &name, grace).await,
            Action::PatchNode(patch) => self.patch_node(patch).await,
        }
    }

    fn api(&self, key: &ObjectKey) -> Api<Tolerant<DynamicObject>> {
        let resource = api_resource(key.kind);
        if key.namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &key.namespace, &resource)
        }
    }

    async fn apply(&self, object: Object) -> Result<Done, Failure> {
        let api = self.api(&object.key);
        let params =
            PatchParams { field_validation: Some(kube::api::ValidationDirective::Strict), ..PatchParams::apply(labels::SITE_MANAGER).force() };
        let content = content_of(&object);
        match tokio::time::timeout(WRITE, api.patch(&object.key.name, &params, &Patch::Apply(&content))).await.map(taken) {
            Ok(Ok(None)) => Ok(Done::Nothing),
            Ok(Ok(Some(stored))) => {
                let stored = as_json(stored);
                match IndexedObject::reduce(engine::ALL, object.key.kind, &stored, &self.hub) {
                    Some(seen) => {
                        let altered = altered(&object, &seen, &stored);
                        Ok(Done::Applied(Box::new(seen), altered))
                    }
                    None => Ok(Done::Nothing),
                }
            }
            // Another client has deleted it meanwhile, or has made another in its place; the watch delivers that.
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() || (status.code == 422 && status.message.contains("metadata.uid:")) => {
                Err(changed(&object.key.to_string()))
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 403 || status.code == 422 => {
                Err(self.refused(&api, &object.key, &status.message).await)
            }
            Ok(Err(error)) => Err(failure(&object.key.to_string(), &error)),
            Err(_) => Err(timeout(&object.key.to_string())),
        }
    }

    /// A plain create, since server-side apply would change an existing key. The answer contains the key, and is dropped unread.
    async fn create_key(&self, object: Object, field: &str, bytes: usize) -> Result<Done, Failure> {
        let what = object.key.to_string();
        let secret = key_secret(object.content, field, bytes)
            .map_err(|error| Failure { finding: Finding::note(Reason::InternalError, format!("{what}: {error}")), follows: Follows::Retry })?;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &object.key.namespace);
        let params = PostParams { field_manager: Some(labels::SITE_MANAGER.to_owned()), ..PostParams::default() };
        match tokio::time::timeout(WRITE, api.create(&params, &secret)).await.map(taken) {
            Ok(Ok(_)) => Ok(Done::Nothing),
            Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => Ok(Done::Nothing),
            Ok(Err(error)) => Err(failure(&what, &error)),
            Err(_) => Err(timeout(&what)),
        }
    }

    /// Finds out whether a write was refused by policy, or because a foreign object has the name.
    async fn refused(&self, api: &Api<Tolerant<DynamicObject>>, key: &ObjectKey, message: &str) -> Failure {
        if message.contains("being terminated") {
            return Failure { finding: Finding::note(Reason::InProgress, format!("{key}: its namespace is being deleted")), follows: Follows::Retry };
        }
        let (_, _, kind, _) = key.kind.gvk();
        if let Ok(Ok(Some(found))) = tokio::time::timeout(WRITE, api.get_opt(&key.name)).await
            && found.meta().labels.as_ref().and_then(|labels| labels.get(labels::MANAGED)).map(String::as_str) != Some("true")
        {
            let place = if key.namespace.is_empty() { String::new() } else { format!(" -n {}", key.namespace) };
            let ours = found.meta().annotations.as_ref().and_then(|found| found.get(labels::HUB)).is_some_and(|hub| hub == self.hub.as_str());
            let why = if ours {
                "has lost our label, and the site does not let us put it back"
            } else {
                "exists and is not ours; it is left alone. Rename it, or let the operator take it over"
            };
            let message = format!("{key} {why}: kubectl label {} {}{place} {}=true", kind.to_lowercase(), key.name, labels::MANAGED);
            return Failure { finding: Finding::stalled(Reason::ForeignObject, message), follows: Follows::Person };
        }
        Failure {
            finding: Finding::stalled(Reason::RefusedBySite, format!("{key}: the site refuses: {}", shorten(message, 500))),
            follows: Follows::Person,
        }
    }

    async fn delete(&self, key: ObjectKey, uid: Option<String>) -> Result<Done, Failure> {
        let api = self.api(&key);
        let params =
            DeleteParams { preconditions: uid.map(|uid| Preconditions { uid: Some(uid), resource_version: None }), ..DeleteParams::background() };
        match tokio::time::timeout(WRITE, api.delete(&key.name, &params)).await.map(taken) {
            // An object with finalizers, such as a namespace, remains until the watch shows its deletion.
            Ok(Ok(answer)) => Ok(if answer.is_some_and(|answer| answer.is_right()) { Done::Deleted(key) } else { Done::Ordered(key) }),
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() || status.is_conflict() => Ok(Done::Nothing),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 || status.code == 422 => Err(self.refused(&api, &key, &status.message).await),
            Ok(Err(error)) => Err(failure(&key.to_string(), &error)),
            Err(_) => Err(timeout(&key.to_string())),
        }
    }

    async fn end_work(&self, namespace: &TenantNamespace) -> Result<Done, Failure> {
        let what = |plural: &str| format!("the end of all {plural} in Namespace {namespace}");
        // Controllers are deleted before Pods, so that they do not replace them. A kind that can not be deleted does not keep the others from being
        // tried.
        let mut failed = None;
        for (group, version, kind, plural) in [
            ("batch", "v1", "CronJob", "cronjobs"),
            ("apps", "v1", "Deployment", "deployments"),
            ("apps", "v1", "StatefulSet", "statefulsets"),
            ("batch", "v1", "Job", "jobs"),
            ("apps", "v1", "ReplicaSet", "replicasets"),
            ("", "v1", "Pod", "pods"),
        ] {
            let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
            let resource =
                ApiResource { group: group.to_owned(), version: version.to_owned(), api_version, kind: kind.to_owned(), plural: plural.to_owned() };
            let api: Api<Tolerant<DynamicObject>> = Api::namespaced_with(self.client.clone(), namespace.as_str(), &resource);
            match tokio::time::timeout(WRITE, api.delete_collection(&DeleteParams::background(), &ListParams::default())).await.map(taken) {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => failed = failed.or_else(|| Some(failure(&what(plural), &error))),
                Err(_) => failed = failed.or_else(|| Some(timeout(&what(plural)))),
            }
        }
        failed.map_or(Ok(Done::Nothing), Err)
    }

    /// As a delete of a collection that selects one Pod: the operator has no right to delete Pods by name.
    async fn end_pod(&self, namespace: &TenantNamespace, name: &str, grace: u32) -> Result<Done, Failure> {
        let api: Api<Tolerant<Pod>> = Api::namespaced(self.client.clone(), namespace.as_str());
        let what = format!("the end of Pod {name} in Namespace {namespace}");
        let params = DeleteParams { grace_period_seconds: Some(grace), ..DeleteParams::background() };
        let one = ListParams::default().fields(&format!("metadata.name={name}"));
        match tokio::time::timeout(WRITE, api.delete_collection(&params, &one)).await.map(taken) {
            Ok(Ok(_)) => Ok(Done::Nothing),
            // The site's admission policies may see the namespace's mark a moment later, so the request is retried without a long pause.
            Ok(Err(error)) => Err(failure(&what, &error).not_for_a_person()),
            Err(_) => Err(timeout(&what)),
        }
    }

    async fn patch_node(&self, patch: NodePatch) -> Result<Done, Failure> {
        let api: Api<Tolerant<Node>> = Api::all(self.client.clone());
        let what = format!("Node {}", patch.node);
        let operations: json_patch::Patch = serde_json::from_value(patch.operations)
            .map_err(|error| Failure { finding: Finding::note(Reason::InternalError, format!("{what}: {error}")), follows: Follows::Retry })?;
        let params = PatchParams { field_manager: Some(labels::SITE_MANAGER.to_owned()), ..PatchParams::default() };
        match tokio::time::timeout(WRITE, api.patch(&patch.node, &params, &Patch::<()>::Json(operations))).await.map(taken) {
            Ok(Ok(Some(Tolerant::Read(node)))) => {
                let version = node.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default();
                Ok(Done::Node(Box::new(NodeView::from_node(&node)), version))
            }
            // The watch delivers what can be decoded of it.
            Ok(Ok(_)) => Ok(Done::Nothing),
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Ok(Done::Nothing),
            // Another client has changed the taints meanwhile; the watch delivers the node as it is now.
            Ok(Err(kube::Error::Api(status)))
                if status.is_conflict() || (status.code == 422 && !status.message.contains("ValidatingAdmissionPolicy")) =>
            {
                Err(changed(&what))
            }
            Ok(Err(error)) => Err(failure(&what, &error)),
            Err(_) => Err(timeout(&what)),
        }
    }
}

/// What is sent: with the UID, for which the API server refuses to create what is not there any more.
fn content_of(object: &Object) -> Cow<'_, Value> {
    let Some(uid) = &object.updates else { return Cow::Borrowed(&object.content) };
    let mut content = object.content.clone();
    if let Some(metadata) = content.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("uid".to_owned(), Value::String(uid.clone()));
    }
    Cow::Owned(content)
}

/// Whether the site has changed an object on its way in: the fields that we own differ from what was sent.
fn altered(object: &Object, seen: &IndexedObject, stored: &Value) -> Option<Altered> {
    let sent = object.digest();
    let differs = seen.observed.digest != Some(sent);
    differs.then(|| Altered { key: object.key.clone(), sent, fields: differences(&object.content, stored, object.key.kind.owns_spec()) })
}

fn key_secret(content: Value, field: &str, bytes: usize) -> Result<Secret, KeyError> {
    let mut key = vec![0; bytes];
    SystemRandom::new().fill(&mut key).map_err(|_| KeyError::Random)?;
    let mut secret: Secret = serde_json::from_value(content)?;
    secret.data.get_or_insert_default().insert(field.to_owned(), ByteString(key));
    Ok(secret)
}

#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error("the system gives no random numbers")]
    Random,
    #[error("{0}")]
    Content(#[from] serde_json::Error),
}

enum Done {
    Applied(Box<IndexedObject>, Option<Altered>),
    Deleted(ObjectKey),
    Ordered(ObjectKey),
    Node(Box<NodeView>, u64),
    Nothing,
}

fn failure(what: &str, error: &kube::Error) -> Failure {
    let mut finding = explain(error);
    finding.message = format!("{what}: {}", finding.message);
    let follows = match finding.reason {
        Reason::SiteUnreachable | Reason::Unauthorized => Follows::Reconnect,
        Reason::RefusedBySite => Follows::Person,
        _ => Follows::Retry,
    };
    Failure { finding, follows }
}

impl Failure {
    /// The same for a refusal that passes without a person.
    fn not_for_a_person(self) -> Self {
        let follows = if self.follows == Follows::Person { Follows::Retry } else { self.follows };
        Self { follows, ..self }
    }
}

fn changed(what: &str) -> Failure {
    Failure { finding: Finding::note(Reason::InProgress, format!("{what} changed meanwhile")), follows: Follows::Retry }
}

fn timeout(what: &str) -> Failure {
    Failure { finding: Finding::note(Reason::SiteUnreachable, format!("{what}: the site did not answer in time")), follows: Follows::Reconnect }
}
