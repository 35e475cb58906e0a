//! An item of a list is any bytes: the good ones beside it are kept, and neither list nor watch fails.

#![no_main]

use aifactory_api::AccessGrant;
use aifactory_operator::tolerant_decode::Tolerant;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use k8s_openapi::serde::de::DeserializeOwned;
use kube::api::{DynamicObject, ObjectList, WatchEvent};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|item: &[u8]| {
    let Ok(item) = serde_json::from_slice::<Box<RawValue>>(item) else { return };
    let good = r#"{"metadata": {"name": "good"}}"#;
    let page = format!(r#"{{"apiVersion": "v1", "kind": "List", "metadata": {{}}, "items": [{good}, {item}, {good}]}}"#);
    assert_eq!(items::<AccessGrant>(&page), 3);
    assert_eq!(items::<Node>(&page), 3);
    assert_eq!(items::<Pod>(&page), 3);
    assert_eq!(items::<ConfigMap>(&page), 3);
    assert_eq!(items::<DynamicObject>(&page), 3);
    let event = format!(r#"{{"type": "MODIFIED", "object": {item}}}"#);
    assert!(serde_json::from_str::<WatchEvent<Tolerant<AccessGrant>>>(&event).is_ok());
    assert!(serde_json::from_str::<WatchEvent<Tolerant<Node>>>(&event).is_ok());
});

fn items<K: Clone>(page: &str) -> usize
where
    Tolerant<K>: DeserializeOwned,
{
    serde_json::from_str::<ObjectList<Tolerant<K>>>(page).map_or(0, |list| list.items.len())
}
