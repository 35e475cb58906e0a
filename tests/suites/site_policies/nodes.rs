//! Attacks on Nodes: those that are not offered, and what is not ours on those that are.

use serde_json::{Value, json};

use crate::admission::objects::with;
use crate::admission::{By, Request, Row};
use crate::scene::cluster_node;

const NODES: By = By::Policy("aifactory-site-nodes");

pub fn rows() -> Vec<Row> {
    let row = |what, request, by: &[By]| Row::new("nodes", what, request, by);
    let metadata = |change: Value| Request::merge(cluster_node("offered"), json!({"metadata": change}));
    let taint = |key: &str, effect: &str| {
        let taint = json!({"key": key, "value": "h100", "effect": effect});
        Request::json_patch(cluster_node("offered"), json!([{"op": "add", "path": "/spec/taints/-", "value": taint}]))
    };
    let spec = |change: Value| Request::merge(cluster_node("offered"), json!({"spec": change}));
    let offering = json!({"metadata": {"labels": {"site.aifactory.dev/offered": "true"}}});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "aif-new"}});
    vec![
        row("cordoned", spec(json!({"unschedulable": true})), &[NODES]),
        row("another's taint added", taint("example.org/x", "NoSchedule"), &[NODES]),
        row("another's taint replaced", spec(json!({"taints": [{"key": "nvidia.com/gpu", "value": "h100", "effect": "NoSchedule"}]})), &[NODES]),
        row("all taints removed", spec(json!({"taints": null})), &[NODES]),
        row("everybody evicted", taint("nvidia.com/gpu", "NoExecute"), &[NODES]),
        row("said to be unreachable", taint("node.kubernetes.io/unreachable", "NoExecute"), &[NODES]),
        row("said to be out of service", taint("node.kubernetes.io/out-of-service", "NoExecute"), &[NODES]),
        row("a label of others", metadata(json!({"labels": {"team": "x"}})), &[NODES]),
        row("a label of others removed", metadata(json!({"labels": {"kubernetes.io/arch": null}})), &[NODES]),
        row("made a control plane", metadata(json!({"labels": {"node-role.kubernetes.io/control-plane": ""}})), &[NODES]),
        row("an annotation of others", metadata(json!({"annotations": {"example.org/site": "y"}})), &[NODES]),
        row("a finalizer", metadata(json!({"finalizers": ["example.org/stay"]})), &[NODES]),
        row(
            "an owner that is gone",
            metadata(json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "gone", "uid": "1"}]})),
            &[NODES],
        ),
        row("the offer withdrawn", metadata(json!({"labels": {"site.aifactory.dev/offered": null}})), &[NODES]),
        row("the offer made by ourselves", Request::merge(cluster_node("plain"), offering.clone()), &[NODES])
            .words("kubectl label node plain site.aifactory.dev/offered=true"),
        row(
            "a Node that is not offered",
            Request::merge(cluster_node("plain"), json!({"metadata": {"labels": {"aifactory.dev/pool": "h100"}}})),
            &[NODES],
        ),
        row("another provider", spec(json!({"providerID": "example://x"})), &[NODES]),
        row("made", Request::apply(cluster_node("aif-new"), with(node, offering)), &[By::Rbac]).widened(NODES),
        row("deleted", Request::delete(cluster_node("offered")), &[By::Rbac]).widened(NODES),
        row("all deleted", Request::delete(cluster_node("")), &[By::Rbac]).widened(NODES),
        row(
            "status",
            Request::merge(format!("{}/status", cluster_node("offered")), json!({"status": {"capacity": {"nvidia.com/gpu": "99"}}})),
            &[By::Rbac],
        )
        .widened(NODES),
    ]
}
