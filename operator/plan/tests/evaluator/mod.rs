//! What a set of NetworkPolicies (networking.k8s.io/v1) allows, by the words of the API's own documentation.
//!
//! It shares no code with the renderer, not even address arithmetic, so that one mistake does not hide the other. Out of scope: a
//! node's traffic to its own Pods, host-network Pods, and address translation; a peer's address is what the other end sees of it.
//! Where the API leaves it open whether an `ipBlock` matches Pods, it does.

mod range;
mod selector;

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub use range::Range;

pub type Labels = BTreeMap<String, String>;

/// A cluster's namespaces, by name, and policies.
#[derive(Default)]
pub struct Cluster {
    pub namespaces: BTreeMap<String, Labels>,
    pub policies: Vec<NetworkPolicy>,
}

/// A Pod of the cluster.
#[derive(Clone, Debug)]
pub struct Pod {
    pub namespace: String,
    pub labels: Labels,
    pub named_ports: BTreeMap<String, u16>,
}

/// One end of a connection, as the other end sees it.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    pub address: IpAddr,
    /// Where the address is a Pod's of the same cluster.
    pub pod: Option<&'a Pod>,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    pub protocol: &'static str,
    pub port: u16,
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Ingress,
    Egress,
}

impl Cluster {
    /// Whether two ends in this cluster can talk: the one may send and the other may receive.
    pub fn connects(&self, from: Peer<'_>, to: Peer<'_>, traffic: Traffic) -> bool {
        from.pod.is_none_or(|pod| self.sends(pod, to, traffic)) && to.pod.is_none_or(|pod| self.receives(pod, from, traffic))
    }

    /// Whether a Pod may send to a peer.
    pub fn sends(&self, pod: &Pod, to: Peer<'_>, traffic: Traffic) -> bool {
        self.allows(pod, Direction::Egress, to, to.pod, traffic)
    }

    /// Whether a Pod may receive from a peer.
    pub fn receives(&self, pod: &Pod, from: Peer<'_>, traffic: Traffic) -> bool {
        self.allows(pod, Direction::Ingress, from, Some(pod), traffic)
    }

    fn allows(&self, pod: &Pod, direction: Direction, peer: Peer<'_>, target: Option<&Pod>, traffic: Traffic) -> bool {
        let mut isolated = false;
        for policy in self.policies.iter().filter(|policy| selects(policy, pod) && concerns(policy, direction)) {
            isolated = true;
            let Some(spec) = &policy.spec else { continue };
            let home = policy.metadata.namespace.as_deref().unwrap_or_default();
            let rules: Vec<_> = match direction {
                Direction::Ingress => spec.ingress.iter().flatten().map(|rule| (&rule.from, &rule.ports)).collect(),
                Direction::Egress => spec.egress.iter().flatten().map(|rule| (&rule.to, &rule.ports)).collect(),
            };
            for (peers, ports) in rules {
                let peers = peers.as_deref().unwrap_or_default();
                let ports = ports.as_deref().unwrap_or_default();
                let on_port = ports.is_empty() || ports.iter().any(|port| is_port(port, target, traffic));
                if on_port && (peers.is_empty() || peers.iter().any(|wanted| self.is_peer(home, wanted, peer))) {
                    return true;
                }
            }
        }
        !isolated
    }

    fn is_peer(&self, home: &str, wanted: &NetworkPolicyPeer, peer: Peer<'_>) -> bool {
        if let Some(block) = &wanted.ip_block {
            assert!(wanted.pod_selector.is_none() && wanted.namespace_selector.is_none(), "ipBlock stands alone: {wanted:?}");
            let except = block.except.iter().flatten();
            return Range::parse(&block.cidr).contains(peer.address) && !except.into_iter().any(|hole| Range::parse(hole).contains(peer.address));
        }
        let Some(pod) = peer.pod else { return false };
        let in_namespace = match &wanted.namespace_selector {
            Some(selector) => self.namespaces.get(&pod.namespace).is_some_and(|labels| selector::matches(selector, labels)),
            None => pod.namespace == home,
        };
        in_namespace && wanted.pod_selector.as_ref().is_none_or(|selector| selector::matches(selector, &pod.labels))
    }
}

fn selects(policy: &NetworkPolicy, pod: &Pod) -> bool {
    policy.metadata.namespace.as_deref() == Some(pod.namespace.as_str())
        && policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref()).is_none_or(|selector| selector::matches(selector, &pod.labels))
}

fn concerns(policy: &NetworkPolicy, direction: Direction) -> bool {
    let Some(spec) = &policy.spec else { return direction == Direction::Ingress };
    match spec.policy_types.as_deref().unwrap_or_default() {
        // Left out: always ingress, and egress where there are such rules.
        [] => direction == Direction::Ingress || spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        types => types.iter().any(|name| match name.as_str() {
            "Ingress" => direction == Direction::Ingress,
            "Egress" => direction == Direction::Egress,
            other => panic!("policy type {other}"),
        }),
    }
}

fn is_port(wanted: &NetworkPolicyPort, target: Option<&Pod>, traffic: Traffic) -> bool {
    if wanted.protocol.as_deref().unwrap_or("TCP") != traffic.protocol {
        return false;
    }
    let port = i32::from(traffic.port);
    match (&wanted.port, wanted.end_port) {
        (None, None) => true,
        (Some(IntOrString::Int(first)), None) => *first == port,
        (Some(IntOrString::Int(first)), Some(last)) => (*first..=last).contains(&port),
        (Some(IntOrString::String(name)), None) => target.and_then(|pod| pod.named_ports.get(name)) == Some(&traffic.port),
        (None | Some(IntOrString::String(_)), Some(_)) => panic!("endPort needs a number: {wanted:?}"),
    }
}

#[cfg(test)]
mod tests;
