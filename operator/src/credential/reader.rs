//! Reads a site's credential from its Secret, and keeps the Secret from being deleted while a site uses it.

mod look;

use std::collections::BTreeMap;
use std::time::Duration;

use aifactory_api::{Reason, labels};
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::report::Finding;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

pub use self::look::{Look, Looks};
use crate::client::{ClientSettings, Clients, NO_ANSWER};
use crate::credential::{AddressRules, Fingerprint, SiteCredential};
use crate::tolerant_decode::{Tolerant, taken};

/// Longest wait for one call to the hub.
const HUB_CALL: Duration = Duration::from_secs(10);

/// A credential as it was found.
pub struct Found {
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Clients made with it.
    pub clients: Clients,
    /// When it expires, where it names a time.
    pub expires: Option<jiff::Timestamp>,
}

/// Reads and keeps credentials, with the hub's client.
#[derive(Clone)]
pub struct CredentialReader {
    /// Client for the hub.
    pub hub: Client,
    /// The hub's own clients, for a local site.
    pub local: Clients,
    /// Addresses that sites may have.
    pub rules: AddressRules,
    /// What site clients share.
    pub settings: ClientSettings,
    /// The last reads of Secrets, shared by sites whose credentials are in one Secret.
    pub looks: Looks,
}

impl CredentialReader {
    /// Reads the fingerprint of the credential that is there now, so that a rotation is noticed.
    pub async fn look(&self, source: &CredentialSource) -> Look {
        match source {
            CredentialSource::Local => Look::without_secret(),
            CredentialSource::Secret { namespace, name, .. } => {
                let secrets: Api<Tolerant<Secret>> = Api::namespaced(self.hub.clone(), namespace);
                self.looks.share(namespace, name, async { fetch(&secrets, name).await.map(|secret| secret.map(fingerprints)) }).await
            }
        }
    }

    /// Reads the credential, makes clients, and marks it as in use.
    pub async fn connect(&self, source: &CredentialSource) -> Result<Found, Finding> {
        match source {
            CredentialSource::Local => Ok(Found { fingerprint: Fingerprint::of(b"local"), clients: self.local.clone(), expires: None }),
            CredentialSource::Secret { namespace, name, key } => {
                let (bytes, secret) = self.bytes(namespace, name, key).await?;
                let credential = SiteCredential::parse(&bytes, &self.rules)
                    .map_err(|error| Finding::stalled(Reason::CredentialInvalid, format!("Secret {name}, key {key}: {}: {error}", error.reason())))?;
                let clients = Clients::new(&credential.config(None), &self.settings)
                    .map_err(|_| Finding::stalled(Reason::CredentialInvalid, format!("Secret {name}, key {key}: no client can be made with it")))?;
                let secrets: Api<Tolerant<Secret>> = Api::namespaced(self.hub.clone(), namespace);
                let bindings: Api<Tolerant<RoleBinding>> = Api::namespaced(self.hub.clone(), namespace);
                hold(&secrets, &secret).await?;
                if let Ok(Ok(Tolerant::Read(binding))) = tokio::time::timeout(HUB_CALL, bindings.get(labels::CREDENTIALS)).await {
                    hold(&bindings, &binding).await?;
                }
                Ok(Found { fingerprint: Fingerprint::of(&bytes), clients, expires: credential.expires_at() })
            }
        }
    }

    /// Reads a key of a Secret, and those of `others` that are there, and marks the Secret as in use.
    pub async fn secret(&self, source: &CredentialSource, others: &[&str]) -> Result<(Vec<u8>, BTreeMap<String, Vec<u8>>), Finding> {
        let CredentialSource::Secret { namespace, name, key } = source else {
            return Err(Finding::stalled(Reason::InvalidSpec, "a Slurm is reached with a Secret"));
        };
        let (value, found, secret) = self.read(namespace, name, key, others).await?;
        hold(&Api::namespaced(self.hub.clone(), namespace), &secret).await?;
        let bindings: Api<Tolerant<RoleBinding>> = Api::namespaced(self.hub.clone(), namespace);
        if let Ok(Ok(Tolerant::Read(binding))) = tokio::time::timeout(HUB_CALL, bindings.get(labels::CREDENTIALS)).await {
            hold(&bindings, &binding).await?;
        }
        Ok((value, found))
    }

    /// Removes our finalizer from a Secret.
    pub async fn release_secret(&self, namespace: &str, name: &str) -> Result<(), Finding> {
        let secrets: Api<Tolerant<Secret>> = Api::namespaced(self.hub.clone(), namespace);
        let Some(secret) = held(fetch(&secrets, name).await)? else { return Ok(()) };
        release(&secrets, &secret).await
    }

    /// Removes our finalizer from the RoleBinding that lets the operator read Secrets in a namespace.
    pub async fn release_binding(&self, namespace: &str) -> Result<(), Finding> {
        let bindings: Api<Tolerant<RoleBinding>> = Api::namespaced(self.hub.clone(), namespace);
        let Some(binding) = held(fetch(&bindings, labels::CREDENTIALS).await)? else { return Ok(()) };
        release(&bindings, &binding).await
    }

    async fn bytes(&self, namespace: &str, name: &str, key: &str) -> Result<(Vec<u8>, Secret), Finding> {
        let (value, _, secret) = self.read(namespace, name, key, &[]).await?;
        Ok((value, secret))
    }

