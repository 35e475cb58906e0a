//! The cost of one change does not grow with what is stored: the items that lookups visit are counted, at 100, 1,000 and 10,000 grants.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use aifactory_api::name::tenant_namespace;
use aifactory_api::{AccessGrant, Kind, OwnerRef, labels};
use aifactory_plan::engine;
use aifactory_plan::hub::aggregate::{self, Reports};
use aifactory_plan::hub::cache::{Cache, pools_of_grant};
use aifactory_plan::hub::dependents::dependents;
use aifactory_plan::hub::holders::Holders;
use aifactory_plan::hub::project;
use aifactory_plan::hub::reports::ReportIndex;
use aifactory_plan::model::digest::{Digest, digest_of};
use aifactory_plan::model::id::HubId;
use aifactory_plan::model::intent::{Body, Intent, SiteIntent};
use aifactory_plan::model::object::{ObjectKey, ObjectKind};
use aifactory_plan::model::report::{Detail, EntryUsage, GrantDetail, Report, SitePhase, SiteReport};
use aifactory_plan::model::site_key::SiteKey;
use aifactory_plan::site::index::{Index, IndexedObject};
use aifactory_plan::site::policy::SitePolicy;
use aifactory_plan::site::pools::Pools;
use aifactory_plan::site::reconcile::Reconciler;
use aifactory_plan::site::usage::Accounts;
use jiff::Timestamp;
use serde_json::{Value, json};

const HUB: &str = "0123456789abcdef";
const SIZES: [usize; 3] = [100, 1_000, 10_000];
/// Grants of a pool, where there are many pools.
const EACH: usize = 10;

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn decoded<T: serde::de::DeserializeOwned>(kind: &str, namespace: &str, name: &str, spec: &Value) -> Arc<T> {
    let object = json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": kind, "spec": spec, "metadata": {
        "name": name, "namespace": namespace, "uid": format!("{namespace}-{name}"), "generation": 1, "finalizers": ["aifactory.dev/finalizer"],
        "creationTimestamp": "2026-11-01T00:00:00Z"}});
    Arc::new(serde_json::from_value(object).unwrap())
}

fn site() -> SiteKey {
    SiteKey::new(OwnerRef::new(Kind::AIFactory, "example", "example"), "bissen")
}

fn pool_ref(name: &str) -> OwnerRef {
    OwnerRef::new(Kind::GPUPool, "example", name)
}

fn grant_ref(index: usize) -> OwnerRef {
    OwnerRef::new(Kind::AccessGrant, "antenna", format!("g{index:05}"))
}

fn grant(index: usize, pool: &str, hours: i64) -> Arc<AccessGrant> {
    static TEMPLATE: OnceLock<Arc<AccessGrant>> = OnceLock::new();
    let template = TEMPLATE.get_or_init(|| {
        let spec = json!({
            "factoryRef": {"name": "antenna"}, "organisation": {"name": "Example", "country": "FR", "category": "SME"}, "code": "EHPC",
            "accessMode": "Playground", "members": [{"id": "p-1", "role": "Lead", "kubernetes": {"kind": "User", "name": "oidc:1"}}],
            "pools": [{"name": "main", "poolRef": {"name": "any", "namespace": "example"}, "gpuHours": 1, "maxGPUs": 1}],
            "notBefore": "2026-11-01T00:00:00Z", "notAfter": "2027-03-01T00:00:00Z"});
        decoded("AccessGrant", "antenna", "any", &spec)
    });
    let mut grant = template.as_ref().clone();
    let name = grant_ref(index).name;
    grant.metadata.uid = Some(format!("antenna-{name}"));
    grant.metadata.name = Some(name);
    grant.spec.pools[0].pool_ref.name = pool.to_owned();
    grant.spec.pools[0].gpu_hours = hours;
    Arc::new(grant)
}

fn pool(hours: i64) -> Value {
    json!({"factoryRef": {"name": "example"}, "stage": "Production", "kubernetes": {}, "sites": [{"name": "bissen", "count": 1000}],
        "accelerator": {"vendor": "nvidia", "model": "H100-SXM5-80GB", "resourceName": "nvidia.com/gpu", "perNode": 4},
        "perGPU": {"cpus": 16, "memoryGiB": 120}, "nodes": {"adopt": {"selector": {"matchLabels": {"gpu": "h100"}}}},
        "consumers": [{"name": "antenna", "namespaces": {"names": ["antenna"]}, "gpuHours": hours}]})
}

