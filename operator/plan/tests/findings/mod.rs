//! What is left out, and the words for it.

use aifactory_api::factory::{Dns, NetworkPort, NetworkService, Protocol};
use aifactory_api::reference::{Kind, OwnerRef};
use aifactory_plan::engine::network::{self, CROSS_SITE, EGRESS, Rendered};
use aifactory_plan::model::id::{HubId, TenantNamespace};
use aifactory_plan::model::intent::{CrossSiteIntent, EgressIntent};
use aifactory_plan::model::object::Ownership;
use serde_json::json;

use crate::scene::{HUB, grant_intent, site_intent};

const HTTPS: NetworkPort = NetworkPort { port: 443, end_port: None, protocol: Protocol::TCP };

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn ownership() -> Ownership {
    Ownership::new(&HubId::new(HUB), &OwnerRef::new(Kind::AccessGrant, "example", "alpha"), "uid")
}

fn rendered(protected: &[&str], egress: Vec<EgressIntent>, peers: &[(&str, &[&str])]) -> Rendered {
    let service = |name: &str, cidr: &str, port| NetworkService { name: name.to_owned(), cidrs: texts(&[cidr]), ports: vec![port] };
    let services = vec![
        service("s3", "10.1.200.0/28", HTTPS),
        service("odd", "169.254.1.1/32", HTTPS),
        service("mute", "10.1.201.0/28", NetworkPort { port: 0, ..HTTPS }),
    ];
    let peers = peers.iter().map(|(site, cidrs)| ((*site).to_owned(), texts(cidrs))).collect();
    let grant = grant_intent(egress, Some(CrossSiteIntent { own: Vec::new(), peers }));
    network::policies(&site_intent("bissen", texts(protected), Dns::default(), services), &grant, &TenantNamespace::new("aif-x"), &ownership())
}

fn range(cidr: &str) -> EgressIntent {
    EgressIntent::Range { cidr: cidr.to_owned(), ports: vec![HTTPS] }
}

/// The spec as the API server keeps it: without empty lists.
fn spec(rendered: &Rendered, name: &str) -> Option<serde_json::Value> {
    let mut spec = rendered.objects.iter().find(|object| object.key.name == name)?.content["spec"].clone();
    spec.as_object_mut()?.retain(|_, value| value.as_array().is_none_or(|items| !items.is_empty()));
    Some(spec)
}

#[test]
fn what_is_open_is_written_as_the_api_server_keeps_it() {
    let asked = vec![range("203.0.113.7/24"), range("10.0.0.0/8"), EgressIntent::Service("s3".to_owned())];
    let rendered = rendered(&["10.42.0.0/16", "10.43.0.0/16", "10.1.0.0/16"], asked, &[("bettembourg", &["192.0.2.16/28", "192.0.2.0/28"])]);
    assert_eq!(rendered.findings, Vec::<String>::new());
    let egress = json!([{
        "to": [
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.42.0.0/15"]}},
            {"ipBlock": {"cidr": "10.1.200.0/28"}},
            {"ipBlock": {"cidr": "203.0.113.0/24"}},
        ],
        "ports": [{"protocol": "TCP", "port": 443}],
    }]);
    assert_eq!(spec(&rendered, EGRESS), Some(json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress})));
    let peers = json!([{"ipBlock": {"cidr": "192.0.2.0/27"}}]);
    let both = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": peers}], "egress": [{"to": peers}]});
    assert_eq!(spec(&rendered, CROSS_SITE), Some(both));
}

#[test]
fn everything_left_out_is_named() {
    let nothing = |cidr: &str| EgressIntent::Range { cidr: cidr.to_owned(), ports: Vec::new() };
    let service = |name: &str| EgressIntent::Service(name.to_owned());
    let asked = vec![range("10.42.1.0/24"), range("nonsense"), nothing("203.0.113.0/24"), service("odd"), service("mute"), service("absent")];
    let peers: &[(&str, &[&str])] = &[("bettembourg", &["10.42.9.0/28", "2001:db8::/64"]), ("bissen", &["192.0.2.0/28"])];
    let rendered = rendered(&["10.42.0.0/16"], asked, peers);
    assert!(spec(&rendered, EGRESS).is_none() && spec(&rendered, CROSS_SITE).is_none(), "{:?}", rendered.objects);
    let wanted = [
        r#"crossSite "bettembourg", "10.42.9.0/28": overlaps the protected range 10.42.0.0/16"#,
        r#"crossSite "bettembourg", "2001:db8::/64": the factory names no IPv6 ranges"#,
        r#"egress, "10.42.1.0/24": inside the protected range 10.42.0.0/16"#,
        r#"egress, "203.0.113.0/24": no usable port"#,
        r#"egress, "nonsense": not a CIDR"#,
        r#"service "absent": the site names none such under network.services"#,
        r#"service "mute", "10.1.201.0/28": no usable port"#,
        r#"service "odd", "169.254.1.1/32": inside the protected range 169.254.0.0/16"#,
    ];
    assert_eq!(rendered.findings.len(), wanted.len(), "{:#?}", rendered.findings);
    for (found, wanted) in rendered.findings.iter().zip(wanted) {
        assert!(found.starts_with(wanted) && found.ends_with("it stays closed"), "{found}");
    }
}

#[test]
fn a_protected_range_that_can_not_be_read_closes_what_it_may_mean() {
    let asked = vec![range("203.0.113.0/24"), EgressIntent::Service("s3".to_owned())];
    let rendered = rendered(&["10.42.0.0/16", "10.43.0.0-16"], asked, &[("bettembourg", &["192.0.2.0/28"])]);
    assert!(rendered.findings.iter().all(|finding| finding.contains(r#""10.43.0.0-16" can not be read"#)), "{:?}", rendered.findings);
    assert_eq!((rendered.findings.len(), spec(&rendered, CROSS_SITE)), (2, None));
    let egress = spec(&rendered, EGRESS).expect("the factory's own service stays open");
    assert_eq!(egress["egress"][0]["to"], json!([{"ipBlock": {"cidr": "10.1.200.0/28"}}]));
}

#[test]
fn an_own_address_is_clear_of_everything_protected() {
    let protected = texts(&["10.42.0.0/16"]);
    assert_eq!(network::own_address(&protected, "192.0.2.17/28").as_deref(), Ok("192.0.2.16/28"));
    for cidr in ["10.42.1.0/24", "10.0.0.0/8", "0.0.0.0/0", "169.254.169.254/32", "192.0.2.1", "2001:db8::/64", "::ffff:10.42.0.1/128"] {
        assert!(network::own_address(&protected, cidr).is_err(), "{cidr}");
    }
    let both = texts(&["10.42.0.0/16", "fd42::/48"]);
    assert_eq!(network::own_address(&both, "2001:DB8::1/64").as_deref(), Ok("2001:db8::/64"));
    assert!(network::own_address(&both, "64:ff9b::c000:201/128").is_err(), "an IPv4 address of anybody");
}

#[test]
fn guard_rails_keep_to_the_limits_of_their_api() {
    let node_local_cidrs = (0..60).map(|host| format!("169.254.20.{}/32", host * 2)).collect();
    let site = site_intent("bissen", Vec::new(), Dns { node_local_cidrs, ..Dns::default() }, Vec::new());
    let objects = network::guard_rails(&site, &ownership());
    let sizes: Vec<_> = objects[0].content["spec"]["egress"][1]["to"]
        .as_array()
        .expect("peers")
        .iter()
        .map(|peer| peer["networks"].as_array().map(Vec::len))
        .collect();
    assert_eq!(sizes, [Some(25), Some(25), Some(10)]);
}
