//! The part of a NodeSet that the operator keeps, and the state of its partition.

use aifactory_api::pool::PartitionState;
use aifactory_api::{Reason, labels};
use jiff::Timestamp;
use serde_json::Value;

use super::render::{IDLE_SINCE, Parts};

/// A NodeSet, reduced to what decides about its partition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeSetView {
    /// Name, which is the partition's too.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Generation of the spec.
    pub generation: i64,
    /// The generation that slurm-operator has seen.
    pub observed_generation: i64,
    /// Replicas in the spec.
    pub replicas: i64,
    /// Pods that there are.
    pub pods: i64,
    /// Pods that there should be.
    pub desired: i64,
    /// Pods that are ready.
    pub ready: i64,
    /// Pods of the current template.
    pub updated: i64,
    /// Slurm nodes without a job. Nodes that are drained count here or under `allocated` as well.
    pub idle: i64,
    /// Slurm nodes with jobs.
    pub allocated: i64,
    /// Slurm nodes that are down.
    pub down: i64,
    /// Slurm nodes that are drained or draining.
    pub drain: i64,
    /// The partition's line, without name and nodes.
    pub config: String,
    /// Since when the partition has been empty, as we noted it when we removed its nodes.
    pub idle_since: Option<Timestamp>,
    /// UID of the owner that it was written for.
    pub owner_uid: String,
    /// What it takes to write it again.
    pub(super) parts: Parts,
}

/// The state of a partition, for a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionReport {
    /// Its name; empty while the NodeSet is not there.
    pub name: String,
    /// How it is.
    pub state: PartitionState,
    /// Nodes that can run jobs.
    pub ready: i64,
    /// What is wrong and what to do; empty where all is well.
    pub message: String,
    /// [`Reason::AsSpecified`] where all is well.
    pub reason: Reason,
}

impl PartitionReport {
    /// Whether it takes jobs.
    pub fn is_up(&self) -> bool {
        self.state == PartitionState::Up
    }
}

impl NodeSetView {
    /// Reduces a NodeSet. What can not be read is zero or empty.
    pub fn from_json(node_set: &Value) -> Self {
        let text = |path: &str| node_set.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |path: &str| node_set.pointer(path).and_then(Value::as_i64).unwrap_or_default();
        let annotation = |name: &str| node_set.pointer("/metadata/annotations")?.get(name)?.as_str();
        Self {
            name: text("/metadata/name"),
            namespace: text("/metadata/namespace"),
            generation: number("/metadata/generation"),
            observed_generation: number("/status/observedGeneration"),
            replicas: number("/spec/replicas"),
            pods: number("/status/replicas"),
            desired: number("/status/desired"),
            ready: number("/status/readyReplicas"),
            updated: number("/status/updatedReplicas"),
            idle: number("/status/slurmIdle"),
            allocated: number("/status/slurmAllocated"),
            down: number("/status/slurmDown"),
            drain: number("/status/slurmDrain"),
            config: text("/spec/partition/config"),
            idle_since: annotation(IDLE_SINCE).and_then(|time| time.parse().ok()),
            owner_uid: annotation(labels::OWNER_UID).unwrap_or_default().to_owned(),
            parts: Parts::from_json(node_set),
        }
    }

    /// Whether slurm-operator has seen the spec as it is.
    pub(super) fn is_seen(&self) -> bool {
        self.observed_generation >= self.generation
    }

    /// The partition's state by its line in slurm.conf.
    pub(super) fn declared_state(&self) -> &str {
        self.config.split(' ').filter_map(|token| token.strip_prefix("State=")).next_back().unwrap_or("UP")
    }

    /// Whether Pods are ready and slurm-operator counts no Slurm node: it needs a RestApi to count them.
    pub(super) fn is_blind(&self) -> bool {
        self.ready > 0 && self.idle.saturating_add(self.allocated).saturating_add(self.down) == 0
    }

    /// How to find a RestApi that is missing.
    pub(super) fn blindness(&self) -> String {
        format!(
            "Slurm tells nothing of its {} nodes; slurm-operator needs a RestApi for the Controller in namespace {} that answers",
            self.ready, self.namespace
        )
    }
}

