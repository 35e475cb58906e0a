//! The part of a Node that the operator keeps.

use std::collections::BTreeMap;

use aifactory_api::labels;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Map, Value, json};

use crate::model::quantity;

/// Effect of the taints of pools.
pub const NO_SCHEDULE: &str = "NoSchedule";

/// A taint, with everything that the API server stores of it: the list is replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value; empty: none.
    pub value: String,
    /// Effect.
    pub effect: String,
    /// When it was added, as stored.
    pub time_added: Option<String>,
}

impl Taint {
    /// As the API server stores it.
    pub fn to_json(&self) -> Value {
        let mut taint = Map::new();
        taint.insert("key".to_owned(), json!(self.key));
        if !self.value.is_empty() {
            taint.insert("value".to_owned(), json!(self.value));
        }
        taint.insert("effect".to_owned(), json!(self.effect));
        if let Some(time) = &self.time_added {
            taint.insert("timeAdded".to_owned(), json!(time));
        }
        Value::Object(taint)
    }
}

/// A Node, reduced to what decides about pools.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeView {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints, in order.
    pub taints: Vec<Taint>,
    /// Whether the condition Ready is True.
    pub ready: bool,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Extended resources that it has.
    pub capacity: BTreeMap<String, i64>,
    /// Extended resources that Pods may use.
    pub allocatable: BTreeMap<String, i64>,
}

/// Why a node of a pool does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Illness {
    /// The condition Ready is not True.
    NotReady,
    /// It is cordoned.
    Cordoned,
    /// It offers fewer accelerators than the pool specifies.
    Accelerators,
}

impl NodeView {
    /// Reduces a Node.
    pub fn from_node(node: &Node) -> Self {
        let (metadata, spec, status) = (&node.metadata, node.spec.as_ref(), node.status.as_ref());
        let taints = spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten().map(|taint| Taint {
            key: taint.key.clone(),
            value: taint.value.clone().unwrap_or_default(),
            effect: taint.effect.clone(),
            time_added: taint.time_added.as_ref().and_then(|time| Some(serde_json::to_value(time).ok()?.as_str()?.to_owned())),
        });
        let resources = |quantities: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
            quantities
                .into_iter()
                .flatten()
                .filter(|(name, _)| name.contains('/'))
                .filter_map(|(name, quantity)| Some((name.clone(), quantity::parse_count(&quantity.0)?)))
                .collect()
        };
        let conditions = status.and_then(|status| status.conditions.as_ref());
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            labels: metadata.labels.clone().unwrap_or_default(),
            taints: taints.collect(),
            ready: conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or_default(),
            terminating: metadata.deletion_timestamp.is_some(),
            capacity: resources(status.and_then(|status| status.capacity.as_ref())),
            allocatable: resources(status.and_then(|status| status.allocatable.as_ref())),
        }
    }

    /// Whether the site lets the operator use it.
    pub fn offered(&self) -> bool {
        self.labels.get(labels::OFFERED).is_some_and(|value| value == "true")
    }

    /// The pool that its label names.
    pub fn pool(&self) -> Option<&str> {
        self.labels.get(labels::POOL).map(String::as_str)
    }

    /// Whether it has all these labels. No labels select nothing: a forgotten selector must not take a whole site.
    pub fn matches(&self, selector: &BTreeMap<String, String>) -> bool {
        !selector.is_empty() && selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    /// Why it does not serve a pool with so many of this resource in a node; `None`: it does.
    pub fn illness(&self, resource: &str, per_node: i32) -> Option<Illness> {
        if !self.ready {
            Some(Illness::NotReady)
        } else if self.unschedulable {
            Some(Illness::Cordoned)
        } else if self.allocatable.get(resource).copied().unwrap_or_default() != i64::from(per_node) {
            Some(Illness::Accelerators)
        } else {
            None
        }
    }
}

/// Whether this is an extended resource that a pool may have, and so a key that taints of pools may have. The admission policies of the site have the
/// same list.
pub fn is_accelerator(resource: &str) -> bool {
    if ["nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe", "habana.ai/gaudi"].contains(&resource) {
        return true;
    }
    let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    resource
        .strip_prefix("nvidia.com/mig-")
        .and_then(|profile| profile.strip_suffix("gb"))
        .and_then(|profile| profile.split_once("g."))
        .is_some_and(|(slices, memory)| digits(slices) && digits(memory))
}