/// A hub whose sites have reported on everything.
struct Hub {
    cache: Cache,
    index: ReportIndex,
    sites: BTreeMap<SiteKey, SiteReport>,
    pools: Vec<String>,
}

impl Hub {
    /// Grants of a consumer with a cap that all of them nearly reach, in these pools.
    fn new(grants: usize, pools: usize) -> Self {
        let mut cache = Cache::default();
        let spec = |sites: Value| json!({"type": "Factory", "sites": sites, "policy": {"subjectPrefixes": ["oidc:"]}});
        let sites = json!([{"name": "bissen", "country": "LU", "stage": "Production", "kubernetes": {"local": {}}, "network": {"podCIDRs": ["10.0.0.0/16"]}}]);
        cache.put_factory(site().factory, decoded("AIFactory", "example", "example", &spec(sites)));
        cache.put_factory(OwnerRef::new(Kind::AIFactory, "antenna", "antenna"), decoded("AIFactory", "antenna", "antenna", &spec(json!([]))));
        let pools: Vec<String> = (0..pools).map(|index| format!("p{index}")).collect();
        let cap = i64::try_from(grants / pools.len() * 100 + 50).unwrap();
        for name in &pools {
            cache.put_pool(pool_ref(name), decoded("GPUPool", "example", name, &pool(cap)));
        }
        let sites = BTreeMap::from([(site(), SiteReport { reachable: true, synced: true, ..SiteReport::default() })]);
        let mut hub = Self { cache, index: ReportIndex::default(), sites, pools };
        for index in 0..grants {
            let name = hub.pool_of(index);
            hub.cache.put_grant(grant_ref(index), grant(index, &name, 100));
            hub.index.put(&hub.cache, &site(), report(&grant_ref(index), digest_of(&()), 60));
        }
        hub.cache.advance(now());
        hub
    }

    fn pool_of(&self, index: usize) -> String {
        self.pools[index % self.pools.len()].clone()
    }

    fn project(&self, index: usize) -> Intent {
        project::grant(&self.cache, &grant_ref(index), &BTreeSet::new(), now()).unwrap().sites.remove(&site()).unwrap()
    }

    fn visits(&self) -> u64 {
        self.cache.visits().count() + self.index.visits().count()
    }

    /// How many items an action visits.
    fn cost<T>(&mut self, of: impl FnOnce(&mut Self) -> T) -> u64 {
        let before = self.visits();
        of(self);
        self.visits() - before
    }

    /// All that the controller does for a grant.
    fn reconcile_grant(&self, owner: &OwnerRef) {
        let may_hold = project::may_hold(&self.cache, owner, &Holders::default(), &BTreeSet::new(), now());
        let projection = project::grant(&self.cache, owner, &may_hold, now()).unwrap();
        let about = self.index.about(owner).map(|(key, report)| (key.clone(), report)).collect();
        let reports = Reports { about, sites: &self.sites, abandoned: &BTreeSet::new() };
        aggregate::grant(&self.cache, self.cache.grant(owner).unwrap(), &projection, &reports, now());
    }

    fn reconcile_pool(&self, owner: &OwnerRef) {
        let projection = project::pool(&self.cache, owner, &BTreeSet::new());
        let about = self.index.about(owner).map(|(key, report)| (key.clone(), report)).collect();
        let reports = Reports { about, sites: &self.sites, abandoned: &BTreeSet::new() };
        aggregate::pool(&self.cache, self.cache.pool(owner).unwrap(), &projection, &reports, &self.index, now());
        self.index.used_by_part(owner);
    }

    fn reconcile_factory(&self, owner: &OwnerRef) {
        project::site(&self.cache, &HubId::new(HUB), &site(), None);
        aggregate::factory(&self.cache, self.cache.factory(owner).unwrap(), &self.sites, &self.index, &BTreeSet::new(), now());
        self.cache.living_namespaces();
    }

    fn reconcile(&self, owner: &OwnerRef) {
        match owner.kind {
            Kind::AIFactory => self.reconcile_factory(owner),
            Kind::GPUPool => self.reconcile_pool(owner),
            Kind::AccessGrant => self.reconcile_grant(owner),
        }
    }

