#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod properties;

use std::collections::BTreeMap;

use aifactory_api::pool::{Accelerator, PerGpu};
use aifactory_api::{Kind, OwnerRef, Reason, labels};
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use crate::model::plan::NodePatch;

use super::{NodeView, PoolNodes, Taint, assign};
use crate::model::intent::{NodeSource, PoolEngine, PoolIntent, Presence};

const GPU: &str = "nvidia.com/gpu";

fn owner(name: &str) -> OwnerRef {
    OwnerRef::new(Kind::GPUPool, "example", name)
}

fn pool(selector: &[(&str, &str)], wanted: Option<u32>) -> PoolIntent {
    PoolIntent {
        presence: Presence::Active,
        accelerator: Accelerator { vendor: "nvidia".into(), model: "H100-SXM5".into(), resource_name: GPU.into(), per_node: 4 },
        per_gpu: PerGpu { cpus: 16, memory_gib: 120 },
        wanted,
        nodes: NodeSource::Adopt { selector: selector.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect() },
        engine: PoolEngine::Kubernetes,
    }
}

fn taint(key: &str, value: &str, effect: &str) -> Taint {
    Taint { key: key.into(), value: value.into(), effect: effect.into(), time_added: None }
}

fn node(name: &str, labels: &[(&str, &str)]) -> NodeView {
    let mut view = NodeView {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        ready: true,
        capacity: BTreeMap::from([(GPU.to_owned(), 4)]),
        allocatable: BTreeMap::from([(GPU.to_owned(), 4)]),
        ..NodeView::default()
    };
    view.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    view.labels.insert(labels::OFFERED.to_owned(), "true".to_owned());
    view
}

fn run(pools: &BTreeMap<OwnerRef, PoolIntent>, nodes: &[NodeView]) -> BTreeMap<OwnerRef, PoolNodes> {
    let pools = pools.iter().map(|(owner, pool)| (owner.clone(), pool)).collect();
    assign(&pools, &nodes.iter().collect::<Vec<_>>())
}

