#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use aifactory_api::factory::LocalRef;
use aifactory_api::pool::{Accelerator, PerGpu, Preemption};
use aifactory_api::slurm::{SiteSlurm, Slinky};
use aifactory_api::{Kind, OwnerRef, Reason};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::id::{HubId, PartitionName};
use crate::model::intent::{NodeSource, Rank};

const IMAGE: &str = "ghcr.io/slinkyproject/slurmd:26.05-ubuntu26.04";

pub fn site() -> SiteIntent {
    SiteIntent {
        slurm: Some(SiteSlurm {
            cluster_name: "bissen".into(),
            rest: None,
            slinky: Some(Slinky {
                namespace: "slurm".into(),
                controller_ref: Some(LocalRef { name: "slurm".into() }),
                managed: None,
                image: IMAGE.into(),
                min_job_age: "300s".into(),
                access: None,
            }),
        }),
        ..SiteIntent::bare("hub", OwnerRef::new(Kind::AIFactory, "example", "example"), "1", "bissen")
    }
}

fn pool() -> PoolIntent {
    PoolIntent {
        presence: Presence::Active,
        accelerator: Accelerator { vendor: "nvidia".into(), model: "H100-SXM5-80GB".into(), resource_name: "nvidia.com/gpu".into(), per_node: 4 },
        per_gpu: PerGpu { cpus: 16, memory_gib: 128 },
        wanted: None,
        nodes: NodeSource::Adopt { selector: BTreeMap::from([("gpu".to_owned(), "h100".to_owned())]) },
        engine: PoolEngine::Slurm { partition: PartitionName::new("gpu-h100"), max_wall_minutes: Some(24 * 60), rank: Rank::default() },
    }
}

fn ownership() -> Ownership {
    Ownership::new(&HubId::new("hub"), &OwnerRef::new(Kind::GPUPool, "example", "h100"), "2")
}

fn rendered(pool: &PoolIntent, replicas: u32) -> Object {
    node_set(&site(), "h100", pool, replicas, &ownership()).unwrap()
}

/// A NodeSet with the status that slurm-operator would write where all nodes are healthy and idle.
fn observed(object: &Object, generation: i64) -> Value {
    let mut content = object.content.clone();
    let replicas = content["spec"]["replicas"].clone();
    content["metadata"]["generation"] = json!(generation);
    content["status"] = json!({"observedGeneration": generation, "desired": replicas, "replicas": replicas, "readyReplicas": replicas,
        "updatedReplicas": replicas, "slurmIdle": replicas, "slurmAllocated": 0, "slurmDown": 0, "slurmDrain": 0});
    content
}

fn view(value: &Value) -> NodeSetView {
    NodeSetView::from_json(value)
}

