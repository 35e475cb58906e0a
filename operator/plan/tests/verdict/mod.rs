//! Judging policies: what they open, between whom, and whether an API server takes them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use aifactory_plan::engine::network::{self, Rendered};
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use crate::evaluator::{Cluster, Peer, Pod, Range, Traffic};
use crate::scene::{Scene, decoded};

pub fn peer(address: IpAddr, pod: &Pod) -> Peer<'_> {
    Peer { address, pod: Some(pod) }
}

pub fn outside(range: &Range, number: u128) -> Peer<'static> {
    Peer { address: range.address(number), pod: None }
}

/// Everything in these policies that names addresses.
pub fn blocks(policies: &[NetworkPolicy]) -> Vec<IPBlock> {
    let specs = policies.iter().filter_map(|policy| policy.spec.as_ref());
    let peers = specs.flat_map(|spec| {
        let from = spec.ingress.iter().flatten().flat_map(|rule| rule.from.iter().flatten());
        from.chain(spec.egress.iter().flatten().flat_map(|rule| rule.to.iter().flatten())).cloned().collect::<Vec<_>>()
    });
    peers.filter_map(|peer| peer.ip_block).collect()
}

/// Numbers inside `range` such that, if policies allow any address of it, they allow one of these: what is allowed is a union of
/// blocks less their holes, and each piece of it begins where the range, a block or the end of a hole does.
pub fn distinguishing(range: &Range, cluster: &Cluster) -> BTreeSet<u128> {
    within(range, &starts(&blocks(&cluster.policies)))
}

fn within(range: &Range, starts: &BTreeSet<(bool, u128)>) -> BTreeSet<u128> {
    let inside = starts.range((range.v6, range.first)..=(range.v6, range.last)).map(|(_, number)| *number);
    inside.chain([range.first, range.last]).collect()
}

/// Where pieces of what blocks allow may begin, by family.
fn starts(blocks: &[IPBlock]) -> BTreeSet<(bool, u128)> {
    let mut starts = BTreeSet::new();
    for block in blocks {
        let range = Range::parse(&block.cidr);
        starts.insert((range.v6, range.first));
        starts.extend(block.except.iter().flatten().filter_map(|hole| Range::parse(hole).last.checked_add(1)).map(|after| (range.v6, after)));
    }
    starts
}

/// The first address of `ranges` that a Pod under these policies may send to.
pub fn opened(cluster: &Cluster, pod: &Pod, ranges: &[Range], traffic: &[Traffic]) -> Option<String> {
    let starts = starts(&blocks(&cluster.policies));
    ranges.iter().find_map(|range| {
        within(range, &starts).into_iter().find_map(|number| {
            let to = outside(range, number);
            traffic.iter().find(|traffic| cluster.sends(pod, to, **traffic)).map(|traffic| format!("{} {traffic:?}", to.address))
        })
    })
}

pub fn parsed<T: AsRef<str>>(ranges: &[T]) -> Vec<Range> {
    ranges.iter().map(|range| Range::parse(range.as_ref())).collect()
}

/// Whether a Pod of one grant can reach one of the other, in the view that helps it most.
pub fn path(scene: &Scene, clusters: &[Cluster; 2], from: (usize, usize), to: (usize, usize)) -> Option<String> {
    let ((sender, here), (receiver, there)) = (from, to);
    let (origins, destinations) = (scene.seen_as(sender, here), scene.seen_as(receiver, there));
    let (senders, receivers, traffic) = (scene.pods(sender), scene.pods(receiver), scene.traffic());
    for (source, target) in senders.iter().flat_map(|source| receivers.iter().map(move |target| (source, target))) {
        // Selectors see Pods of their own cluster only; addresses are seen in both.
        let views = |pod| if here == there { vec![None, Some(pod)] } else { vec![None] };
        for traffic in &traffic {
            let may_leave = |address| views(target).into_iter().any(|pod| clusters[here].sends(source, Peer { address, pod }, *traffic));
            let Some(leaves) = destinations.iter().find(|address| may_leave(**address)) else { continue };
            let may_arrive = |address| views(source).into_iter().any(|pod| clusters[there].receives(target, Peer { address, pod }, *traffic));
            if let Some(arrives) = origins.iter().find(|address| may_arrive(**address)) {
                return Some(format!("{source:?} as {arrives} to {target:?} at {leaves}, {traffic:?}"));
            }
        }
    }
    None
}

/// Default deny, for all Pods and both directions, with nothing opened in it.
pub fn denies(rendered: &Rendered, namespace: &str) -> bool {
    decoded(rendered).iter().any(|policy| {
        let spec = policy.spec.as_ref().expect("a spec");
        policy.metadata.name.as_deref() == Some("aif-default-deny")
            && policy.metadata.namespace.as_deref() == Some(namespace)
            && spec.pod_selector.as_ref().is_some_and(|selector| selector.match_labels.is_none() && selector.match_expressions.is_none())
            && spec.policy_types.as_deref() == Some(&["Ingress".to_owned(), "Egress".to_owned()])
            && spec.ingress.as_ref().is_none_or(Vec::is_empty)
            && spec.egress.as_ref().is_none_or(Vec::is_empty)
    })
}

/// What an API server checks, and the bounds that we set ourselves.
pub fn legal(rendered: &Rendered, namespace: &str) -> Result<(), TestCaseError> {
    let names: Vec<&str> = rendered.objects.iter().map(|object| object.key.name.as_str()).collect();
    let known = ["aif-default-deny", "aif-dns", "aif-namespace", "aif-egress", "aif-cross-site"];
    prop_assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len());
    prop_assert!(names.iter().all(|name| known.contains(name)));
    prop_assert_eq!(names.first(), Some(&"aif-default-deny"));
    prop_assert!(rendered.objects.iter().all(|object| object.key.namespace == namespace));
    let policies = decoded(rendered);
    for block in blocks(&policies) {
        let range = Range::parse(&block.cidr);
        let canonical = |cidr: &String| network::normalised(cidr).as_ref() == Some(cidr);
        prop_assert!(canonical(&block.cidr), "{}", block.cidr);
        // Which API servers take for IPv4, so that it lies in no IPv6 range.
        prop_assert!(!block.cidr.starts_with("::ffff:") && !block.except.iter().flatten().any(|hole| hole.starts_with("::ffff:")));
        let holes = block.except.unwrap_or_default();
        prop_assert!(holes.len() <= 128, "{} holes", holes.len());
        prop_assert!(holes.iter().all(canonical));
        let holes = parsed(&holes);
        prop_assert!(holes.iter().all(|hole| range.holds(hole) && hole.length > range.length), "strictly inside");
        prop_assert!(holes.windows(2).all(|pair| pair[0].last < pair[1].first), "sorted and apart");
    }
    for policy in policies {
        let spec = policy.spec.expect("a spec");
        prop_assert!(spec.policy_types.is_some_and(|types| !types.is_empty()));
        for rule in spec.egress.into_iter().flatten() {
            prop_assert!(rule.to.is_some_and(|to| !to.is_empty()), "no destination is every destination");
            for port in rule.ports.into_iter().flatten() {
                prop_assert!(port.protocol.is_some(), "as the API server would fill it in");
                let Some(IntOrString::Int(first)) = port.port else {
                    return Err(TestCaseError::fail("a rule without a port number"));
                };
                prop_assert!(1 <= first && first <= port.end_port.unwrap_or(first) && port.end_port.is_none_or(|last| last <= 65535));
            }
        }
        prop_assert!(spec.ingress.into_iter().flatten().all(|rule| rule.from.is_some_and(|from| !from.is_empty())));
    }
    Ok(())
}
