//! An object of a site is any JSON: it is reduced without a panic, and hides no other one from the index.

#![no_main]

use aifactory_api::{Kind, OwnerRef};
use aifactory_plan::engine;
use aifactory_plan::engine::nodes::NodeView;
use aifactory_plan::engine::slinky::ControllerView;
use aifactory_plan::model::id::HubId;
use aifactory_plan::site::index::{Index, IndexedObject};
use aifactory_plan::site::usage::pod_time::PodView;
use k8s_openapi::api::core::v1::{Node, Pod};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|bytes: &[u8]| {
    let Ok(object) = serde_json::from_slice::<Value>(bytes) else { return };
    let good = json!({"metadata": {"name": "good", "namespace": "aif-good", "uid": "u", "resourceVersion": "7",
        "labels": {"aifactory.dev/managed": "true"}, "annotations": {"aifactory.dev/hub": "hub", "aifactory.dev/owner": "AccessGrant/n/g"}}});
    for kind in engine::ALL.kinds().map(|used| used.kind) {
        let Some(wanted) = IndexedObject::reduce(engine::ALL, kind, &good, &HubId::new("hub")) else { panic!("{kind:?}: a good object is not read") };
        let key = wanted.key.clone();
        let mut index = Index::default();
        index.put(wanted);
        if let Some(seen) = IndexedObject::reduce(engine::ALL, kind, &object, &HubId::new("hub")) {
            // One of the same name takes its place.
            let other = seen.key != key;
            index.put(seen);
            let objects = index.objects(&OwnerRef::new(Kind::AccessGrant, "n", "g"));
            assert!(!other || objects.is_some_and(|objects| objects.contains_key(&key)), "{kind:?}");
        }
    }
    let _ = ControllerView::from_json(&object);
    if let Ok(node) = serde_json::from_value::<Node>(object.clone()) {
        let _ = NodeView::from_node(&node);
    }
    if let Ok(pod) = serde_json::from_value::<Pod>(object) {
        let _ = PodView::from_pod(&pod);
    }
});