/// The node as the API server stores it.
fn stored(view: &NodeView) -> Value {
    let quantities = |of: &BTreeMap<String, i64>| of.iter().map(|(key, value)| (key.clone(), json!(value.to_string()))).collect::<BTreeMap<_, _>>();
    let mut node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": view.name, "uid": view.uid, "labels": view.labels},
        "spec": {},
        "status": {
            "capacity": quantities(&view.capacity), "allocatable": quantities(&view.allocatable),
            "conditions": [{"type": "Ready", "status": if view.ready { "True" } else { "Unknown" }}],
        },
    });
    if !view.taints.is_empty() {
        node["spec"]["taints"] = view.taints.iter().map(Taint::to_json).collect();
    }
    if view.unschedulable {
        node["spec"]["unschedulable"] = json!(true);
    }
    if view.terminating {
        node["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    node
}

fn viewed(node: &Value) -> NodeView {
    NodeView::from_node(&serde_json::from_value::<Node>(node.clone()).unwrap())
}

/// The operations of RFC 6902 that we use, with the API server's reading of a test for null.
fn apply(node: &mut Value, operations: &Value) -> Result<(), String> {
    for operation in operations.as_array().unwrap() {
        let path = operation["path"].as_str().unwrap();
        let (parent, key) = path.rsplit_once('/').unwrap();
        let key = key.replace("~1", "/").replace("~0", "~");
        let parent = node.pointer_mut(parent).and_then(Value::as_object_mut).ok_or("no parent")?;
        match operation["op"].as_str().unwrap() {
            "test" if parent.get(&key).unwrap_or(&Value::Null) == &operation["value"] => {}
            "add" => {
                parent.insert(key, operation["value"].clone());
            }
            "replace" if parent.contains_key(&key) => {
                parent.insert(key, operation["value"].clone());
            }
            "remove" if parent.contains_key(&key) => {
                parent.remove(&key);
            }
            other => return Err(format!("{other} {path}: {parent:?}")),
        }
    }
    Ok(())
}

fn patches(assigned: &BTreeMap<OwnerRef, PoolNodes>) -> Vec<&NodePatch> {
    assigned.values().flat_map(|nodes| &nodes.patches).collect()
}

fn applied(assigned: &BTreeMap<OwnerRef, PoolNodes>, nodes: &[NodeView]) -> Vec<NodeView> {
    let mut stores: BTreeMap<String, Value> = nodes.iter().map(|node| (node.name.clone(), stored(node))).collect();
    for patch in patches(assigned) {
        apply(stores.get_mut(&patch.node).unwrap(), &patch.operations).expect("a patch of what was observed applies");
    }
    stores.values().map(viewed).collect()
}

#[test]
fn takes_labels_and_taints_and_then_rests() {
    let pools = BTreeMap::from([(owner("h100"), pool(&[("gpu", "h100")], Some(2)))]);
    let mut foreign = node("b", &[("gpu", "h100")]);
    foreign.taints = vec![taint("maintenance", "", "NoExecute"), taint("x", "y", "NoSchedule")];
    foreign.taints[0].time_added = Some("2026-11-21T05:00:00Z".into());
    let nodes = [node("c", &[("gpu", "h100")]), foreign, node("a", &[("gpu", "h100")]), node("z", &[("gpu", "a100")])];
    let assigned = run(&pools, &nodes);
    let ours = &assigned[&owner("h100")];
    assert_eq!(ours.held, ["a", "b"]);
    assert_eq!((ours.ready, ours.unhealthy, ours.wanted, ours.gpus_capacity), (2, 0, 2, 8));
    assert_eq!(ours.findings, []);
    let after = applied(&assigned, &nodes);
    let b = after.iter().find(|node| node.name == "b").unwrap();
    assert_eq!(b.pool(), Some("h100"));
    assert_eq!(b.taints[..2], nodes[1].taints[..]);
    assert_eq!(b.taints[2], taint(GPU, "h100", "NoSchedule"));
    assert_eq!(patches(&run(&pools, &after)), [] as [&NodePatch; 0]);
}

#[test]
fn one_patch_tests_node_offer_label_and_all_taints() {
    let pools = BTreeMap::from([(owner("h100"), pool(&[("gpu", "h100")], None))]);
    let assigned = run(&pools, &[node("a", &[("gpu", "h100")])]);
    assert_eq!(
        assigned[&owner("h100")].patches[0].operations,
        json!([
            {"op": "test", "path": "/metadata/uid", "value": "uid-a"},
            {"op": "test", "path": "/metadata/labels/site.aifactory.dev~1offered", "value": "true"},
            {"op": "test", "path": "/metadata/labels/aifactory.dev~1pool", "value": null},
            {"op": "test", "path": "/spec/taints", "value": null},
            {"op": "add", "path": "/metadata/labels/aifactory.dev~1pool", "value": "h100"},
            {"op": "add", "path": "/spec/taints", "value": [{"key": GPU, "value": "h100", "effect": "NoSchedule"}]},
        ])
    );
}

#[test]
fn healthy_nodes_first_and_those_it_has_before_all() {
    let pools = BTreeMap::from([(owner("h100"), pool(&[("gpu", "h100")], Some(2)))]);
    let mut nodes = [node("a", &[("gpu", "h100")]), node("b", &[("gpu", "h100")]), node("c", &[("gpu", "h100"), (labels::POOL, "h100")])];
    nodes[0].unschedulable = true;
    nodes[2].ready = false;
    let ours = &run(&pools, &nodes)[&owner("h100")];
    assert_eq!(ours.held, ["b", "c"]);
    assert_eq!((ours.ready, ours.unhealthy), (1, 1));
    assert_eq!(ours.findings[0].reason, Reason::NodesUnhealthy);
    assert_eq!(ours.findings[0].message, "1 of 2 nodes are not healthy: 1 not Ready (c)");
}

#[test]
fn a_node_of_two_pools_goes_to_neither_or_stays() {
    let pools = BTreeMap::from([(owner("left"), pool(&[("gpu", "h100")], None)), (owner("right"), pool(&[("rack", "1")], None))]);
    let both = [("gpu", "h100"), ("rack", "1")];
    let assigned = run(&pools, &[node("a", &both)]);
    assert_eq!(patches(&assigned), [] as [&NodePatch; 0]);
    for ours in assigned.values() {
        assert_eq!((ours.held.len(), ours.conflicts), (0, 1));
        assert_eq!(ours.findings[0].reason, Reason::NodeClaimedTwice);
        assert!(ours.findings[0].stalled);
        assert!(ours.findings[0].message.contains("a (pools left, right; none gets it)"), "{}", ours.findings[0].message);
    }
    let mut kept = node("a", &both);
    kept.labels.insert(labels::POOL.into(), "right".into());
    let assigned = run(&pools, &[kept]);
    assert_eq!(assigned[&owner("right")].held, ["a"]);
    assert_eq!(assigned[&owner("right")].patches.len(), 1);
    assert_eq!(assigned[&owner("right")].conflicts, 0);
    assert_eq!(assigned[&owner("left")].conflicts, 1);
    assert!(assigned.values().all(|ours| ours.findings[0].message.contains("right keeps it")));
}

#[test]
fn a_message_about_many_contested_nodes_is_short() {
    let pools = BTreeMap::from([(owner("left"), pool(&[("gpu", "h100")], None)), (owner("right"), pool(&[("gpu", "h100")], None))]);
    let nodes: Vec<NodeView> = (0..40).map(|number| node(&format!("n{number:02}"), &[("gpu", "h100")])).collect();
    let assigned = run(&pools, &nodes);
    assert!(assigned[&owner("left")].findings[0].message.contains("and 35 more"));
    assert!(!assigned[&owner("left")].findings[0].message.contains("n05"));
}

#[test]
fn released_when_lost_absent_or_too_many_and_kept_while_draining() {
    let carried = |name: &str, gpu: &str| {
        let mut view = node(name, &[("gpu", gpu), (labels::POOL, "h100")]);
        view.taints = vec![taint(GPU, "h100", "NoSchedule")];
        view
    };
    let nodes = [carried("a", "h100"), carried("b", "h100"), carried("c", "other"), node("d", &[("gpu", "h100")])];
    let mut intent = pool(&[("gpu", "h100")], Some(1));
    let of = |intent: &PoolIntent| run(&BTreeMap::from([(owner("h100"), intent.clone())]), &nodes).remove(&owner("h100")).unwrap();
    let names = |ours: &PoolNodes| ours.patches.iter().map(|patch| patch.node.clone()).collect::<Vec<_>>();
    assert_eq!(of(&intent).held, ["a"]);
    assert_eq!(names(&of(&intent)), ["b", "c"]);
    intent.wanted = None;
    intent.presence = Presence::Draining;
    assert_eq!(of(&intent).held, ["a", "b"]);
    assert_eq!(names(&of(&intent)), ["c"]);
    intent.presence = Presence::Absent;
    assert_eq!(of(&intent).held.len(), 0);
    assert_eq!(names(&of(&intent)), ["a", "b", "c"]);
    // Of an orphan nothing but the name is known.
    assert_eq!(of(&PoolIntent::absent()).patches, of(&intent).patches);
    let after = applied(&BTreeMap::from([(owner("h100"), of(&intent))]), &nodes);
    assert!(after.iter().all(|node| node.pool().is_none() && node.taints.is_empty()));
}

#[test]
fn moves_between_pools_in_two_rounds() {
    let mut old = pool(&[("gpu", "h100")], None);
    old.presence = Presence::Absent;
    let pools = BTreeMap::from([(owner("new"), pool(&[("gpu", "h100")], None)), (owner("old"), old)]);
    let nodes = [node("a", &[("gpu", "h100"), (labels::POOL, "old")])];
    let first = run(&pools, &nodes);
    assert_eq!(first[&owner("new")].patches.len(), 0);
    assert!(first[&owner("new")].findings[0].message.contains("a still carry the label or taint of another pool, such as old"));
    let nodes = applied(&first, &nodes);
    let second = run(&pools, &nodes);
    assert_eq!(second[&owner("new")].held, ["a"]);
    assert_eq!(patches(&run(&pools, &applied(&second, &nodes))).len(), 0);
}

#[test]
fn a_taint_of_somebody_else_is_in_the_way_and_stays() {
    let pools = BTreeMap::from([(owner("h100"), pool(&[("gpu", "h100")], None))]);
    for value in ["present", ""] {
        let mut view = node("a", &[("gpu", "h100")]);
        view.taints = vec![taint(GPU, value, "NoSchedule")];
        let ours = &run(&pools, &[view])[&owner("h100")];
        assert_eq!((ours.held.len(), ours.conflicts, ours.patches.len()), (0, 1, 0));
        assert_eq!(ours.findings[0].reason, Reason::ForeignObject);
    }
    let mut view = node("a", &[("gpu", "h100")]);
    view.taints = vec![taint(GPU, "present", "NoExecute")];
    assert_eq!(run(&pools, &[view])[&owner("h100")].held, ["a"]);
}

#[test]
fn an_offer_taken_back_is_named_and_not_touched() {
    let pools = BTreeMap::from([(owner("h100"), pool(&[("gpu", "h100")], Some(1)))]);
    let mut view = node("a", &[("gpu", "h100"), (labels::POOL, "h100")]);
    view.taints = vec![taint(GPU, "h100", "NoSchedule")];
    view.labels.remove(labels::OFFERED);
    let ours = &run(&pools, &[view])[&owner("h100")];
    assert_eq!((ours.held.len(), ours.not_offered, ours.patches.len()), (0, 1, 0));
    let texts: Vec<&str> = ours.findings.iter().map(|finding| finding.message.as_str()).collect();
    assert!(texts[0].contains("kubectl label node a site.aifactory.dev/offered=true"), "{texts:?}");
    assert!(texts[1].contains("kubectl label node a aifactory.dev/pool-; kubectl taint node a nvidia.com/gpu=h100:NoSchedule-"), "{texts:?}");
}

#[test]
fn an_intent_that_can_not_be_used_changes_nothing() {
    let view = node("a", &[("gpu", "h100"), (labels::POOL, "h100")]);
    let mut unknown = pool(&[("gpu", "h100")], None);
    unknown.accelerator.resource_name = "example.org/thing".into();
    for intent in [pool(&[], None), unknown] {
        let ours = &run(&BTreeMap::from([(owner("h100"), intent)]), std::slice::from_ref(&view))[&owner("h100")];
        assert_eq!((ours.held.len(), ours.patches.len()), (1, 0));
        assert_eq!(ours.findings[0].reason, Reason::InvalidSpec);
    }
}

#[test]
fn a_label_by_hand_over_our_taint_is_put_right() {
    let pools = BTreeMap::from([(owner("a"), pool(&[("gpu", "h100")], None))]);
    let mut hand = node("n", &[("gpu", "h100"), (labels::POOL, "nobody")]);
    hand.taints = vec![taint(GPU, "a", "NoSchedule")];
    let found = run(&pools, &[hand.clone()]).remove(&owner("a")).unwrap();
    assert_eq!((found.held.as_slice(), found.patches.len()), (["n".to_owned()].as_slice(), 1));
    // Where the pool releases the node, neither label nor taint is left.
    hand.labels.remove("gpu");
    let found = run(&pools, &[hand.clone()]).remove(&owner("a")).unwrap();
    let operations = found.patches[0].operations.to_string();
    assert!(found.held.is_empty() && operations.contains(r#""op":"remove","path":"/metadata/labels/aifactory.dev~1pool""#), "{operations}");
    // A label without a taint is not ours.
    hand.taints.clear();
    assert!(run(&pools, &[hand]).remove(&owner("a")).unwrap().patches.is_empty());
}
