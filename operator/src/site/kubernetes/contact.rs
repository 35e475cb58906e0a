//! Makes contact with a site: checks the cluster's identity, our claim, the APIs that it serves, and whether its admission policies are in force.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use aifactory_api::factory::EngineStatus;
use aifactory_api::name::digest;
use aifactory_api::{Reason, labels};
use aifactory_plan::engine;
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::intent::SiteIntent;
use aifactory_plan::model::object::ObjectKind;
use aifactory_plan::model::report::Finding;
use aifactory_plan::model::text::shorten;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::watch::api_resource;
use crate::client::{Clients, NO_ANSWER};
use crate::credential::Fingerprint;
use crate::credential::reader::{CredentialReader, Found};
use crate::tolerant_decode::{Tolerant, taken};

/// Longest wait for one call while contact is made.
pub const CALL: Duration = Duration::from_secs(5);

/// Longest wait for an answer to a probe: with it, two failures in a row show within 15 s that a site is lost, also on a busy machine.
const PROBE: Duration = Duration::from_secs(4);

/// Policies that tie tenants to their pools and their namespace; their bindings have the same names.
const TENANT_POLICIES: [&str; 7] = [
    "aifactory-tenant-pods",
    "aifactory-tenant-priority",
    "aifactory-tenant-volume-claims",
    "aifactory-tenant-secrets",
    "aifactory-tenant-services",
    "aifactory-tenant-finalizers",
    "aifactory-tenant-labels",
];

/// The result of a successful contact: a cluster that answers and is ours.
#[derive(Clone)]
pub struct Session {
    /// Clients for it.
    pub clients: Clients,
    /// The credential in use.
    pub fingerprint: Fingerprint,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// UID of the cluster.
    pub cluster_uid: String,
    /// Version of its API server.
    pub version: String,
    /// The APIs that it serves.
    pub served: Served,
    /// Whether it carries our claim, or needs none since it is being released.
    pub claimed: bool,
    /// Why only access may be taken away there: its policies are not in force, or could not be tested.
    pub unguarded: Option<Finding>,
}

/// Why there is no session.
#[derive(Clone, Debug)]
pub struct NoContact {
    /// The problem, or what is waited for.
    pub problem: Finding,
    /// UID of the cluster, where it answers and the hub has not recorded it yet.
    pub cluster_uid: Option<String>,
}

impl From<Finding> for NoContact {
    fn from(problem: Finding) -> Self {
        Self { problem, cluster_uid: None }
    }
}

/// The APIs that a site serves beside Kubernetes itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Served {
    /// Engines.
    pub engines: Vec<EngineStatus>,
    /// Kinds, of those that engines work with.
    pub kinds: BTreeSet<ObjectKind>,
}

impl Served {
    /// Looks for the APIs that engines need.
    pub async fn by(client: &Client) -> Result<Self, Finding> {
        let groups = call(client.list_api_groups()).await?.groups;
        let mut served = Self::default();
        for (api, kinds) in engine::ALL.apis() {
            let group = groups.iter().find(|group| group.name == api.group);
            if !group.is_some_and(|group| group.versions.iter().any(|version| version.version == api.version)) {
                continue;
            }
            let path = format!("{}/{}", api.group, api.version);
            let listing = async {
                match client.list_api_group_resources(&path).await {
                    // The API was removed between the two requests.
                    Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
                    answer => answer.map(Some),
                }
            };
            let Some(found) = call(listing).await? else { continue };
            served.engines.push(EngineStatus { name: api.name.to_owned(), version: api.version.to_owned() });
            served.kinds.extend(kinds.into_iter().filter(|kind| found.resources.iter().any(|resource| resource.name == kind.info().plural)));
        }
        Ok(served)
    }
}

/// As long as status may say what a site calls its version and its cluster.
const TEXT: usize = 63;

