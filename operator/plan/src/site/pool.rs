//! A pool at one site: from intent and observation to steps.

use std::collections::BTreeMap;

use aifactory_api::{OwnerRef, Reason};
use jiff::{SignedDuration, Timestamp};

use crate::engine::nodes::PoolNodes;
use crate::engine::slinky::{self, Controllers, NodeSetView, RemovalStep};
use crate::model::duration;
use crate::model::intent::{Intent, PoolEngine, PoolIntent, Presence, SiteIntent};
use crate::model::object::{ObjectKey, ObjectKind, Ownership};
use crate::model::plan::{Action, ObservedObjects, Plan, Purpose, applies};
use crate::model::report::{Detail, Finding, PoolDetail, SitePhase};

/// What the site worker knows about one pool.
#[derive(Clone, Debug)]
pub struct PoolView<'a> {
    /// Its nodes, as assigned among all pools of the site.
    pub nodes: PoolNodes,
    /// Its objects.
    pub objects: &'a ObservedObjects,
    /// Its NodeSets: one, or several while a partition changes its name.
    pub node_sets: BTreeMap<&'a ObjectKey, &'a NodeSetView>,
    /// The site's Controllers; `None`: not read yet.
    pub controllers: Option<&'a Controllers>,
    /// Whether the site serves Slinky.
    pub slinky: bool,
    /// GPUs that Pods of grants hold.
    pub allocated: Option<i64>,
    /// Whether the site has paused the operator.
    pub paused: bool,
    /// The time.
    pub now: Timestamp,
}

/// Plans a pool at a site.
pub fn plan(site: &SiteIntent, intent: &Intent, pool: &PoolIntent, view: PoolView<'_>) -> Plan {
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let mut detail = PoolDetail {
        wanted: count(view.nodes.wanted),
        ready: count(view.nodes.ready),
        unhealthy: count(view.nodes.unhealthy),
        gpus: view.nodes.gpus_capacity,
        allocated: view.allocated,
        partition: None,
    };
    let phase = match pool.presence {
        Presence::Active => SitePhase::Bound,
        Presence::Draining => SitePhase::Draining,
        Presence::Absent => SitePhase::Gone,
    };
    let mut plan = Plan::nothing(phase, Detail::None);
    plan.findings.extend(view.nodes.findings.iter().cloned());
    // Nodes are let go only when no slurmd runs on them any more.
    if pool.presence != Presence::Absent || !view.objects.keys().any(|key| key.kind == ObjectKind::NodeSet) {
        plan.step(Purpose::Establish, view.nodes.patches.iter().cloned().map(Action::PatchNode).collect());
    }
    if let PoolEngine::Slurm { partition, .. } = &pool.engine {
        node_set(site, intent, pool, &view, &mut plan);
        let report = slinky::partition_state(view.node_sets.iter().find(|(key, _)| key.name == *partition).map(|(_, found)| *found));
        detail.partition = Some((partition.clone(), report.state.as_str().to_owned()));
        if pool.presence == Presence::Active && plan.steps.is_empty() && !report.is_up() {
            plan.findings.push(Finding::note(Reason::PartitionNotReady, format!("partition {partition}: {}", report.message)));
        }
        // Jobs may run all the same, but nothing bounds them.
        let slinky = site.slurm.as_ref().and_then(|slurm| slurm.slinky.as_ref()).filter(|_| pool.presence == Presence::Active);
        if let (Some(slinky), Some(controllers)) = (slinky, view.controllers) {
            plan.findings.extend(slinky::configuration(slinky, controllers).map(|message| Finding::note(Reason::SlurmConfiguration, message)));
        }
    } else {
        // The pool was a partition before, or a NodeSet of its name was left behind.
        remove_node_sets(site, &intent.owner, &intent.uid, &view, &mut plan, &[]);
    }
    let short = detail.ready < detail.wanted || detail.unhealthy > 0;
    if pool.presence == Presence::Active && short && !plan.findings.iter().any(|finding| is_about_nodes(finding.reason)) {
        let (reason, message) = if detail.unhealthy > 0 {
            (Reason::NodesUnhealthy, format!("{} of {} nodes are not healthy", detail.unhealthy, detail.wanted))
        } else {
            (Reason::NodesMissing, format!("{} of {} nodes are there", detail.ready, detail.wanted))
        };
        plan.findings.push(Finding::note(reason, message));
    }
    plan.detail = Detail::Pool(detail);
    if site.left && pool.presence != Presence::Absent {
        // The factory does not name this part any more: the pool is given nothing here, and keeps what it has until it is to go.
        plan.steps.clear();
    }
    if view.paused && !plan.steps.is_empty() {
        plan.steps.clear();
        plan.phase = SitePhase::Pending;
        plan.findings.insert(0, Finding::note(Reason::PausedBySite, "the site's ConfigMap aifactory-site-policy says paused: nothing is changed"));
    }
    plan
}

