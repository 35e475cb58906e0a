//! What the hub writes: finalizers and status of our own resources.

use aifactory_api::{AIFactory, AccessGrant, GPUPool, GROUP, Kind, OwnerRef, VERSION, labels};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::call::{CallError, call};
use super::watch::{WatchEvent, Watched, event_of};
use crate::tolerant_decode::{Tolerant, taken};

/// A write to the hub.
#[derive(Clone, Debug)]
pub enum Write {
    /// Adds our finalizer.
    AddFinalizer,
    /// Removes our finalizer.
    RemoveFinalizer,
    /// Replaces the status.
    Status(Value),
    /// Replaces the conditions and leaves the rest of the status alone, for a resource that can not be reconciled.
    Conditions(Value),
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
    /// The operator failed while writing.
    #[error("{owner}: the operator failed while writing; its log says where")]
    Panicked {
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

/// The text of the error, with its cause.
pub fn explain(error: &WriteError) -> String {
    match error {
        WriteError::Api { source, .. } => format!("{error}: {}", crate::client::explain(source)),
        WriteError::Timeout { .. } | WriteError::Panicked { .. } | WriteError::Patch { .. } => error.to_string(),
    }
}

/// Writes to the resource with this metadata. Returns the resource as the API server answered with it, or `None` where the resource is gone, needed
/// no write, or can not be decoded at all.
pub async fn write(client: &Client, owner: &OwnerRef, meta: &ObjectMeta, write: Write) -> Result<Option<WatchEvent>, WriteError> {
    match owner.kind {
        Kind::AIFactory => typed::<AIFactory>(client, owner, meta, write).await,
        Kind::GPUPool => typed::<GPUPool>(client, owner, meta, write).await,
        Kind::AccessGrant => typed::<AccessGrant>(client, owner, meta, write).await,
    }
}

async fn typed<K: Watched>(client: &Client, owner: &OwnerRef, meta: &ObjectMeta, write: Write) -> Result<Option<WatchEvent>, WriteError> {
    let api: Api<Tolerant<K>> = Api::namespaced(client.clone(), &owner.namespace);
    let result = match write {
        Write::Status(status) => {
            let params = PatchParams::apply(labels::STATUS_MANAGER).force();
            answered(owner, api.patch_status(&owner.name, &params, &Patch::Apply(envelope(owner, meta, &status)))).await
        }
        Write::Conditions(conditions) => {
            // No apply: the API server refuses one on an object that is of another type than its schema says.
            let params = PatchParams { field_manager: Some(labels::CONDITIONS_MANAGER.to_owned()), ..PatchParams::default() };
            // Only on what was read, since all conditions are written.
            let patch = json!({"metadata": {"resourceVersion": meta.resource_version}, "status": {"conditions": conditions}});
            answered(owner, api.patch_status(&owner.name, &params, &Patch::Merge(patch))).await
        }
        Write::AddFinalizer | Write::RemoveFinalizer => {
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
                _ => return Ok(None),
            };
            // The test on the UID keeps the write from another resource of the same name that was made meanwhile.
            let mut operations = vec![json!({"op": "test", "path": "/metadata/uid", "value": meta.uid})];
            operations.extend(change.as_array().cloned().unwrap_or_default());
            let patch: json_patch::Patch = serde_json::from_value(Value::Array(operations))
                .map_err(|error| WriteError::Patch { owner: owner.clone(), why: error.to_string() })?;
            let params = PatchParams { field_manager: Some(labels::HUB_MANAGER.to_owned()), ..PatchParams::default() };
            answered(owner, api.patch(&owner.name, &params, &Patch::<()>::Json(patch))).await
        }
    };
    match result {
        Ok(stored) => Ok(stored.map(event_of)),
        Err(WriteError::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.is_not_found()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The status of the version that it was computed for: of no later one, nor of another resource of the same name that was made meanwhile.
fn envelope(owner: &OwnerRef, meta: &ObjectMeta, status: &Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": owner.kind.as_str(),
        "metadata": {"name": owner.name, "resourceVersion": meta.resource_version},
        "status": status,
    })
}

async fn answered<T>(owner: &OwnerRef, request: impl Future<Output = Result<T, kube::Error>>) -> Result<Option<T>, WriteError> {
    call(async { taken(request.await) }).await.map_err(|error| match error {
        CallError::Api(source) => WriteError::Api { owner: owner.clone(), source },
        CallError::Timeout => WriteError::Timeout { owner: owner.clone() },
    })
}
