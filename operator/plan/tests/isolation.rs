//! Isolation, for any two grants and whatever they ask for: judged by an evaluator of NetworkPolicies, not by the text of objects.
//!
//! Seeds are fixed, so that a run repeats; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` explore further. Failing cases are kept in
//! `isolation.regressions` beside this file and tried first from then on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod evaluator;
mod findings;
mod scene;
mod verdict;

use std::collections::BTreeSet;

use aifactory_api::factory::{Dns, NetworkPort, NetworkService, Protocol};
use aifactory_api::reference::{Kind, OwnerRef};
use aifactory_plan::engine::network;
use aifactory_plan::model::id::{HubId, TenantNamespace};
use aifactory_plan::model::intent::{CrossSiteIntent, EgressIntent};
use aifactory_plan::model::object::Ownership;
use evaluator::{Cluster, Peer, Pod, Range, Traffic};
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed};
use scene::{HUB, decoded, grant_intent, ports, range_text, scene, site_intent};
use verdict::{denies, distinguishing, legal, opened, outside, parsed, path, peer};

fn config() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(20_261_121);
    }
    config.failure_persistence = Some(Box::new(FileFailurePersistence::WithSource("regressions")));
    config
}

/// Closed everywhere, for everybody.
const ALWAYS: [&str; 15] = [
    "169.254.0.0/16",
    "169.254.169.254/32",
    "168.63.129.16/32",
    "100.100.100.200/32",
    "fd00:ec2::254/128",
    "fe80::/10",
    "127.0.0.0/8",
    "0.0.0.0/8",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/127",
    "ff00::/8",
    "::ffff:0:0/96",
    "64:ff9b::a9fe:0/112",
    "2002::/16",
];

const METADATA: [&str; 4] = ["169.254.169.254/32", "168.63.129.16/32", "100.100.100.200/32", "fd00:ec2::254/128"];

