//! Properties of the whole way from resources on the hub to objects on sites. Seeds and failures as in `isolation`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with other properties")]
mod evaluator;
mod history;
mod hub;
#[allow(dead_code, reason = "shared with other properties")]
mod scene;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aifactory_api::name::tenant_namespace;
use aifactory_api::{Kind, OwnerRef, labels};
use aifactory_plan::engine::network;
use aifactory_plan::hub::aggregate::{self, Reports};
use aifactory_plan::hub::cache::Cache;
use aifactory_plan::hub::project;
use aifactory_plan::hub::reports::ReportIndex;
use aifactory_plan::model::intent::Body;
use aifactory_plan::model::object::{Object, ObjectKey, ObjectKind};
use aifactory_plan::model::report::SiteReport;
use aifactory_plan::model::site_key::SiteKey;
use evaluator::{Peer, Pod, Range, Traffic};
use history::{events, play, tenants};
use hub::{hub, now, owner, put};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{FileFailurePersistence, RngSeed};
use serde_json::{Value, json};
use site::{Sites, reconcile_all, settle};

fn config() -> ProptestConfig {
    let mut config = ProptestConfig { cases: 256, ..ProptestConfig::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(20_261_122);
    }
    config.failure_persistence = Some(Box::new(FileFailurePersistence::WithSource("regressions")));
    config
}

/// Addresses by which a grant's Pods at a site are seen.
fn seen_as(world: &Cache, owner: &OwnerRef, key: &SiteKey, time: Timestamp) -> Vec<IpAddr> {
    let protected = project::site(world, &hub::id(), key, None).expect("a site").protected;
    let intent = project::grant(world, owner, &BTreeSet::new(), time).and_then(|found| found.sites.get(key).cloned());
    let own = match intent.map(|intent| intent.body) {
        Some(Body::Grant(grant)) => grant.cross_site.map(|cross_site| cross_site.own).unwrap_or_default(),
        _ => Vec::new(),
    };
    let own = own.iter().filter_map(|cidr| network::own_address(&protected, cidr).ok());
    let ranges = protected.iter().cloned().chain(own).map(|cidr| Range::parse(&cidr));
    ranges.flat_map(|range| [range.address(range.first), range.address(range.last)]).collect()
}

fn path(world: &Cache, sites: &Sites, time: Timestamp) -> Option<String> {
    let clusters: BTreeMap<_, _> = sites.iter().map(|(key, site)| (key, site.cluster())).collect();
    let pods: Vec<_> =
        sites.iter().flat_map(|(key, site)| tenants(site).into_iter().map(move |(namespace, owner)| (key, namespace, owner))).collect();
    let traffic = [("TCP", 443), ("TCP", 1), ("UDP", 53), ("SCTP", 9)].map(|(protocol, port)| Traffic { protocol, port });
    for (here, sender, from) in &pods {
        for (there, receiver, to) in pods.iter().filter(|(_, _, to)| to != from) {
            let pod = |namespace: &String| Pod { namespace: namespace.clone(), labels: BTreeMap::new(), named_ports: BTreeMap::new() };
            let (source, target) = (pod(sender), pod(receiver));
            let views = |pod| if here == there { vec![None, Some(pod)] } else { vec![None] };
            let reach = |addresses: Vec<IpAddr>, pod, allowed: &dyn Fn(Peer<'_>) -> bool| {
                addresses.into_iter().any(|address| views(pod).into_iter().any(|pod| allowed(Peer { address, pod })))
            };
            for traffic in traffic {
                let leaves = reach(seen_as(world, to, there, time), &target, &|peer| clusters[here].sends(&source, peer, traffic));
                if leaves && reach(seen_as(world, from, here, time), &source, &|peer| clusters[there].receives(&target, peer, traffic)) {
                    return Some(format!("{from} at {here} to {to} at {there}: {traffic:?}"));
                }
            }
        }
    }
    None
}