#[test]
fn one_node_set_with_its_partition() {
    let object = rendered(&pool(), 16);
    assert_eq!(object.key, ObjectKey::namespaced(ObjectKind::NODE_SET, "slurm", "gpu-h100"));
    assert_eq!(
        object.content["spec"],
        json!({
            "controllerRef": {"name": "slurm"},
            "replicas": 16,
            "scalingMode": "StatefulSet",
            "slurmd": {"image": IMAGE, "resources": {"limits": {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "4"}}},
            "logfile": {"image": IMAGE},
            "extraConf": "Gres=gpu:h100:4",
            "template": {"spec": {
                "nodeSelector": {"aifactory.dev/pool": "h100"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Equal", "value": "h100", "effect": "NoSchedule"}],
            }},
            "partition": {"enabled": true, "config": "State=UP MaxTime=1-00:00:00"},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%"}},
            "ordinalPadding": 0, "pinToNode": false, "oversubscribeNode": false, "pruneSlurmNodeRecords": "Never",
            "minReadySeconds": 0, "revisionHistoryLimit": 0, "workloadDisruptionProtection": true,
        })
    );
    let mut draining = pool();
    draining.presence = Presence::Draining;
    draining.engine = PoolEngine::Slurm { partition: PartitionName::new("gpu-h100"), max_wall_minutes: None, rank: Rank::default() };
    assert_eq!(rendered(&draining, 16).content["spec"]["partition"]["config"], "State=DRAIN MaxTime=UNLIMITED");
    let mut ranked = draining.clone();
    ranked.presence = Presence::Active;
    let rank = Rank { default: true, priority_tier: Some(65533), preemption: Some(Preemption::Requeue) };
    ranked.engine = PoolEngine::Slurm { partition: PartitionName::new("gpu-h100"), max_wall_minutes: Some(90), rank };
    let object = rendered(&ranked, 16);
    let line = "MaxTime=01:30:00 Default=YES PriorityTier=65533 PreemptMode=REQUEUE";
    assert_eq!(object.content["spec"]["partition"]["config"], format!("State=UP {line}"));
    let RemovalStep::Drain(drained) = removal(&object.key, Some(&view(&observed(&object, 1))), &ownership(), MIN_JOB_AGE, Timestamp::UNIX_EPOCH)
    else {
        panic!("the way out begins with a drain");
    };
    assert_eq!(drained.content["spec"]["partition"]["config"], format!("State=DRAIN {line}"));
    ranked.engine = PoolEngine::Slurm {
        partition: PartitionName::new("gpu-h100"),
        max_wall_minutes: None,
        rank: Rank { priority_tier: Some(65534), ..Rank::default() },
    };
    assert!(node_set(&site(), "h100", &ranked, 1, &ownership()).unwrap_err().message.contains("priorityTier"));
}

#[test]
fn wall_times_as_slurm_writes_them() {
    let of = |minutes| WallTime::of_minutes(Some(minutes)).unwrap().to_string();
    assert_eq!(of(1), "00:01:00");
    assert_eq!(of(90), "01:30:00");
    assert_eq!(of(1439), "23:59:00");
    assert_eq!(of(1440), "1-00:00:00");
    assert_eq!(of(99_999 * 60), "4166-15:00:00");
    assert!(WallTime::of_minutes(Some(0)).is_err());
}

#[test]
fn gres_types_come_from_models() {
    for (model, kind) in [("H100-SXM5-80GB", "h100"), ("MI300X", "mi300x"), ("L40S", "l40s"), ("A100_PCIe", "a100"), ("910B.x", "910b")] {
        assert_eq!(GresType::of_model(model).unwrap().to_string(), kind);
    }
    for model in ["", "-", "80-GB", "h100:8", "h 100", "ä"] {
        assert!(GresType::of_model(model).is_err(), "{model}");
    }
}

#[test]
fn what_is_not_legal_is_refused_with_its_field() {
    type Change = fn(&mut SiteIntent, &mut PoolIntent);
    let refusal = |change: Change| {
        let (mut site, mut pool) = (site(), pool());
        change(&mut site, &mut pool);
        node_set(&site, "h100", &pool, 1, &ownership()).unwrap_err()
    };
    fn slinky(site: &mut SiteIntent) -> &mut Slinky {
        site.slurm.as_mut().unwrap().slinky.as_mut().unwrap()
    }
    fn partition(pool: &mut PoolIntent, name: &str) {
        pool.engine = PoolEngine::Slurm { partition: PartitionName::new(name), max_wall_minutes: None, rank: Rank::default() };
    }
    let cases: [(Change, Reason, &str); 15] = [
        (|_, pool| partition(pool, "default"), Reason::InvalidSpec, "partition \"default\""),
        (|_, pool| partition(pool, "all"), Reason::InvalidSpec, "partition \"all\""),
        (|_, pool| partition(pool, "a b"), Reason::InvalidSpec, "partition"),
        (|_, pool| partition(pool, "a\nState=UP"), Reason::InvalidSpec, "partition"),
        (|_, pool| partition(pool, ""), Reason::InvalidSpec, "partition"),
        (|_, pool| pool.accelerator.model = "h100 AllowAccounts=x".into(), Reason::InvalidSpec, "GRES type"),
        (|_, pool| pool.accelerator.resource_name = "cpu".into(), Reason::InvalidSpec, "accelerator"),
        (|_, pool| pool.accelerator.per_node = 0, Reason::InvalidSpec, "accelerator.perNode 0"),
        (|_, pool| pool.per_gpu.cpus = -1, Reason::InvalidSpec, "perGPU.cpus -1"),
        (|_, pool| pool.per_gpu.memory_gib = i32::MAX, Reason::InvalidSpec, "perGPU.memoryGiB"),
        (|site, _| slinky(site).image = "a b".into(), Reason::InvalidSpec, "image"),
        (|site, _| slinky(site).namespace = "kube-system/x".into(), Reason::InvalidSpec, "namespace"),
        (|site, _| slinky(site).controller_ref = Some(LocalRef { name: "".into() }), Reason::InvalidSpec, "controllerRef.name"),
        (|site, _| site.slurm = None, Reason::EngineMissing, "slurm.slinky"),
        (|_, pool| pool.engine = PoolEngine::Kubernetes, Reason::NotApplicable, "no Slurm pool"),
    ];
    for (change, reason, text) in cases {
        let refusal = refusal(change);
        assert_eq!(refusal.reason, reason);
        assert!(refusal.message.contains(text) && refusal.message.starts_with("GPUPool/example/h100 at site bissen: "), "{}", refusal.message);
    }
}

#[test]
fn partition_states() {
    let whole = observed(&rendered(&pool(), 16), 3);
    let state = |change: &dyn Fn(&mut Value)| {
        let mut value = whole.clone();
        change(&mut value);
        partition_state(Some(&view(&value)))
    };
    let set = |path: &'static str, to: Value| move |value: &mut Value| *value.pointer_mut(path).unwrap() = to.clone();
    let up = state(&|_| {});
    assert_eq!((up.name.as_str(), up.state, up.ready, up.reason, up.message.as_str()), ("gpu-h100", PartitionState::Up, 16, Reason::AsSpecified, ""));
    assert!(up.is_up());
    assert_eq!(partition_state(None).state, PartitionState::Unknown);
    assert_eq!(state(&set("/status/observedGeneration", json!(2))).state, PartitionState::Unknown);
    assert_eq!(state(&set("/status", json!({}))).state, PartitionState::Unknown);
    let part = state(&|value| {
        set("/status/slurmIdle", json!(3))(value);
        set("/status/slurmAllocated", json!(11))(value);
        set("/status/slurmDown", json!(1))(value);
        set("/status/slurmDrain", json!(2))(value);
        set("/status/readyReplicas", json!(15))(value);
    });
    assert_eq!((part.state, part.ready, part.reason), (PartitionState::Up, 12, Reason::NodesUnhealthy));
    assert_eq!(part.message, "12 of 16 nodes take jobs: 1 down, 2 drained or draining, 1 without a ready slurmd Pod; sinfo -R tells why");
    let blind = state(&set("/status/slurmIdle", json!(0)));
    assert_eq!(blind.state, PartitionState::Down);
    assert!(blind.message.contains("RestApi"), "{}", blind.message);
    let down = state(&|value| {
        set("/status/slurmIdle", json!(0))(value);
        set("/status/slurmDown", json!(16))(value);
    });
    assert_eq!((down.state, down.message.as_str()), (PartitionState::Down, "no node takes jobs: 16 down; sinfo -R tells why"));
    let pods = state(&set("/status/readyReplicas", json!(0)));
    assert_eq!(pods.state, PartitionState::Down);
    assert!(pods.message.contains("kubectl -n slurm get pods"), "{}", pods.message);
    assert_eq!(state(&set("/status/updatedReplicas", json!(15))).reason, Reason::InProgress);
    assert_eq!(state(&set("/spec/partition/config", json!("State=DRAIN"))).state, PartitionState::Draining);
    assert_eq!(state(&set("/spec/partition/config", json!("State=INACTIVE MaxTime=1"))).state, PartitionState::Down);
    assert_eq!(partition_state(Some(&view(&observed(&rendered(&pool(), 0), 1)))).state, PartitionState::Empty);
}

#[test]
fn removal_drains_waits_empties_waits_and_deletes() {
    let key = rendered(&pool(), 2).key;
    let now: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
    let step = |value: &Value, now: Timestamp| removal(&key, Some(&view(value)), &ownership(), MIN_JOB_AGE, now);
    let drained = |step: RemovalStep| match step {
        RemovalStep::Drain(object) => object,
        other => panic!("{other:?}"),
    };
    let waits = |step: RemovalStep| match step {
        RemovalStep::Wait { message, until } => (message, until),
        other => panic!("{other:?}"),
    };
    let mut busy = observed(&rendered(&pool(), 2), 1);
    busy["status"]["slurmAllocated"] = json!(1);
    let draining = drained(step(&busy, now));
    let mut expected = pool();
    expected.presence = Presence::Draining;
    assert_eq!(draining, rendered(&expected, 2), "what is written is what was there, but for the state");
    let mut value = observed(&draining, 2);
    value["status"]["observedGeneration"] = json!(1);
    assert!(waits(step(&value, now)).0.contains("has not seen generation 2"));
    value["status"]["observedGeneration"] = json!(2);
    value["status"]["slurmAllocated"] = json!(1);
    assert!(waits(step(&value, now)).0.contains("1 nodes still run jobs; squeue -p gpu-h100"));
    value["status"]["slurmAllocated"] = json!(0);
    let mut blind = value.clone();
    blind["status"]["slurmIdle"] = json!(0);
    assert!(waits(step(&blind, now)).0.contains("RestApi"));
    let emptied = drained(step(&value, now));
    assert_eq!(emptied.content["spec"]["replicas"], 0);
    assert_eq!(emptied.content["metadata"]["annotations"][IDLE_SINCE], "2026-12-01T00:00:00Z");
    let mut ending = observed(&emptied, 3);
    ending["status"]["replicas"] = json!(1);
    assert!(waits(step(&ending, now)).0.contains("1 slurmd Pods"));
    let empty = observed(&emptied, 3);
    let (message, until) = waits(step(&empty, now + SignedDuration::from_secs(299)));
    assert!(message.contains("MinJobAge"), "{message}");
    assert_eq!(until, Some(now + SignedDuration::from_secs(300)));
    assert_eq!(step(&empty, now + SignedDuration::from_secs(300)), RemovalStep::Delete);
    // Somebody opens the partition again.
    let mut opened = empty.clone();
    opened["spec"]["partition"]["config"] = json!("State=UP");
    assert_eq!(drained(step(&opened, now)).content["metadata"]["annotations"].get(IDLE_SINCE), None);
    assert!(waits(removal(&key, None, &ownership(), MIN_JOB_AGE, now)).0.contains("has not been read"));
}

#[test]
fn what_somebody_else_wrote_is_not_written_on() {
    let mut value = observed(&rendered(&pool(), 2), 1);
    value["spec"]["extraConf"] = json!("Gres=gpu:h100:4 Features=x");
    value["spec"]["partition"]["config"] = json!("State=UP MaxTime=7 AllowAccounts=other\u{b}x");
    value["spec"]["slurmd"]["image"] = json!("evil image");
    let RemovalStep::Drain(object) = removal(&rendered(&pool(), 2).key, Some(&view(&value)), &ownership(), MIN_JOB_AGE, Timestamp::UNIX_EPOCH) else {
        panic!("to be drained");
    };
    assert_eq!(object.content["spec"]["partition"]["config"], "State=DRAIN");
    assert_eq!(object.content["spec"].get("extraConf"), None);
    assert_eq!(object.content["spec"]["slurmd"].get("image"), None);
}

/// Tokens as slurm-operator and Slurm split them; any white space separates.
fn tokens(text: &str) -> BTreeMap<String, String> {
    text.split_whitespace()
        .map(|token| token.split_once('=').unwrap_or_else(|| panic!("{token:?} in {text:?}")))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?",
        "[A-Za-z0-9]([-A-Za-z0-9._]{0,20}[A-Za-z0-9])?",
        "[ -~\\n\\t]{0,12}",
        any::<String>(),
        prop::sample::select(vec![
            "h100",
            "default",
            "all",
            "ALL",
            "a State=DOWN",
            "a\nPartitionName=x Nodes=ALL",
            "h100:8,gpu:x:9",
            "a=b",
            "a,b",
            "a#b",
            "a\u{a0}b",
            "a\rb",
            "a\0b",
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_but_our_tokens_is_ever_written(
        partition in hostile(), model in hostile(), image in hostile(), pool_name in hostile(), namespace in hostile(), controller in hostile(),
        numbers in (any::<i32>(), any::<i32>(), any::<i32>(), prop::option::of(any::<u32>()), any::<u32>()),
        small in any::<bool>(), legal in prop::collection::vec(any::<bool>(), 6),
    ) {
        let (mut site, mut intent) = (site(), pool());
        let pick = |index: usize, hostile: String, known: &str| if legal[index] { known.to_owned() } else { hostile };
        let slinky = site.slurm.as_mut().unwrap().slinky.as_mut().unwrap();
        slinky.image = pick(0, image, IMAGE);
        slinky.namespace = pick(1, namespace, "slurm");
        slinky.controller_ref = Some(LocalRef { name: pick(2, controller, "slurm") });
        intent.accelerator.model = pick(3, model, "H100-SXM5");
        let partition = pick(4, partition, "h100");
        let pool_name = pick(5, pool_name, "h100");
        let (per_node, cpus, memory, minutes, replicas) = numbers;
        if !small {
            intent.accelerator.per_node = per_node;
            intent.per_gpu = PerGpu { cpus, memory_gib: memory };
        }
        intent.engine = PoolEngine::Slurm { partition: PartitionName::new(&partition), max_wall_minutes: minutes, rank: Rank::default() };
        let Ok(object) = node_set(&site, &pool_name, &intent, replicas & 0x7fff_ffff, &ownership()) else { return Ok(()) };
        let spec = &object.content["spec"];
        let (extra, config) = (spec["extraConf"].as_str().unwrap(), spec["partition"]["config"].as_str().unwrap());
        let kind: String = intent.accelerator.model.split(['-', '_', '.']).next().unwrap().to_ascii_lowercase();
        prop_assert_eq!(tokens(extra), BTreeMap::from([("Gres".to_owned(), format!("gpu:{kind}:{}", intent.accelerator.per_node))]));
        let config_tokens = tokens(config);
        prop_assert_eq!(config_tokens.keys().collect::<Vec<_>>(), ["MaxTime", "State"]);
        prop_assert_eq!(&config_tokens["State"], "UP");
        for text in [extra, config, &object.key.name] {
            prop_assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || "=: -".contains(c)), "{:?}", text);
            prop_assert!(!text.contains("  "), "two blanks in a row crash slurm-operator 1.2.1");
        }
        prop_assert_eq!(&object.key.name, &partition);
        prop_assert!(!["default", "all"].contains(&partition.to_ascii_lowercase().as_str()));
        if let Some(minutes) = minutes {
            let (days, clock) = config_tokens["MaxTime"].split_once('-').unwrap_or(("0", &config_tokens["MaxTime"]));
            let parts: Vec<u32> = clock.split(':').map(|part| part.parse().unwrap()).collect();
            prop_assert_eq!(days.parse::<u32>().unwrap() * 1440 + parts[0] * 60 + parts[1], minutes);
        }
        // What is read back is what was written, and draining it changes the state alone.
        let mut drain = intent.clone();
        drain.presence = Presence::Draining;
        let replicas = replicas & 0x7fff_ffff;
        let step = removal(&object.key, Some(&view(&observed(&object, 1))), &ownership(), MIN_JOB_AGE, Timestamp::UNIX_EPOCH);
        prop_assert_eq!(step, RemovalStep::Drain(node_set(&site, &pool_name, &drain, replicas, &ownership()).unwrap()));
    }

    #[test]
    fn no_status_crashes(numbers in prop::collection::vec(any::<i64>(), 12), config in any::<String>(), since in any::<String>()) {
        let key = rendered(&pool(), 1).key;
        let value = json!({
            "metadata": {"name": key.name, "namespace": key.namespace, "generation": numbers[0], "annotations": {(IDLE_SINCE): since}},
            "spec": {"replicas": numbers[1], "partition": {"config": config}},
            "status": {"observedGeneration": numbers[2], "replicas": numbers[3], "desired": numbers[4], "readyReplicas": numbers[5],
                "updatedReplicas": numbers[6], "slurmIdle": numbers[7], "slurmAllocated": numbers[8], "slurmDown": numbers[9], "slurmDrain": numbers[10]},
        });
        let view = view(&value);
        let _ = partition_state(Some(&view));
        let _ = removal(&key, Some(&view), &ownership(), SignedDuration::from_secs(numbers[11]), Timestamp::MAX);
    }
}
