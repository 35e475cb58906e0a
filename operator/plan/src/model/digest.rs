//! Digests of the fields that we own.
//!
//! The API server records with each object which fields a field manager owns (`metadata.managedFields`, format FieldsV1 of
//! structured-merge-diff). Taking the values at just these paths gives what we applied, whatever others have added, so that a hash is
//! enough to see drift: another manager who changes one of our fields takes it from us.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// 128 bits of SHA-256 over the canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest([u8; 16]);

/// Digest of a planned object: all of it but identity.
pub fn planned_digest(content: &Value) -> Digest {
    let mut content = content.clone();
    if let Value::Object(map) = &mut content {
        map.remove("apiVersion");
        map.remove("kind");
        if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
            metadata.remove("name");
            metadata.remove("namespace");
        }
    }
    of(&content)
}

/// Digest of the fields of `observed` that `manager` owns by server-side apply; `None` if it owns none. With `whole_spec` all of `spec`
/// counts, whoever wrote it.
pub fn owned_digest(observed: &Value, manager: &str, whole_spec: bool) -> Option<Digest> {
    let fields = observed.pointer("/metadata/managedFields")?.as_array()?.iter().find(|entry| {
        entry.get("manager").and_then(Value::as_str) == Some(manager)
            && entry.get("operation").and_then(Value::as_str) == Some("Apply")
            && entry.get("subresource").and_then(Value::as_str).unwrap_or_default().is_empty()
    })?;
    let mut owned = extract(observed, fields.get("fieldsV1")?);
    if whole_spec && let (Value::Object(owned), Some(spec)) = (&mut owned, observed.get("spec")) {
        owned.insert("spec".to_owned(), spec.clone());
    }
    Some(of(&owned))
}