    async fn read(&self, namespace: &str, name: &str, key: &str, others: &[&str]) -> Result<(Vec<u8>, BTreeMap<String, Vec<u8>>, Secret), Finding> {
        let secrets: Api<Tolerant<Secret>> = Api::namespaced(self.hub.clone(), namespace);
        let Some(mut secret) = fetch(&secrets, name).await? else {
            return Err(no_secret(namespace, name, key));
        };
        let value = secret.data.as_mut().and_then(|data| data.remove(key));
        let mut found = BTreeMap::new();
        for other in others {
            if let Some(value) = secret.data.as_mut().and_then(|data| data.remove(*other)) {
                found.insert((*other).to_owned(), value.0);
            }
        }
        // The rest of the Secret is not kept.
        secret.data = None;
        match value {
            Some(value) => Ok((value.0, found, secret)),
            None => Err(no_key(namespace, name, key)),
        }
    }
}

/// The fingerprint of each key of a Secret; its bytes are not kept.
fn fingerprints(secret: Secret) -> BTreeMap<String, Fingerprint> {
    secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, Fingerprint::of(&value.0))).collect()
}

fn no_secret(namespace: &str, name: &str, key: &str) -> Finding {
    Finding::stalled(
        Reason::SecretNotFound,
        format!(
            "there is no Secret {name} in namespace {namespace}. Make it: kubectl create secret generic {name} -n {namespace} --from-file={key}=FILE"
        ),
    )
}

fn no_key(namespace: &str, name: &str, key: &str) -> Finding {
    Finding::stalled(Reason::SecretNotFound, format!("Secret {name} in namespace {namespace} has no key {key}"))
}

/// The RoleBinding gets its finalizer together with the Secrets. Where it is gone, no finalizer was ever set, and waiting for it would keep a factory
/// forever in a namespace that is being deleted.
fn held<K>(found: Result<Option<K>, Finding>) -> Result<Option<K>, Finding> {
    match found {
        Err(finding) if finding.reason == Reason::SecretForbidden => Ok(None),
        found => found,
    }
}

async fn fetch<K>(api: &Api<Tolerant<K>>, name: &str) -> Result<Option<K>, Finding>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    match tokio::time::timeout(HUB_CALL, api.get_opt(name)).await {
        Ok(Ok(Some(Tolerant::Read(found)))) => Ok(Some(found)),
        Ok(Ok(None)) => Ok(None),
        // The message omits the cause, since that may quote the Secret.
        Ok(Ok(Some(Tolerant::Broken(_)))) => {
            Err(Finding::stalled(Reason::CredentialInvalid, format!("{} {name} can not be read by this release", K::kind(&()))))
        }
        Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => {
            let namespace = api.namespace().unwrap_or_default();
            Err(Finding::stalled(
                Reason::SecretForbidden,
                format!(
                    "the operator may not read {} {name} in namespace {namespace}. Allow it: kubectl create rolebinding {role} -n {namespace} \
                     --clusterrole={role} --serviceaccount={system}:aifactory-operator",
                    K::kind(&()),
                    role = labels::CREDENTIALS,
                    system = labels::SYSTEM_NAMESPACE,
                ),
            ))
        }
        Ok(Err(error)) => {
            Err(Finding::note(Reason::InternalError, format!("the hub does not answer for {} {name}: {}", K::kind(&()), brief(&error))))
        }
        Err(_) => Err(Finding::note(Reason::InternalError, format!("the hub does not answer for {} {name} in time", K::kind(&())))),
    }
}

async fn hold<K>(api: &Api<Tolerant<K>>, object: &K) -> Result<(), Finding>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    if object.finalizers().iter().any(|finalizer| finalizer == labels::FINALIZER) || object.meta().deletion_timestamp.is_some() {
        return Ok(());
    }
    let patch = if object.finalizers().is_empty() {
        json!([
            {"op": "test", "path": "/metadata/uid", "value": object.uid()},
            {"op": "add", "path": "/metadata/finalizers", "value": [labels::FINALIZER]},
        ])
    } else {
        json!([
            {"op": "test", "path": "/metadata/uid", "value": object.uid()},
            {"op": "test", "path": "/metadata/finalizers", "value": object.finalizers()},
            {"op": "add", "path": "/metadata/finalizers/-", "value": labels::FINALIZER},
        ])
    };
    patch_finalizers(api, object, patch).await
}

async fn release<K>(api: &Api<Tolerant<K>>, object: &K) -> Result<(), Finding>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let Some(index) = object.finalizers().iter().position(|finalizer| finalizer == labels::FINALIZER) else { return Ok(()) };
    let path = format!("/metadata/finalizers/{index}");
    let patch = json!([
        {"op": "test", "path": "/metadata/uid", "value": object.uid()},
        {"op": "test", "path": path, "value": labels::FINALIZER},
        {"op": "remove", "path": path},
    ]);
    patch_finalizers(api, object, patch).await
}

async fn patch_finalizers<K>(api: &Api<Tolerant<K>>, object: &K, patch: serde_json::Value) -> Result<(), Finding>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let failed = |text: String| {
        Finding::note(Reason::InternalError, format!("{} {}: its finalizer can not be changed: {text}", K::kind(&()), object.name_any()))
    };
    let patch: json_patch::Patch = serde_json::from_value(patch).map_err(|error| failed(error.to_string()))?;
    let params = PatchParams { field_manager: Some(labels::HUB_MANAGER.to_owned()), ..PatchParams::default() };
    match tokio::time::timeout(HUB_CALL, api.patch(&object.name_any(), &params, &Patch::<()>::Json(patch))).await.map(taken) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Ok(()),
        Ok(Err(error)) => Err(failed(brief(&error))),
        Err(_) => Err(failed(NO_ANSWER.to_owned())),
    }
}

/// The text of an error, without what a server may have put into it.
fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} {}", status.code, status.reason),
        _ => "no answer".to_owned(),
    }
}