/// Makes contact. There is a session where the cluster is the expected one and not claimed by others; access is given in it only where the site's
/// policies are in force.
pub async fn connect(reader: &CredentialReader, source: &CredentialSource, intent: &SiteIntent) -> Result<Session, NoContact> {
    let found = reader.connect(source).await?;
    let client = &found.clients.rpc;
    let version = shorten(&call(client.apiserver_version()).await?.git_version, TEXT);
    let namespaces: Api<Tolerant<Namespace>> = Api::all(client.clone());
    let cluster_uid = shorten(&call(namespaces.get("kube-system")).await?.uid().unwrap_or_default(), TEXT);
    check_identity(intent, &cluster_uid)?;
    if !intent.recorded {
        // The claim is only read here: a cluster of another factory is not recorded by the hub.
        claim(client, intent, false).await?;
        let problem = Finding::note(Reason::Pending, "the site answers; it waits until the hub has stored that this site may hold something");
        return Err(NoContact { problem, cluster_uid: Some(cluster_uid) });
    }
    let unguarded = untested(check_policies(client).await)?;
    let claimed = claim(client, intent, unguarded.is_none()).await?;
    let served = Served::by(client).await?;
    let Found { clients, fingerprint, expires } = found;
    Ok(Session { clients, fingerprint, expires, cluster_uid, version, served, claimed, unguarded })
}

/// What a test of the policies means for a session. A foreign webhook that is down can make the test fail; that must not keep the operator from
/// removing access.
fn untested(result: Result<(), Finding>) -> Result<Option<Finding>, Finding> {
    match result {
        Ok(()) => Ok(None),
        Err(problem) if matches!(problem.reason, Reason::SiteUnreachable | Reason::Unauthorized) => Err(problem),
        Err(problem) if problem.reason == Reason::SitePoliciesMissing => Ok(Some(problem)),
        Err(Finding { reason, message, stalled }) => {
            let message = format!("the site's admission policies can not be tested, so only access is taken away until they can: {message}");
            Ok(Some(Finding { reason, message, stalled }))
        }
    }
}

fn check_identity(intent: &SiteIntent, found: &str) -> Result<(), Finding> {
    let known = [&intent.expected_uid, &intent.accepted_uid];
    if intent.expected_uid.is_none() || known.iter().any(|uid| uid.as_deref() == Some(found)) {
        return Ok(());
    }
    Err(Finding::stalled(
        Reason::SiteIdentityChanged,
        format!(
            "another cluster answers: its UID is {found}, and it was {}. Nothing is written there. If that is meant, nobody asks the former cluster any more, so it must be gone or be cleaned up by hand: kubectl annotate aifactory {} -n {} --overwrite {}={}={found}",
            intent.expected_uid.as_deref().unwrap_or_default(),
            intent.factory.name,
            intent.factory.namespace,
            labels::ACCEPT_IDENTITY,
            intent.site,
        ),
    ))
}

/// Sends, as dry runs, requests that the site's policies must refuse. The policies for tenants can not be tried with the operator's rights, so it
/// checks that they exist.
pub async fn check_policies(client: &Client) -> Result<(), Finding> {
    let namespaces: Api<Tolerant<DynamicObject>> = Api::all_with(client.clone(), &api_resource(ObjectKind::NAMESPACE));
    let quotas: Api<Tolerant<DynamicObject>> =
        Api::namespaced_with(client.clone(), labels::SYSTEM_NAMESPACE, &api_resource(ObjectKind::RESOURCE_QUOTA));
    let namespace = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {
            labels::MANAGED: "true", labels::STATE: labels::STATE_BOUND, "pod-security.kubernetes.io/enforce": "restricted"}}})
    };
    let mut outside = namespace("self-test");
    if let Some(labels) = outside.pointer_mut("/metadata/labels").and_then(serde_json::Value::as_object_mut) {
        labels.insert(labels::TENANT.to_owned(), json!("true"));
    }
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "aifactory", "labels": {labels::MANAGED: "true"}}});
    let bindings: Api<Tolerant<ValidatingAdmissionPolicyBinding>> = Api::all(client.clone());
    tokio::try_join!(
        must_be_refused(&namespaces, "self-test", outside, "aifactory-site-cluster-scoped"),
        must_be_refused(&namespaces, "aif-self-test", namespace("aif-self-test"), "aifactory-site-namespaces"),
        must_be_refused(&quotas, "aifactory", quota, "aifactory-site-namespaced"),
        futures::future::try_join_all(TENANT_POLICIES.map(|name| must_be_bound(&bindings, name))),
    )?;
    Ok(())
}

