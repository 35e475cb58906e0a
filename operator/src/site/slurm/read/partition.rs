//! What is known of a partition, and how status says it.

use std::collections::BTreeSet;

/// A partition, as slurmctld sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionView {
    /// `UP`, `DOWN`, `DRAIN` or `INACTIVE`.
    pub states: BTreeSet<String>,
    /// Nodes.
    pub nodes: i32,
    /// Nodes that take work.
    pub ready: i32,
    /// Nodes that do not.
    pub unhealthy: i32,
    /// GPUs of nodes that take work.
    pub gpus: i64,
    /// GPUs that jobs hold.
    pub gpus_in_use: i64,
    /// What is said about nodes that take no work.
    pub reasons: BTreeSet<String>,
}

impl PartitionView {
    /// As status says it.
    pub fn state(&self) -> &'static str {
        if self.states.contains("DOWN") || self.states.contains("INACTIVE") {
            "Down"
        } else if self.states.contains("DRAIN") {
            "Draining"
        } else if self.nodes == 0 {
            "Empty"
        } else if self.ready == 0 {
            "Down"
        } else {
            "Up"
        }
    }

    /// Why it is not up, and what to do.
    pub fn message(&self) -> String {
        let reasons: Vec<String> = self.reasons.iter().cloned().collect();
        let nodes = if reasons.is_empty() { String::new() } else { format!(": {}", aifactory_plan::model::text::bounded(&reasons)) };
        match self.state() {
            "Empty" => "it has no nodes".to_owned(),
            "Draining" => "it is drained (State=DRAIN)".to_owned(),
            "Down" if self.ready > 0 => "it is down; set it up: scontrol update partitionname=… state=up".to_owned(),
            "Down" => format!("none of its {} nodes takes work{nodes}", self.nodes),
            _ => format!("{} of {} nodes take no work{nodes}", self.unhealthy, self.nodes),
        }
    }
}
