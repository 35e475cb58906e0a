//! Decodes objects that others write, so that one undecodable object never hides the rest of a list.
//!
//! An API server keeps more than this process can decode: a time beyond the range of [`jiff`] in `managedFields` or in a spec, a value of a schema
//! that was looser once, a tree that is deeper than a parser's stack. Where one item fails, serde fails the whole list, and a watch that can not list
//! shows nothing at all. So every list, every watch and every answer to a write is decoded as [`Tolerant`]: its metadata is read by hand, field by
//! field, and what can not be decoded beyond that is [`Broken`] with a name and a reason.

#[cfg(test)]
#[path = "tolerant_decode_tests.rs"]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, Time};
use kube::Resource;
use prometheus_client::metrics::counter::Counter;
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// How often an object could not be decoded, since the process began.
pub static BROKEN: LazyLock<Counter> = LazyLock::new(Counter::default);

/// An object as far as it can be decoded.
#[derive(Clone, Debug)]
pub enum Tolerant<K> {
    /// The whole object, without unreadable parts of its metadata.
    Read(K),
    /// Only its metadata.
    Broken(Box<Broken>),
}

/// An object of which nothing but metadata can be decoded.
#[derive(Clone)]
pub struct Broken {
    /// Name, namespace, UID, versions, labels, annotations, finalizers and whether it is being deleted, as far as each of them can be read.
    pub meta: ObjectMeta,
    /// Why the rest can not be decoded. It may quote a value, so it is for the object's own status; never for a Secret.
    pub why: String,
    /// The object as it came, for a caller that knows a part of it. It is never logged.
    pub text: Box<str>,
}

impl std::fmt::Debug for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broken").field("namespace", &self.meta.namespace).field("name", &self.meta.name).finish_non_exhaustive()
    }
}

impl<K: DeserializeOwned> Tolerant<K> {
    /// Decodes one object. Never fails, whatever the text is.
    pub fn from_json(text: &str) -> Self {
        match serde_json::from_str(text) {
            Ok(object) => Self::Read(object),
            Err(error) => Self::by_hand(text, &error),
        }
    }

    /// Reads the metadata by hand, and tries the rest again with it.
    fn by_hand(text: &str, first: &serde_json::Error) -> Self {
        let Ok(mut fields) = serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(text) else {
            return Self::broken(ObjectMeta::default(), first.to_string(), text);
        };
        let meta = metadata(fields.get("metadata").copied());
        let Ok(readable) = serde_json::value::to_raw_value(&meta) else { return Self::broken(meta, first.to_string(), text) };
        fields.insert(Cow::Borrowed("metadata"), &readable);
        let again = serde_json::to_string(&fields).and_then(|text| serde_json::from_str(&text));
        match again {
            Ok(object) => Self::Read(object),
            Err(error) => Self::broken(meta, error.to_string(), text),
        }
    }

    fn broken(meta: ObjectMeta, why: String, text: &str) -> Self {
        BROKEN.inc();
        if meta.name.is_none() {
            tracing::warn!("An object that does not even have a readable name was left out");
        }
        Self::Broken(Box::new(Broken { meta, why, text: text.into() }))
    }
}

impl<K> Tolerant<K> {
    /// The object, or its metadata.
    pub fn into_result(self) -> Result<K, Box<Broken>> {
        match self {
            Self::Read(object) => Ok(object),
            Self::Broken(broken) => Err(broken),
        }
    }
}

/// The answer to a write that the API server took: `None` where the answer itself can not be decoded, since the write stands all the same.
pub fn taken<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(answer) => Ok(Some(answer)),
        Err(kube::Error::SerdeError(_)) => {
            BROKEN.inc();
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Decodes metadata field by field; a field that can not be decoded is left out.
fn metadata(raw: Option<&RawValue>) -> ObjectMeta {
    let fields: BTreeMap<Cow<'_, str>, &RawValue> = raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    let field = |name: &str| fields.get(name).copied().filter(|raw| raw.get() != "null");
    let text = |name: &str| field(name).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    let number = |name: &str| field(name).and_then(|raw| serde_json::from_str::<i64>(raw.get()).ok());
    let time = |name: &str, unreadable| field(name).map(|raw| serde_json::from_str::<Time>(raw.get()).unwrap_or(Time(unreadable)));
    ObjectMeta {
        name: text("name").filter(|name| !name.is_empty()),
        namespace: text("namespace"),
        uid: text("uid"),
        resource_version: text("resourceVersion"),
        generation: number("generation"),
        labels: field("labels").map(texts),
        annotations: field("annotations").map(texts),
        finalizers: field("finalizers").map(|raw| elements(raw).iter().filter_map(|raw| serde_json::from_str(raw.get()).ok()).collect()),
        managed_fields: field("managedFields").map(|raw| elements(raw).iter().filter_map(|raw| entry(raw)).collect()),
        // An object with an unknown creation time gets the lowest precedence.
        creation_timestamp: time("creationTimestamp", Timestamp::MAX),
        // An object that has this field is being deleted, whatever the time is.
        deletion_timestamp: time("deletionTimestamp", Timestamp::UNIX_EPOCH),
        deletion_grace_period_seconds: number("deletionGracePeriodSeconds"),
        ..ObjectMeta::default()
    }
}

/// The entries of a map whose values are texts.
fn texts(raw: &RawValue) -> BTreeMap<String, String> {
    let entries: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get()).unwrap_or_default();
    entries.into_iter().filter_map(|(key, raw)| Some((key, serde_json::from_str(raw.get()).ok()?))).collect()
}

fn elements(raw: &RawValue) -> Vec<&RawValue> {
    serde_json::from_str(raw.get()).unwrap_or_default()
}

/// An entry of `managedFields`: its time has no effect, so one that can not be decoded is dropped and the entry stays.
fn entry(raw: &RawValue) -> Option<ManagedFieldsEntry> {
    let mut fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(raw.get()).ok()?;
    if fields.get("time").is_some_and(|time| serde_json::from_str::<Time>(time.get()).is_err()) {
        fields.remove("time");
    }
    serde_json::from_str(&serde_json::to_string(&fields).ok()?).ok()
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Tolerant<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Each item is kept as text and decoded alone, so that one that is nested too deeply does not break the others.
        let raw = Box::<RawValue>::deserialize(deserializer).map_err(D::Error::custom)?;
        Ok(Self::from_json(raw.get()))
    }
}

impl<K: Serialize> Serialize for Tolerant<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Read(object) => object.serialize(serializer),
            Self::Broken(_) => Err(S::Error::custom("an object that could not be decoded is not sent")),
        }
    }
}

impl<K: Resource> Resource for Tolerant<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Read(object) => object.meta(),
            Self::Broken(broken) => &broken.meta,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Read(object) => object.meta_mut(),
            Self::Broken(broken) => &mut broken.meta,
        }
    }
}
