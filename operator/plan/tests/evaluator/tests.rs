//! The evaluator against the rules of the API, one by one.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Cluster, Labels, Peer, Pod, Traffic};

const HTTPS: Traffic = Traffic { protocol: "TCP", port: 443 };

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn pod(namespace: &str, pairs: &[(&str, &str)]) -> Pod {
    Pod { namespace: namespace.to_owned(), labels: labels(pairs), named_ports: [("https".to_owned(), 443)].into() }
}

fn cluster(policies: &[(&str, Value)]) -> Cluster {
    let namespaces = ["a", "b"].map(|name| (name.to_owned(), labels(&[("name", name), ("all", "yes")]))).into();
    let policies = policies
        .iter()
        .map(|(namespace, spec)| {
            serde_json::from_value(json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": "p", "namespace": namespace},
                "spec": spec,
            }))
            .expect("a policy")
        })
        .collect();
    Cluster { namespaces, policies }
}

fn at<'a>(address: &str, pod: &'a Pod) -> Peer<'a> {
    Peer { address: address.parse().expect("an address"), pod: Some(pod) }
}

fn outside(address: &str) -> Peer<'static> {
    Peer { address: address.parse::<IpAddr>().expect("an address"), pod: None }
}

/// Whether Pod `x=1` of namespace a may receive from a Pod of namespace b, under a policy in a.
fn received(spec: Value) -> bool {
    let (from, to) = (pod("b", &[("y", "1")]), pod("a", &[("x", "1")]));
    cluster(&[("a", spec)]).connects(at("10.0.0.2", &from), at("10.0.0.1", &to), HTTPS)
}

/// Whether Pod `x=1` of namespace a may send to an address, under a policy in a.
fn sent(spec: Value, to: &str, traffic: Traffic) -> bool {
    cluster(&[("a", spec)]).sends(&pod("a", &[("x", "1")]), outside(to), traffic)
}

#[test]
fn only_selected_pods_are_isolated_and_only_in_the_named_directions() {
    assert!(received(json!({"podSelector": {"matchLabels": {"x": "2"}}, "policyTypes": ["Ingress"]})), "another Pod's policy");
    assert!(!received(json!({"podSelector": {}, "policyTypes": ["Ingress"]})), "isolated");
    assert!(received(json!({"podSelector": {}, "policyTypes": ["Egress"]})), "the other direction");
    assert!(!received(json!({"podSelector": {}})), "ingress is the default");
    assert!(sent(json!({"podSelector": {}}), "192.0.2.1", HTTPS), "egress is not, without rules");
    assert!(!sent(json!({"podSelector": {}, "egress": [{"ports": [{"port": 80}]}]}), "192.0.2.1", HTTPS), "with rules it is");
    assert!(!sent(json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": []}), "192.0.2.1", HTTPS), "no rule, no way");
}

#[test]
fn policies_add_up_and_both_ends_must_allow() {
    let deny = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let open = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}]});
    let (from, to) = (pod("b", &[]), pod("a", &[]));
    let connects = |policies: &[(&str, Value)]| cluster(policies).connects(at("10.0.0.2", &from), at("10.0.0.1", &to), HTTPS);
    assert!(connects(&[]));
    assert!(connects(&[("a", deny.clone()), ("a", open.clone()), ("b", deny.clone()), ("b", open.clone())]));
    assert!(!connects(&[("a", deny.clone()), ("a", open.clone()), ("b", deny.clone())]), "the sender may not");
    assert!(!connects(&[("a", deny.clone()), ("b", deny), ("b", open)]), "the receiver may not");
}

#[test]
fn selectors_in_one_element_are_and_in_two_are_or() {
    let rule = |from: Value| received(json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": from}]}));
    let namespace = |name: &str| json!({"matchLabels": {"name": name}});
    assert!(rule(json!([{"namespaceSelector": namespace("b"), "podSelector": {"matchLabels": {"y": "1"}}}])));
    assert!(!rule(json!([{"namespaceSelector": namespace("b"), "podSelector": {"matchLabels": {"y": "2"}}}])));
    assert!(!rule(json!([{"namespaceSelector": namespace("a"), "podSelector": {"matchLabels": {"y": "1"}}}])));
    assert!(rule(json!([{"namespaceSelector": namespace("b")}, {"podSelector": {"matchLabels": {"y": "2"}}}])));
    assert!(!rule(json!([{"podSelector": {}}])), "a podSelector alone stays at home");
    assert!(rule(json!([{"namespaceSelector": {}}])), "an empty namespaceSelector is all");
    assert!(rule(json!([])), "an empty list is everybody");
    for (operator, values, wanted) in
        [("In", json!(["b"]), true), ("NotIn", json!(["b"]), false), ("Exists", Value::Null, true), ("DoesNotExist", Value::Null, false)]
    {
        let selector = json!({"matchExpressions": [{"key": "name", "operator": operator, "values": values}]});
        assert_eq!(rule(json!([{"namespaceSelector": selector}])), wanted, "{operator}");
    }
}

#[test]
fn blocks_have_holes_and_a_family() {
    let to = |block: Value, address: &str| {
        sent(json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": block}]}]}), address, HTTPS)
    };
    assert!(to(json!({"cidr": "0.0.0.0/0"}), "192.0.2.1"));
    assert!(!to(json!({"cidr": "0.0.0.0/0"}), "2001:db8::1"));
    assert!(to(json!({"cidr": "::/0"}), "2001:db8::1"));
    let holed = || json!({"cidr": "192.0.2.0/24", "except": ["192.0.2.64/26"]});
    for (address, wanted) in [("192.0.2.63", true), ("192.0.2.64", false), ("192.0.2.127", false), ("192.0.2.128", true), ("192.0.3.0", false)] {
        assert_eq!(to(holed(), address), wanted, "{address}");
    }
}

#[test]
fn ports_have_protocols_ranges_and_names() {
    let on = |ports: Value, protocol, port| {
        sent(json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": ports}]}), "192.0.2.1", Traffic { protocol, port })
    };
    assert!(on(json!([{"port": 443}]), "TCP", 443));
    assert!(!on(json!([{"port": 443}]), "UDP", 443), "TCP is the default");
    assert!(!on(json!([{"port": 443}]), "TCP", 444));
    assert!(on(json!([{"protocol": "UDP"}]), "UDP", 9));
    assert!(on(json!([{"port": 10, "endPort": 20}]), "TCP", 20));
    assert!(!on(json!([{"port": 10, "endPort": 20}]), "TCP", 21));
    assert!(on(json!([]), "SCTP", 1), "no ports are all");
    assert!(!on(json!([{"port": "https"}]), "TCP", 443), "an address has no named ports");
    assert!(received(json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": "https"}]}]})));
}