async fn must_be_refused(api: &Api<Tolerant<DynamicObject>>, name: &str, object: serde_json::Value, policy: &str) -> Result<(), Finding> {
    let params = PatchParams { dry_run: true, ..PatchParams::apply(labels::SITE_MANAGER).force() };
    match tokio::time::timeout(CALL, api.patch(name, &params, &Patch::Apply(&object))).await.map(taken) {
        Err(_) => Err(unreachable(NO_ANSWER)),
        Ok(Ok(_)) => Err(unguarded(&format!("{policy} would have let a write pass that it must refuse"))),
        Ok(Err(kube::Error::Api(status))) if status.message.contains("ValidatingAdmissionPolicy 'aifactory-site") => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.is_forbidden() || status.is_invalid() => {
            Err(unguarded(&format!("{policy} did not refuse a test, but: {}", aifactory_plan::model::text::shorten(&status.message, 300))))
        }
        Ok(Err(error)) => Err(explain(&error)),
    }
}

async fn must_be_bound(api: &Api<Tolerant<ValidatingAdmissionPolicyBinding>>, name: &str) -> Result<(), Finding> {
    let binding = call(api.get_opt(name)).await?;
    let denies = binding.and_then(|binding| binding.into_result().ok()?.spec).is_some_and(|spec| {
        spec.policy_name.as_deref() == Some(name) && spec.validation_actions.unwrap_or_default().iter().any(|action| action == "Deny")
    });
    if denies { Ok(()) } else { Err(unguarded(&format!("{name} is not bound"))) }
}

fn unguarded(what: &str) -> Finding {
    let message =
        format!("the site's admission policies are not in force: {what}. Apply charts/aifactory-site there; until then only access is taken away");
    Finding::stalled(Reason::SitePoliciesMissing, message)
}

/// Writes the claim, or checks that it is ours; returns whether it is there, or not needed. Without `written` it only reads.
async fn claim(client: &Client, intent: &SiteIntent, written: bool) -> Result<bool, Finding> {
    let api: Api<Tolerant<ConfigMap>> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let factory = format!("{}/{}", intent.factory.namespace, intent.factory.name);
    let wanted = [("hub", intent.hub.as_str()), ("factory", factory.as_str()), ("site", intent.site.as_str())];
    let leaves = intent.release || intent.left;
    let found = match call(api.get_opt(labels::CLAIM)).await? {
        Some(found) => found,
        None if leaves => return Ok(true),
        None if !written => return Ok(false),
        None => {
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": labels::CLAIM, "labels": {labels::MANAGED: "true"}},
                "data": wanted.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
            });
            // Server-side apply without force, with a field manager for each claimant: the second claimant gets a conflict.
            let manager = format!("{}-{}", labels::SITE_MANAGER, digest(&[intent.hub.as_str(), &factory, &intent.site], 16));
            match tokio::time::timeout(CALL, api.patch(labels::CLAIM, &PatchParams::apply(&manager), &Patch::Apply(&object))).await {
                Ok(Ok(made)) => made,
                Ok(Err(kube::Error::Api(status))) if status.is_conflict() => call(api.get(labels::CLAIM)).await?,
                Ok(Err(error)) => return Err(explain(&error)),
                Err(_) => return Err(unreachable(NO_ANSWER)),
            }
        }
    };
    let found = readable(found)?;
    let data = found.data.clone().unwrap_or_default();
    let value = |key: &str| data.get(key).map(String::as_str).unwrap_or_default();
    if wanted.iter().all(|(key, wanted)| value(key) == *wanted) {
        return Ok(true);
    }
    if value("hub").is_empty() {
        if leaves || !written {
            return Ok(leaves);
        }
        return replace_claim(&api, &found, &wanted).await.map(|()| true);
    }
    Err(Finding::stalled(
        Reason::SiteClaimed,
        format!(
            "the cluster belongs to site {:?} of AIFactory {} of hub {}; a site belongs to one factory of one hub. Release it there first",
            value("site"),
            value("factory"),
            value("hub"),
        ),
    ))
}

