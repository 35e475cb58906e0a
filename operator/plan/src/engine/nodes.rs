//! Assigns nodes to pools, and makes the patches that label and taint them.
//!
//! A pool takes nodes that the site offers and that its selector matches. A pool has a node while the node carries the pool's label or taint. A node
//! moves between pools in two rounds: the former pool releases it first, so that it is not taken while work runs there. Taints and labels of others
//! are never changed.

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
    /// Nodes that match but that it does not get: another pool selects them too, or they carry a foreign taint with the same key.
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
            claim_node(node, pools, &names, &mut claims);
        }
    }
    pools.iter().map(|(owner, pool)| (owner.clone(), settle(owner, pool, &names, claims.remove(owner).unwrap_or_default()))).collect()
}

/// The nodes of the site that concern one pool.
#[derive(Default)]
struct Claims<'a> {
    /// Why nothing can be decided; then the pool keeps the nodes that it has.
    problem: Option<Finding>,
    /// Offered nodes that match.
    matching: usize,
    /// Nodes that it may have, and whether they carry its mark already.
    candidates: Vec<(bool, &'a NodeView)>,
    /// Nodes that carry its mark and that it may not have.
    lost: Vec<&'a NodeView>,
    /// Nodes that carry its mark and that the site does not offer any more: only the site can change them.
    withdrawn: Vec<&'a NodeView>,
    /// Nodes that match but are not offered.
    not_offered: Vec<&'a NodeView>,
    /// Nodes that several pools select, with their names and who keeps it.
    contested: Vec<Contested<'a>>,
    /// Nodes with a foreign taint of the key that ours would have.
    foreign: Vec<&'a NodeView>,
    /// Nodes that another pool must release first, with its name.
    awaited: Vec<(&'a NodeView, &'a str)>,
}

struct Contested<'a> {
    node: &'a NodeView,
    pools: Vec<&'a str>,
    keeper: Option<&'a str>,
    /// Whether this pool is the keeper.
    kept: bool,
}

/// Enters a node into the claims of the pools that select it or whose mark it carries.
fn claim_node<'a>(
    node: &'a NodeView,
    pools: &'a BTreeMap<OwnerRef, &PoolIntent>,
    names: &BTreeSet<&'a str>,
    claims: &mut BTreeMap<&'a OwnerRef, Claims<'a>>,
) {
    let carriers = carriers(node, names);
    if !node.offered() {
        return claim_unoffered(node, pools, &carriers, claims);
    }
    let selecting = selecting(node, pools, &carriers, claims);
    let keeper = keeper(&selecting, &carriers);
    if selecting.len() > 1 {
        contest(node, &selecting, keeper, claims);
    } else if keeper.is_none()
        && let [owner] = selecting.as_slice()
        && let Some(holder) = carriers.first()
        && let Some(claim) = claims.get_mut(owner)
    {
        claim.awaited.push((node, holder));
    }
    let carries = |owner: &OwnerRef| carriers.contains(owner.name.as_str());
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
    } else if !selecting.iter().any(|owner| carries(owner))
        && let Some(claim) = pools.keys().find(|owner| carries(owner)).and_then(|owner| claims.get_mut(owner))
    {
        claim.lost.push(node);
    }
}

/// The same for a node that the site does not offer: no pool may take it, and the pool whose mark it carries can not release it.
fn claim_unoffered<'a>(
    node: &'a NodeView,
    pools: &BTreeMap<OwnerRef, &PoolIntent>,
    carriers: &BTreeSet<&str>,
    claims: &mut BTreeMap<&'a OwnerRef, Claims<'a>>,
) {
    let carrier = pools.keys().find(|owner| carriers.contains(owner.name.as_str()));
    for (owner, claim) in claims.iter_mut() {
        if pools.get(*owner).is_some_and(|pool| pool.presence == Presence::Active && node.matches(pool.selector())) {
            claim.not_offered.push(node);
        }
        if carrier == Some(*owner) {
            claim.withdrawn.push(node);
        }
    }
}

