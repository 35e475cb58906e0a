#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use aifactory_api::AccessGrant;
use http::Response;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, ResourceQuota, Secret};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, DynamicObject, ListParams, ObjectList, Patch, PatchParams, PostParams, WatchEvent};
use kube::client::Body;
use kube::{Api, Client};
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::{BoxError, service_fn};

use super::*;

/// Beyond what jiff holds, and well within what the API server takes.
const FAR: &str = "9999-12-31T23:59:59Z";

fn good(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Any", "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "7"}}).to_string()
}

/// Texts that an API server could send as one item, each of them bad in its own way.
fn evil() -> Vec<(&'static str, String)> {
    let meta = |rest: &str| format!(r#"{{"metadata": {{"name": "evil", "namespace": "n", "resourceVersion": "9", {rest}}}}}"#);
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let nested = format!(r#"{}1{}"#, r#"{"a":"#.repeat(5_000), "}".repeat(5_000));
    vec![
        ("a time out of range", meta(&format!(r#""managedFields": [{{"manager": "kubectl", "time": "{FAR}"}}]"#))),
        ("a time that is none", meta(r#""managedFields": [{"manager": "kubectl", "time": 7}]"#)),
        ("fields that are none", meta(r#""managedFields": "all""#)),
        ("created out of range", meta(&format!(r#""creationTimestamp": "{FAR}""#))),
        ("labels that are none", meta(r#""labels": [1, 2]"#)),
        ("a label that is none", meta(r#""labels": {"a": 1, "b": "two"}"#)),
        ("a number out of range", meta(r#""generation": 1e400"#)),
        ("half a character", meta(r#""annotations": {"a": "\ud800"}"#)),
        ("deep metadata", meta(&format!(r#""annotations": {deep}"#))),
        ("deep elsewhere", format!(r#"{{"metadata": {{"name": "evil"}}, "spec": {deep}, "status": {nested}, "data": {deep}}}"#)),
        ("huge", format!(r#"{{"metadata": {{"name": "evil"}}, "spec": "{}"}}"#, "x".repeat(3_000_000))),
        ("no name", r#"{"metadata": {"managedFields": 7}, "spec": 7}"#.to_owned()),
        ("no metadata", r#"{"metadata": 7}"#.to_owned()),
        ("no object", "7".to_owned()),
        ("nothing", "null".to_owned()),
        ("a list", "[[]]".to_owned()),
        ("keys twice", r#"{"metadata": {"name": "evil"}, "metadata": 7, "metadata": {"name": "evil", "name": 7}}"#.to_owned()),
    ]
}

fn page(items: &[&str]) -> String {
    format!(r#"{{"kind": "AnyList", "apiVersion": "v1", "metadata": {{"resourceVersion": "9"}}, "items": [{}]}}"#, items.join(","))
}

/// Decodes a page with this item in the middle, and watch events beside it; the good ones must be there.
fn good_ones_go_on<K>(what: &str, item: &str)
where
    K: DeserializeOwned + Resource + Clone + std::fmt::Debug,
{
    let (first, last) = (good("first"), good("last"));
    let list: ObjectList<Tolerant<K>> =
        serde_json::from_str(&page(&[&first, item, &last])).unwrap_or_else(|error| panic!("{what}: the list failed: {error}"));
    assert_eq!(list.items.len(), 3, "{what}");
    let names: Vec<&str> = list.items.iter().filter_map(|object| object.meta().name.as_deref()).filter(|name| *name != "evil").collect();
    assert_eq!(names, ["first", "last"], "{what}");
    let event = format!(r#"{{"type": "MODIFIED", "object": {item}}}"#);
    let event: WatchEvent<Tolerant<K>> = serde_json::from_str(&event).unwrap_or_else(|error| panic!("{what}: the event failed: {error}"));
    assert!(matches!(event, WatchEvent::Modified(_)), "{what}");
}

#[test]
fn one_bad_object_hides_no_list_and_no_event() {
    for (what, item) in evil() {
        good_ones_go_on::<AccessGrant>(what, &item);
        good_ones_go_on::<Pod>(what, &item);
        good_ones_go_on::<Node>(what, &item);
        good_ones_go_on::<ResourceQuota>(what, &item);
        good_ones_go_on::<RoleBinding>(what, &item);
        good_ones_go_on::<ConfigMap>(what, &item);
        good_ones_go_on::<DynamicObject>(what, &item);
    }
}

#[test]
fn without_tolerance_the_same_list_fails() {
    let item = json!({"metadata": {"name": "one", "managedFields": [{"manager": "kubectl", "time": FAR}]}}).to_string();
    assert!(serde_json::from_str::<ObjectList<Pod>>(&page(&[&item])).is_err());
    assert!(serde_json::from_str::<ObjectList<kube::core::DeserializeGuard<Pod>>>(&page(&[&item])).is_err());
}

#[test]
fn a_bad_time_costs_nothing_but_that_time() {
    let entry = |time: Value| json!({"manager": "m", "operation": "Update", "fieldsV1": {"f:spec": {}}, "time": time});
    let object = json!({"metadata": {"name": "p", "managedFields": [entry(json!(FAR)), entry(json!("2026-01-01T00:00:00Z")), 7]}});
    let Tolerant::Read(pod) = Tolerant::<Pod>::from_json(&object.to_string()) else { panic!("it can be read") };
    let entries = pod.metadata.managed_fields.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.time.is_some()).collect::<Vec<_>>(), [false, true]);
    assert!(entries.iter().all(|entry| entry.fields_v1.is_some()), "who owns what is still known");
}

#[test]
fn what_is_left_of_a_broken_object_is_read_by_hand() {
    let object = json!({
        "metadata": {
            "name": "g", "namespace": "n", "uid": "u", "resourceVersion": "12", "generation": 3, "deletionTimestamp": FAR, "creationTimestamp": FAR,
            "labels": {"a": "b", "c": 7}, "annotations": {"d": "e"}, "finalizers": ["f", 7],
        },
        "spec": {"notAfter": FAR},
    });
    let Tolerant::Broken(broken) = Tolerant::<AccessGrant>::from_json(&object.to_string()) else { panic!("it can not be read") };
    let Broken { meta, why, .. } = *broken;
    assert_eq!((meta.name.as_deref(), meta.namespace.as_deref(), meta.uid.as_deref()), (Some("g"), Some("n"), Some("u")));
    assert_eq!((meta.resource_version.as_deref(), meta.generation), (Some("12"), Some(3)));
    assert_eq!(meta.labels.unwrap(), [("a".to_owned(), "b".to_owned())].into());
    assert_eq!(meta.annotations.unwrap(), [("d".to_owned(), "e".to_owned())].into());
    assert_eq!(meta.finalizers.unwrap(), ["f"]);
    assert!(meta.deletion_timestamp.is_some(), "it is being deleted, whatever the time is");
    assert!(!why.is_empty());
}

#[test]
fn a_spec_with_a_time_out_of_range_does_not_decode_and_names_the_cause() {
    let grant = json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": "AccessGrant", "metadata": {"name": "g", "namespace": "n"}, "spec": {
        "factoryRef": {"name": "f"}, "organisation": {"name": "o", "country": "FR", "category": "SME"}, "code": "EHPC-1", "accessMode": "Regular",
        "members": [], "pools": [], "notBefore": "2026-01-01T00:00:00Z", "notAfter": "2026-02-01T00:00:00Z"}});
    assert!(matches!(Tolerant::<AccessGrant>::from_json(&grant.to_string()), Tolerant::Read(_)));
    let mut far = grant;
    far["spec"]["notAfter"] = json!(FAR);
    let Tolerant::Broken(broken) = Tolerant::<AccessGrant>::from_json(&far.to_string()) else { panic!("it can not be read") };
    assert!(broken.why.contains("range"), "{}", broken.why);
}

/// A server that answers every request with this.
fn server(answer: String) -> Client {
    let service = service_fn(move |_: http::Request<Body>| {
        let answer = answer.clone();
        async move { Ok::<_, BoxError>(Response::builder().status(200).body(Body::from(answer.into_bytes()))?) }
    });
    Client::new(service, "default")
}

#[tokio::test]
async fn a_write_stands_whatever_its_answer_looks_like() {
    let mut answers = evil();
    answers.push(("no JSON", "<html>".to_owned()));
    answers.push(("an empty answer", String::new()));
    for (what, answer) in answers {
        let api: Api<Tolerant<Node>> = Api::all(server(answer.clone()));
        let patch = json!({"metadata": {"name": "evil"}});
        let stands = |result: Result<(), kube::Error>| assert!(result.is_ok(), "{what}: {result:?}");
        stands(taken(api.patch("evil", &PatchParams::apply("m").force(), &Patch::Apply(&patch)).await).map(|_| ()));
        stands(taken(api.patch_status("evil", &PatchParams::apply("m").force(), &Patch::Apply(&patch)).await).map(|_| ()));
        let operations: json_patch::Patch = serde_json::from_value(json!([{"op": "test", "path": "/metadata/uid", "value": "u"}])).unwrap();
        stands(taken(api.patch("evil", &PatchParams::default(), &Patch::<()>::Json(operations)).await).map(|_| ()));
        stands(taken(api.delete("evil", &DeleteParams::default()).await).map(|_| ()));
        stands(taken(api.delete_collection(&DeleteParams::default(), &ListParams::default()).await).map(|_| ()));
        let secrets: Api<Secret> = Api::namespaced(server(answer), "n");
        stands(taken(secrets.create(&PostParams::default(), &Secret::default()).await).map(|_| ()));
    }
}

#[tokio::test]
async fn a_refused_write_is_still_an_error() {
    let service = service_fn(|_: http::Request<Body>| async {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "code": 409, "message": "no"});
        Ok::<_, BoxError>(Response::builder().status(409).body(Body::from(status.to_string().into_bytes()))?)
    });
    let api: Api<Tolerant<Node>> = Api::all(Client::new(service, "default"));
    assert!(taken(api.delete("n", &DeleteParams::default()).await).is_err());
}

/// JSON of any shape, with the keys that matter here among others.
fn value() -> impl Strategy<Value = Value> {
    let text =
        prop_oneof![any::<String>(), Just(FAR.to_owned()), Just("2026-01-01T00:00:00Z".to_owned()), Just("-262143-01-01T00:00:00Z".to_owned())];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    let keys = [
        "metadata",
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "labels",
        "annotations",
        "finalizers",
        "managedFields",
        "time",
        "deletionTimestamp",
        "creationTimestamp",
        "spec",
        "status",
        "data",
        "items",
        "conditions",
        "taints",
        "containers",
        "notAfter",
        "hard",
        "used",
    ];
    leaf.prop_recursive(6, 48, 6, move |inner| {
        let key = prop_oneof![4 => prop::sample::select(keys.to_vec()).prop_map(str::to_owned), 1 => any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_object_leaves_the_good_ones_alone(item in value()) {
        let item = item.to_string();
        // An item whose name is `first` would be counted as a good one.
        prop_assume!(!item.contains("first") && !item.contains("last") && !item.contains("evil"));
        let (first, last) = (good("first"), good("last"));
        let text = page(&[&first, &item, &last]);
        let names = |metas: Vec<Option<String>>| metas.into_iter().flatten().filter(|name| name == "first" || name == "last").count();
        let grants: ObjectList<Tolerant<AccessGrant>> = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(names(grants.items.iter().map(|object| object.meta().name.clone()).collect()), 2);
        let nodes: ObjectList<Tolerant<Node>> = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(names(nodes.items.iter().map(|object| object.meta().name.clone()).collect()), 2);
        let any: ObjectList<Tolerant<DynamicObject>> = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(names(any.items.iter().map(|object| object.meta().name.clone()).collect()), 2);
    }

    #[test]
    fn no_text_makes_decoding_panic(text in any::<String>(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Tolerant::<AccessGrant>::from_json(&text);
        let _ = Tolerant::<Pod>::from_json(&String::from_utf8_lossy(&bytes));
        let _ = serde_json::from_slice::<WatchEvent<Tolerant<Node>>>(&bytes);
        let _ = serde_json::from_slice::<ObjectList<Tolerant<DynamicObject>>>(&bytes);
    }
}
