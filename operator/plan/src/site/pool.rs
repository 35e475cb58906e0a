//! A pool at one site: from intent and observation to steps.

use std::collections::BTreeSet;

use aifactory_api::Reason;
use jiff::Timestamp;

use crate::engine::Engines;
use crate::engine::nodes::PoolNodes;
use crate::engine::pool_stages::{Partition, PoolScene, PoolStages};
use crate::model::intent::{Intent, PoolIntent, Presence, SiteIntent};
use crate::model::kind::ObjectKind;
use crate::model::object::Ownership;
use crate::model::plan::{ObservedObjects, Plan};
use crate::model::report::{Detail, Finding, PoolDetail, SitePhase};
use crate::model::view::Views;

/// The state of one pool at a site.
#[derive(Clone, Debug)]
pub struct PoolView<'a> {
    /// The engines that the site is driven with.
    pub engines: Engines,
    /// Its nodes, as assigned among all pools of the site.
    pub nodes: PoolNodes,
    /// Its objects.
    pub objects: &'a ObservedObjects,
    /// What engines have read.
    pub views: &'a Views,
    /// Kinds that the site serves beside those that every cluster does.
    pub served: &'a BTreeSet<ObjectKind>,
    /// GPUs that Pods of grants hold.
    pub allocated: Option<i64>,
    /// Whether the site has paused the operator.
    pub paused: bool,
    /// The time.
    pub now: Timestamp,
}

/// Plans a pool at a site.
pub fn plan(site: &SiteIntent, intent: &Intent, pool: &PoolIntent, view: PoolView<'_>) -> Plan {
    let phase = match pool.presence {
        Presence::Active => SitePhase::Bound,
        Presence::Draining => SitePhase::Draining,
        Presence::Absent => SitePhase::Gone,
    };
    let mut plan = Plan::nothing(phase, Detail::None);
    let partition = contributed(site, intent, pool, &view, &mut plan);
    let mut detail = detail(&view);
    if let Some(partition) = partition {
        detail.partition = Some((partition.name, partition.state));
        plan.findings.extend(partition.trouble.filter(|_| plan.steps.is_empty()));
        plan.findings.extend(partition.findings);
    }
    if pool.presence == Presence::Active && !plan.findings.iter().any(|finding| is_about_nodes(finding.reason)) {
        plan.findings.extend(short(&detail));
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

/// Adds the stages that engines have filled to the pool's plan.
fn contributed(site: &SiteIntent, intent: &Intent, pool: &PoolIntent, view: &PoolView<'_>, plan: &mut Plan) -> Option<Partition> {
    let ownership = Ownership::new(&site.hub, &intent.owner, &intent.uid);
    let PoolView { engines, nodes, objects, views, served, allocated: _, paused: _, now } = view;
    let scene = PoolScene { site, pool, ownership: &ownership, nodes, observed: objects, views, served, now: *now };
    let mut stages = PoolStages::default();
    engines.iter().for_each(|engine| engine.pool(&scene, &mut stages));
    stages.write(pool.presence == Presence::Absent, objects, plan)
}

fn detail(view: &PoolView<'_>) -> PoolDetail {
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    PoolDetail {
        wanted: count(view.nodes.wanted),
        ready: count(view.nodes.ready),
        unhealthy: count(view.nodes.unhealthy),
        gpus: view.nodes.gpus_capacity,
        allocated: view.allocated,
        partition: None,
    }
}

/// The finding for a pool that has too few nodes.
fn short(detail: &PoolDetail) -> Option<Finding> {
    if detail.unhealthy > 0 {
        let message = format!("{} of {} nodes are not healthy", detail.unhealthy, detail.wanted);
        return Some(Finding::note(Reason::NodesUnhealthy, message));
    }
    let message = format!("{} of {} nodes are there", detail.ready, detail.wanted);
    (detail.ready < detail.wanted).then(|| Finding::note(Reason::NodesMissing, message))
}

fn is_about_nodes(reason: Reason) -> bool {
    matches!(reason, Reason::NodesMissing | Reason::NodesUnhealthy | Reason::NodeClaimedTwice)
}
