//! What a site can put into an object is reduced without a panic, whatever it is, and what is good beside it is kept.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeMap;

use aifactory_api::{Kind, OwnerRef};
use aifactory_plan::engine;
use aifactory_plan::engine::nodes::NodeView;
use aifactory_plan::engine::slinky::ControllerView;
use aifactory_plan::model::id::HubId;
use aifactory_plan::model::object::ObjectKind;
use aifactory_plan::model::quantity;
use aifactory_plan::site::index::{Extra, Index, IndexedObject};
use aifactory_plan::site::policy::SitePolicy;
use aifactory_plan::site::usage::pod_time::PodView;
use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

/// JSON of any shape, with the keys that are looked for among others.
fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        any::<String>(),
        "[0-9]{1,30}(m|k|Ki|Mi|Gi|Ti|Pi|Ei|e[0-9]{1,3})?".prop_map(String::from),
        Just("9999-12-31T23:59:59Z".to_owned()),
        Just("2026-01-01T00:00:00Z".to_owned()),
        Just("AccessGrant/n/g".to_owned()),
        Just("true".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    let keys = [
        "metadata",
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "labels",
        "annotations",
        "managedFields",
        "manager",
        "fieldsV1",
        "f:spec",
        "f:metadata",
        "k:{\"name\":\"a\"}",
        "v:1",
        ".",
        "time",
        "subresource",
        "deletionTimestamp",
        "spec",
        "status",
        "used",
        "hard",
        "requests.nvidia.com/gpu",
        "replicas",
        "template",
        "containers",
        "resources",
        "limits",
        "nvidia.com/gpu",
        "conditions",
        "taints",
        "capacity",
        "allocatable",
        "roleRef",
        "subjects",
        "kind",
        "data",
        "aifactory.dev/managed",
        "aifactory.dev/owner",
        "aifactory.dev/hub",
        "aifactory.dev/used",
        "extraConf",
    ];
    leaf.prop_recursive(7, 64, 6, move |inner| {
        let key = prop_oneof![6 => prop::sample::select(keys.to_vec()).prop_map(str::to_owned), 1 => any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..7).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn good() -> Value {
    json!({"metadata": {"name": "good", "namespace": "aif-good", "uid": "u", "resourceVersion": "7",
        "labels": {"aifactory.dev/managed": "true"}, "annotations": {"aifactory.dev/hub": "hub", "aifactory.dev/owner": "AccessGrant/n/g"}}})
}

/// The value with a name where there is none, so that it gets as far as it can.
fn named(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.entry("name").or_insert_with(|| json!("evil"));
            metadata.entry("annotations").or_insert_with(|| json!({"aifactory.dev/hub": "hub", "aifactory.dev/owner": "AccessGrant/n/evil"}));
        }
    }
    value
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_object_is_reduced_without_a_panic_and_hides_no_other(value in value()) {
        for kind in engine::ALL.kinds().map(|used| used.kind) {
            let mut index = Index::default();
            for object in [value.clone(), named(value.clone()), good()] {
                if let Some(seen) = IndexedObject::reduce(engine::ALL, kind, &object, &HubId::new("hub")) {
                    index.put(seen);
                }
            }
            let good = IndexedObject::reduce(engine::ALL, kind, &good(), &HubId::new("hub")).unwrap();
            let objects = index.objects(&OwnerRef::new(Kind::AccessGrant, "n", "g"));
            prop_assert!(objects.is_some_and(|objects| objects.contains_key(&good.key)), "{:?}", kind);
        }
        let _ = ControllerView::from_json(&value);
    }

    #[test]
    fn any_node_or_pod_that_decodes_is_viewed_without_a_panic(value in value()) {
        if let Ok(node) = serde_json::from_value::<Node>(value.clone()) {
            let _ = NodeView::from_node(&node);
        }
        if let Ok(pod) = serde_json::from_value::<Pod>(value) {
            let _ = PodView::from_pod(&pod);
        }
    }

    #[test]
    fn no_text_of_a_site_makes_the_operator_panic(data in prop::collection::btree_map("[a-zA-Z]{0,16}", any::<String>(), 0..6), text in any::<String>()) {
        let mut data: BTreeMap<String, String> = data;
        for key in ["paused", "allowDeletion", "imagePrefixes", "refuseGrants", "refuseMembers", "maxGPUs"] {
            data.insert(key.to_owned(), text.clone());
        }
        let _ = SitePolicy::parse(&data);
        let _ = quantity::parse_count(&text);
        let _ = OwnerRef::parse(&text);
    }

    #[test]
    fn a_quota_out_of_range_counts_what_can_be_counted(number in "[0-9]{1,40}(k|Ki|Ei|E)?") {
        let mut quota = good();
        quota["status"] = json!({"used": {"requests.nvidia.com/gpu": 2, "requests.amd.com/gpu": number, "requests.x.com/y": "3"}});
        let seen = IndexedObject::reduce(engine::ALL, ObjectKind::RESOURCE_QUOTA, &quota, &HubId::new("hub")).unwrap();
        let Extra::Quota(view) = seen.extra else { panic!("a quota") };
        prop_assert_eq!(view.used.get("x.com/y"), Some(&3));
    }
}
