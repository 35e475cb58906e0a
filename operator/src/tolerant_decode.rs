//! Objects in which others have a hand, read so that one of them never hides the rest: the API server keeps whatever time somebody writes into
//! `managedFields`, also one that can not be read here, and a list with it would fail as a whole.

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// An object, less the times in its `managedFields` that can not be read.
#[derive(Clone, Debug)]
pub struct Lenient<K>(pub K);

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Value::deserialize(deserializer)?;
        let entries = object.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten().filter_map(Value::as_object_mut) {
            if entry.get("time").is_some_and(|time| time.as_str().is_none_or(|text| text.parse::<Timestamp>().is_err())) {
                entry.remove("time");
            }
        }
        serde_json::from_value(object).map(Self).map_err(D::Error::custom)
    }
}

impl<K: Resource> Resource for Lenient<K> {
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
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use k8s_openapi::api::core::v1::Pod;
    use kube::api::ObjectList;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_time_that_nobody_can_read_hides_no_list() {
        let pod = |name: &str, time: Value| {
            json!({"metadata": {"name": name, "managedFields": [
            {"manager": "kubectl", "operation": "Update", "time": time},
            {"manager": "kubelet", "operation": "Update", "subresource": "status", "time": "2026-11-21T12:00:00Z"}]}})
        };
        let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {},
            "items": [pod("one", json!("9999-12-31T23:59:59Z")), pod("two", json!(7)), pod("three", json!("2026-11-21T12:00:00Z"))]});
        assert!(serde_json::from_value::<ObjectList<Pod>>(list.clone()).is_err(), "as they are");
        let read: ObjectList<Lenient<Pod>> = serde_json::from_value(list).unwrap();
        let times: Vec<usize> =
            read.items.iter().map(|pod| pod.0.metadata.managed_fields.iter().flatten().filter(|entry| entry.time.is_some()).count()).collect();
        assert_eq!(times, [1, 1, 2]);
    }
}