fn is_about_nodes(reason: Reason) -> bool {
    matches!(reason, Reason::NodesMissing | Reason::NodesUnhealthy | Reason::NodeClaimedTwice)
}

fn node_set(site: &SiteIntent, intent: &Intent, pool: &PoolIntent, view: &PoolView<'_>, plan: &mut Plan) {
    if pool.presence == Presence::Absent {
        remove_node_sets(site, &intent.owner, &intent.uid, view, plan, &[]);
        return;
    }
    if site.slurm.as_ref().is_none_or(|slurm| slurm.slinky.is_none()) {
        plan.findings.push(Finding::stalled(
            Reason::EngineMissing,
            format!("site {} declares no slurm.slinky, which a Slurm pool needs in this release", site.site),
        ));
        plan.phase = SitePhase::Refused;
        return;
    }
    if !view.slinky {
        plan.findings
            .push(Finding::stalled(Reason::EngineMissing, "the site does not serve slinky.slurm.net/v1beta1; install slurm-operator 1.2".to_owned()));
        plan.phase = SitePhase::Refused;
        return;
    }
    let ownership = Ownership::new(&site.hub, &intent.owner, &intent.uid);
    let replicas = u32::try_from(view.nodes.held.len()).unwrap_or(u32::MAX);
    match slinky::node_set(site, &intent.owner.name, pool, replicas, &ownership) {
        Ok(object) => {
            let key = object.key.clone();
            plan.step(Purpose::Establish, applies(vec![object], view.objects));
            remove_node_sets(site, &intent.owner, &intent.uid, view, plan, &[key]);
        }
        Err(refusal) => {
            plan.phase = SitePhase::Refused;
            plan.findings.push(Finding::stalled(refusal.reason, refusal.message));
        }
    }
}

/// Drains and deletes the NodeSets that are not wanted.
fn remove_node_sets(site: &SiteIntent, owner: &OwnerRef, uid: &str, view: &PoolView<'_>, plan: &mut Plan, wanted: &[ObjectKey]) {
    let ownership = Ownership::new(&site.hub, owner, uid);
    let min_job_age = site
        .slurm
        .as_ref()
        .and_then(|slurm| duration::seconds(&slurm.slinky.as_ref()?.min_job_age))
        .map_or(slinky::MIN_JOB_AGE, SignedDuration::from_secs);
    let mut actions = Vec::new();
    for (key, found) in view.objects.iter().filter(|(key, _)| key.kind == ObjectKind::NodeSet && !wanted.contains(key)) {
        plan.phase = SitePhase::Pending;
        if found.terminating {
            plan.findings.push(Finding::note(Reason::InProgress, format!("{key} is being deleted")));
            continue;
        }
        match slinky::removal(key, view.node_sets.get(key).copied(), &ownership, min_job_age, view.now) {
            RemovalStep::Drain(object) => {
                plan.findings.push(Finding::note(Reason::InProgress, format!("{key} is being drained")));
                actions.extend(applies(vec![object], view.objects));
            }
            RemovalStep::Wait { message, until } => {
                plan.findings.push(Finding::note(Reason::InProgress, message));
                plan.wake = plan.wake.into_iter().chain(until).min();
            }
            RemovalStep::Delete => actions.push(Action::Delete { key: key.clone(), uid: Some(found.uid.clone()) }),
        }
    }
    plan.step(Purpose::Establish, actions);
}
