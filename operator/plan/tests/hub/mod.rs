//! Random hubs: factories, pools and grants that an API server would have taken.

use std::collections::BTreeSet;
use std::sync::Arc;

use aifactory_api::{AIFactory, AccessGrant, GPUPool, Kind, OwnerRef};
use aifactory_plan::hub::cache::Cache;
use aifactory_plan::hub::known_sites::KnownSite;
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::id::HubId;
use aifactory_plan::model::site_key::SiteKey;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::scene::{self, HUB, SITES};

/// The resources of a hub, as stored.
#[derive(Clone, Debug)]
pub struct Hub {
    pub factories: Vec<Value>,
    pub pools: Vec<Value>,
    pub grants: Vec<Value>,
}

pub const NOW: &str = "2026-11-21T12:00:00Z";

pub fn now() -> Timestamp {
    NOW.parse().expect("a time")
}

/// The resource that a manifest is about.
pub fn owner(value: &Value) -> OwnerRef {
    let text = |field: &str| value["metadata"][field].as_str().expect("a string");
    OwnerRef::new(Kind::parse(value["kind"].as_str().expect("a kind")).expect("one of ours"), text("namespace"), text("name"))
}

/// Stores a resource that decodes; others the operator skips and reports.
pub fn put(world: &mut Cache, value: &Value) -> bool {
    let key = owner(value);
    match key.kind {
        Kind::AIFactory => serde_json::from_value::<AIFactory>(value.clone()).map(|found| world.put_factory(key, Arc::new(found))).is_ok(),
        Kind::GPUPool => serde_json::from_value::<GPUPool>(value.clone()).map(|found| world.put_pool(key, Arc::new(found))).is_ok(),
        Kind::AccessGrant => serde_json::from_value::<AccessGrant>(value.clone()).map(|found| world.put_grant(key, Arc::new(found))).is_ok(),
    }
}

impl Hub {
    /// Everything, in the order in which it was generated.
    pub fn all(&self) -> impl Iterator<Item = &Value> {
        self.factories.iter().chain(&self.pools).chain(&self.grants)
    }

    pub fn world(&self) -> Cache {
        let mut world = Cache::default();
        assert!(self.all().all(|value| put(&mut world, value)), "legal resources decode");
        world.known = self.sites().into_iter().map(known).collect();
        world
    }

    /// Every site of every factory.
    pub fn sites(&self) -> BTreeSet<SiteKey> {
        let names = |factory: &Value| {
            let sites: Vec<String> = factory["spec"]["sites"].as_array().into_iter().flatten().map(|site| text(&site["name"])).collect();
            sites.into_iter().map(|site| SiteKey::new(owner(factory), site)).collect::<Vec<_>>()
        };
        self.factories.iter().flat_map(names).collect()
    }
}

/// What is remembered of a part of which nothing but its name matters.
pub fn known(key: SiteKey) -> KnownSite {
    KnownSite { key, credential: CredentialSource::Local, slurm: None, identity: None, entered: true }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn manifest(kind: &str, namespace: &str, name: &str, created: u8, spec: Value) -> Value {
    json!({
        "apiVersion": "aifactory.dev/v1alpha1",
        "kind": kind,
        "metadata": {
            "name": name, "namespace": namespace, "generation": 1, "uid": format!("{kind}-{namespace}-{name}"),
            "creationTimestamp": format!("2026-11-01T00:00:{created:02}Z"),
        },
        "spec": spec,
    })
}

/// Any hub.
pub fn hub() -> impl Strategy<Value = Hub> {
    let grants = (2..5usize, proptest::collection::vec(scene::scene(), 2)).prop_flat_map(|(count, scenes)| {
        let names = ["alpha", "beta", "a.b", "a-b"];
        let wishes: Vec<_> = scenes.iter().flat_map(|scene| scene.wishes.clone()).collect();
        let grants: Vec<_> = names.into_iter().zip(wishes).take(count).map(|(name, wish)| grant(name, wish)).collect();
        (Just(scenes), grants)
    });
    (grants, proptest::collection::vec(stage(), 2), pool("h100"), pool("mi300")).prop_map(|((scenes, grants), stages, one, two)| {
        let scene = &scenes[0];
        let site = |index: usize| {
            let (layout, country) = (&scene.layouts[index], ["LU", "DE"][index]);
            json!({
                "name": SITES[index],
                "country": country,
                "stage": stages[index],
                "kubernetes": {"local": {}},
                "network": {
                    "podCIDRs": layout.pods,
                    "nodeCIDRs": layout.others,
                    "dns": {"nodeLocalCIDRs": layout.node_local},
                    "services": serde_json::to_value(&layout.services).expect("services"),
                },
            })
        };
        let links = if scene.linked { json!([{"between": SITES}]) } else { json!([]) };
        let policy = json!({"subjectPrefixes": ["oidc:"]});
        let factory = json!({"type": "Factory", "sites": [site(0), site(1)], "links": links, "policy": policy});
        Hub {
            factories: vec![
                manifest("AIFactory", "example", "example", 0, factory),
                manifest("AIFactory", "antenna", "antenna", 0, json!({"type": "Antenna"})),
            ],
            pools: vec![one, two],
            grants,
        }
    })
}

fn stage() -> impl Strategy<Value = &'static str> {
    prop_oneof![20 => Just("Production"), 1 => Just("EarlyAccess"), 1 => Just("Draining"), 1 => Just("Proposed")]
}

