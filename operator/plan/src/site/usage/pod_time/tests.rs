use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::json;

use super::{Checkpoint, PodView, Tally};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn pod(body: serde_json::Value) -> Pod {
    let mut pod = json!({"metadata": {"name": "train", "namespace": "aif-alpha-0123456789", "uid": "u1"}, "spec": {"containers": [
        {"name": "a", "resources": {"requests": {"cpu": "4", "nvidia.com/gpu": "2"}, "limits": {"nvidia.com/gpu": "2"}}},
        {"name": "b", "resources": {"requests": {"nvidia.com/gpu": "1"}}}]}});
    for (key, value) in body.as_object().unwrap() {
        pod[key] = value.clone();
    }
    serde_json::from_value(pod).unwrap()
}

#[test]
fn of_a_pod_only_devices_pool_and_times_are_kept() {
    let waiting = PodView::from_pod(&pod(json!({"status": {"phase": "Pending"}}))).unwrap();
    assert_eq!((waiting.devices["nvidia.com/gpu"], waiting.devices.len(), waiting.bound, waiting.ended), (3, 1, None, None));
    let conditions = json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2027-01-15T08:00:00Z"}]);
    let over = |finished: &str| json!({"name": "a", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0, "finishedAt": finished}}});
    let containers = json!([over("2027-01-15T08:00:07Z"), over("2027-01-15T08:00:09Z")]);
    let running =
        PodView::from_pod(&pod(json!({"status": {"phase": "Running", "conditions": conditions, "containerStatuses": containers}}))).unwrap();
    assert_eq!((running.bound, running.ended), (Some(at(0)), None));
    let done = PodView::from_pod(&pod(json!({"status": {"phase": "Failed", "conditions": conditions, "containerStatuses": containers}}))).unwrap();
    assert_eq!(done.ended, Some(at(9)), "the last container's end");
    let elsewhere = pod(json!({"metadata": {"name": "train", "namespace": "team", "uid": "u1"}}));
    assert_eq!(PodView::from_pod(&elsewhere), None);
    assert_eq!(PodView::from_pod(&pod(json!({"spec": {"containers": [{"name": "a"}]}}))), None, "no device");
}

#[test]
fn a_pod_whose_node_is_lost_has_not_ended_with_its_init_container() {
    let condition = |kind: &str, status: &str, at: &str| json!({"type": kind, "status": status, "lastTransitionTime": at});
    let ended = PodView::from_pod(&pod(json!({"status": {"phase": "Failed",
        "conditions": [condition("PodScheduled", "True", "2027-01-15T08:00:00Z"), condition("DisruptionTarget", "True", "2027-01-25T08:00:00Z"),
            condition("Ready", "False", "2027-01-15T08:00:01Z")],
        "initContainerStatuses": [{"name": "i", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "finishedAt": "2027-01-15T08:00:05Z"}}}],
        "containerStatuses": [{"name": "a", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"running": {}}}]}})))
    .unwrap()
    .ended;
    assert_eq!(ended, Some("2027-01-25T08:00:00Z".parse().unwrap()));
}

#[test]
fn an_init_container_counts_where_it_asks_for_more_and_a_sidecar_always() {
    let ask = |count: &str| json!({"requests": {"nvidia.com/gpu": count}});
    let with = |init: serde_json::Value| {
        let spec = json!({"initContainers": init, "containers": [{"name": "a", "resources": ask("2")}]});
        PodView::from_pod(&pod(json!({"spec": spec}))).unwrap().devices["nvidia.com/gpu"]
    };
    assert_eq!(with(json!([{"name": "i", "resources": ask("1")}])), 2);
    assert_eq!(with(json!([{"name": "i", "resources": ask("4")}])), 4);
    assert_eq!(with(json!([{"name": "i", "restartPolicy": "Always", "resources": ask("1")}])), 3);
    for policy in ["Never", "OnFailure"] {
        assert_eq!(with(json!([{"name": "i", "restartPolicy": policy, "resources": ask("2")}])), 2, "{policy} makes no sidecar");
    }
    let beside = json!([{"name": "s", "restartPolicy": "Always", "resources": ask("1")}, {"name": "i", "resources": ask("4")}]);
    assert_eq!(with(beside), 5, "the init container runs beside the sidecar before it");
}