proptest! {
    #![proptest_config(config())]

    /// The property that everything else serves.
    #[test]
    fn no_path_between_two_grants(scene in scene()) {
        let clusters = [scene.cluster(0), scene.cluster(1)];
        for (sender, receiver) in [(0, 1), (1, 0)] {
            for (here, there) in [(0, 0), (1, 1), (0, 1), (1, 0)] {
                prop_assert_eq!(path(&scene, &clusters, (sender, here), (receiver, there)), None);
            }
        }
    }

    #[test]
    fn no_range_of_a_tenant_opens_a_protected_one(mut scene in scene()) {
        for layout in &mut scene.layouts {
            layout.services.clear();
            layout.node_local.clear();
        }
        let factory = parsed(&scene.protected());
        let behind_nat64: Vec<Range> = factory.iter().filter_map(Range::behind_nat64).collect();
        let closed: Vec<Range> = factory.into_iter().chain(behind_nat64).chain(parsed(&ALWAYS)).collect();
        let traffic = scene.traffic();
        for (grant, site) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let cluster = scene.cluster(site);
            for pod in scene.pods(grant) {
                prop_assert_eq!(opened(&cluster, &pod, &closed, &traffic), None);
            }
        }
    }

    /// Services are the factory's to place, but not on metadata; node-local name resolution is port 53 alone.
    #[test]
    fn services_and_resolvers_open_no_metadata(scene in scene()) {
        for (grant, site) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let cluster = scene.cluster(site);
            let resolving = |traffic: &Traffic| traffic.port == 53 && traffic.protocol != "SCTP";
            let other_ports: Vec<Traffic> = scene.traffic().into_iter().filter(|traffic| !resolving(traffic)).collect();
            for pod in scene.pods(grant) {
                prop_assert_eq!(opened(&cluster, &pod, &parsed(&METADATA), &scene.traffic()), None);
                prop_assert_eq!(opened(&cluster, &pod, &parsed(&["169.254.0.0/16", "fe80::/10"]), &other_ports), None);
            }
        }
    }

    /// Nothing is open that nobody asked for: not another port, not another address.
    #[test]
    fn ranges_open_only_what_is_asked_for(mut scene in scene()) {
        for layout in &mut scene.layouts {
            layout.services.clear();
            layout.node_local.clear();
        }
        scene.linked = false;
        let cluster = scene.cluster(0);
        for (grant, wish) in scene.wishes.iter().enumerate() {
            let pod = scene.pods(grant).remove(0);
            let asked = |traffic: &Traffic, address| wish.egress.iter().any(|entry| match entry {
                EgressIntent::Range { cidr, ports } => {
                    let within = network::normalised(cidr).is_some_and(|cidr| Range::parse(&cidr).contains(address));
                    within && ports.iter().any(|port| {
                        let named = port.port..=port.end_port.unwrap_or(port.port);
                        port.protocol.as_str() == traffic.protocol && named.contains(&i32::from(traffic.port))
                    })
                }
                EgressIntent::Service(_) => false,
            });
            for everything in parsed(&["0.0.0.0/0", "::/0"]) {
                for number in distinguishing(&everything, &cluster) {
                    let to = outside(&everything, number);
                    for traffic in scene.traffic() {
                        let unasked = cluster.sends(&pod, to, traffic) && !asked(&traffic, to.address);
                        prop_assert!(!unasked, "{} {:?}", to.address, traffic);
                    }
                }
            }
        }
    }

    /// What is asked for and not closed is open: isolation by closing everything would be easy.
    #[test]
    fn ranges_open_all_but_what_is_closed(scene in scene()) {
        let closed: Vec<Range> = parsed(&scene.protected()).into_iter().chain(parsed(&ALWAYS)).collect();
        let special = parsed(&["64:ff9b::/96", "64:ff9b:1::/48", "::/80"]);
        let cluster = scene.cluster(0);
        for (wish, pod) in scene.wishes.iter().zip([0, 1].map(|grant| scene.pods(grant).remove(0))) {
            for entry in &wish.egress {
                let EgressIntent::Range { cidr, ports } = entry else { continue };
                let Some(range) = network::normalised(cidr).map(|cidr| Range::parse(&cidr)) else { continue };
                let after = closed.iter().filter_map(|closed| closed.last.checked_add(1));
                let numbers: BTreeSet<u128> = after.chain([range.first, range.last]).collect();
                let inside = numbers.into_iter().filter(|number| (range.first..=range.last).contains(number));
                for number in inside {
                    let to = outside(&range, number);
                    if closed.iter().chain(&special).any(|closed| closed.contains(to.address)) {
                        continue;
                    }
                    let legal = |port: &NetworkPort| {
                        let end = port.end_port.unwrap_or(port.port);
                        (1..=65535).contains(&port.port) && (port.port..=65535).contains(&end)
                    };
                    for port in ports.iter().filter(|port| legal(port)) {
                        let traffic = Traffic { protocol: port.protocol.as_str(), port: u16::try_from(port.port).expect("a port") };
                        prop_assert!(cluster.sends(&pod, to, traffic), "{} {:?}", to.address, traffic);
                    }
                }
            }
        }
    }

    #[test]
    fn own_pods_and_name_resolution_are_open(scene in scene()) {
        let cluster = scene.cluster(0);
        let labels = [("k8s-app".to_owned(), "kube-dns".to_owned())].into();
        let dns = Pod { namespace: "kube-system".to_owned(), labels, named_ports: Default::default() };
        let other = Pod { labels: Default::default(), ..dns.clone() };
        let address = "198.18.0.1".parse().expect("an address");
        let name_query = |protocol| Traffic { protocol, port: 53 };
        let traffic = scene.traffic();
        for grant in [0, 1] {
            let pods = scene.pods(grant);
            for (one, two) in pods.iter().zip(pods.iter().rev()) {
                for closed in traffic.iter().filter(|traffic| traffic.port != 53 || traffic.protocol == "SCTP") {
                    let by_address = cluster.sends(one, Peer { address, pod: None }, *closed);
                    prop_assert_eq!(cluster.sends(one, peer(address, &dns), *closed), by_address);
                }
                let cut = traffic.iter().find(|traffic| !cluster.connects(peer(address, one), peer(address, two), **traffic));
                prop_assert_eq!(cut, None);
                for protocol in ["TCP", "UDP"] {
                    prop_assert!(cluster.sends(one, peer(address, &dns), name_query(protocol)));
                    // Another Pod beside the resolvers: only what a range opens by address anyway.
                    let by_address = cluster.sends(one, Peer { address, pod: None }, name_query(protocol));
                    prop_assert_eq!(cluster.sends(one, peer(address, &other), name_query(protocol)), by_address);
                    let received = |pod| cluster.receives(one, Peer { address, pod }, name_query(protocol));
                    prop_assert_eq!(received(Some(&dns)), received(None), "replies need no opening");
                }
            }
        }
    }

    /// A grant's own addresses talk along a link, and nothing comes in without one.
    #[test]
    fn cross_site_opens_along_links_only(scene in scene()) {
        let clusters = [scene.cluster(0), scene.cluster(1)];
        for grant in [0, 1] {
            let rendered = scene.render(grant, 0);
            let policy = rendered.objects.iter().any(|object| object.key.name == network::CROSS_SITE);
            prop_assert_eq!(policy, scene.linked && !scene.own(grant, 1).is_empty());
            let pods = scene.pods(grant);
            for traffic in scene.traffic() {
                for source in scene.own(grant, 0) {
                    let receives = clusters[1].receives(&pods[0], outside(&source, source.last), traffic);
                    prop_assert_eq!(receives, scene.linked);
                }
                for target in scene.own(grant, 1) {
                    prop_assert!(!scene.linked || clusters[0].sends(&pods[0], outside(&target, target.first), traffic));
                }
            }
        }
    }

    #[test]
    fn objects_are_legal_and_the_same_every_time(scene in scene(), turn in 0..6usize) {
        for (grant, site) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let rendered = scene.render(grant, site);
            prop_assert!(denies(&rendered, &scene.namespace(grant)));
            prop_assert_eq!(&rendered, &scene.render(grant, site));
            legal(&rendered, &scene.namespace(grant))?;

            let mut turned = scene.clone();
            for wish in &mut turned.wishes {
                let by = turn % wish.egress.len().max(1);
                wish.egress.rotate_left(by);
                for entry in &mut wish.egress {
                    if let EgressIntent::Range { ports, .. } = entry {
                        ports.reverse();
                    }
                }
                for addresses in wish.cross_site.iter_mut().flatten() {
                    addresses.reverse();
                }
            }
            turned.layouts.iter_mut().for_each(|layout| layout.services.reverse());
            prop_assert_eq!(&rendered, &turned.render(grant, site), "order of what is asked for");
        }
    }

    /// Strings that no schema has seen: no panic, and default deny all the same.
    #[test]
    fn arbitrary_strings_never_panic(
        texts in proptest::collection::vec(".{0,40}", 12),
        cidrs in proptest::collection::vec("[0-9a-f:.]{0,20}/?[-+0-9]{0,4}", 8),
        ports in ports(),
        namespace in ".{1,70}",
    ) {
        let node_local_cidrs = vec![texts[2].clone(), cidrs[0].clone()];
        let dns = Dns { namespace: texts[0].clone(), app: texts[1].clone(), node_local_cidrs };
        let named = vec![texts[4].clone(), cidrs[1].clone()];
        let service = NetworkService { name: texts[3].clone(), cidrs: named, ports: ports.clone() };
        let site = site_intent(&texts[5], vec![cidrs[2].clone(), texts[6].clone()], dns, vec![service]);
        let egress = vec![
            EgressIntent::Service(texts[3].clone()),
            EgressIntent::Range { cidr: cidrs[3].clone(), ports: ports.clone() },
            EgressIntent::Range { cidr: texts[7].clone(), ports },
        ];
        let peers = [(texts[9].clone(), vec![cidrs[4].clone(), texts[10].clone()])].into();
        let cross_site = CrossSiteIntent { own: vec![texts[8].clone()], peers };
        let rendered = network::policies(&site, &grant_intent(egress, Some(cross_site)), &TenantNamespace::new(&namespace), &ownership());
        prop_assert!(denies(&rendered, &namespace));
        legal(&rendered, &namespace)?;
        network::guard_rails(&site, &ownership());
        prop_assert!(network::normalised(&texts[11]).is_none_or(|cidr| network::normalised(&cidr) == Some(cidr)));
    }

    #[test]
    fn overlap_is_what_ranges_have_in_common(
        a in range_text(),
        b in range_text(),
        known in proptest::collection::vec("10\\.[0-9]\\.0\\.0/1[0-6]", 1..3),
    ) {
        let (a, b) = (a.near(&known), b.near(&known));
        prop_assert_eq!(network::overlaps(&a, &b), network::overlaps(&b, &a));
        match (network::normalised(&a), network::normalised(&b)) {
            (Some(one), Some(two)) => {
                prop_assert_eq!(network::normalised(&one), Some(one.clone()));
                let (one, two) = (Range::parse(&one), Range::parse(&two));
                let common = one.v6 == two.v6 && one.first.max(two.first) <= one.last.min(two.last);
                prop_assert_eq!(network::overlaps(&a, &b), common);
            }
            _ => prop_assert!(!network::overlaps(&a, &b)),
        }
    }

    #[test]
    fn guard_rails_close_metadata_and_leave_resolvers(
        node_local in proptest::collection::vec(range_text(), 0..40),
        known in proptest::collection::vec("169\\.254\\.2[0-9]\\.[0-9]/3[0-2]", 1..3),
    ) {
        let node_local: Vec<String> = node_local.iter().map(|cidr| cidr.near(&known)).collect();
        let dns = Dns { node_local_cidrs: node_local.clone(), ..Dns::default() };
        let objects = network::guard_rails(&site_intent("bissen", Vec::new(), dns, Vec::new()), &ownership());
        let spec = &objects[0].content["spec"];
        prop_assert_eq!(objects.len(), 1);
        prop_assert_eq!(&spec["subject"]["namespaces"]["matchLabels"]["aifactory.dev/tenant"], "true");
        let rules = list(&spec["egress"]);
        prop_assert!(rules.len() <= 25);
        // The first rule that matches decides.
        let verdict = |range: &Range, number: u128, port: u64| {
            rules.iter().find(|rule| {
                let networks = list(&rule["to"]).iter().flat_map(|peer| list(&peer["networks"]));
                let mut ranges = networks.map(|network| Range::parse(network.as_str().expect("a range")));
                let on_port = |one: &serde_json::Value| one["udp"]["destinationPort"]["number"] == port;
                ranges.any(|network| network.contains(range.address(number)))
                    && rule.get("protocols").is_none_or(|protocols| list(protocols).iter().any(on_port))
            }).map(|rule| rule["action"].as_str().expect("an action"))
        };
        for range in parsed(&METADATA) {
            prop_assert_eq!((verdict(&range, range.first, 53), verdict(&range, range.last, 80)), (Some("Deny"), Some("Deny")));
        }
        for range in parsed(&["169.254.0.0/16", "fe80::/10"]) {
            prop_assert_eq!((verdict(&range, range.first, 80), verdict(&range, range.last, 80)), (Some("Deny"), Some("Deny")));
        }
        for range in node_local.iter().filter_map(|cidr| network::normalised(cidr)).map(|cidr| Range::parse(&cidr)) {
            let metadata = parsed(&METADATA).iter().any(|metadata| metadata.contains(range.address(range.first)));
            prop_assert_eq!(verdict(&range, range.first, 53), Some(if metadata { "Deny" } else { "Pass" }));
        }
        for rule in rules {
            let to = list(&rule["to"]);
            prop_assert!((1..=25).contains(&to.len()));
            prop_assert!(to.iter().all(|peer| (1..=25).contains(&list(&peer["networks"]).len())));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: config().cases / 8, ..config() })]

    /// More protected ranges than a policy should hold: wider holes, never fewer.
    #[test]
    fn many_protected_ranges_stay_closed(
        addresses in proptest::collection::vec((any::<u32>(), 18..=32u32), 150..300),
        six in proptest::collection::vec((any::<u128>(), 40..=128u32), 0..100),
        asked in range_text(),
    ) {
        let protected: Vec<String> = addresses
            .iter()
            .map(|(address, length)| format!("{}/{length}", std::net::Ipv4Addr::from(*address)))
            .chain(six.iter().map(|(address, length)| format!("{}/{length}", std::net::Ipv6Addr::from(*address))))
            .collect();
        let site = site_intent("bissen", protected.clone(), Dns::default(), Vec::new());
        let port = NetworkPort { port: 443, end_port: None, protocol: Protocol::TCP };
        let range = |cidr: String| EgressIntent::Range { cidr, ports: vec![port.clone()] };
        let asked = [String::from("0.0.0.0/0"), String::from("::/0"), asked.near(&protected)].map(range);
        let grant = grant_intent(asked.to_vec(), None);
        let rendered = network::policies(&site, &grant, &TenantNamespace::new("aif-x"), &ownership());
        legal(&rendered, "aif-x")?;
        prop_assert!(rendered.findings.iter().any(|finding| finding.contains("too many protected ranges")));
        let cluster = Cluster { policies: decoded(&rendered), ..Cluster::default() };
        let closed: Vec<Range> = parsed(&protected).into_iter().chain(parsed(&ALWAYS)).collect();
        prop_assert_eq!(opened(&cluster, &tenant(), &closed, &[Traffic { protocol: "TCP", port: 443 }]), None);
    }
}

fn list(value: &serde_json::Value) -> &[serde_json::Value] {
    value.as_array().expect("a list")
}

fn ownership() -> Ownership {
    Ownership::new(&HubId::new(HUB), &OwnerRef::new(Kind::AccessGrant, "example", "alpha"), "uid")
}

fn tenant() -> Pod {
    Pod { namespace: "aif-x".to_owned(), labels: Default::default(), named_ports: Default::default() }
}
