//! A pool's partition: the NodeSet that is wanted, and those that drain and go.

use std::collections::BTreeMap;

use aifactory_api::Reason;
use jiff::SignedDuration;

use super::{ControllerView, Controllers, MIN_JOB_AGE, NodeSetView, RemovalStep, configuration, node_set, partition_state, removal};
use crate::engine::pool_stages::{Partition, PoolScene, PoolStages};
use crate::model::duration;
use crate::model::id::PartitionName;
use crate::model::intent::{PoolEngine, Presence};
use crate::model::kind::ObjectKind;
use crate::model::object::ObjectKey;
use crate::model::plan::{Action, applies};
use crate::model::report::{Finding, SitePhase};

/// Adds the pool's partition, or the end of one that it had before.
pub(super) fn pool(scene: &PoolScene<'_>, stages: &mut PoolStages) {
    if scene.observed.keys().any(|key| key.kind == ObjectKind::NODE_SET) {
        // No node is released while a slurmd runs on it.
        stages.hold_nodes();
    }
    if let PoolEngine::Slurm { partition, .. } = &scene.pool.engine {
        wanted(scene, stages);
        stages.partition(state(scene, partition));
    } else {
        // The pool was a partition before, or a NodeSet of its name was left behind.
        remove(scene, stages, &[]);
    }
}

fn wanted(scene: &PoolScene<'_>, stages: &mut PoolStages) {
    if scene.pool.presence == Presence::Absent {
        remove(scene, stages, &[]);
        return;
    }
    if scene.site.slurm.as_ref().is_none_or(|slurm| slurm.slinky.is_none()) {
        let message = format!("site {} declares no slurm.slinky, which a Slurm pool needs in this release", scene.site.site);
        refuse(stages, Finding::stalled(Reason::EngineMissing, message));
        return;
    }
    if !scene.served.contains(&ObjectKind::NODE_SET) {
        let message = "the site does not serve slinky.slurm.net/v1beta1; install slurm-operator 1.2";
        refuse(stages, Finding::stalled(Reason::EngineMissing, message));
        return;
    }
    let replicas = u32::try_from(scene.nodes.held.len()).unwrap_or(u32::MAX);
    match node_set(scene.site, &scene.ownership.owner.name, scene.pool, replicas, scene.ownership) {
        Ok(object) => {
            let key = object.key.clone();
            stages.work([object]);
            remove(scene, stages, &[key]);
        }
        Err(refusal) => refuse(stages, Finding::stalled(refusal.reason, refusal.message)),
    }
}

fn refuse(stages: &mut PoolStages, finding: Finding) {
    stages.phase(SitePhase::Refused);
    stages.find(finding);
}

/// Drains and deletes the NodeSets that are not wanted.
fn remove(scene: &PoolScene<'_>, stages: &mut PoolStages, wanted: &[ObjectKey]) {
    let said = scene.site.slurm.as_ref().and_then(|slurm| duration::seconds(&slurm.slinky.as_ref()?.min_job_age));
    let min_job_age = said.map_or(MIN_JOB_AGE, SignedDuration::from_secs);
    for (key, found) in scene.observed.iter().filter(|(key, _)| key.kind == ObjectKind::NODE_SET && !wanted.contains(key)) {
        stages.phase(SitePhase::Pending);
        if found.terminating {
            stages.find(Finding::note(Reason::InProgress, format!("{key} is being deleted")));
            continue;
        }
        match removal(key, scene.views.get::<NodeSetView>(key), scene.ownership, min_job_age, scene.now) {
            RemovalStep::Drain(object) => {
                stages.find(Finding::note(Reason::InProgress, format!("{key} is being drained")));
                stages.remove(applies(vec![object], scene.observed));
            }
            RemovalStep::Wait { message, until } => {
                stages.find(Finding::note(Reason::InProgress, message));
                until.into_iter().for_each(|until| stages.wake(until));
            }
            RemovalStep::Delete => stages.remove([Action::Delete { key: key.clone(), uid: Some(found.uid.clone()) }]),
        }
    }
}

fn state(scene: &PoolScene<'_>, name: &PartitionName) -> Partition {
    let active = scene.pool.presence == Presence::Active;
    let mut node_sets = scene.observed.keys().filter(|key| key.kind == ObjectKind::NODE_SET && key.name == name.as_str());
    let report = partition_state(node_sets.find_map(|key| scene.views.get(key)));
    let trouble = (active && !report.is_up()).then(|| Finding::note(Reason::PartitionNotReady, format!("partition {name}: {}", report.message)));
    // Jobs may run all the same, but nothing bounds them.
    let slinky = scene.site.slurm.as_ref().and_then(|slurm| slurm.slinky.as_ref()).filter(|_| active);
    let configured = slinky.zip(controllers(scene)).and_then(|(slinky, controllers)| configuration(slinky, &controllers));
    Partition {
        name: name.clone(),
        state: report.state.as_str().to_owned(),
        trouble,
        findings: configured.map(|message| Finding::note(Reason::SlurmConfiguration, message)).into_iter().collect(),
    }
}

/// The site's Controllers; `None`: not read yet.
fn controllers(scene: &PoolScene<'_>) -> Option<Controllers> {
    let found = scene.views.of_kind::<ControllerView>(ObjectKind::CONTROLLER);
    let named = |(key, view): (&ObjectKey, &ControllerView)| ((key.namespace.clone(), key.name.clone()), view.clone());
    scene.views.is_listed(ObjectKind::CONTROLLER).then(|| found.map(named).collect::<BTreeMap<_, _>>())
}