#[test]
fn each_pod_counts_once_however_often_it_is_seen() {
    let mut tally = Tally::default();
    assert!(tally.put("u1", "h100", 2, at(0), None));
    assert!(!tally.put("u1", "h100", 2, at(0), None));
    assert!(tally.running(Some("h100"), at(5)) && !tally.running(Some("h200"), at(5)));
    assert_eq!(tally.through(at(5)), BTreeMap::from([("h100".to_owned(), 10_000)]));
    // It had ended a while ago: the figure is put right.
    assert!(tally.put("u1", "h100", 2, at(0), Some(at(4))));
    assert_eq!(tally.through(at(9)), BTreeMap::from([("h100".to_owned(), 8_000)]));
    assert!(tally.remove("u1", at(9)));
    assert!(!tally.remove("u1", at(9)));
    assert_eq!(tally.through(at(20)), BTreeMap::from([("h100".to_owned(), 8_000)]));
}

#[test]
fn a_checkpoint_outlives_the_process() {
    let mut tally = Tally::default();
    tally.put("u1", "h100", 1, at(0), None);
    tally.gap(at(1), at(2));
    tally.gap(at(3), at(3));
    let checkpoint = Checkpoint::parse(&tally.checkpoint(at(10)).text()).unwrap();
    assert_eq!((checkpoint.through, checkpoint.milliseconds["h100"], checkpoint.gaps.len()), (at(10), 10_000, 1));
    let mut next = Tally::resume(Some(checkpoint));
    assert_eq!(next.through(at(30))["h100"], 10_000);
    next.put("u1", "h100", 1, at(0), None);
    assert_eq!(next.through(at(30))["h100"], 30_000);
    assert_eq!(next.gaps().collect::<Vec<_>>(), [&(at(1), at(2))]);
    assert_eq!(Checkpoint::parse("{}"), None);
    // A clock that is behind counts nothing twice.
    let behind = next.checkpoint(at(5));
    assert_eq!((behind.through, behind.milliseconds["h100"]), (at(10), 10_000));
}

proptest! {
    /// However a process is ended and begun again, while no Pod goes unseen the sum is that of one that was never ended.
    #[test]
    fn windows_add_up_to_the_whole(
        pods in prop::collection::vec((0..2_u8, 0..9_i64, 0..1000_i64, 0..500_i64, any::<bool>()), 0..12),
        mut restarts in prop::collection::vec(0..1600_i64, 0..6),
    ) {
        restarts.sort_unstable();
        let end = at(2000);
        let mut whole: BTreeMap<String, i64> = BTreeMap::new();
        for (pool, gpus, _, length, _) in &pods {
            *whole.entry(format!("p{pool}")).or_default() += gpus * length * 1000;
        }
        whole.retain(|_, sum| *sum > 0);
        let mut tally = Tally::default();
        let mut last = 0;
        for stop in restarts.iter().copied().chain([2000]) {
            // What this process sees: Pods begin, end, and those that are deleted go.
            for (index, (pool, gpus, from, length, deleted)) in pods.iter().enumerate() {
                let (uid, over) = (index.to_string(), from + length);
                if *from > stop || (*deleted && over <= last) {
                    continue;
                }
                tally.put(&uid, &format!("p{pool}"), *gpus, at(*from), (!deleted && over <= stop).then(|| at(over)));
                if *deleted && over <= stop {
                    tally.remove(&uid, at(over));
                }
            }
            last = stop;
            if stop < 2000 {
                let checkpoint = Checkpoint::parse(&tally.checkpoint(at(stop)).text());
                prop_assert!(checkpoint.is_some());
                tally = Tally::resume(checkpoint);
            }
        }
        prop_assert_eq!(tally.through(end), whole);
    }
}
