//! GPU time of Pods: how many devices a grant's Pods have held, and for how long.
//!
//! In device-milliseconds, as integers. A Pod counts from the moment when it was bound to a node until it ended. A checkpoint has what a former
//! process has counted: Pods count from there on, so that nothing counts twice.

use std::collections::{BTreeMap, VecDeque};

use aifactory_api::labels;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};

use crate::model::budget::GRACE;
use crate::model::id::TenantNamespace;

/// Prefixes of the resource names that a pool may have.
const ACCELERATORS: [&str; 5] = ["nvidia.com/gpu", "nvidia.com/mig-", "amd.com/gpu", "gpu.intel.com/", "habana.ai/gaudi"];
/// Gaps that are remembered, the latest.
const GAPS: usize = 4;

/// The part of a Pod that the operator keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// UID.
    pub uid: String,
    /// Namespace.
    pub namespace: TenantNamespace,
    /// Name.
    pub name: String,
    /// The pool that it selects; `None`: the only one of its namespace.
    pub pool: Option<String>,
    /// Accelerators asked for, by resource name.
    pub devices: BTreeMap<String, i64>,
    /// When it was bound to a node.
    pub bound: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Seconds that it asks for to end.
    pub grace: i64,
    /// The grace period of its deletion in seconds, once it is being deleted.
    pub ending: Option<i64>,
}

impl PodView {
    /// Reduces a Pod; `None` where it asks for no accelerator or is in no namespace of ours.
    pub fn from_pod(pod: &Pod) -> Option<Self> {
        let namespace = pod.metadata.namespace.as_ref().filter(|namespace| namespace.starts_with(labels::PREFIX))?;
        let spec = pod.spec.as_ref()?;
        let devices = devices(&spec.containers, spec.init_containers.as_deref().unwrap_or_default());
        if devices.is_empty() {
            return None;
        }
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "True");
        Some(Self {
            uid: pod.metadata.uid.clone()?,
            namespace: TenantNamespace::new(namespace),
            name: pod.metadata.name.clone()?,
            pool: spec.node_selector.as_ref().and_then(|selector| selector.get(labels::POOL)).cloned(),
            devices,
            bound: scheduled.and_then(|condition| condition.last_transition_time.as_ref()).map(|at| at.0),
            ended: ended(pod),
            grace: spec.termination_grace_period_seconds.unwrap_or(30),
            ending: pod.metadata.deletion_timestamp.as_ref().map(|_| pod.metadata.deletion_grace_period_seconds.unwrap_or_default()),
        })
    }

    /// The grace period with which to end the Pod where it may not go on; `None` where it has ended, or is being deleted with one that is as short.
    pub fn to_end(&self) -> Option<u32> {
        let seconds = u32::try_from(self.grace).unwrap_or(GRACE).clamp(1, GRACE);
        (self.ended.is_none() && self.ending.is_none_or(|ending| ending > i64::from(seconds))).then_some(seconds)
    }
}

/// When the last container of a Pod in a terminal phase ended.
fn ended(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref().filter(|status| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")))?;
    let finished = status
        .container_statuses
        .iter()
        .flatten()
        .chain(status.init_container_statuses.iter().flatten())
        .filter_map(|container| container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|at| at.0))
        .max();
    // The containers of a Pod whose node is lost have no end; the last transition of its conditions stands for it.
    let conditions = status.conditions.iter().flatten().filter_map(|condition| condition.last_transition_time.as_ref()).map(|at| at.0).max();
    finished.max(conditions)
}

/// Devices that a Pod holds while it is on a node: those of its containers and sidecars, or of an init container that asks for more.
fn devices(containers: &[Container], init: &[Container]) -> BTreeMap<String, i64> {
    let mut held: BTreeMap<String, i64> = BTreeMap::new();
    let asked = |container: &Container| -> Vec<(String, i64)> {
        let resources = container.resources.as_ref();
        // The API server sets requests of extended resources to their limits.
        let requests = resources.and_then(|resources| resources.requests.as_ref().or(resources.limits.as_ref()));
        let counts = requests.into_iter().flatten().filter(|(name, _)| ACCELERATORS.iter().any(|prefix| name.starts_with(prefix)));
        counts
            .filter_map(|(name, value)| Some((name.clone(), crate::model::quantity::parse_count(&value.0)?)))
            .filter(|(_, count)| *count > 0)
            .collect()
    };
    let add = |sums: &mut BTreeMap<String, i64>, container: &Container| {
        for (name, count) in asked(container) {
            let sum = sums.entry(name).or_default();
            *sum = sum.saturating_add(count);
        }
    };
    containers.iter().for_each(|container| add(&mut held, container));
    // An init container runs beside the sidecars before it; only with `Always` is one a sidecar, which goes on for the life of the Pod.
    let mut sidecars = BTreeMap::new();
    let mut most: BTreeMap<String, i64> = BTreeMap::new();
    for container in init {
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, container);
            add(&mut held, container);
            continue;
        }
        let mut beside = sidecars.clone();
        add(&mut beside, container);
        for (name, count) in beside {
            let known = most.entry(name).or_default();
            *known = (*known).max(count);
        }
    }
    for (name, count) in most {
        let known = held.entry(name).or_default();
        *known = (*known).max(count);
    }
    held
}

