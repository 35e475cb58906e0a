//! Objects on a site: identity, content, and the digest of the fields that we own.

use std::fmt;

use aifactory_api::OwnerRef;
use aifactory_api::labels;
use aifactory_api::name::owner_label;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::model::digest::{Digest, planned_digest};
use crate::model::id::HubId;
pub use crate::model::kind::{Effect, KindInfo, ObjectKind, Removal};

/// Identity of an object on a site.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectKey {
    /// Kind.
    pub kind: ObjectKind,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// A namespaced object.
    pub fn namespaced(kind: ObjectKind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }

    /// A cluster-scoped object.
    pub fn cluster(kind: ObjectKind, name: impl Into<String>) -> Self {
        Self { kind, namespace: String::new(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, _, kind, _) = self.kind.gvk();
        if self.namespace.is_empty() { write!(f, "{kind} {}", self.name) } else { write!(f, "{kind} {}/{}", self.namespace, self.name) }
    }
}

/// A wanted object: exactly the fields that we own.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Object {
    /// Identity.
    #[serde(skip)]
    pub key: ObjectKey,
    /// Content, as it is applied.
    pub content: Value,
    /// The UID of the object that is to be updated; `None`: there was none of the name when this was planned.
    #[serde(skip)]
    pub updates: Option<String>,
}

impl Object {
    /// An object with our labels and annotations; `body` holds everything beside `apiVersion`, `kind` and `metadata`.
    pub fn new(key: ObjectKey, ownership: &Ownership, body: Value) -> Self {
        Self::with_metadata(key, ownership, Map::new(), Map::new(), body)
    }

    /// The same with more labels and annotations.
    pub fn with_metadata(
        key: ObjectKey,
        ownership: &Ownership,
        mut more_labels: Map<String, Value>,
        mut more_annotations: Map<String, Value>,
        body: Value,
    ) -> Self {
        more_labels.insert(labels::MANAGED.to_owned(), json!("true"));
        more_labels.insert(labels::OWNER.to_owned(), json!(ownership.label));
        more_annotations.insert(labels::OWNER.to_owned(), json!(ownership.owner.to_string()));
        more_annotations.insert(labels::OWNER_UID.to_owned(), json!(ownership.uid));
        more_annotations.insert(labels::HUB.to_owned(), json!(ownership.hub));
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), json!(key.name));
        if !key.namespace.is_empty() {
            metadata.insert("namespace".to_owned(), json!(key.namespace));
        }
        metadata.insert("labels".to_owned(), Value::Object(more_labels));
        metadata.insert("annotations".to_owned(), Value::Object(more_annotations));
        let mut content = Map::new();
        content.insert("apiVersion".to_owned(), json!(key.kind.api_version()));
        content.insert("kind".to_owned(), json!(key.kind.gvk().2));
        content.insert("metadata".to_owned(), Value::Object(metadata));
        if let Value::Object(body) = body {
            content.extend(body);
        }
        Self { key, content: Value::Object(content), updates: None }
    }

    /// The same as an update of the object with this UID: if that is gone meanwhile, nothing is created in its place, since what was planned around it
    /// is gone as well.
    pub fn update_of(self, uid: &str) -> Self {
        Self { updates: Some(uid.to_owned()), ..self }
    }

    /// Digest of the fields that we own; equals the observed one when the site holds just this.
    pub fn digest(&self) -> Digest {
        planned_digest(&self.content)
    }
}

/// Who owns an object, as written on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Id of the hub.
    pub hub: HubId,
    /// The owner.
    pub owner: OwnerRef,
    /// The owner's UID.
    pub uid: String,
    /// Value of the label [`labels::OWNER`].
    pub label: String,
}

impl Ownership {
    /// Ownership by this resource of this hub.
    pub fn new(hub: &HubId, owner: &OwnerRef, uid: &str) -> Self {
        Self { hub: hub.clone(), owner: owner.clone(), uid: uid.to_owned(), label: owner_label(hub.as_str(), owner) }
    }
}
