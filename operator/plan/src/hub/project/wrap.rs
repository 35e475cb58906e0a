//! The envelope of an intent.

use aifactory_api::OwnerRef;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::hub::cache::created;
use crate::model::intent::{Body, Intent, VERSION};

/// Wraps a body into an intent for a resource with this metadata. Its serial is set when it is sent.
pub fn wrap(owner: &OwnerRef, metadata: &ObjectMeta, body: Body) -> Intent {
    Intent {
        version: VERSION,
        owner: owner.clone(),
        uid: metadata.uid.clone().unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
        created: created(metadata),
        serial: 0,
        body,
    }
}
