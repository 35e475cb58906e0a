//! The content of a NodeSet.

use std::collections::BTreeMap;

use aifactory_api::labels;
use serde_json::{Map, Value, json};

use super::token::{Controller, GresType, Image, Pool, PreemptMode, PriorityTier, Resource, WallTime};
use crate::engine::nodes::NO_SCHEDULE;
use crate::model::object::{Object, ObjectKey, Ownership};

/// Annotation on a NodeSet that is being removed: since when its partition has been empty.
pub const IDLE_SINCE: &str = "aifactory.dev/idle-since";

/// State of a partition, as slurm.conf writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Up,
    Drain,
}

/// What differs between NodeSets. All of it is legal by type; what an observed NodeSet lacks is left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Parts {
    pub controller: Option<Controller>,
    pub image: Option<Image>,
    pub limits: BTreeMap<String, String>,
    pub gres: Option<(GresType, u32)>,
    pub pool: Option<Pool>,
    pub resource: Option<Resource>,
    pub max_time: Option<WallTime>,
    pub default: bool,
    pub tier: Option<PriorityTier>,
    pub preempt: Option<PreemptMode>,
}

impl Parts {
    /// Reads the fields that we have written; a value that others have put there, and that is illegal, is left out.
    pub fn from_json(node_set: &Value) -> Self {
        let text = |path: &str| node_set.pointer(path).and_then(Value::as_str);
        let spec = node_set.pointer("/spec/template/spec");
        let config = text("/spec/partition/config").unwrap_or_default();
        let token = |name: &'static str| config.split(' ').filter_map(move |token| token.strip_prefix(name)?.strip_prefix('='));
        Self {
            controller: text("/spec/controllerRef/name").and_then(|name| Controller::parse(name).ok()),
            image: text("/spec/slurmd/image").and_then(|image| Image::parse(image).ok()),
            limits: node_set
                .pointer("/spec/slurmd/resources/limits")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .filter_map(|(name, quantity)| Some((name.clone(), quantity.as_str()?.to_owned())))
                .collect(),
            gres: text("/spec/extraConf").and_then(parse_gres),
            pool: spec.and_then(|spec| spec.get("nodeSelector")?.get(labels::POOL)?.as_str()).and_then(|pool| Pool::parse(pool).ok()),
            resource: spec.and_then(|spec| spec.pointer("/tolerations/0/key")?.as_str()).and_then(|key| Resource::parse(key).ok()),
            max_time: token("MaxTime").find_map(|time| WallTime::parse(time).ok()),
            default: token("Default").any(|word| word == "YES"),
            tier: token("PriorityTier").find_map(|tier| PriorityTier::parse(tier).ok()),
            preempt: token("PreemptMode").find_map(|mode| PreemptMode::parse(mode).ok()),
        }
    }

    /// The NodeSet. Every default of its definition is written, so that what is stored is what was planned.
    pub fn object(&self, key: ObjectKey, ownership: &Ownership, replicas: u32, state: State, idle_since: Option<String>) -> Object {
        let mut spec = json!({
            "replicas": replicas,
            "scalingMode": "StatefulSet",
            "ordinalPadding": 0,
            "pinToNode": false,
            "oversubscribeNode": false,
            "pruneSlurmNodeRecords": "Never",
            "minReadySeconds": 0,
            "revisionHistoryLimit": 0,
            "workloadDisruptionProtection": true,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%"}},
            "partition": {"enabled": true, "config": self.config(state)},
        });
        let mut put = |name: &str, value: Value| {
            if let Value::Object(spec) = &mut spec {
                spec.insert(name.to_owned(), value);
            }
        };
        if let Some(controller) = &self.controller {
            put("controllerRef", json!({"name": controller.to_string()}));
        }
        if let Some((kind, count)) = &self.gres {
            put("extraConf", json!(gres(kind, *count)));
        }
        let mut slurmd = Map::new();
        if let Some(image) = &self.image {
            slurmd.insert("image".to_owned(), json!(image.to_string()));
            // slurm-operator has no default for it, and without it no slurmd Pod can be made.
            put("logfile", json!({"image": image.to_string()}));
        }
        if !self.limits.is_empty() {
            slurmd.insert("resources".to_owned(), json!({"limits": self.limits}));
        }
        put("slurmd", Value::Object(slurmd));
        if let Some(pool) = &self.pool {
            let pool = pool.to_string();
            let mut pod = json!({"nodeSelector": {(labels::POOL): pool}});
            if let (Some(resource), Value::Object(pod)) = (&self.resource, &mut pod) {
                let key = resource.to_string();
                pod.insert("tolerations".to_owned(), json!([{"key": key, "operator": "Equal", "value": pool, "effect": NO_SCHEDULE}]));
            }
            put("template", json!({"spec": pod}));
        }
        let annotations = idle_since.map(|time| (IDLE_SINCE.to_owned(), json!(time)));
        Object::with_metadata(key, ownership, Map::new(), annotations.into_iter().collect(), json!({"spec": spec}))
    }

    fn config(&self, state: State) -> String {
        let state = match state {
            State::Up => "State=UP",
            State::Drain => "State=DRAIN",
        };
        [
            Some(state.to_owned()),
            self.max_time.as_ref().map(|time| format!("MaxTime={time}")),
            self.default.then(|| "Default=YES".to_owned()),
            self.tier.as_ref().map(|tier| format!("PriorityTier={tier}")),
            self.preempt.as_ref().map(|mode| format!("PreemptMode={mode}")),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ")
    }
}

fn gres(kind: &GresType, count: u32) -> String {
    format!("Gres=gpu:{kind}:{count}")
}

fn parse_gres(text: &str) -> Option<(GresType, u32)> {
    let (kind, count) = text.strip_prefix("Gres=gpu:")?.split_once(':')?;
    let parsed = (GresType::parse(kind).ok()?, count.parse().ok()?);
    (gres(&parsed.0, parsed.1) == text).then_some(parsed)
}