    /// A grant is edited: everything that this entails on the hub. Gives how many resources were reconciled.
    fn edit(&mut self, index: usize, hours: i64) -> usize {
        let owner = grant_ref(index);
        let changed = self.cache.put_grant(owner.clone(), grant(index, &self.pool_of(index), hours));
        self.index.recount(&self.cache, &owner);
        let dependents = dependents(&self.cache, &owner);
        let due: BTreeSet<OwnerRef> = [owner].into_iter().chain(changed).chain(dependents.now).chain(dependents.soon).collect();
        due.iter().for_each(|owner| self.reconcile(owner));
        self.cache.advance(now());
        due.len()
    }
}

fn report(owner: &OwnerRef, answers: Digest, used: i64) -> Report {
    let usage = BTreeMap::from([("main".to_owned(), EntryUsage { used, ..EntryUsage::default() })]);
    Report {
        owner: owner.clone(),
        uid: format!("{}-{}", owner.namespace, owner.name),
        generation: 1,
        answers,
        phase: SitePhase::Bound,
        settled: true,
        findings: Vec::new(),
        detail: Detail::Grant(GrantDetail { usage, ..GrantDetail::default() }),
    }
}

/// The largest cost is at most 1.2 times the smallest.
fn assert_flat(what: &str, costs: [u64; 3]) {
    let (least, most) = (costs.iter().min().unwrap(), costs.iter().max().unwrap());
    assert!(*most * 10 <= *least * 12, "{what}: {costs:?} items at {SIZES:?} grants");
}

/// Hubs of each size, with all grants in one pool, or a few in each.
fn hubs(in_one: bool) -> [Hub; 3] {
    SIZES.map(|grants| Hub::new(grants, if in_one { 1 } else { grants / EACH }))
}

fn assert_each_flat(in_one: bool) {
    let mut hubs = hubs(in_one);
    let mut flat = |what: &str, of: fn(&mut Hub)| assert_flat(what, hubs.each_mut().map(|hub| hub.cost(of)));
    flat("a grant is stored", |hub| {
        hub.cache.put_grant(grant_ref(50), grant(50, &hub.pool_of(50), 101));
    });
    flat("a grant is reconciled", |hub| hub.reconcile_grant(&grant_ref(50)));
    flat("a grant is edited, with all that this entails", |hub| assert_eq!(hub.edit(50, 102), 4));
    flat("a site reports a change of a grant", |hub| {
        let intent = hub.project(50);
        hub.index.put(&hub.cache, &site(), report(&intent.owner, digest_of(&intent), 120));
        pools_of_grant(&grant_ref(50), hub.cache.grant(&grant_ref(50)).unwrap()).iter().for_each(|pool| hub.reconcile_pool(pool));
        hub.reconcile_factory(&site().factory);
    });
    flat("a grant does not fit", |hub| {
        let last = grant_ref(99_999);
        hub.cache.put_grant(last.clone(), grant(99_999, &hub.pool_of(0), 60));
        hub.reconcile_grant(&last);
        hub.cache.remove(&last);
    });
    flat("a grant goes", |hub| {
        hub.cache.remove(&grant_ref(51));
        hub.index.remove(&grant_ref(51));
    });
}

#[test]
fn the_cost_of_one_grant_is_flat_however_many_are_in_its_pool() {
    assert_each_flat(true);
}

#[test]
fn the_cost_of_one_grant_is_flat_however_many_pools_there_are() {
    assert_each_flat(false);
}

#[test]
fn a_pools_edit_costs_what_its_own_grants_cost() {
    let edit = |hub: &mut Hub| {
        let name = hub.pool_of(0);
        let mut spec = hub.cache.pool(&pool_ref(&name)).unwrap().as_ref().clone();
        spec.spec.per_gpu.cpus += 1;
        hub.cache.put_pool(pool_ref(&name), Arc::new(spec));
        let dependents = dependents(&hub.cache, &pool_ref(&name));
        let due: BTreeSet<OwnerRef> = [pool_ref(&name)].into_iter().chain(dependents.now).chain(dependents.soon).collect();
        due.iter().for_each(|owner| hub.reconcile(owner));
    };
    assert_flat("a pool of ten grants is edited", hubs(false).each_mut().map(|hub| hub.cost(edit)));
    let [hundred, thousand, ten_thousand] = hubs(true).each_mut().map(|hub| hub.cost(edit));
    let linear = |small: u64, large: u64| large * 10 <= small * 10 * 12;
    assert!(linear(hundred, thousand) && linear(thousand, ten_thousand), "{hundred}, {thousand}, {ten_thousand} items");
}