/// The state of a NodeSet's partition.
pub fn partition_state(view: Option<&NodeSetView>) -> PartitionReport {
    let Some(view) = view else {
        return PartitionReport {
            name: String::new(),
            state: PartitionState::Unknown,
            ready: 0,
            message: "its NodeSet is not there yet".to_owned(),
            reason: Reason::PartitionNotReady,
        };
    };
    // Drained nodes are counted as idle or allocated too.
    let ready = view.idle.saturating_add(view.allocated).saturating_sub(view.drain).clamp(0, view.ready.max(0));
    let (state, message, reason) = closed(view).or_else(|| without_nodes(view, ready)).unwrap_or_else(|| up(view, ready));
    PartitionReport { name: view.name.clone(), state, ready, message, reason }
}

/// The state of a partition with its explanation.
type Explained = (PartitionState, String, Reason);

/// The state of a partition whose line in slurm.conf lets no jobs start.
fn closed(view: &NodeSetView) -> Option<Explained> {
    match view.declared_state() {
        "UP" => None,
        "DRAIN" => {
            let message = match view.allocated {
                0 => "it takes no new jobs, and none is running".to_owned(),
                nodes => format!("it takes no new jobs; {nodes} nodes still run some"),
            };
            Some((PartitionState::Draining, message, Reason::Draining))
        }
        other => {
            let message = format!("somebody has set State={}", other.chars().take(20).collect::<String>());
            Some((PartitionState::Down, message, Reason::PartitionNotReady))
        }
    }
}

/// The state of a partition without a node that takes jobs, or of which that is not known.
fn without_nodes(view: &NodeSetView, ready: i64) -> Option<Explained> {
    if !view.is_seen() {
        let message = format!(
            "slurm-operator has not seen generation {} of NodeSet {}/{} yet; if this stays, see whether it runs",
            view.generation, view.namespace, view.name
        );
        return Some((PartitionState::Unknown, message, Reason::PartitionNotReady));
    }
    if view.desired == 0 && view.replicas == 0 {
        return Some((PartitionState::Empty, "it has no nodes".to_owned(), Reason::PartitionNotReady));
    }
    if ready > 0 {
        return None;
    }
    let message = if view.ready == 0 {
        format!(
            "none of {} slurmd Pods is ready; whoever administers the site sees why with: kubectl -n {} get pods -l app.kubernetes.io/instance={}",
            view.desired, view.namespace, view.name
        )
    } else if view.is_blind() {
        view.blindness()
    } else {
        format!("no node takes jobs: {}; sinfo -R tells why", troubles(view))
    };
    Some((PartitionState::Down, message, Reason::PartitionNotReady))
}

/// The state of a partition that takes jobs.
fn up(view: &NodeSetView, ready: i64) -> Explained {
    let all = ready >= view.desired && view.ready >= view.desired && view.down == 0 && view.drain == 0;
    if !all {
        let message = format!("{ready} of {} nodes take jobs: {}; sinfo -R tells why", view.desired, troubles(view));
        return (PartitionState::Up, message, Reason::NodesUnhealthy);
    }
    if view.updated < view.desired {
        let message = format!("{} of {} nodes wait for their update", view.desired.saturating_sub(view.updated), view.desired);
        return (PartitionState::Up, message, Reason::InProgress);
    }
    (PartitionState::Up, String::new(), Reason::AsSpecified)
}

fn troubles(view: &NodeSetView) -> String {
    let absent = view.desired.saturating_sub(view.ready).max(0);
    let unknown = view.ready.saturating_sub(view.idle).saturating_sub(view.allocated).saturating_sub(view.down).max(0);
    let texts: Vec<String> =
        [(view.down, "down"), (view.drain, "drained or draining"), (absent, "without a ready slurmd Pod"), (unknown, "not registered with Slurm")]
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, text)| format!("{count} {text}"))
            .collect();
    texts.join(", ")
}
