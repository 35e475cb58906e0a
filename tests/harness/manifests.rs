//! Applying manifests with several documents, as `kubectl apply --server-side` does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiCapabilities, ApiResource, Scope, pinned_kind};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;

use crate::await_condition::eventually;
use crate::error::{Error, Result, at};

/// Field manager of what the harness applies.
pub const MANAGER: &str = "harness";
const ESTABLISHED: Duration = Duration::from_secs(60);

/// Documents to apply, with where they come from.
#[derive(Debug, Clone)]
pub struct Manifests {
    documents: Vec<(String, usize, DynamicObject)>,
}

impl Manifests {
    /// Reads the documents of a text.
    pub fn parse(origin: &str, text: &str) -> Result<Self> {
        let mut documents = Vec::new();
        for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
            let number = index + 1;
            let refused = |message: String| Error::Manifest { origin: origin.to_owned(), document: number, message };
            let value = serde_json::Value::deserialize(document).map_err(|error| refused(error.to_string()))?;
            if value.is_null() {
                continue;
            }
            let object = serde_json::from_value(value).map_err(|error| refused(error.to_string()))?;
            documents.push((origin.to_owned(), number, object));
        }
        Ok(Self { documents })
    }

    /// Reads a file, or all `*.yaml` of a directory in the order of their names.
    pub fn read(path: &Path) -> Result<Self> {
        let mut files = vec![path.to_owned()];
        if path.is_dir() {
            files = yaml_files(path)?;
        }
        let mut documents = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(at(&file))?;
            documents.extend(Self::parse(&file.display().to_string(), &text)?.documents);
        }
        Ok(Self { documents })
    }

    /// The objects.
    pub fn objects(&self) -> impl Iterator<Item = &DynamicObject> {
        self.documents.iter().map(|(_, _, object)| object)
    }

    /// The objects, to be changed before they are applied.
    pub fn objects_mut(&mut self) -> impl Iterator<Item = &mut DynamicObject> {
        self.documents.iter_mut().map(|(_, _, object)| object)
    }

    /// Applies all by server-side apply: CRDs and Namespaces first, the rest in order. Waits until CRDs are served.
    pub async fn apply(&self, client: &Client, manager: &str) -> Result<Vec<DynamicObject>> {
        let mut kinds = Kinds::new(client);
        let mut applied = Vec::new();
        let (first, rest): (Vec<_>, Vec<_>) = self.documents.iter().partition(|(_, _, object)| is_ground(object));
        for document in first.into_iter().chain(rest) {
            let (_, _, object) = document;
            let refused = |error: kube::Error| refused(document, &error);
            let api = kinds.api(object).await.map_err(refused)?;
            let params = PatchParams::apply(manager).force();
            applied.push(api.patch(&object.name_any(), &params, &Patch::Apply(object)).await.map_err(refused)?);
            if kind(object) == "CustomResourceDefinition" {
                await_established(client, &object.name_any()).await?;
            }
        }
        Ok(applied)
    }

    /// Deletes all, the last document first; what is not there is fine.
    pub async fn delete(&self, client: &Client) -> Result<()> {
        let mut kinds = Kinds::new(client);
        for document in self.documents.iter().rev() {
            let (_, _, object) = document;
            let refused = |error: kube::Error| refused(document, &error);
            let api = kinds.api(object).await.map_err(refused)?;
            match api.delete(&object.name_any(), &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(refused(error)),
            }
        }
        Ok(())
    }
}

/// Kinds as the server has them, each asked for once.
struct Kinds<'a> {
    client: &'a Client,
    known: HashMap<GroupVersionKind, (ApiResource, ApiCapabilities)>,
}

impl<'a> Kinds<'a> {
    fn new(client: &'a Client) -> Self {
        Self { client, known: HashMap::new() }
    }

    async fn api(&mut self, object: &DynamicObject) -> kube::Result<Api<DynamicObject>> {
        let types = object.types.clone().unwrap_or_default();
        let gvk = GroupVersionKind::try_from(&types).map_err(|error| kube::Error::Service(error.to_string().into()))?;
        if !self.known.contains_key(&gvk) {
            let found = pinned_kind(self.client, &gvk).await?;
            self.known.insert(gvk.clone(), found);
        }
        let client = self.client.clone();
        Ok(match self.known.get(&gvk) {
            Some((resource, capabilities)) if capabilities.scope == Scope::Cluster => Api::all_with(client, resource),
            Some((resource, _)) => {
                let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
                Api::namespaced_with(client, &namespace, resource)
            }
            None => Api::all_with(client, &ApiResource::from_gvk(&gvk)),
        })
    }
}

/// Waits until a CRD is served.
pub async fn await_established(client: &Client, name: &str) -> Result<()> {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    eventually(ESTABLISHED, format!("CRD {name} is established"), async || {
        let crd = crds.get(name).await?;
        let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
        let established = conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True");
        if established { Ok(()) } else { Err(format!("{conditions:?}").into()) }
    })
    .await?;
    // A definition becomes Established a moment before discovery has it.
    eventually(ESTABLISHED, format!("CRD {name} is served"), async || {
        let crd = crds.get(name).await?;
        for version in crd.spec.versions.iter().filter(|version| version.served) {
            let gvk = GroupVersionKind::gvk(&crd.spec.group, &version.name, &crd.spec.names.kind);
            let (resource, _) = pinned_kind(client, &gvk).await?;
            let objects: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            objects.list(&kube::api::ListParams::default().limit(1)).await?;
        }
        Ok(())
    })
    .await
}

fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |types| types.kind.as_str())
}

fn is_ground(object: &DynamicObject) -> bool {
    matches!(kind(object), "CustomResourceDefinition" | "Namespace")
}

fn refused((origin, document, object): &(String, usize, DynamicObject), error: &kube::Error) -> Error {
    let message = match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    };
    Error::Manifest { origin: origin.clone(), document: *document, message: format!("{} {}: {message}", kind(object), object.name_any()) }
}

fn yaml_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .map_err(at(directory))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    Ok(files)
}
