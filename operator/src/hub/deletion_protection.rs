//! The namespaces that hold living grants, kept in a ConfigMap that the hub's admission policy reads: it can not look at other objects.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aifactory_api::labels;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::tolerant_decode::{Tolerant, taken};

/// Longest wait for the write.
const WRITE: Duration = Duration::from_secs(10);

/// Writes down the namespaces of grants that may give access, unless they are there already.
pub async fn store(client: &Client, namespace: &str, names: &BTreeSet<String>) -> bool {
    let api: Api<Tolerant<ConfigMap>> = Api::namespaced(client.clone(), namespace);
    if let Ok(Ok(Some(Tolerant::Read(found)))) = tokio::time::timeout(WRITE, api.get_opt(labels::LIVING_GRANTS)).await
        && found.data.unwrap_or_default().into_keys().collect::<BTreeSet<_>>() == *names
    {
        return true;
    }
    let data: BTreeMap<&String, &str> = names.iter().map(|name| (name, "true")).collect();
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": labels::LIVING_GRANTS}, "data": data});
    let params = PatchParams::apply(labels::HUB_MANAGER).force();
    match tokio::time::timeout(WRITE, api.patch(labels::LIVING_GRANTS, &params, &Patch::Apply(&object))).await.map(taken) {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "ConfigMap {} could not be written", labels::LIVING_GRANTS);
            false
        }
        Err(_) => false,
    }
}
