//! Changes of label and taint as JSON Patch. The list of taints is atomic, so a patch tests the whole of it and replaces the whole of it.

use std::collections::BTreeSet;

use aifactory_api::labels;
use serde_json::{Value, json};

use crate::model::plan::NodePatch;

use super::view::{NO_SCHEDULE, NodeView, Taint, is_accelerator};

/// Whether the taint belongs to one of these pools.
pub fn is_ours(taint: &Taint, pools: &BTreeSet<&str>) -> bool {
    taint.effect == NO_SCHEDULE && is_accelerator(&taint.key) && pools.contains(taint.value.as_str())
}

/// The patch that makes a node the pool's; `None` where it is already.
pub fn take(node: &NodeView, pool: &str, resource: &str, pools: &BTreeSet<&str>) -> Option<NodePatch> {
    let wanted = Taint { key: resource.to_owned(), value: pool.to_owned(), effect: NO_SCHEDULE.to_owned(), time_added: None };
    let mut taints = Vec::with_capacity(node.taints.len() + 1);
    let mut placed = false;
    for taint in &node.taints {
        if !is_ours(taint, pools) {
            taints.push(taint.clone());
        } else if taint.key == resource && !placed {
            // The taint keeps its place in the list, and a correct one is left as it is.
            taints.push(if taint.value == pool { taint.clone() } else { wanted.clone() });
            placed = true;
        }
    }
    if !placed {
        taints.push(wanted);
    }
    patch(node, Some(pool), &taints)
}

/// The patch that releases a node of the pool; `None` where it carries no mark of ours.
pub fn release(node: &NodeView, pool: &str, pools: &BTreeSet<&str>) -> Option<NodePatch> {
    let taints: Vec<Taint> = node.taints.iter().filter(|taint| !is_ours(taint, pools)).cloned().collect();
    // A label that names no pool was set by hand over ours.
    let ours = |label: &&str| *label == pool || (taints != node.taints && !pools.contains(label));
    patch(node, node.pool().filter(|label| !ours(label)), &taints)
}

fn patch(node: &NodeView, label: Option<&str>, taints: &[Taint]) -> Option<NodePatch> {
    const TAINTS: &str = "/spec/taints";
    let (pool, offered) = (pointer(labels::POOL), pointer(labels::OFFERED));
    let list = |taints: &[Taint]| Value::Array(taints.iter().map(Taint::to_json).collect());
    let relabel = node.pool() != label;
    let retaint = node.taints != taints;
    if !relabel && !retaint {
        return None;
    }
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": node.uid}),
        json!({"op": "test", "path": offered, "value": "true"}),
        // The API server takes null as absent here.
        json!({"op": "test", "path": pool, "value": node.pool()}),
        json!({"op": "test", "path": TAINTS, "value": if node.taints.is_empty() { Value::Null } else { list(&node.taints) }}),
    ];
    if relabel {
        operations.push(match label {
            Some(label) => json!({"op": if node.pool().is_some() { "replace" } else { "add" }, "path": pool, "value": label}),
            None => json!({"op": "remove", "path": pool}),
        });
    }
    if retaint {
        operations.push(match taints {
            [] => json!({"op": "remove", "path": TAINTS}),
            _ => json!({"op": if node.taints.is_empty() { "add" } else { "replace" }, "path": TAINTS, "value": list(taints)}),
        });
    }
    Some(NodePatch { node: node.name.clone(), uid: node.uid.clone(), operations: Value::Array(operations) })
}

fn pointer(label: &str) -> String {
    format!("/metadata/labels/{}", label.replace('~', "~0").replace('/', "~1"))
}
