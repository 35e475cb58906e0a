//! Attacks by Namespaces: making them, adopting those of others, loosening our own.

use serde_json::{Value, json};

use crate::admission::objects::*;
use crate::admission::{By, Request, Row};
use crate::scene::{BOUND, FOREIGN, PLATFORM, STRIPPED};

const CLUSTER: By = By::Policy("aifactory-site-cluster-scoped");
const SHAPE: By = By::Policy("aifactory-site-namespaces");

pub fn rows() -> Vec<Row> {
    let row = |what, request, by: &[By]| Row::new("namespaces", what, request, by);
    let made = |name: &str, change: Value| Request::apply(namespace_path(name), with(tenant(name, "Bound", &["h100"]), change));
    let label = |key: &str, value: Value| json!({"metadata": {"labels": {key: value}}});
    let changed = |change: Value| Request::merge(namespace_path(BOUND), change);
    let generated = with(tenant("x", "Bound", &[]), json!({"metadata": {"name": null, "generateName": "x-"}}));
    let adopting = json!({"metadata": {"labels": our_labels()}});
    vec![
        row("made without our prefix", made("team", json!({})), &[CLUSTER]),
        row("made by POST without our prefix", Request::post(namespace_path(""), tenant("team", "Bound", &[])), &[CLUSTER]),
        row("made by generateName", Request::post(namespace_path(""), generated), &[CLUSTER]),
        row("made without our label", made("aif-new", label("aifactory.dev/managed", Value::Null)), &[CLUSTER]),
        row("made privileged", made("aif-new", label("pod-security.kubernetes.io/enforce", json!("privileged"))), &[SHAPE]),
        row("made without Pod Security", made("aif-new", label("pod-security.kubernetes.io/enforce", Value::Null)), &[SHAPE]),
        row("made with an old Pod Security", made("aif-new", label("pod-security.kubernetes.io/enforce-version", json!("v1.0"))), &[SHAPE]),
        row("made for nobody", made("aif-new", label("aifactory.dev/tenant", Value::Null)), &[SHAPE]),
        row("made in a state that does not exist", made("aif-new", label("aifactory.dev/state", json!("Free"))), &[SHAPE]),
        row("made with a label of others", made("aif-new", label("team", json!("x"))), &[SHAPE]),
        row("made an engine's", changed(label("site.aifactory.dev/engine", json!("slinky"))), &[SHAPE]),
        row("made privileged later", changed(label("pod-security.kubernetes.io/enforce", json!("privileged"))), &[SHAPE]),
        row("taken from the tenants", changed(label("aifactory.dev/tenant", Value::Null)), &[SHAPE]),
        row("our label taken off", changed(label("aifactory.dev/managed", Value::Null)), &[CLUSTER]),
        row(
            "an annotation that has an effect",
            changed(json!({"metadata": {"annotations": {"scheduler.alpha.kubernetes.io/node-selector": "x=y"}}})),
            &[SHAPE],
        ),
        row(
            "any resource granted",
            changed(json!({"metadata": {"annotations": {"aifactory.dev/resources": "nvidia.com/gpu,example.org/fpga"}}})),
            &[SHAPE],
        ),
        row("a pool that is not granted", changed(json!({"metadata": {"annotations": {"aifactory.dev/pool": "other"}}})), &[SHAPE]),
        row("a finalizer", changed(json!({"metadata": {"finalizers": ["example.org/stay"]}})), &[CLUSTER]),
        row(
            "an owner that is gone",
            changed(json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Namespace", "name": "gone", "uid": "1"}]}})),
            &[CLUSTER],
        ),
        row("adopted by apply", made(FOREIGN, json!({})), &[CLUSTER]),
        row("adopted by a label", Request::merge(namespace_path(FOREIGN), adopting.clone()), &[CLUSTER, SHAPE]),
        row("adopted by replace", Request::put(namespace_path(FOREIGN), tenant(FOREIGN, "Bound", &[])), &[By::Rbac]).widened(CLUSTER),
        row("the platform's adopted", made(PLATFORM, json!({})), &[CLUSTER]),
        row("the platform's adopted by a label", Request::merge(namespace_path(PLATFORM), adopting), &[CLUSTER, SHAPE]),
        row("the platform's deleted", Request::delete(namespace_path(PLATFORM)), &[CLUSTER]),
        row("one with our prefix and without our label deleted", Request::delete(namespace_path(FOREIGN)), &[CLUSTER]),
        row("one without our label deleted, whatever its annotations say", Request::delete(namespace_path(STRIPPED)), &[CLUSTER]),
        row(
            "one without our label changed, and left without",
            Request::merge(namespace_path(STRIPPED), json!({"metadata": {"annotations": {"aifactory.dev/code": "x"}}})),
            &[CLUSTER, SHAPE],
        ),
        row(
            "our label put back, and no tenant's made of it",
            Request::merge(namespace_path(STRIPPED), json!({"metadata": {"labels": our_labels()}})),
            &[SHAPE],
        ),
        row(
            "our annotations given to another's",
            Request::merge(
                namespace_path(FOREIGN),
                json!({"metadata": {"annotations": {"aifactory.dev/hub": "x", "aifactory.dev/owner": "AccessGrant/a/b"}}}),
            ),
            &[CLUSTER, SHAPE],
        ),
        row("the platform's deleted as a dry run", Request::delete(namespace_path(PLATFORM)).dry_run(), &[CLUSTER]),
        row("default deleted", Request::delete(namespace_path("default")), &[CLUSTER, By::Api(403)]),
        row("kube-system deleted", Request::delete(namespace_path("kube-system")), &[CLUSTER, By::Api(403)]),
        // On a hub that is a site, the hub refuses it too.
        row("aifactory-system deleted", Request::delete(namespace_path("aifactory-system")), &[CLUSTER, By::Policy("aifactory-hub-definitions")]),
        row("all deleted at once", Request::delete(namespace_path("")), &[By::Rbac, By::Api(405)]).widened(By::Api(405)),
        row("status", Request::merge(format!("{}/status", namespace_path(BOUND)), json!({"metadata": {"labels": {"team": "x"}}})), &[By::Rbac])
            .widened(CLUSTER),
        row(
            "finalize",
            Request::put(
                format!("{}/finalize", namespace_path(BOUND)),
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": BOUND}, "spec": {"finalizers": []}}),
            ),
            &[By::Rbac],
        )
        .widened(CLUSTER),
    ]
}