/// Paths at which `observed` differs from what was planned, such as `spec.policyTypes`. With `whole_spec` also fields in `spec` that were not
/// planned.
pub fn differences(planned: &Value, observed: &Value, whole_spec: bool) -> Vec<String> {
    let mut paths = Vec::new();
    differing(planned, observed, "", &mut paths);
    if whole_spec {
        let keys =
            |value: &Value| value.get("spec").and_then(Value::as_object).map(|spec| spec.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        let known = keys(planned);
        paths.extend(keys(observed).into_iter().filter(|key| !known.contains(key)).map(|key| format!("spec.{key}")));
    }
    paths
}

fn differing(planned: &Value, observed: &Value, path: &str, paths: &mut Vec<String>) {
    match (planned, observed) {
        (Value::Object(map), _) if !empty(&canonical(planned)) => {
            for (key, value) in map {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differing(value, observed.get(key).unwrap_or(&Value::Null), &below, paths);
            }
        }
        _ if canonical(planned) == canonical(observed) || (empty(&canonical(planned)) && empty(&canonical(observed))) => {}
        _ => paths.push(path.to_owned()),
    }
}

/// Digest of anything that serialises, as its type orders it. A grant's reconcile takes several, so that no tree of values is built for it.
pub fn digest_of(value: &impl Serialize) -> Digest {
    let mut hashed = Hashed(Sha256::new());
    match serde_json::to_writer(&mut hashed, value) {
        Ok(()) => hashed.digest(),
        Err(_) => of(&Value::Null),
    }
}

fn of(value: &Value) -> Digest {
    let mut hashed = Hashed(Sha256::new());
    hashed.0.update(canonical(value).to_string().as_bytes());
    hashed.digest()
}

/// What was written to it, hashed.
struct Hashed(Sha256);

impl Hashed {
    fn digest(self) -> Digest {
        let mut digest = [0; 16];
        for (to, from) in digest.iter_mut().zip(self.0.finalize()) {
            *to = from;
        }
        Digest(digest)
    }
}

impl io::Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Without nulls and empty collections, which the API server may drop. Maps are ordered already.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.iter().map(|(key, value)| (key.clone(), canonical(value))).filter(|(_, value)| !empty(value)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        scalar => scalar.clone(),
    }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// The part of `value` at the paths of `fields`. A path without children stands for the whole value.
fn extract(value: &Value, fields: &Value) -> Value {
    let Some(fields) = fields.as_object() else { return value.clone() };
    let mut children = fields.iter().filter(|(key, _)| key.as_str() != ".").peekable();
    if children.peek().is_none() {
        return value.clone();
    }
    match value {
        Value::Object(map) => {
            let mut kept = Map::new();
            for (key, below) in children {
                if let Some(name) = key.strip_prefix("f:")
                    && let Some(found) = map.get(name)
                {
                    kept.insert(name.to_owned(), extract(found, below));
                }
            }
            Value::Object(kept)
        }
        Value::Array(items) => {
            let children: Vec<_> = children.collect();
            Value::Array(
                items
                    .iter()
                    .enumerate()
                    .filter_map(|(index, item)| {
                        children.iter().find(|(key, _)| selects(key, index, item)).map(|(key, below)| {
                            let mut kept = extract(item, below);
                            // The keys that identify an element belong to it even where they are not listed below it.
                            if let (Some(keys), Value::Object(kept)) = (element_keys(key), &mut kept) {
                                kept.extend(keys);
                            }
                            kept
                        })
                    })
                    .collect(),
            )
        }
        scalar => scalar.clone(),
    }
}

fn element_keys(path: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(path.strip_prefix("k:")?).ok()
}

fn selects(path: &str, index: usize, item: &Value) -> bool {
    if let Some(keys) = element_keys(path) {
        return keys.iter().all(|(key, value)| item.get(key) == Some(value));
    }
    if let Some(value) = path.strip_prefix("v:") {
        return serde_json::from_str::<Value>(value).is_ok_and(|value| value == *item);
    }
    path.strip_prefix("i:").is_some_and(|wanted| wanted.parse() == Ok(index))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{differences, owned_digest, planned_digest};

    fn observed(spec: Value, fields: Value) -> Value {
        json!({
            "metadata": {
                "name": "x", "uid": "1", "labels": {"ours": "1", "theirs": "2"},
                "managedFields": [
                    {"manager": "other", "operation": "Update", "fieldsV1": {"f:metadata": {"f:labels": {"f:theirs": {}}}}},
                    {"manager": "me", "operation": "Apply", "fieldsV1": fields},
                ],
            },
            "spec": spec,
        })
    }

    #[test]
    fn equal_when_only_others_have_added() {
        let fields = json!({"f:metadata": {"f:labels": {"f:ours": {}}}, "f:spec": {"f:hard": {"f:pods": {}}, "f:list": {}}});
        let planned = json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "x", "labels": {"ours": "1"}},
            "spec": {"hard": {"pods": "5"}, "list": [1, 2], "none": []}});
        let same = observed(json!({"hard": {"pods": "5", "foreign": "1"}, "list": [1, 2], "other": true}), fields.clone());
        assert_eq!(owned_digest(&same, "me", false), Some(planned_digest(&planned)));
        let changed = observed(json!({"hard": {"pods": "6"}, "list": [1, 2]}), fields);
        assert_ne!(owned_digest(&changed, "me", false), Some(planned_digest(&planned)));
    }

    #[test]
    fn what_differs_is_named() {
        let planned = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"policyTypes": ["Ingress", "Egress"], "egress": [], "podSelector": {}}});
        assert!(
            differences(&planned, &json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"policyTypes": ["Ingress", "Egress"]}}), true)
                .is_empty()
        );
        let altered = json!({"metadata": {"labels": {}}, "spec": {"policyTypes": ["Ingress"], "egress": [{}], "more": 1}});
        assert_eq!(differences(&planned, &altered, true), ["metadata.labels.a", "spec.egress", "spec.policyTypes", "spec.more"]);
    }

    #[test]
    fn a_field_taken_from_us_differs() {
        let fields = json!({"f:metadata": {"f:labels": {"f:ours": {}}}});
        let planned = json!({"metadata": {"labels": {"ours": "1"}}, "spec": {"hard": {"pods": "5"}}});
        let taken = observed(json!({"hard": {"pods": "5"}}), fields);
        assert_ne!(owned_digest(&taken, "me", false), Some(planned_digest(&planned)));
        assert_eq!(owned_digest(&taken, "nobody", false), None);
    }

    #[test]
    fn what_others_add_to_a_spec_counts_where_all_of_it_is_ours() {
        let fields = json!({"f:metadata": {"f:labels": {"f:ours": {}}}, "f:spec": {"f:types": {}}});
        let planned = json!({"metadata": {"labels": {"ours": "1"}}, "spec": {"types": ["Ingress"], "selector": {}, "ingress": []}});
        let same = observed(json!({"types": ["Ingress"], "selector": {}}), fields.clone());
        assert_eq!(owned_digest(&same, "me", true), Some(planned_digest(&planned)));
        for spec in [json!({"types": ["Ingress"], "selector": {"x": "y"}}), json!({"types": ["Ingress"], "ingress": [{"from": []}]})] {
            let widened = observed(spec, fields.clone());
            assert_eq!(owned_digest(&widened, "me", false), Some(planned_digest(&planned)));
            assert_ne!(owned_digest(&widened, "me", true), Some(planned_digest(&planned)));
        }
    }

    #[test]
    fn keyed_lists_hold_our_elements_only() {
        let fields = json!({"f:spec": {"f:ports": {"k:{\"port\":1}": {".": {}, "f:port": {}, "f:x": {}}}}});
        let planned = json!({"spec": {"ports": [{"port": 1, "x": "a"}]}});
        let live = observed(json!({"ports": [{"port": 2}, {"port": 1, "x": "a", "y": "b"}]}), fields);
        assert_eq!(owned_digest(&live, "me", false), Some(planned_digest(&planned)));
    }
}
