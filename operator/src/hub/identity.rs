//! The id of the hub: random, made once, kept beside the operator and part of its backup.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use aifactory_api::labels;
use aifactory_plan::model::id::HubId;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::tolerant_decode::{Tolerant, taken};

/// Why there is no hub id.
#[derive(Debug, thiserror::Error)]
pub enum HubIdError {
    /// The API server answered with an error.
    #[error("ConfigMap {namespace}/{} can not be read or made", labels::HUB_CONFIG)]
    Api {
        /// Namespace of the ConfigMap.
        namespace: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// The ConfigMap is there without an id.
    #[error("ConfigMap {namespace}/{} has no key `id`; restore it from the backup of this hub", labels::HUB_CONFIG)]
    Empty {
        /// Namespace of the ConfigMap.
        namespace: String,
    },
}

/// Reads the hub id, and makes it where there is none.
pub async fn hub_id(client: &Client, namespace: &str) -> Result<HubId, HubIdError> {
    let api: Api<Tolerant<ConfigMap>> = Api::namespaced(client.clone(), namespace);
    let failed = |source: kube::Error| HubIdError::Api { namespace: namespace.to_owned(), source: Box::new(source) };
    for _ in 0..3 {
        if let Some(found) = api.get_opt(labels::HUB_CONFIG).await.map_err(failed)? {
            let id = found.into_result().ok().and_then(|found| found.data).unwrap_or_default().remove("id").filter(|id| !id.is_empty());
            return id.map(HubId::new).ok_or_else(|| HubIdError::Empty { namespace: namespace.to_owned() });
        }
        let random = |_| RandomState::new().build_hasher().finish();
        let id = format!("{:016x}", (0..2).map(random).fold(0, |sum: u64, part| sum.rotate_left(32) ^ part));
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": labels::HUB_CONFIG}, "data": {"id": id}});
        // Without force, under a name of its own: whoever comes second gets a conflict and reads the first one's id.
        let manager = format!("{}-{id}", labels::HUB_MANAGER);
        match taken(api.patch(labels::HUB_CONFIG, &PatchParams::apply(&manager), &Patch::Apply(&object)).await) {
            Ok(_) => return Ok(HubId::new(id)),
            Err(kube::Error::Api(status)) if status.is_conflict() => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(HubIdError::Empty { namespace: namespace.to_owned() })
}