/// A count up to a moment, which outlives the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Up to when Pods are in the sum.
    pub through: Timestamp,
    /// Device-milliseconds by pool.
    pub milliseconds: BTreeMap<String, i64>,
    /// The latest gaps in the watch.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub gaps: VecDeque<(Timestamp, Timestamp)>,
}

impl Checkpoint {
    /// Reads the annotation's text.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The annotation's text.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    pool: String,
    gpus: i64,
    from: Timestamp,
    until: Option<Timestamp>,
}

impl Run {
    /// Device-milliseconds in the window.
    fn within(&self, after: Option<Timestamp>, to: Timestamp) -> i64 {
        let from = after.map_or(self.from, |after| after.max(self.from));
        let until = self.until.map_or(to, |until| until.min(to));
        until.as_millisecond().saturating_sub(from.as_millisecond()).max(0).saturating_mul(self.gpus)
    }
}

/// The account of one grant at one site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    base: Option<Checkpoint>,
    runs: BTreeMap<String, Run>,
    /// Device-milliseconds of Pods that are gone, by pool.
    gone: BTreeMap<String, i64>,
    gaps: VecDeque<(Timestamp, Timestamp)>,
}

impl Tally {
    /// An account that goes on from a checkpoint.
    pub fn resume(base: Option<Checkpoint>) -> Self {
        let gaps = base.as_ref().map(|base| base.gaps.clone()).unwrap_or_default();
        Self { base, gaps, ..Self::default() }
    }

    /// Stores a Pod that holds `gpus` of a pool since `from`. Returns whether that has changed something.
    pub fn put(&mut self, uid: &str, pool: &str, gpus: i64, from: Timestamp, until: Option<Timestamp>) -> bool {
        let run = Run { pool: pool.to_owned(), gpus, from, until };
        let news = self.runs.get(uid) != Some(&run);
        if news {
            self.runs.insert(uid.to_owned(), run);
        }
        news
    }

    /// Removes a Pod, as of this moment unless it had ended before. Returns whether it was known.
    pub fn remove(&mut self, uid: &str, at: Timestamp) -> bool {
        let Some(run) = self.runs.remove(uid) else { return false };
        let sum = self.gone.entry(run.pool.clone()).or_default();
        *sum = sum.saturating_add(run.within(self.base.as_ref().map(|base| base.through), at));
        true
    }

    /// Whether nothing has ever been counted.
    pub fn untouched(&self) -> bool {
        self.base.is_none() && self.runs.is_empty() && self.gone.is_empty() && self.gaps.is_empty()
    }

    /// Whether a Pod of the pool, or of any, holds devices at this moment.
    pub fn running(&self, pool: Option<&str>, at: Timestamp) -> bool {
        self.runs.values().any(|run| pool.is_none_or(|pool| run.pool == pool) && run.until.is_none_or(|until| until > at))
    }

    /// Devices of the pool that Pods hold at this moment.
    pub fn held(&self, pool: &str, at: Timestamp) -> i64 {
        let running = self.runs.values().filter(|run| run.pool == pool && run.from <= at && run.until.is_none_or(|until| until > at));
        running.fold(0, |sum, run| sum.saturating_add(run.gpus))
    }

    /// Device-milliseconds by pool up to a moment.
    pub fn through(&self, to: Timestamp) -> BTreeMap<String, i64> {
        let after = self.base.as_ref().map(|base| base.through);
        let mut sums = self.base.as_ref().map(|base| base.milliseconds.clone()).unwrap_or_default();
        let runs = self.runs.values().map(|run| (&run.pool, run.within(after, to)));
        for (pool, more) in self.gone.iter().map(|(pool, more)| (pool, *more)).chain(runs).filter(|(_, more)| *more > 0) {
            let sum = sums.entry(pool.clone()).or_default();
            *sum = sum.saturating_add(more);
        }
        sums
    }

    /// Adds a gap: the watch was down in this time, and Pods started or ended.
    pub fn gap(&mut self, from: Timestamp, to: Timestamp) {
        if from < to {
            self.gaps.push_back((whole(from), whole(to)));
            while self.gaps.len() > GAPS {
                self.gaps.pop_front();
            }
        }
    }

    /// The latest gaps in the watch.
    pub fn gaps(&self) -> impl Iterator<Item = &(Timestamp, Timestamp)> {
        self.gaps.iter()
    }

    /// The checkpoint from which a later process goes on.
    pub fn checkpoint(&self, now: Timestamp) -> Checkpoint {
        // Where the clock is behind that of the former process, the time in between must not count twice.
        let now = self.base.as_ref().map_or(now, |base| base.through.max(now));
        let through = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        Checkpoint { through, milliseconds: self.through(through), gaps: self.gaps.clone() }
    }
}

fn whole(at: Timestamp) -> Timestamp {
    crate::model::time::whole_seconds(at)
}

#[cfg(test)]
mod tests;