/// The pools that want an offered node: their selector matches, and a pool that is being drained wants only nodes that carry its mark. Counts the
/// node for each.
fn selecting<'a>(
    node: &NodeView,
    pools: &'a BTreeMap<OwnerRef, &PoolIntent>,
    carriers: &BTreeSet<&str>,
    claims: &mut BTreeMap<&'a OwnerRef, Claims<'a>>,
) -> Vec<&'a OwnerRef> {
    let mut selecting = Vec::new();
    for (owner, pool) in pools {
        let Some(claim) = claims.get_mut(owner) else { continue };
        let takes = match pool.presence {
            Presence::Active => true,
            Presence::Draining => carriers.contains(owner.name.as_str()),
            Presence::Absent => false,
        };
        if claim.problem.is_none() && takes && node.matches(pool.selector()) {
            claim.matching += 1;
            selecting.push(owner);
        }
    }
    selecting
}

/// The pool that may have a node: the only selecting one whose mark the node carries, or the only selecting one where it carries no mark.
fn keeper<'a>(selecting: &[&'a OwnerRef], carriers: &BTreeSet<&str>) -> Option<&'a OwnerRef> {
    let mut carried = selecting.iter().filter(|owner| carriers.contains(owner.name.as_str()));
    match (carried.next(), carried.next(), selecting) {
        (Some(owner), None, _) => Some(*owner),
        (None, _, [owner]) if carriers.is_empty() => Some(*owner),
        _ => None,
    }
}

/// Notes at each of several pools that they select the same node.
fn contest<'a>(node: &'a NodeView, selecting: &[&'a OwnerRef], keeper: Option<&'a OwnerRef>, claims: &mut BTreeMap<&'a OwnerRef, Claims<'a>>) {
    let pools: Vec<&'a str> = selecting.iter().map(|owner| owner.name.as_str()).collect();
    for owner in selecting {
        if let Some(claim) = claims.get_mut(owner) {
            let kept = keeper == Some(*owner);
            claim.contested.push(Contested { node, pools: pools.clone(), keeper: keeper.map(|owner| owner.name.as_str()), kept });
        }
    }
}

/// The pools whose mark a node carries: the one that its label names, or, where there is no such pool, those that its taints name.
fn carriers<'a>(node: &'a NodeView, names: &BTreeSet<&'a str>) -> BTreeSet<&'a str> {
    let label = node.pool();
    if let Some(label) = label.filter(|label| names.contains(label)) {
        return BTreeSet::from([label]);
    }
    let tainted: BTreeSet<&'a str> = node.taints.iter().filter(|taint| patch::is_ours(taint, names)).map(|taint| taint.value.as_str()).collect();
    // A label without a taint may be that of a pool that is gone, which then releases the node.
    if tainted.is_empty() { label.into_iter().collect() } else { tainted }
}

/// The nodes that a pool has from now on, and those that it releases, each sorted. Nodes that carry its mark are preferred, then healthy ones.
fn choose<'a>(pool: &PoolIntent, claims: &mut Claims<'a>) -> (Vec<&'a NodeView>, Vec<&'a NodeView>) {
    let (mut held, mut released) = (Vec::new(), Vec::new());
    if claims.problem.is_some() {
        // With a problem the pool's intent is not reliable, so it keeps its nodes.
        held.append(&mut claims.lost);
    } else {
        let ill = |node: &NodeView| node.illness(&pool.accelerator.resource_name, pool.accelerator.per_node).is_some();
        claims.candidates.sort_by_key(|(carried, node)| (!carried, ill(node), &node.name));
        let limit = pool.wanted.map_or(usize::MAX, |wanted| usize::try_from(wanted).unwrap_or(usize::MAX));
        for (index, (carried, node)) in claims.candidates.iter().enumerate() {
            if index < limit {
                held.push(*node);
            } else if *carried {
                released.push(*node);
            }
        }
        released.append(&mut claims.lost);
    }
    held.sort_unstable();
    released.sort_unstable();
    (held, released)
}

/// Decides which nodes a pool keeps, takes and releases.
fn settle(owner: &OwnerRef, pool: &PoolIntent, names: &BTreeSet<&str>, mut claims: Claims<'_>) -> PoolNodes {
    let resource = &pool.accelerator.resource_name;
    let per_node = pool.accelerator.per_node;
    let illness = |node: &NodeView| node.illness(resource, per_node);
    let (held, released) = choose(pool, &mut claims);
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
