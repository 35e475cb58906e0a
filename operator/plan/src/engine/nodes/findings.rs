//! Findings about a pool's nodes, of bounded length.

use aifactory_api::{OwnerRef, Reason, labels};

use super::view::{Illness, NodeView, is_accelerator};
use super::{Claims, Contested, NO_SCHEDULE};
use crate::model::intent::{PoolIntent, Presence};
use crate::model::report::Finding;
use crate::model::text::bounded;

/// Why no nodes can be assigned to this pool: its intent is incomplete.
pub(super) fn problem(owner: &OwnerRef, pool: &PoolIntent) -> Option<Finding> {
    if pool.presence == Presence::Absent {
        return None;
    }
    let message = if !is_label_value(&owner.name) {
        format!("metadata.name: {:?} can not be the value of a node label: at most 63 letters, digits, '-', '_' and '.'", owner.name)
    } else if !is_accelerator(&pool.accelerator.resource_name) {
        format!("spec.accelerator.resourceName: {:?} is no accelerator that this release knows", pool.accelerator.resource_name)
    } else if pool.selector().is_empty() {
        "spec.nodes.adopt.selector.matchLabels: say which nodes the pool has, at least one label".to_owned()
    } else {
        return None;
    };
    Some(Finding::stalled(Reason::InvalidSpec, message))
}

/// Whether the text can be a label's value.
pub fn is_label_value(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 63
        && text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// All findings of a pool, the most important first.
pub(super) fn findings(
    owner: &OwnerRef,
    pool: &PoolIntent,
    claims: &Claims<'_>,
    held: usize,
    wanted: usize,
    ill: &[(&NodeView, Illness)],
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = claims.problem.iter().cloned().collect();
    let short = held < wanted;
    if let Some(message) = contested(&claims.contested) {
        let refused = claims.contested.iter().any(|contested| !contested.kept);
        findings.push(Finding { reason: Reason::NodeClaimedTwice, message, stalled: refused && short });
    }
    if !claims.foreign.is_empty() {
        let message = format!(
            "a taint {}=…:{NO_SCHEDULE} of somebody else is on {}; whoever set it removes it, or the selector leaves these nodes out",
            pool.accelerator.resource_name,
            names(&claims.foreign),
        );
        findings.push(Finding { reason: Reason::ForeignObject, message, stalled: short });
    }
    if pool.presence == Presence::Active && claims.problem.is_none() && (short || (held == 0 && pool.wanted.is_none())) {
        findings.push(Finding::note(Reason::NodesMissing, missing(pool, claims, held, wanted)));
    }
    if pool.presence != Presence::Absent && !ill.is_empty() {
        findings.push(Finding::note(Reason::NodesUnhealthy, unhealthy(pool, held, ill)));
    }
    if let Some(first) = claims.withdrawn.first() {
        let taint = first.taints.iter().find(|taint| taint.value == owner.name && taint.effect == NO_SCHEDULE && is_accelerator(&taint.key));
        let untaint = taint.map(|taint| format!("; kubectl taint node {} {}={}:{NO_SCHEDULE}-", first.name, taint.key, taint.value));
        findings.push(Finding::note(
            Reason::RefusedBySite,
            format!(
                "the site does not offer {} any more, so label and taint of the pool can not be removed there; whoever administers the site does so \
                 with: kubectl label node {} {}-{}",
                names(&claims.withdrawn),
                first.name,
                labels::POOL,
                untaint.unwrap_or_default(),
            ),
        ));
    }
    findings
}

fn contested(contested: &[Contested<'_>]) -> Option<String> {
    if contested.is_empty() {
        return None;
    }
    let texts: Vec<String> = contested
        .iter()
        .map(|contested| {
            let pools = bounded(&contested.pools.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
            match contested.keeper {
                Some(keeper) => format!("{} (pools {pools}; {keeper} keeps it)", contested.node.name),
                None => format!("{} (pools {pools}; none gets it)", contested.node.name),
            }
        })
        .collect();
    let subject = if contested.len() == 1 { "a node is" } else { "nodes are" };
    Some(format!("{subject} selected by more than one pool: {}. Make the selectors of these pools disjoint", bounded(&texts)))
}

fn missing(pool: &PoolIntent, claims: &Claims<'_>, held: usize, wanted: usize) -> String {
    let mut message = if claims.matching == 0 && held == 0 {
        let selector: Vec<String> = pool.selector().iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("no node that the site offers has the labels {}", bounded(&selector))
    } else {
        format!("{held} of {wanted} nodes are there")
    };
    if let Some(first) = claims.not_offered.first() {
        message.push_str(&format!(
            "; {} match and are not offered: {}. Whoever administers the site offers them with: kubectl label node {} {}=true",
            claims.not_offered.len(),
            names(&claims.not_offered),
            first.name,
            labels::OFFERED,
        ));
    }
    if let Some((_, holder)) = claims.awaited.first() {
        let nodes: Vec<&NodeView> = claims.awaited.iter().map(|(node, _)| *node).collect();
        message.push_str(&format!("; {} still carry the label or taint of another pool, such as {holder}", names(&nodes)));
    }
    message
}

fn unhealthy(pool: &PoolIntent, held: usize, ill: &[(&NodeView, Illness)]) -> String {
    let of = |illness: Illness| ill.iter().filter(|(_, found)| *found == illness).map(|(node, _)| *node).collect::<Vec<_>>();
    let accelerators = format!("without just {} {}", pool.accelerator.per_node, pool.accelerator.resource_name);
    let texts: Vec<String> = [(Illness::NotReady, "not Ready"), (Illness::Cordoned, "cordoned"), (Illness::Accelerators, &accelerators)]
        .into_iter()
        .filter_map(|(illness, text)| {
            let nodes = of(illness);
            (!nodes.is_empty()).then(|| format!("{} {text} ({})", nodes.len(), names(&nodes)))
        })
        .collect();
    format!("{} of {held} nodes are not healthy: {}", ill.len(), texts.join(", "))
}

fn names(nodes: &[&NodeView]) -> String {
    bounded(&nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>())
}