/// Releases the claim.
pub async fn release(client: &Client) -> Result<(), Finding> {
    let api: Api<Tolerant<ConfigMap>> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    match call(api.get_opt(labels::CLAIM)).await? {
        Some(found) => replace_claim(&api, &readable(found)?, &[("hub", ""), ("factory", ""), ("site", "")]).await,
        None => Ok(()),
    }
}

async fn replace_claim(api: &Api<Tolerant<ConfigMap>>, found: &ConfigMap, data: &[(&str, &str)]) -> Result<(), Finding> {
    let data: std::collections::BTreeMap<_, _> = data.iter().copied().collect();
    let patch = json!([
        {"op": "test", "path": "/metadata/resourceVersion", "value": found.resource_version()},
        {"op": "add", "path": "/data", "value": data},
    ]);
    let patch: json_patch::Patch = serde_json::from_value(patch).map_err(|error| internal(&error.to_string()))?;
    let params = PatchParams { field_manager: Some(labels::SITE_MANAGER.to_owned()), ..PatchParams::default() };
    call(async { taken(api.patch(labels::CLAIM, &params, &Patch::<()>::Json(patch)).await) }).await.map(|_| ())
}

/// A claim that can not be read counts as another factory's.
fn readable(claim: Tolerant<ConfigMap>) -> Result<ConfigMap, Finding> {
    claim.into_result().map_err(|_| {
        Finding::stalled(
            Reason::SiteClaimed,
            format!("ConfigMap {}/{} can not be read, so that the site may be claimed by another hub", labels::SYSTEM_NAMESPACE, labels::CLAIM),
        )
    })
}

/// Probes the site.
pub async fn probe(client: &Client) -> Result<(), Finding> {
    match tokio::time::timeout(PROBE, call(client.apiserver_version())).await {
        Ok(answer) => answer.map(|_| ()),
        Err(_) => Err(unreachable(NO_ANSWER)),
    }
}

async fn call<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Finding> {
    match tokio::time::timeout(CALL, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(explain(&error)),
        Err(_) => Err(unreachable(NO_ANSWER)),
    }
}

/// The finding for an error of a site.
pub fn explain(error: &kube::Error) -> Finding {
    match error {
        kube::Error::Api(status) if status.code == 401 => {
            Finding::stalled(Reason::Unauthorized, "the site refuses the credential (401); renew the Secret")
        }
        kube::Error::Api(status) if status.code == 403 => {
            Finding::stalled(Reason::RefusedBySite, format!("the site refuses: {}", aifactory_plan::model::text::shorten(&status.message, 500)))
        }
        kube::Error::Api(status) => Finding::note(
            Reason::SiteError,
            format!("the site answers {}: {}", status.code, aifactory_plan::model::text::shorten(&status.message, 300)),
        ),
        other => unreachable(&crate::client::explain(other)),
    }
}

fn unreachable(why: &str) -> Finding {
    Finding::note(Reason::SiteUnreachable, format!("the site does not answer: {why}"))
}

fn internal(why: &str) -> Finding {
    Finding::note(Reason::InternalError, why.to_owned())
}