/// A site that holds everything that was asked for.
struct Site {
    index: Index,
    pools: Pools,
    intents: BTreeMap<OwnerRef, Arc<Intent>>,
    hours: Accounts,
    about: SiteIntent,
}

impl Site {
    /// Grants in a tenth as many pools.
    fn new(grants: usize) -> Self {
        let hub = Hub::new(1, 1);
        let about = project::site(&hub.cache, &HubId::new(HUB), &site(), None).unwrap();
        let pool = project::pool(&hub.cache, &pool_ref("p0"), &BTreeSet::new()).sites.remove(&site()).unwrap();
        let (template, pools) = (hub.project(0), grants / EACH);
        let mut site = Self { index: Index::default(), pools: Pools::default(), intents: BTreeMap::new(), hours: Accounts::default(), about };
        for index in 0..pools {
            site.want(Intent { owner: pool_ref(&format!("p{index}")), ..pool.clone() });
        }
        for index in 0..grants {
            let mut intent = Intent { owner: grant_ref(index), ..template.clone() };
            if let Body::Grant(grant) = &mut intent.body {
                grant.pools[0].pool = format!("p{}", index % pools);
            }
            site.want(intent);
            for kind in [ObjectKind::NAMESPACE, ObjectKind::RESOURCE_QUOTA] {
                site.index.put(indexed(kind, index, 1));
            }
        }
        site.pools.assign(&site.intents, &site.index);
        site
    }

    fn want(&mut self, intent: Intent) {
        self.pools.set(&intent.owner, Some(&intent));
        self.intents.insert(intent.owner.clone(), Arc::new(intent));
    }

    fn reconcile(&self, owner: &OwnerRef) {
        let reconciler = Reconciler {
            site: &self.about,
            intents: &self.intents,
            index: &self.index,
            policy: &SitePolicy::default(),
            refusals: &BTreeMap::new(),
            lost: &BTreeSet::new(),
            pools: &self.pools,
            hours: &self.hours,
            engines: engine::ALL,
            served: &BTreeSet::new(),
            now: now(),
        };
        reconciler.intent(&self.intents[owner]);
    }

    fn cost(&mut self, of: impl FnOnce(&mut Self)) -> u64 {
        let before = self.index.visits().count();
        of(self);
        self.index.visits().count() - before
    }
}

/// A namespace or a quota of a grant, in which a GPU is used.
fn indexed(kind: ObjectKind, index: usize, version: u64) -> IndexedObject {
    let namespace = tenant_namespace(HUB, &grant_ref(index));
    let (name, inside) = if kind == ObjectKind::NAMESPACE { (namespace.as_str(), "") } else { ("aifactory", namespace.as_str()) };
    let object = json!({"metadata": {
        "name": name, "namespace": inside, "uid": format!("{kind:?}-{index}"), "resourceVersion": version.to_string(),
        "annotations": {labels::HUB: HUB, labels::OWNER: grant_ref(index).to_string()},
    }, "status": {"used": {"requests.nvidia.com/gpu": "1"}}});
    IndexedObject::reduce(engine::ALL, kind, &object, &HubId::new(HUB)).expect("one of ours")
}

#[test]
fn what_a_site_does_for_one_grant_or_pool_costs_the_same_however_much_it_holds() {
    let mut sites = SIZES.map(Site::new);
    // Costs nothing where nobody else is looked at.
    let mut flat = |what: &str, of: fn(&mut Site)| assert_flat(what, sites.each_mut().map(|site| site.cost(of) + 1));
    flat("a grant is reconciled", |site| site.reconcile(&grant_ref(50)));
    flat("a pool is reconciled", |site| site.reconcile(&pool_ref("p3")));
    flat("a pool is reconciled again after a grant has come", |site| {
        let intent = site.intents[&grant_ref(51)].as_ref().clone();
        site.want(intent);
        assert!(site.pools.assign(&site.intents, &site.index).is_none(), "nodes were given out again");
        site.reconcile(&pool_ref("p1"));
    });
    flat("a namespace goes, and what is in it", |site| {
        let key = ObjectKey::cluster(ObjectKind::NAMESPACE, tenant_namespace(HUB, &grant_ref(52)));
        assert_eq!(site.index.remove(&key, "Namespace-52", 2).due, BTreeSet::from([grant_ref(52)]));
        assert!(site.index.objects(&grant_ref(52)).is_none());
    });
}
