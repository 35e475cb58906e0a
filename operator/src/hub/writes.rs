//! What the hub writes: finalizers and status of our own resources.

use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant, GPUPool, GROUP, Kind, OwnerRef, VERSION, labels};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::watch::{Resourced, Watched};

/// Longest wait for one write.
const WRITE: Duration = Duration::from_secs(10);

/// A write to the hub.
#[derive(Clone, Debug)]
pub enum Write {
    /// Puts our finalizer on.
    AddFinalizer,
    /// Takes our finalizer off.
    RemoveFinalizer,
    /// Replaces the status.
    Status(Value),
}

/// Why a write to the hub failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API server answered with an error.
    #[error("{owner}: the hub did not take the write")]
    Api {
        /// The resource.
        owner: OwnerRef,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("{owner}: the hub did not answer in time")]
    Timeout {
        /// The resource.
        owner: OwnerRef,
    },
    /// The patch could not be made.
    #[error("{owner}: {why}")]
    Patch {
        /// The resource.
        owner: OwnerRef,
        /// Why not.
        why: String,
    },
}

/// The error in words, with its cause.
pub fn explain(error: &WriteError) -> String {
    match error {
        WriteError::Api { source, .. } => format!("{error}: {}", crate::client::explain(source)),
        WriteError::Timeout { .. } | WriteError::Patch { .. } => error.to_string(),
    }
}

/// Carries a write out; returns the resource as it is then, or `None` if it is gone.
pub async fn write(client: &Client, owner: &OwnerRef, current: &Resourced, write: Write) -> Result<Option<Resourced>, WriteError> {
    match owner.kind {
        Kind::AIFactory => typed::<AIFactory>(client, owner, current, write).await,
        Kind::GPUPool => typed::<GPUPool>(client, owner, current, write).await,
        Kind::AccessGrant => typed::<AccessGrant>(client, owner, current, write).await,
    }
}

/// Writes a status by name alone, for a resource that can not be decoded.
pub async fn raw_status(client: &Client, owner: &OwnerRef, status: Value) -> Result<(), WriteError> {
    let body = envelope(owner, &status);
    let request = match owner.kind {
        Kind::AIFactory => patch_status::<AIFactory>(client, owner, &body).await.map(|_| ()),
        Kind::GPUPool => patch_status::<GPUPool>(client, owner, &body).await.map(|_| ()),
        Kind::AccessGrant => patch_status::<AccessGrant>(client, owner, &body).await.map(|_| ()),
    };
    match request {
        // The answer can not be decoded either; the write itself is what counts.
        Err(WriteError::Api { source, .. }) if matches!(*source, kube::Error::SerdeError(_)) => Ok(()),
        other => other,
    }
}

async fn typed<K: Watched>(client: &Client, owner: &OwnerRef, current: &Resourced, write: Write) -> Result<Option<Resourced>, WriteError> {
    let api: Api<K> = Api::namespaced(client.clone(), &owner.namespace);
    let result = match write {
        Write::Status(status) => patch_status::<K>(client, owner, &envelope(owner, &status)).await,
        Write::AddFinalizer | Write::RemoveFinalizer => {
            let meta = current.meta();
            let finalizers = meta.finalizers.clone().unwrap_or_default();
            let position = finalizers.iter().position(|finalizer| finalizer == labels::FINALIZER);
            let change = match (&write, position) {
                (Write::AddFinalizer, None) if finalizers.is_empty() => {
                    json!([{"op": "add", "path": "/metadata/finalizers", "value": [labels::FINALIZER]}])
                }
                (Write::AddFinalizer, None) => json!([
                    {"op": "test", "path": "/metadata/finalizers", "value": finalizers},
                    {"op": "add", "path": "/metadata/finalizers/-", "value": labels::FINALIZER},
                ]),
                (Write::RemoveFinalizer, Some(index)) => json!([
                    {"op": "test", "path": format!("/metadata/finalizers/{index}"), "value": labels::FINALIZER},
                    {"op": "remove", "path": format!("/metadata/finalizers/{index}")},
                ]),
                _ => return Ok(Some(current.clone())),
            };
            // Never the next incarnation of the same name.
            let mut operations = vec![json!({"op": "test", "path": "/metadata/uid", "value": meta.uid})];
            operations.extend(change.as_array().cloned().unwrap_or_default());
            let patch: json_patch::Patch = serde_json::from_value(Value::Array(operations))
                .map_err(|error| WriteError::Patch { owner: owner.clone(), why: error.to_string() })?;
            let params = PatchParams { field_manager: Some(labels::HUB_MANAGER.to_owned()), ..PatchParams::default() };
            bounded(owner, api.patch(&owner.name, &params, &Patch::<()>::Json(patch))).await
        }
    };
    match result {
        Ok(mut stored) => {
            stored.managed_fields_mut().clear();
            Ok(Some(stored.wrap()))
        }
        Err(WriteError::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.is_not_found()) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn patch_status<K: Watched>(client: &Client, owner: &OwnerRef, body: &Value) -> Result<K, WriteError> {
    let api: Api<K> = Api::namespaced(client.clone(), &owner.namespace);
    bounded(owner, api.patch_status(&owner.name, &PatchParams::apply(labels::STATUS_MANAGER).force(), &Patch::Apply(body))).await
}

fn envelope(owner: &OwnerRef, status: &Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": owner.kind.as_str(),
        "metadata": {"name": owner.name},
        "status": status,
    })
}

async fn bounded<T>(owner: &OwnerRef, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, WriteError> {
    match tokio::time::timeout(WRITE, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(WriteError::Api { owner: owner.clone(), source: Box::new(error) }),
        Err(_) => Err(WriteError::Timeout { owner: owner.clone() }),
    }
}
