//! What holds for any pools and nodes.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::{OwnerRef, Reason, labels};
use proptest::prelude::*;

use super::super::patch::is_ours;
use super::super::{NodeView, Taint};
use super::{GPU, applied, node, owner, patches, pool, run};
use crate::model::intent::{PoolIntent, Presence};

fn any_taint() -> impl Strategy<Value = Taint> {
    (
        prop::sample::select(vec![GPU, "amd.com/gpu", "other"]),
        prop::sample::select(vec!["", "p0", "p1", "p2", "gone", "present"]),
        prop::sample::select(vec!["NoSchedule", "NoExecute"]),
        prop::option::of(Just("2026-01-01T00:00:00Z".to_owned())),
    )
        .prop_map(|(key, value, effect, time_added)| Taint { key: key.into(), value: value.into(), effect: effect.into(), time_added })
}

fn any_nodes() -> impl Strategy<Value = Vec<NodeView>> {
    let one = (
        prop::bool::weighted(0.8),
        prop::sample::select(vec!["a", "b", "c"]),
        prop::sample::select(vec!["1", "2"]),
        prop::option::weighted(0.4, prop::sample::select(vec!["p0", "p1", "p2", "gone"])),
        prop::collection::vec(any_taint(), 0..4),
        (any::<bool>(), any::<bool>(), prop::bool::weighted(0.1), 0_i64..6),
    );
    prop::collection::vec(one, 0..10).prop_map(|nodes| {
        nodes
            .into_iter()
            .enumerate()
            .map(|(index, (offered, model, rack, label, mut taints, (ready, unschedulable, terminating, gpus)))| {
                let mut view = node(&format!("n{index}"), &[("model", model), ("rack", rack)]);
                view.labels.extend(label.map(|label| (labels::POOL.to_owned(), label.to_owned())));
                if !offered {
                    view.labels.remove(labels::OFFERED);
                }
                // The API server has one taint a key and effect.
                let mut seen = BTreeSet::new();
                taints.retain(|taint| seen.insert((taint.key.clone(), taint.effect.clone())));
                view.taints = taints;
                (view.ready, view.unschedulable, view.terminating) = (ready, unschedulable, terminating);
                view.allocatable.insert(GPU.to_owned(), gpus);
                view
            })
            .collect()
    })
}

fn any_pools() -> impl Strategy<Value = BTreeMap<OwnerRef, PoolIntent>> {
    let one = (
        prop::sample::select(vec![vec![("model", "a")], vec![("model", "b")], vec![("rack", "1")], vec![("model", "a"), ("rack", "2")], vec![]]),
        prop::option::of(0_u32..5),
        prop::sample::select(vec![Presence::Active, Presence::Active, Presence::Draining, Presence::Absent]),
        prop::sample::select(vec![GPU, GPU, "amd.com/gpu", "nonsense"]),
        any::<i32>(),
    );
    prop::collection::vec(prop::option::weighted(0.8, one), 3).prop_map(|pools| {
        pools
            .into_iter()
            .enumerate()
            .filter_map(|(index, intent)| {
                let (selector, wanted, presence, resource, per_node) = intent?;
                let mut intent = pool(&selector, wanted);
                intent.presence = presence;
                intent.accelerator.resource_name = resource.to_owned();
                intent.accelerator.per_node = if per_node % 3 == 0 { per_node } else { 4 };
                Some((owner(&format!("p{index}")), intent))
            })
            .collect()
    })
}