fn pool(name: &'static str) -> impl Strategy<Value = Value> {
    let resource = prop_oneof![Just("nvidia.com/gpu"), Just("amd.com/gpu")];
    let state = || prop_oneof![9 => Just("Active"), 1 => Just("Draining")];
    let count = || proptest::option::weighted(0.3, 0..20i32);
    let consumers = prop::bool::weighted(0.8);
    (resource, stage(), state(), state(), count(), count(), 1..3usize, consumers).prop_map(
        move |(resource, stage, first, second, here, there, places, consumers)| {
            let mut sites = vec![json!({"name": SITES[0], "state": first}), json!({"name": SITES[1], "state": second})];
            for (site, count) in sites.iter_mut().zip([here, there]) {
                if let Some(count) = count {
                    site["count"] = json!(count);
                }
            }
            sites.truncate(places);
            let antenna = json!([{"name": "antenna", "namespaces": {"names": ["antenna"]}, "maxGPUs": 20}]);
            let spec = json!({
                "factoryRef": {"name": "example"},
                "stage": stage,
                "accelerator": {"vendor": "any", "model": "Any-80GB", "resourceName": resource, "perNode": 4},
                "perGPU": {"cpus": 16, "memoryGiB": 120},
                "kubernetes": {},
                "nodes": {"adopt": {"selector": {"matchLabels": {"model": name}}}},
                "sites": sites,
                "consumers": if consumers { antenna } else { json!([]) },
            });
            manifest("GPUPool", "example", name, 0, spec)
        },
    )
}

fn grant(name: &'static str, wish: scene::Wish) -> impl Strategy<Value = Value> {
    let member = (0..3u8, prop_oneof![Just("Lead"), Just("Member"), Just("Reader")], prop::bool::weighted(0.8), any::<bool>());
    let period = prop_oneof![
        12 => Just(("2026-11-01T00:00:00Z", "2027-03-01T00:00:00Z")),
        1 => Just(("2026-12-01T00:00:00Z", "2027-03-01T00:00:00Z")),
        2 => Just(("2026-10-01T00:00:00Z", "2026-11-20T00:00:00Z")),
    ];
    let state = prop_oneof![12 => Just("Active"), 1 => Just("Paused"), 1 => Just("Revoked")];
    let expiry = (prop_oneof![Just("Finish"), Just("Cancel")], prop_oneof![Just("0s"), Just("1h")], prop_oneof![Just("Retain"), Just("Delete")]);
    let residency = prop_oneof![8 => Just(json!([])), 1 => Just(json!(["LU"])), 1 => Just(json!(["EU"]))];
    let pools = prop_oneof![4 => Just(vec!["h100"]), 1 => Just(vec!["mi300"]), 1 => Just(vec!["h100", "mi300"])];
    let who = (prop_oneof![3 => Just("example"), 1 => Just("antenna")], 0..3u8, proptest::collection::vec(member, 0..4));
    (who, period, state, expiry, residency, pools, 1..24i64, any::<bool>()).prop_map(
        move |((namespace, created, members), (from, until), state, (running, grace, after), residency, pools, gpus, early)| {
            let members: Vec<Value> = members
                .iter()
                .enumerate()
                .map(|(index, (subject, role, active, known))| {
                    let state = if *active { "Active" } else { "Suspended" };
                    let mut member = json!({"id": format!("p-{index}"), "role": role, "state": state});
                    if *known {
                        member["kubernetes"] = json!({"kind": "User", "name": format!("oidc:{subject}")});
                    }
                    member
                })
                .collect();
            let pools: Vec<Value> = pools
                .iter()
                .map(|pool| {
                    let pool_ref = json!({"name": pool, "namespace": "example"});
                    json!({"name": pool, "poolRef": pool_ref, "gpuHours": 100, "maxGPUs": gpus})
                })
                .collect();
            let spec = json!({
                "factoryRef": {"name": namespace},
                "organisation": {"name": "Example SARL", "country": "FR", "category": "SME"},
                "code": format!("EHPC-{name}"),
                "accessMode": "Playground",
                "members": members,
                "pools": pools,
                "notBefore": from,
                "notAfter": until,
                "state": state,
                "earlyAccess": early,
                "expiry": {"runningWork": running, "gracePeriod": grace, "retention": "24h", "afterRetention": after},
                "data": {"residency": residency},
                "network": network(&wish),
            });
            manifest("AccessGrant", namespace, name, created, spec)
        },
    )
}

fn network(wish: &scene::Wish) -> Value {
    use aifactory_plan::model::intent::EgressIntent;
    let egress: Vec<Value> = wish
        .egress
        .iter()
        .map(|entry| match entry {
            EgressIntent::Service(name) => json!({"service": name}),
            EgressIntent::Range { cidr, ports } => json!({"cidr": cidr, "ports": serde_json::to_value(ports).expect("ports")}),
        })
        .collect();
    let mut network = json!({"egress": egress});
    if let Some(sites) = &wish.cross_site {
        let addresses: Vec<Value> = SITES.iter().zip(sites).map(|(site, cidrs)| json!({"site": site, "cidrs": cidrs})).collect();
        network["crossSite"] = json!({"addresses": addresses});
    }
    network
}

/// The id under which sites know this hub.
pub fn id() -> HubId {
    HubId::new(HUB)
}
