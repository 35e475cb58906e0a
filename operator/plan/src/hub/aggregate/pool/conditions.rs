//! The conditions of a pool.

use aifactory_api::{ConditionType, Reason};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::View;
use crate::hub::conditions::{Conditions, Status};
use crate::model::site_key::Part;
use crate::model::text::bounded;

/// Every condition of a pool.
pub fn all(view: &View<'_, '_>, now: Timestamp) -> Vec<Condition> {
    let previous = view.previous().map_or(&[][..], |status| status.conditions.as_slice());
    let mut conditions = Conditions::new(previous, view.generation, now);
    let open: Vec<String> = view.open().iter().map(|standing| standing.progress_text(&view.home)).collect();
    let open = bounded(&open);
    ready(view, &open, &mut conditions);
    reconciling(view, &open, &mut conditions);
    stalled(view, &mut conditions);
    conditions.set(ConditionType::SitesReachable, view.reach.status, view.reach.reason, bounded(&view.reach.lost));
    nodes(view, &mut conditions);
    if view.pool.spec.slurm.is_some() {
        partition(view, &mut conditions);
    }
    conditions.finish()
}

fn ready(view: &View<'_, '_>, open_text: &str, conditions: &mut Conditions<'_>) {
    let kind = ConditionType::Ready;
    if view.deleting && !view.grants.is_empty() {
        let message = format!("these grants use the pool: {}. Delete them, or move them to another pool", bounded(&view.grants));
        return conditions.set(kind, false, Reason::GrantsRemain, message);
    }
    if view.deleting {
        return conditions.set(kind, false, Reason::SitesRemain, format!("not released by: {open_text}"));
    }
    if let Some((reason, message)) = &view.problem {
        return conditions.set(kind, false, *reason, message);
    }
    if view.ready() {
        return conditions.set(kind, true, Reason::AsSpecified, format!("{} sites hold what is asked for", view.places.len()));
    }
    let open = view.open();
    if open.is_empty() {
        return conditions.set(kind, false, Reason::PartitionNotReady, bounded(&view.down));
    }
    let reason = match open.iter().find_map(|standing| standing.findings().first()) {
        _ if open.iter().all(|standing| !standing.reachable) => view.reach.reason,
        Some(finding) => finding.reason,
        None => Reason::InProgress,
    };
    conditions.set(kind, false, reason, open_text);
}

fn reconciling(view: &View<'_, '_>, open_text: &str, conditions: &mut Conditions<'_>) {
    let kind = ConditionType::Reconciling;
    if view.progressing() {
        conditions.set(kind, true, Reason::InProgress, format!("waiting for: {open_text}"));
    } else {
        conditions.set(kind, false, Reason::NotApplicable, "");
    }
}

fn stalled(view: &View<'_, '_>, conditions: &mut Conditions<'_>) {
    let kind = ConditionType::Stalled;
    match &view.problem {
        Some((reason, message)) => conditions.set(kind, true, *reason, message),
        None if view.deleting && !view.grants.is_empty() => conditions.set(kind, true, Reason::GrantsRemain, ""),
        None => conditions.set(kind, false, Reason::NotApplicable, ""),
    }
}

fn nodes(view: &View<'_, '_>, conditions: &mut Conditions<'_>) {
    let kind = ConditionType::NodesReady;
    let about_nodes = |reason: Reason| matches!(reason, Reason::NodesMissing | Reason::NodesUnhealthy | Reason::NodeClaimedTwice);
    let found: Vec<_> = view.findings().filter(|(_, finding)| about_nodes(finding.reason)).collect();
    let enough = view.sum(|detail| detail.ready.into()) >= view.sum(|detail| detail.wanted.into()) && view.sum(|detail| detail.unhealthy.into()) == 0;
    if let Some((_, first)) = found.first() {
        let texts: Vec<String> = found.iter().map(|(site, finding)| format!("{site}: {}", finding.message)).collect();
        return conditions.set(kind, false, first.reason, bounded(&texts));
    }
    let silent: Vec<String> = view.places.iter().filter_map(|place| place.silent(Part::Kubernetes, &view.home)).collect();
    if enough && !silent.is_empty() {
        // Nobody counts the nodes of a site that can not be asked.
        return conditions.set(kind, Status::Unknown, view.reach.reason, bounded(&silent));
    }
    conditions.set(kind, enough, if enough { Reason::AsSpecified } else { Reason::InProgress }, "");
}

fn partition(view: &View<'_, '_>, conditions: &mut Conditions<'_>) {
    let known = view.places.iter().any(|place| place.partition().is_some());
    let silent: Vec<String> = view.places.iter().filter_map(|place| place.silent(Part::Slurm, &view.home)).collect();
    if view.down.is_empty() && !silent.is_empty() {
        return conditions.set(ConditionType::PartitionReady, Status::Unknown, view.reach.reason, bounded(&silent));
    }
    let ready = known && view.down.is_empty();
    let reason = if ready { Reason::AsSpecified } else { Reason::PartitionNotReady };
    conditions.set(ConditionType::PartitionReady, ready, reason, bounded(&view.down));
}
