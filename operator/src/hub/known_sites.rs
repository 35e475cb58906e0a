//! The parts of sites that may hold something of this hub, in a ConfigMap beside the hub's id: a restart, a lost status or a changed spec must not
//! make the hub report access as removed without asking a site that may still give it.

use std::collections::BTreeMap;

use aifactory_api::labels;
use aifactory_api::name::digest;
use aifactory_plan::hub::known_sites::{KnownSite, KnownSites};
use aifactory_plan::model::site_key::{Part, SiteKey};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::call::{CallError, call};
use crate::tolerant_decode::{Tolerant, taken};

/// Why the record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KnownSitesError {
    /// The API server answered with an error.
    #[error("ConfigMap {namespace}/{}: {}", labels::KNOWN_SITES, crate::client::explain(source))]
    Api {
        /// Namespace of the ConfigMap.
        namespace: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error("ConfigMap {namespace}/{}: the hub did not answer in time", labels::KNOWN_SITES)]
    Timeout {
        /// Namespace of the ConfigMap.
        namespace: String,
    },
    /// It is there and can not be read.
    #[error("ConfigMap {namespace}/{} can not be read; restore it from the backup of this hub", labels::KNOWN_SITES)]
    Unreadable {
        /// Namespace of the ConfigMap.
        namespace: String,
    },
    /// An entry can not be read. Without the entry the hub might report access as removed although a site that it does not ask still gives it.
    #[error("ConfigMap {namespace}/{}, key {key}: {source}; restore it from the backup of this hub", labels::KNOWN_SITES)]
    Entry {
        /// Namespace of the ConfigMap.
        namespace: String,
        /// The key.
        key: String,
        /// The cause.
        source: serde_json::Error,
    },
}

/// Reads the record; `None` where there is none yet.
pub async fn load(client: &Client, namespace: &str) -> Result<Option<KnownSites>, KnownSitesError> {
    let api: Api<Tolerant<ConfigMap>> = Api::namespaced(client.clone(), namespace);
    let found = call(api.get_opt(labels::KNOWN_SITES)).await.map_err(|error| failed(namespace, error))?;
    let Some(found) = found else { return Ok(None) };
    let found = found.into_result().map_err(|_| KnownSitesError::Unreadable { namespace: namespace.to_owned() })?;
    decode(namespace, found.data.unwrap_or_default()).map(Some)
}

fn decode(namespace: &str, data: BTreeMap<String, String>) -> Result<KnownSites, KnownSitesError> {
    let entry = |(key, text): (String, String)| -> Result<KnownSite, KnownSitesError> {
        serde_json::from_str(&text).map_err(|source| KnownSitesError::Entry { namespace: namespace.to_owned(), key, source })
    };
    data.into_iter().map(entry).collect()
}

/// Writes the whole record.
pub async fn store(client: &Client, namespace: &str, known: &KnownSites) -> Result<(), KnownSitesError> {
    let api: Api<Tolerant<ConfigMap>> = Api::namespaced(client.clone(), namespace);
    let data = encode(namespace, known)?;
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": labels::KNOWN_SITES}, "data": data});
    let params = PatchParams::apply(labels::HUB_MANAGER).force();
    let stored = call(async { taken(api.patch(labels::KNOWN_SITES, &params, &Patch::Apply(&object)).await) }).await;
    stored.map(|_| ()).map_err(|error| failed(namespace, error))
}

fn encode(namespace: &str, known: &KnownSites) -> Result<BTreeMap<String, String>, KnownSitesError> {
    let entry = |known: &KnownSite| {
        let key = entry_key(&known.key);
        let text = serde_json::to_string(known);
        text.map(|text| (key.clone(), text)).map_err(|source| KnownSitesError::Entry { namespace: namespace.to_owned(), key, source })
    };
    known.iter().map(entry).collect()
}

/// A key of a ConfigMap has at most 253 characters, so it is made of shortened names for people and a digest that is unique.
fn entry_key(key: &SiteKey) -> String {
    let part = match key.part {
        Part::Kubernetes => "kubernetes",
        Part::Slurm => "slurm",
    };
    let names: String = format!("{}.{}.{}", key.factory.namespace, key.factory.name, key.site).chars().take(200).collect();
    format!("{names}.{part}.{}", digest(&[&key.factory.namespace, &key.factory.name, &key.site, part], 16))
}

fn failed(namespace: &str, error: CallError) -> KnownSitesError {
    let namespace = namespace.to_owned();
    match error {
        CallError::Api(source) => KnownSitesError::Api { namespace, source },
        CallError::Timeout => KnownSitesError::Timeout { namespace },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use aifactory_api::{Kind, OwnerRef};
    use aifactory_plan::model::credential_source::CredentialSource;

    use super::*;

    fn site(name: &str, part: Part) -> KnownSite {
        let factory = OwnerRef::new(Kind::AIFactory, "ardenne", "ardenne");
        KnownSite {
            key: SiteKey { part, ..SiteKey::new(factory, name) },
            credential: CredentialSource::Secret {
                namespace: "ardenne".to_owned(),
                name: format!("{name}-kubeconfig"),
                key: "kubeconfig".to_owned(),
            },
            slurm: None,
            identity: Some("0c5f".to_owned()),
            entered: true,
        }
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let known: KnownSites =
            [site("bissen", Part::Kubernetes), site("bissen", Part::Slurm), site(&"b".repeat(253), Part::Kubernetes)].into_iter().collect();
        let data = encode("aifactory-system", &known).unwrap();
        assert_eq!(data.len(), 3);
        let legal = |key: &String| key.len() <= 253 && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        assert!(data.keys().all(legal), "{data:?}");
        assert_eq!(decode("aifactory-system", data).unwrap(), known);
    }

    #[test]
    fn an_entry_that_can_not_be_read_is_named() {
        let error = decode("aifactory-system", [("bissen".to_owned(), "{}".to_owned())].into()).unwrap_err().to_string();
        assert!(
            error.starts_with("ConfigMap aifactory-system/aifactory-known-sites, key bissen: missing field") && error.contains("backup"),
            "{error}"
        );
    }
}
