//! Nodes of pools: who gets which, and the patches that say so on them.
//!
//! A pool takes nodes that the site offers and that its selector matches. A node changes hands in two rounds: the pool that carries it lets
//! it go first, so that nothing is taken from under what still runs there. Taints and labels of others are never changed.

mod engine;
mod findings;
mod patch;
mod view;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::OwnerRef;

use crate::model::intent::{PoolIntent, Presence};
use crate::model::plan::NodePatch;
use crate::model::report::Finding;

pub use engine::Nodes;
pub use findings::is_label_value;
pub use view::{Illness, NO_SCHEDULE, NodeView, Taint, is_accelerator};

/// A pool's nodes at one site.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolNodes {
    /// Names of the nodes that it has once the patches are applied, sorted.
    pub held: Vec<String>,
    /// Those that are ready, schedulable and have all accelerators.
    pub ready: usize,
    /// The others.
    pub unhealthy: usize,
    /// Nodes asked for; where no number was asked for, those that are offered and match.
    pub wanted: usize,
    /// Nodes that match but that it does not get: another pool selects them too, or a taint of somebody else is in the way.
    pub conflicts: usize,
    /// Nodes that match but that the site does not offer.
    pub not_offered: usize,
    /// Accelerators of the ready nodes.
    pub gpus_capacity: i64,
    /// What is to change on nodes, at most one patch a node over all pools.
    pub patches: Vec<NodePatch>,
    /// What people should know.
    pub findings: Vec<Finding>,
}

/// Decides which pool has which nodes, for all pools of a site at once.
///
/// Pure and independent of the order of its input. A node that carries the label or taint of a pool that is not among `pools` is left alone.
pub fn assign(pools: &BTreeMap<OwnerRef, &PoolIntent>, nodes: &[&NodeView]) -> BTreeMap<OwnerRef, PoolNodes> {
    let mut nodes = nodes.to_vec();
    nodes.sort_unstable();
    nodes.dedup_by(|later, earlier| later.name == earlier.name);
    let names: BTreeSet<&str> = pools.keys().map(|owner| owner.name.as_str()).collect();
    let mut claims: BTreeMap<&OwnerRef, Claims<'_>> =
        pools.iter().map(|(owner, pool)| (owner, Claims { problem: findings::problem(owner, pool), ..Claims::default() })).collect();
    for node in nodes {
        if !node.terminating {
            sort_out(node, pools, &names, &mut claims);
        }
    }
    pools.iter().map(|(owner, pool)| (owner.clone(), settle(owner, pool, &names, claims.remove(owner).unwrap_or_default()))).collect()
}

/// What one pool has to do with the nodes of the site.
#[derive(Default)]
struct Claims<'a> {
    /// Why nothing can be decided; then everything stays as it is.
    problem: Option<Finding>,
    /// Offered nodes that match.
    matching: usize,
    /// Nodes that it may have, with whether it carries them already.
    candidates: Vec<(bool, &'a NodeView)>,
    /// Nodes that it carries and may not have.
    lost: Vec<&'a NodeView>,
    /// Nodes that it carries and the site does not offer any more: only the site can change them.
    withdrawn: Vec<&'a NodeView>,
    /// Nodes that match but are not offered.
    not_offered: Vec<&'a NodeView>,
    /// Nodes that several pools select, with their names and who keeps it.
    contested: Vec<Contested<'a>>,
    /// Nodes with a taint of somebody else where ours would be.
    foreign: Vec<&'a NodeView>,
    /// Nodes that another pool has to let go first, with its name.
    awaited: Vec<(&'a NodeView, &'a str)>,
}

struct Contested<'a> {
    node: &'a NodeView,
    pools: Vec<&'a str>,
    keeper: Option<&'a str>,
    /// Whether this pool is the keeper.
    kept: bool,
}