proptest! {
    #![proptest_config(config())]

    /// Whatever happened before, at no site and between no sites, living grants and retained ones alike.
    #[test]
    fn no_path_between_any_two_grants(hub in hub(), events in events()) {
        let (world, sites, time) = play(&hub, &events);
        prop_assert_eq!(path(&world, &sites, time), None);
    }

    /// Every tenant has default deny; a locked one also has no way to other sites, no binding that works, and no accelerator.
    #[test]
    fn every_tenant_is_fenced(hub in hub(), events in events()) {
        let (_, sites, _) = play(&hub, &events);
        for site in sites.values() {
            for namespace in tenants(site).keys() {
                let has = |kind, name: &str| site.objects.contains_key(&ObjectKey::namespaced(kind, namespace.as_str(), name));
                prop_assert!(has(ObjectKind::NETWORK_POLICY, network::DEFAULT_DENY) && has(ObjectKind::RESOURCE_QUOTA, "aifactory"));
                let state = site.namespace(namespace).expect("it is there").state;
                if state == labels::STATE_BOUND {
                    continue;
                }
                prop_assert!(state == labels::STATE_PAUSED || !has(ObjectKind::NETWORK_POLICY, network::CROSS_SITE));
                for (key, (_, object)) in site.objects.iter().filter(|(key, _)| key.namespace == *namespace) {
                    match key.kind {
                        ObjectKind::ROLE_BINDING => {
                            let role = object.content["roleRef"]["name"].as_str().expect("a role");
                            prop_assert!(["aifactory-reader", "aifactory-keeper"].contains(&role), "{role} while {state}");
                        }
                        ObjectKind::RESOURCE_QUOTA if key.name == "aifactory" => {
                            let hard = object.content["spec"]["hard"].as_object().expect("a map");
                            let gpus = hard.iter().filter(|(name, _)| name.starts_with("requests.") && name.contains('/'));
                            prop_assert!(gpus.clone().count() > 0);
                            for (_, value) in gpus {
                                prop_assert_eq!(value, "0");
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    /// Each site protects the ranges of all sites, and opens others only along a link.
    #[test]
    fn sites_stand_up_for_each_other(hub in hub(), events in events()) {
        let (world, sites, _) = play(&hub, &events);
        let factory = &hub.factories[0]["spec"];
        for (key, site) in &sites {
            let protected = project::site(&world, &hub::id(), key, None).expect("a site").protected;
            for other in factory["sites"].as_array().expect("sites") {
                let ranges = ["podCIDRs", "nodeCIDRs"].map(|name| other["network"][name].as_array().expect("ranges"));
                prop_assert!(ranges.into_iter().flatten().all(|range| protected.iter().any(|found| range == found)));
            }
            let linked = factory["links"].as_array().is_some_and(|links| !links.is_empty());
            prop_assert!(linked || !site.objects.keys().any(|key| key.name == network::CROSS_SITE));
        }
    }

    /// Time alone never moves the end of a grant, nor how long its data is kept.
    #[test]
    fn the_end_stays_where_it_is(hub in hub(), events in events(), hours in 1..23i64) {
        let (world, mut sites, time) = play(&hub, &events);
        let marks = |sites: &Sites| -> BTreeMap<_, _> {
            let all = sites.iter().flat_map(|(key, site)| tenants(site).into_keys().map(move |name| (key, site, name)));
            let locked = all.filter_map(|(key, site, name)| {
                let found = site.namespace(&name)?;
                let mark = |of: &str| found.annotations.get(of).cloned();
                (found.state == labels::STATE_LOCKED)
                    .then(|| ((key.clone(), name), [labels::ENDED_AT, labels::ENDED_BECAUSE, labels::RETAINED_UNTIL].map(mark)))
            });
            locked.collect()
        };
        let before = marks(&sites);
        settle(&world, &mut sites, time.checked_add(SignedDuration::from_hours(hours)).expect("a time"));
        let after = marks(&sites);
        // A retention that is over may have taken the namespace.
        prop_assert!(before.iter().all(|(name, mark)| after.get(name).is_none_or(|found| found == mark)), "{before:?} {after:?}");
    }

    /// One reconcile does everything; a second one plans nothing.
    #[test]
    fn a_plan_applied_plans_nothing(hub in hub(), events in events()) {
        let (world, mut sites, time) = play(&hub, &events);
        let before = sites.clone();
        prop_assert_eq!(reconcile_all(&world, &mut sites, time).1, 0);
        prop_assert_eq!(&sites, &before);
        let mut fresh = Sites::new();
        reconcile_all(&world, &mut fresh, time);
        prop_assert_eq!(reconcile_all(&world, &mut fresh, time).1, 0);
    }

    /// Order of arrival and status change nothing: all that counts is in specs and on sites.
    #[test]
    fn order_and_status_change_no_intent(hub in hub(), reversed in any::<bool>()) {
        let world = hub.world();
        let mut other = Cache::default();
        let mut all: Vec<Value> = hub.all().cloned().collect();
        if reversed {
            all.reverse();
        }
        for value in &mut all {
            let ready = json!({
                "type": "Ready", "status": "True", "reason": "AsSpecified", "message": "", "lastTransitionTime": hub::NOW,
            });
            value["status"] = json!({"observedGeneration": 1, "conditions": [ready]});
            prop_assert!(put(&mut other, value));
        }
        for (owner, _) in world.grants() {
            let none = BTreeSet::new();
            let bytes = |world| {
                let sites = project::grant(world, owner, &none, now()).expect("it is there").sites;
                serde_json::to_string(&sites.into_values().collect::<Vec<_>>())
            };
            prop_assert_eq!(bytes(&world).expect("JSON"), bytes(&other).expect("JSON"));
        }
        for (owner, _) in world.pools() {
            prop_assert_eq!(project::pool(&world, owner, &BTreeSet::new()), project::pool(&other, owner, &BTreeSet::new()));
        }
    }

    /// What belongs to one site changes nothing at the other.
    #[test]
    fn a_change_at_one_site_stays_there(hub in hub()) {
        let (mut before, mut after) = (Sites::new(), Sites::new());
        settle(&hub.world(), &mut before, now());
        let mut changed = hub.clone();
        let site = &mut changed.factories[0]["spec"]["sites"][0];
        site["stage"] = json!("Draining");
        site["country"] = json!("FR");
        site["network"]["dns"] = json!({"app": "other"});
        site["network"]["services"] = json!([]);
        site["access"] = json!({"apiServer": "https://other.example.eu"});
        settle(&changed.world(), &mut after, now());
        let there = |sites: &Sites| -> Vec<Object> {
            let there = sites.iter().filter(|(key, _)| key.site == scene::SITES[1]);
            there.flat_map(|(_, site)| site.objects.values().map(|(_, object)| object.clone())).collect()
        };
        prop_assert_eq!(there(&before), there(&after));
    }

    /// Another grant, without addresses of its own, changes nothing of those that are there, unless they share a consumer's cap.
    #[test]
    fn a_new_grant_changes_no_other(hub in hub()) {
        let mut with = hub.clone();
        let mut added = hub.grants[0].clone();
        added["metadata"]["name"] = json!("added");
        added["metadata"]["namespace"] = json!("example");
        added["spec"]["factoryRef"] = json!({"name": "example"});
        added["spec"]["network"].as_object_mut().expect("a map").remove("crossSite");
        with.grants.push(added);
        let (alone, together) = (hub.world(), with.world());
        for (owner, _) in alone.grants() {
            let none = BTreeSet::new();
            prop_assert_eq!(project::grant(&alone, owner, &none, now()), project::grant(&together, owner, &none, now()));
        }
    }

    /// A site that does not answer confirms nothing: no grant is released, and access is not reported as removed.
    #[test]
    fn silence_confirms_nothing(hub in hub(), silent in 0..2usize) {
        let mut hub = hub;
        let (world, mut sites) = (hub.world(), Sites::new());
        settle(&world, &mut sites, now());
        hub.grants.iter_mut().for_each(|grant| grant["metadata"]["deletionTimestamp"] = json!(hub::NOW));
        let world = hub.world();
        let before = sites.clone();
        let (reports, _) = reconcile_all(&world, &mut sites, now());
        let key = SiteKey::new(owner(&hub.factories[0]), scene::SITES[silent]);
        let about_sites: BTreeMap<SiteKey, SiteReport> = hub
            .sites()
            .into_iter()
            .map(|site| {
                let answers = site != key;
                (site, SiteReport { reachable: answers, synced: answers, ..SiteReport::default() })
            })
            .collect();
        for (owner, grant) in world.grants() {
            let held = site::holders(&before, owner);
            let projection = project::grant(&world, owner, &held, now()).expect("a projection");
            let outcome = |abandoned: &BTreeSet<SiteKey>| {
                let others = reports.iter().filter(|(site, report)| *site != key && report.owner == *owner);
                let about = others.map(|(site, report)| (site.clone(), report)).collect();
                aggregate::grant(&world, grant, &projection, &Reports { about, sites: &about_sites, abandoned }, now())
            };
            let silent = outcome(&BTreeSet::new());
            let true_of = |name: &str| silent.status.conditions.iter().any(|found| found.type_ == name && found.status == "True");
            if projection.sites.contains_key(&key) {
                prop_assert!(!silent.finished && !true_of("AccessRemoved"));
            }
            let given_up = outcome(&BTreeSet::from([key.clone()]));
            prop_assert!(held.iter().any(|site| *site != key) || given_up.finished, "given up, and held nowhere else");
        }
    }

    /// Resources that no schema has seen: whatever decodes is projected, planned and aggregated without a panic.
    #[test]
    fn arbitrary_resources_never_panic(
        hub in hub(),
        holes in proptest::collection::vec((any::<prop::sample::Index>(), value()), 1..8),
    ) {
        let mut world = Cache::default();
        for value in hub.all() {
            let mut value = value.clone();
            for (place, with) in &holes {
                spoil(&mut value["spec"], place, with);
            }
            put(&mut world, &value);
        }
        let keys: BTreeSet<SiteKey> = hub.sites();
        let mut sites = Sites::new();
        for _ in 0..3 {
            reconcile_all(&world, &mut sites, now());
        }
        let about_sites = BTreeMap::new();
        for (owner, grant) in world.grants() {
            if let Some(projection) = project::grant(&world, owner, &keys, now()) {
                let reports = Reports { about: BTreeMap::new(), sites: &about_sites, abandoned: &BTreeSet::new() };
                aggregate::grant(&world, grant, &projection, &reports, now());
            }
        }
        for (owner, pool) in world.pools() {
            let projection = project::pool(&world, owner, &keys);
            let reports = Reports { about: BTreeMap::new(), sites: &about_sites, abandoned: &BTreeSet::new() };
            aggregate::pool(&world, pool, &projection, &reports, &ReportIndex::default(), now());
        }
        for (_, factory) in world.factories() {
            aggregate::factory(&world, factory, &about_sites, &ReportIndex::default(), &BTreeSet::new(), now());
        }
    }

    /// Names that differ on the hub differ on sites, and all of them are DNS labels.
    #[test]
    fn namespaces_are_legal_and_apart(
        names in proptest::collection::btree_set("[a-z0-9]([-a-z0-9]{0,3}(\\.[a-z0-9])?|[-a-z0-9]{40,60}[a-z0-9])", 2..40),
        spaces in proptest::collection::btree_set("[a-z0-9]{1,3}", 1..4),
    ) {
        let grant = |space: &String, name: &String| OwnerRef::new(Kind::AccessGrant, space, name);
        let owners: Vec<OwnerRef> = spaces.iter().flat_map(|space| names.iter().map(move |name| grant(space, name))).collect();
        let namespaces: BTreeSet<String> = owners.iter().map(|owner| tenant_namespace(hub::id().as_str(), owner)).collect();
        prop_assert_eq!(namespaces.len(), owners.len());
        for namespace in namespaces {
            let legal = namespace.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
            prop_assert!(legal && namespace.len() <= 63, "{}", namespace);
            prop_assert!(namespace.starts_with("aif-") && !namespace.ends_with('-'), "{}", namespace);
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        ".{0,80}".prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop_oneof![Just(i64::MAX), Just(i64::MIN), Just(-1), Just(0)].prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(Value::Null),
    ]
}

/// Puts `with` somewhere in `value`.
fn spoil(value: &mut Value, place: &prop::sample::Index, with: &Value) {
    let mut places = Vec::new();
    pointers(value, String::new(), &mut places);
    if let Some(found) = value.pointer_mut(&places[place.index(places.len())]) {
        *found = with.clone();
    }
}

fn pointers(value: &Value, here: String, places: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| pointers(value, format!("{here}/{}", key.replace('~', "~0").replace('/', "~1")), places))
        }
        Value::Array(items) => items.iter().enumerate().for_each(|(index, value)| pointers(value, format!("{here}/{index}"), places)),
        _ => {}
    }
    places.push(here);
}

/// Random hubs must hold what the properties are about.
#[test]
fn hubs_are_worth_trying() {
    let mut runner = proptest::test_runner::TestRunner::new(config());
    let (mut neighbours, mut crossing, mut locked) = (0, 0, 0);
    for _ in 0..100 {
        let (hub, events) = (hub(), events()).new_tree(&mut runner).expect("a hub").current();
        let (_, sites, _) = play(&hub, &events);
        let bound =
            |site: &site::Site, state| tenants(site).keys().filter(|name| site.namespace(name).is_some_and(|found| found.state == state)).count();
        neighbours += usize::from(sites.values().any(|site| bound(site, labels::STATE_BOUND) > 1));
        locked += usize::from(sites.values().any(|site| bound(site, labels::STATE_LOCKED) > 0));
        crossing += usize::from(sites.values().any(|site| site.objects.keys().filter(|key| key.name == network::CROSS_SITE).count() > 0));
    }
    assert!(neighbours > 20 && crossing > 20 && locked > 10, "{neighbours} {crossing} {locked}");
}