fn foreign<'a>(node: &'a NodeView, pools: &'a BTreeMap<OwnerRef, PoolIntent>) -> Vec<&'a Taint> {
    let names: BTreeSet<&str> = pools.keys().map(|owner| owner.name.as_str()).collect();
    node.taints.iter().filter(|taint| !is_ours(taint, &names)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nodes_are_disjoint_and_never_more_than_wanted(pools in any_pools(), nodes in any_nodes()) {
        let assigned = run(&pools, &nodes);
        prop_assert_eq!(assigned.keys().collect::<Vec<_>>(), pools.keys().collect::<Vec<_>>());
        let mut seen = BTreeSet::new();
        for (owner, ours) in &assigned {
            prop_assert!(ours.held.iter().all(|name| seen.insert(name.clone())), "{:?} twice", ours.held);
            prop_assert_eq!(ours.ready + ours.unhealthy, ours.held.len());
            let sound = !ours.findings.iter().any(|finding| finding.reason == Reason::InvalidSpec);
            if let Some(wanted) = pools[owner].wanted && sound {
                prop_assert!(ours.held.len() <= wanted as usize);
            }
            for finding in &ours.findings {
                prop_assert!(finding.message.len() < 2000);
            }
        }
        let patched: Vec<&String> = patches(&assigned).into_iter().map(|patch| &patch.node).collect();
        prop_assert_eq!(patched.iter().collect::<BTreeSet<_>>().len(), patched.len(), "a node is patched once");
    }

    #[test]
    fn only_our_label_and_taint_of_offered_nodes_change(pools in any_pools(), nodes in any_nodes()) {
        let assigned = run(&pools, &nodes);
        let after = applied(&assigned, &nodes);
        for (before, after) in nodes.iter().zip(&after) {
            prop_assert_eq!(foreign(before, &pools), foreign(after, &pools), "foreign taints stay, in order");
            let rest = |node: &NodeView| {
                let mut node = node.clone();
                node.labels.remove(labels::POOL);
                node.taints.clear();
                node
            };
            prop_assert_eq!(rest(before), rest(after));
            if !before.offered() || before.terminating {
                prop_assert_eq!(before, after);
            }
            if after.pool() != before.pool() && let Some(label) = before.pool() {
                let tainted = before.taints != after.taints || before.taints.iter().any(|taint| pools.contains_key(&owner(&taint.value)));
                prop_assert!(pools.contains_key(&owner(label)) || tainted, "labels of pools that are not known stay, unless a taint says that the node is ours");
            }
        }
    }

    #[test]
    fn what_is_held_is_labelled_and_tainted(pools in any_pools(), nodes in any_nodes()) {
        let assigned = run(&pools, &nodes);
        let after = applied(&assigned, &nodes);
        for (owner, ours) in &assigned {
            if ours.findings.iter().any(|finding| finding.reason == Reason::InvalidSpec) {
                continue;
            }
            for view in after.iter().filter(|node| ours.held.contains(&node.name)) {
                prop_assert_eq!(view.pool(), Some(owner.name.as_str()));
                let key = &pools[owner].accelerator.resource_name;
                let of_key: Vec<_> = view.taints.iter().filter(|taint| taint.key == *key && taint.effect == "NoSchedule").collect();
                prop_assert_eq!(of_key.len(), 1);
                prop_assert_eq!(&of_key[0].value, &owner.name);
            }
        }
    }

    #[test]
    fn comes_to_rest_in_two_rounds(pools in any_pools(), nodes in any_nodes()) {
        let first = run(&pools, &nodes);
        let changed_hands = patches(&first).iter().any(|patch| {
            !first.values().any(|ours| ours.held.contains(&patch.node))
        });
        let nodes = applied(&first, &nodes);
        let second = run(&pools, &nodes);
        if !changed_hands {
            prop_assert_eq!(patches(&second).len(), 0, "nothing was let go, so one round is enough");
        }
        let nodes = applied(&second, &nodes);
        prop_assert_eq!(patches(&run(&pools, &nodes)).len(), 0);
    }

    #[test]
    fn order_of_input_does_not_matter(pools in any_pools(), nodes in any_nodes(), seed in any::<u64>()) {
        let mut shuffled = nodes.clone();
        let length = shuffled.len();
        for index in 1..length {
            shuffled.swap(index, usize::try_from(seed.rotate_left(u32::try_from(index).unwrap()) % (index as u64 + 1)).unwrap());
        }
        prop_assert_eq!(run(&pools, &nodes), run(&pools, &shuffled));
    }

    #[test]
    fn pools_that_share_no_node_do_not_see_each_other(pools in any_pools(), nodes in any_nodes()) {
        let together = run(&pools, &nodes);
        for (owner, intent) in &pools {
            let touches = |other: &OwnerRef, pool: &PoolIntent, node: &NodeView| {
                node.matches(pool.selector()) || node.pool() == Some(other.name.as_str()) || node.taints.iter().any(|taint| taint.value == other.name)
            };
            let apart = nodes.iter().all(|node| {
                !touches(owner, intent, node) || !pools.iter().any(|(other, pool)| other != owner && touches(other, pool, node))
            });
            if apart {
                let alone = run(&BTreeMap::from([(owner.clone(), intent.clone())]), &nodes);
                prop_assert_eq!(&together[owner], &alone[owner]);
            }
        }
    }
}