fn sort_out<'a>(
    node: &'a NodeView,
    pools: &'a BTreeMap<OwnerRef, &PoolIntent>,
    names: &BTreeSet<&'a str>,
    claims: &mut BTreeMap<&'a OwnerRef, Claims<'a>>,
) {
    let carriers = carriers(node, names);
    let carries = |owner: &OwnerRef| carriers.contains(owner.name.as_str());
    let carrier = pools.keys().find(|owner| carries(owner));
    if !node.offered() {
        for (owner, claim) in claims.iter_mut() {
            if pools.get(*owner).is_some_and(|pool| pool.presence == Presence::Active && node.matches(pool.selector())) {
                claim.not_offered.push(node);
            }
            if carrier == Some(*owner) {
                claim.withdrawn.push(node);
            }
        }
        return;
    }
    let mut selecting: Vec<(&'a OwnerRef, &PoolIntent)> = Vec::new();
    for (owner, pool) in pools {
        let Some(claim) = claims.get_mut(owner) else { continue };
        let takes = match pool.presence {
            Presence::Active => true,
            Presence::Draining => carries(owner),
            Presence::Absent => false,
        };
        if claim.problem.is_none() && takes && node.matches(pool.selector()) {
            claim.matching += 1;
            selecting.push((owner, pool));
        }
    }
    let mut carrying = selecting.iter().filter(|(owner, _)| carries(owner));
    let keeper = match (carrying.next(), carrying.next(), selecting.as_slice()) {
        (Some((owner, _)), None, _) => Some(*owner),
        (None, _, [(owner, _)]) if carriers.is_empty() => Some(*owner),
        _ => None,
    };
    if selecting.len() > 1 {
        let pools: Vec<&'a str> = selecting.iter().map(|(owner, _)| owner.name.as_str()).collect();
        for (owner, _) in &selecting {
            if let Some(claim) = claims.get_mut(owner) {
                let kept = keeper == Some(*owner);
                claim.contested.push(Contested { node, pools: pools.clone(), keeper: keeper.map(|owner| owner.name.as_str()), kept });
            }
        }
    } else if keeper.is_none()
        && let [(owner, _)] = selecting.as_slice()
        && let Some(holder) = carriers.first()
        && let Some(claim) = claims.get_mut(owner)
    {
        claim.awaited.push((node, holder));
    }
    if let Some(owner) = keeper
        && let Some(claim) = claims.get_mut(owner)
        && let Some(pool) = pools.get(owner)
    {
        let resource = &pool.accelerator.resource_name;
        if node.taints.iter().any(|taint| taint.key == *resource && taint.effect == NO_SCHEDULE && !patch::is_ours(taint, names)) {
            claim.foreign.push(node);
        } else {
            claim.candidates.push((carries(owner), node));
        }
    } else if !selecting.iter().any(|(owner, _)| carries(owner))
        && let Some(claim) = carrier.and_then(|owner| claims.get_mut(owner))
    {
        claim.lost.push(node);
    }
}

/// The pools that a node carries: the one that its label names, or where it names none that there is, those that its taints name.
fn carriers<'a>(node: &'a NodeView, names: &BTreeSet<&'a str>) -> BTreeSet<&'a str> {
    let label = node.pool();
    if let Some(label) = label.filter(|label| names.contains(label)) {
        return BTreeSet::from([label]);
    }
    let tainted: BTreeSet<&'a str> = node.taints.iter().filter(|taint| patch::is_ours(taint, names)).map(|taint| taint.value.as_str()).collect();
    // A label by itself may be that of a pool that is gone, and is let go as that.
    if tainted.is_empty() { label.into_iter().collect() } else { tainted }
}

fn settle(owner: &OwnerRef, pool: &PoolIntent, names: &BTreeSet<&str>, mut claims: Claims<'_>) -> PoolNodes {
    let resource = &pool.accelerator.resource_name;
    let per_node = pool.accelerator.per_node;
    let illness = |node: &NodeView| node.illness(resource, per_node);
    let mut released: Vec<&NodeView> = Vec::new();
    let mut held: Vec<&NodeView> = Vec::new();
    if claims.problem.is_some() {
        // Nothing is known for sure, so what is there stays.
        held.append(&mut claims.lost);
    } else {
        claims.candidates.sort_by_key(|(carried, node)| (!carried, illness(node).is_some(), &node.name));
        let limit = pool.wanted.map_or(usize::MAX, |wanted| usize::try_from(wanted).unwrap_or(usize::MAX));
        for (index, (carried, node)) in claims.candidates.iter().enumerate() {
            if index < limit {
                held.push(node);
            } else if *carried {
                released.push(node);
            }
        }
        released.append(&mut claims.lost);
    }
    held.sort_unstable();
    released.sort_unstable();
    let ill: Vec<(&NodeView, Illness)> = held.iter().filter_map(|node| Some((*node, illness(node)?))).collect();
    let ready = held.len() - ill.len();
    let wanted = match (pool.presence, pool.wanted) {
        (Presence::Absent, _) => 0,
        (Presence::Draining, _) => held.len(),
        (Presence::Active, Some(wanted)) => usize::try_from(wanted).unwrap_or(usize::MAX),
        (Presence::Active, None) => claims.matching.max(held.len()),
    };
    let patches = if claims.problem.is_some() {
        Vec::new()
    } else {
        held.iter()
            .filter_map(|node| patch::take(node, &owner.name, resource, names))
            .chain(released.iter().filter_map(|node| patch::release(node, &owner.name, names)))
            .collect()
    };
    PoolNodes {
        ready,
        unhealthy: ill.len(),
        wanted,
        conflicts: claims.foreign.len() + claims.contested.iter().filter(|contested| !contested.kept).count(),
        not_offered: claims.not_offered.len(),
        gpus_capacity: i64::try_from(ready).unwrap_or(i64::MAX).saturating_mul(i64::from(per_node)),
        patches,
        findings: findings::findings(owner, pool, &claims, held.len(), wanted, &ill),
        held: held.into_iter().map(|node| node.name.clone()).collect(),
    }
}
