//! Budgets from the hub's side: what is assigned to each part of a site, and what status shows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::{Kind, OwnerRef, Reason, labels};
use aifactory_plan::hub::aggregate::{self, Reports};
use aifactory_plan::hub::cache::Cache;
use aifactory_plan::hub::ledger::Ledger;
use aifactory_plan::hub::project;
use aifactory_plan::hub::reports::ReportIndex;
use aifactory_plan::model::budget;
use aifactory_plan::model::id::{AccountName, ClusterName, HubId, PartitionName, QosName, UserName};
use aifactory_plan::model::intent::{Body, GrantIntent, Intent, SiteConfig};
use aifactory_plan::model::object::ObjectKind;
use aifactory_plan::model::plan::{Action, ObservedObjects, Plan};
use aifactory_plan::model::report::{
    Detail, EntryUsage, Finding, GrantDetail, Held, PoolDetail, Report, SitePhase, SiteReport, SlurmDetail, SlurmEntry,
};
use aifactory_plan::model::site_key::SiteKey;
use aifactory_plan::site::grant::{GrantView, Hours, LivePod, NamespaceView};
use aifactory_plan::site::policy::SitePolicy;
use jiff::Timestamp;
use serde_json::{Value, json};

fn now() -> Timestamp {
    "2026-12-15T12:00:00Z".parse().expect("a time")
}

fn owner(kind: Kind, name: &str) -> OwnerRef {
    OwnerRef::new(kind, "example", name)
}

fn factory() -> OwnerRef {
    owner(Kind::AIFactory, "example")
}

fn slurm(site: &str) -> SiteKey {
    SiteKey::slurm(factory(), site)
}

fn kubernetes(site: &str) -> SiteKey {
    SiteKey::new(factory(), site)
}

fn manifest(name: &str, generation: i64, spec: Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "example", "uid": format!("uid-{name}"), "generation": generation, "creationTimestamp": "2026-11-01T00:00:00Z"},
        "spec": spec,
    })
}

fn site(name: &str, engines: &[&str]) -> Value {
    let rest = json!({"url": "http://127.0.0.1:6820", "tokenSecretRef": {"name": "token", "key": "token"}});
    let slinky = json!({"namespace": "slurm", "controllerRef": {"name": "slurm"}, "image": "ghcr.io/slinkyproject/slurmd:26.05"});
    let mut site = json!({"name": name, "country": "LU", "stage": "Production"});
    for engine in engines {
        match *engine {
            "kubernetes" => site["kubernetes"] = json!({"local": {}}),
            "rest" => site["slurm"]["rest"] = rest.clone(),
            "slinky" => site["slurm"]["slinky"] = slinky.clone(),
            other => panic!("{other}"),
        }
    }
    if site.get("slurm").is_some() {
        site["slurm"]["clusterName"] = json!(name);
    }
    site
}

/// `a` has everything, `b` is a Slurm alone, `c` a Kubernetes alone.
fn world(grant: &Value) -> Cache {
    let mut world = Cache::default();
    let sites = json!([site("a", &["kubernetes", "rest", "slinky"]), site("b", &["rest"]), site("c", &["kubernetes"])]);
    let stored = manifest("example", 1, json!({"type": "Factory", "sites": sites}));
    world.put_factory(factory(), Arc::new(serde_json::from_value(stored).expect("a factory")));
    let pool = |engine: &str, how: Value, sites: Value, nodes: bool| {
        let mut spec = json!({
            "factoryRef": {"name": "example"},
            "accelerator": {"vendor": "nvidia", "model": "H100", "resourceName": "nvidia.com/gpu", "perNode": 4},
            "perGPU": {"cpus": 16, "memoryGiB": 120},
            "accounting": {"canonicalGPUHours": 1, "perDeviceHours": 2},
            "sites": sites,
        });
        spec[engine] = how;
        if nodes {
            spec["nodes"] = json!({"adopt": {"selector": {"matchLabels": {"gpu": "h100"}}}});
        }
        spec
    };
    let placed = json!([{"name": "a", "count": 3}, {"name": "b", "count": 1, "slurm": {"partition": "acc"}}]);
    for (name, spec) in [
        ("h100", pool("slurm", json!({"partition": "h100"}), placed, true)),
        ("bare", pool("slurm", json!({"partition": "h100"}), json!([{"name": "a"}, {"name": "b"}, {"name": "c"}]), false)),
        ("pods", pool("kubernetes", json!({}), json!([{"name": "a"}, {"name": "c"}]), true)),
        ("more", pool("kubernetes", json!({}), json!([{"name": "a"}, {"name": "c"}]), true)),
    ] {
        world.put_pool(owner(Kind::GPUPool, name), Arc::new(serde_json::from_value(manifest(name, 1, spec)).expect("a pool")));
    }
    world.put_grant(owner(Kind::AccessGrant, "alpha"), Arc::new(serde_json::from_value(grant.clone()).expect("a grant")));
    world
}

fn grant(generation: i64, pools: Value) -> Value {
    manifest(
        "alpha",
        generation,
        json!({
            "factoryRef": {"name": "example"},
            "organisation": {"name": "Example SARL", "country": "FR", "category": "SME"},
            "code": "EHPC-1",
            "accessMode": "Playground",
            "members": [{"id": "p-1", "slurm": {"user": "u1"}, "kubernetes": {"name": "oidc:1"}}],
            "pools": pools,
            "limits": {"maxGPUsPerMember": 4, "maxWallTime": "12h"},
            "notBefore": "2026-12-01T00:00:00Z",
            "notAfter": "2027-03-01T00:00:00Z",
        }),
    )
}

fn hours(hours: i64) -> Value {
    json!([{"name": "main", "poolRef": {"name": "h100"}, "gpuHours": hours, "maxGPUs": 8}])
}

fn body(intent: &Intent) -> &GrantIntent {
    match &intent.body {
        Body::Grant(grant) => grant,
        Body::Pool(_) => panic!("a pool"),
    }
}

fn alpha() -> OwnerRef {
    owner(Kind::AccessGrant, "alpha")
}

#[test]
fn each_part_is_sent_its_own_pools_only() {
    let pools = json!([
        {"name": "main", "poolRef": {"name": "h100"}, "gpuHours": 100, "maxGPUs": 8},
        {"name": "pods", "poolRef": {"name": "pods"}, "gpuHours": 10, "maxGPUs": 2, "sites": [{"name": "a"}]},
    ]);
    let projection = project::grant(&world(&grant(1, pools)), &alpha(), &BTreeSet::new(), now()).expect("a projection");
    assert!(projection.problems.is_empty(), "{:?}", projection.problems);
    assert_eq!(projection.sites.keys().cloned().collect::<Vec<_>>(), [kubernetes("a"), slurm("a"), slurm("b")]);
    let pools = |key: &SiteKey| -> Vec<(String, Option<PartitionName>, i64, i64)> {
        let pools = &body(&projection.sites[key]).pools;
        pools.iter().map(|pool| (pool.entry.clone(), pool.partition.clone(), pool.budget.device_minutes, pool.max_gpus)).collect()
    };
    assert_eq!(pools(&kubernetes("a")), [("pods".to_owned(), None, 1200, 2)]);
    assert_eq!(pools(&slurm("a")), [("main".to_owned(), Some(PartitionName::new("h100")), 9000, 6)]);
    assert_eq!(pools(&slurm("b")), [("main".to_owned(), Some(PartitionName::new("acc")), 3000, 2)]);
    let caps = body(&projection.sites[&slurm("b")]).caps;
    assert_eq!((caps.max_gpus, caps.max_jobs, caps.max_wall_minutes), (Some(4), None, Some(720)));
    assert_eq!(body(&projection.sites[&slurm("b")]).members[0].slurm_user.as_ref().map(UserName::as_str), Some("u1"));
}

#[test]
fn without_rest_no_budget_and_no_binding() {
    let pools = json!([{"name": "bare", "poolRef": {"name": "bare"}, "gpuHours": 100, "maxGPUs": 8}]);
    let world = world(&grant(1, pools));
    let projection = project::grant(&world, &alpha(), &BTreeSet::new(), now()).expect("a projection");
    let problem = projection.problems.first().expect("a problem");
    assert_eq!(problem.reason, Reason::BudgetNotEnforceable);
    assert!(problem.message.contains("sites[].slurm.rest"), "{}", problem.message);
    assert!(!projection.sites.contains_key(&slurm("c")) && projection.sites.contains_key(&slurm("b")));

    let projection = project::pool(&world, &owner(Kind::GPUPool, "bare"), &BTreeSet::new());
    assert_eq!(projection.sites.keys().cloned().collect::<Vec<_>>(), [slurm("a"), slurm("b")], "Slinky needs nodes");
    assert_eq!(projection.problems.iter().map(|problem| problem.reason).collect::<Vec<_>>(), [Reason::InvalidSpec, Reason::EngineMissing]);
    let projection = project::pool(&world, &owner(Kind::GPUPool, "h100"), &BTreeSet::new());
    assert_eq!(projection.sites.keys().cloned().collect::<Vec<_>>(), [kubernetes("a"), slurm("a"), slurm("b")]);
    assert!(
        project::site(&world, &HubId::new("hub"), &kubernetes("b"), None).is_none()
            && project::site(&world, &HubId::new("hub"), &slurm("c"), None).is_none()
    );
}

fn report(intent: &Intent, used: i64, limit: i64) -> Report {
    let entry = SlurmEntry { qos: QosName::new("grant-alpha-main"), partition: PartitionName::new("h100"), limit: Some(limit) };
    let closed = match &intent.body {
        Body::Grant(grant) => grant.pools[0].partition.is_none() && used >= grant.closes_at(&grant.pools[0].pool),
        Body::Pool(_) => false,
    };
    let usage = EntryUsage { used, complete_through: Some(now()), surcharge: 30, closed, ..EntryUsage::default() };
    let slurm = SlurmDetail {
        cluster: ClusterName::new("b"),
        account: AccountName::new("grant-alpha"),
        entries: BTreeMap::from([("main".to_owned(), entry)]),
    };
    let detail = GrantDetail {
        members_wanted: 1,
        members_bound: 1,
        slurm: Some(slurm),
        usage: BTreeMap::from([("main".to_owned(), usage)]),
        ..GrantDetail::default()
    };
    Report::answering(intent, SitePhase::Bound, Detail::Grant(detail))
}

fn there() -> SiteReport {
    SiteReport { reachable: true, synced: true, ..SiteReport::default() }
}

/// Status after both sites have reported what they used, in device-seconds.
fn status(grant: &Value, ledger: &mut Ledger, used: [i64; 2], silent: Option<&str>) -> (Value, BTreeMap<SiteKey, i64>) {
    let world = world(grant);
    let projection = project::grant_within(&world, &alpha(), &BTreeSet::new(), Some(ledger), now()).expect("a projection");
    let assigned: BTreeMap<SiteKey, i64> =
        projection.sites.iter().map(|(key, intent)| (key.clone(), body(intent).pools[0].budget.device_minutes)).collect();
    let reports: BTreeMap<SiteKey, Report> = projection
        .sites
        .iter()
        .zip(used)
        .filter(|((key, _), _)| silent != Some(key.site.as_str()))
        .map(|((key, intent), used)| (key.clone(), report(intent, used, assigned[key])))
        .collect();
    let about: BTreeMap<SiteKey, &Report> = reports.iter().map(|(key, report)| (key.clone(), report)).collect();
    ledger.apply_reports(&projection.sites, &about);
    let sites: BTreeMap<SiteKey, SiteReport> = reports.keys().map(|key| (key.clone(), there())).collect();
    let none = BTreeSet::new();
    let object = world.grant(&alpha()).expect("a grant");
    let outcome = aggregate::grant(&world, object, &projection, &Reports { about, sites: &sites, abandoned: &none }, now());
    (serde_json::to_value(outcome.status).expect("a status"), assigned)
}

fn condition<'v>(status: &'v Value, name: &str) -> (&'v str, &'v str, &'v str) {
    let found = status["conditions"].as_array().expect("conditions").iter().find(|found| found["type"] == name).expect("the condition");
    let text = |field: &str| found[field].as_str().expect("a string");
    (text("status"), text("reason"), text("message"))
}

#[test]
fn what_was_used_is_shown_and_ends_the_work_until_more_is_granted() {
    let mut ledger = Ledger::default();
    let (found, assigned) = status(&grant(1, hours(100)), &mut ledger, [3600, 1800], None);
    assert_eq!(assigned, BTreeMap::from([(slurm("a"), 9000), (slurm("b"), 3000)]));
    assert_eq!(
        found["pools"][0]["gpuHours"],
        json!({"granted": "100", "used": "0.75", "completeThrough": now().to_string(), "includesRunning": false})
    );
    assert_eq!(found["summary"]["gpuHours"], "0/100");
    assert_eq!(found["summary"]["sites"], "2/2");
    assert_eq!(found["sites"][0]["budgets"][0], json!({"name": "main", "unit": "gres/gpu-minutes", "limit": 9000, "used": 60, "counter": 60}));
    assert_eq!(found["sites"][1]["access"]["slurm"]["account"], "grant-alpha");
    assert_eq!(condition(&found, "WithinBudget"), ("True", "AsSpecified", "main: 0.75 of 100 GPU-hours used"));

    let mut used_up = grant(1, hours(100));
    used_up["status"] = found;
    let (found, _) = status(&used_up, &mut ledger, [9000 * 60 - 30, 3000 * 60 - 80], None);
    assert_eq!((&found["phase"], condition(&found, "WithinBudget").1), (&json!("Exhausted"), "Exhausted"));
    assert_eq!((condition(&found, "Ready").0, condition(&found, "Ready").1), ("True", "Exhausted"));
    assert_eq!((condition(&found, "Usable").0, condition(&found, "Usable").1), ("False", "Exhausted"));

    let mut more = grant(2, hours(200));
    more["status"] = found;
    let (found, assigned) = status(&more, &mut ledger, [9000 * 60 - 30, 3000 * 60 - 80], None);
    assert_eq!(assigned.values().sum::<i64>(), 24_000);
    assert_eq!((&found["phase"], condition(&found, "Usable").0, condition(&found, "WithinBudget").0), (&json!("Active"), "True", "True"));
}

#[test]
fn a_condition_that_only_the_schema_has_set_begins_when_somebody_looks() {
    let mut fresh = grant(1, hours(100));
    let unseen = |name: &str, status: &str| json!({"type": name, "status": status, "reason": "Pending", "message": "", "observedGeneration": 0, "lastTransitionTime": "1970-01-01T00:00:00Z"});
    fresh["status"] = json!({"conditions": [unseen("Ready", "Unknown"), unseen("Reconciling", "True")]});
    let (found, _) = status(&fresh, &mut Ledger::default(), [0, 0], Some("b"));
    for condition in found["conditions"].as_array().expect("conditions") {
        assert_eq!(condition["lastTransitionTime"], now().to_string(), "{condition}");
    }
}

#[test]
fn on_kubernetes_the_last_seconds_are_held_back_and_a_site_that_passes_its_part_takes_it_from_the_other() {
    let pods = json!([{"name": "main", "poolRef": {"name": "pods"}, "gpuHours": 100, "maxGPUs": 8}]);
    let mut ledger = Ledger::default();
    let (found, assigned) = status(&grant(1, pods.clone()), &mut ledger, [3600, 1800], None);
    assert_eq!(assigned, BTreeMap::from([(kubernetes("a"), 6000), (kubernetes("c"), 6000)]));
    assert_eq!(found["pools"][0]["gpuHours"]["used"], "0.75");
    assert_eq!(found["summary"]["gpuHours"], "0/100");
    let (state, reason, text) = condition(&found, "WithinBudget");
    assert_eq!((state, reason), ("True", "AsSpecified"));
    assert_eq!(text, "main: 0.75 of 100 GPU-hours used");

    // Four GPUs at each site, and a quarter of a minute.
    let last = 6000 * 60 - 4 * 15;
    let (found, _) = status(&grant(1, pods.clone()), &mut ledger, [last, last - 1], None);
    assert_eq!((&found["phase"], condition(&found, "WithinBudget").0, condition(&found, "Usable").0), (&json!("Active"), "True", "True"));
    let (found, _) = status(&grant(1, pods.clone()), &mut ledger, [last, last], None);
    assert_eq!((condition(&found, "WithinBudget").1, condition(&found, "Usable").0), ("Exhausted", "False"));
    assert_eq!((&found["phase"], condition(&found, "Ready").0, condition(&found, "Ready").1), (&json!("Exhausted"), "True", "Exhausted"));

    // What ran when a closed may use more than its part.
    let mut ledger = Ledger::default();
    status(&grant(1, pods.clone()), &mut ledger, [7000 * 60, 600], None);
    let (_, assigned) = status(&grant(1, pods), &mut ledger, [7000 * 60, 600], None);
    assert_eq!(assigned, BTreeMap::from([(kubernetes("a"), 6000), (kubernetes("c"), 5000)]));
}

#[test]
fn a_small_part_of_a_large_grant_is_of_use_all_the_same() {
    assert_eq!(budget::closes_at(1, 1000), 30);
    assert_eq!(budget::closes_at(100, 4), 5940);
    assert_eq!(budget::closes_at(0, 4), 0);
}

#[test]
fn a_site_that_is_silent_keeps_its_figures_and_its_part() {
    let mut ledger = Ledger::default();
    let (first, _) = status(&grant(1, hours(100)), &mut ledger, [3600, 7200], None);
    // The hub restarts, and b does not answer; a person moves the hours to a.
    let moved = json!([{"name": "main", "poolRef": {"name": "h100"}, "gpuHours": 100, "maxGPUs": 8, "sites": [{"name": "a", "gpuHours": 100}, {"name": "b", "gpuHours": 0}]}]);
    let mut again = grant(2, moved);
    again["status"] = first;
    let (found, assigned) = status(&again, &mut Ledger::default(), [3600, 0], Some("b"));
    assert_eq!(assigned[&slurm("a")], 9000, "b may still use its part");
    assert_eq!(found["pools"][0]["gpuHours"]["used"], "1.5");
    let (state, reason, text) = condition(&found, "WithinBudget");
    assert_eq!((state, reason), ("Unknown", "UsageStale"), "{text}");
    assert_eq!(found["phase"], "Active", "access is not taken because a report is late");
}

#[test]
fn a_site_that_has_taken_access_away_confirms_a_lower_part_though_its_locked_qos_keeps_the_former_budget() {
    let mut ledger = Ledger::default();
    let pools = |hours: i64, first: i64| {
        let sites = json!([{"name": "a", "gpuHours": first}, {"name": "b", "gpuHours": hours - first}]);
        json!([{"name": "main", "poolRef": {"name": "h100"}, "gpuHours": hours, "maxGPUs": 8, "sites": sites}])
    };
    let mut assign = |generation: i64, pools: Value, locked: bool| {
        let world = world(&grant(generation, pools));
        let projection = project::grant_within(&world, &alpha(), &BTreeSet::new(), Some(&mut ledger), now()).expect("a projection");
        let assigned = [slurm("a"), slurm("b")].map(|key| body(&projection.sites[&key]).pools[0].budget.device_minutes);
        let reports: BTreeMap<SiteKey, Report> = [(slurm("a"), if locked { 960 } else { assigned[0] }), (slurm("b"), assigned[1])]
            .into_iter()
            .map(|(key, limit)| {
                let mut report = report(&projection.sites[&key], 0, limit);
                if let Detail::Grant(detail) = &mut report.detail {
                    detail.access_removed = locked && key == slurm("a");
                }
                (key, report)
            })
            .collect();
        ledger.apply_reports(&projection.sites, &reports.iter().map(|(key, report)| (key.clone(), report)).collect());
        assigned
    };
    assert_eq!(assign(1, pools(16, 8), false), [960, 960]);
    // The site refuses the grant by now: it is locked there, with what it was given. The other may have what it is not to have any more.
    assign(2, pools(16, 2), true);
    assert_eq!(assign(2, pools(16, 2), true), [240, 1680]);
}

#[test]
fn a_slurm_without_kubernetes_is_sent_an_empty_configuration_and_no_other_waits_for_one() {
    let world = world(&grant(1, hours(10)));
    let config_sent = |key: &SiteKey, config: Option<SiteConfig>| project::site(&world, &HubId::new("hub"), key, config).expect("a site").config;
    assert_eq!(config_sent(&slurm("b"), Some(SiteConfig::default())), Some(SiteConfig::default()));
    assert_eq!(config_sent(&slurm("a"), None), None);
    assert_eq!(config_sent(&kubernetes("a"), Some(SiteConfig::default())), None);
}

#[test]
fn a_factory_row_joins_both_parts() {
    let world = world(&grant(1, hours(100)));
    let object = world.factory(&factory()).expect("a factory");
    let broken = SiteReport { problem: Some(Finding::note(Reason::SlurmDatabaseDown, "slurmdbd does not answer")), ..there() };
    let sites = BTreeMap::from([
        (kubernetes("a"), there()),
        (slurm("a"), broken),
        (slurm("b"), SiteReport { held: BTreeMap::from([(alpha(), Held::Retained)]), ..there() }),
        (kubernetes("c"), SiteReport { released: true, ..there() }),
    ]);
    let outcome = aggregate::factory(&world, object, &sites, &ReportIndex::default(), &BTreeSet::new(), now());
    let found = serde_json::to_value(outcome.status).expect("a status");
    assert_eq!(
        (&found["sites"][0]["reason"], &found["sites"][0]["message"]),
        (&json!("SlurmDatabaseDown"), &json!("Slurm: slurmdbd does not answer"))
    );
    assert_eq!((&found["sites"][1]["reachable"], &found["sites"][1]["reason"]), (&json!(true), &Value::Null), "a Slurm alone");
    assert_eq!(condition(&found, "Ready").1, "SlurmDatabaseDown");
}

#[test]
fn a_partition_that_is_down_is_not_ready() {
    let world = world(&grant(1, hours(100)));
    let pool = owner(Kind::GPUPool, "h100");
    let projection = project::pool(&world, &pool, &BTreeSet::new());
    let reports: BTreeMap<SiteKey, Report> = projection
        .sites
        .iter()
        .map(|(key, intent)| {
            let state = if *key == slurm("b") { "Down" } else { "Up" };
            let detail =
                PoolDetail { wanted: 1, ready: 1, gpus: 4, partition: Some((PartitionName::new("h100"), state.to_owned())), ..PoolDetail::default() };
            (key.clone(), Report { detail: Detail::Pool(detail), ..report(intent, 0, 0) })
        })
        .collect();
    let about = reports.iter().map(|(key, report)| (key.clone(), report)).collect();
    let sites: BTreeMap<SiteKey, SiteReport> = reports.keys().map(|key| (key.clone(), there())).collect();
    let intent = project::grant(&world, &alpha(), &BTreeSet::new(), now()).expect("a projection").sites[&slurm("a")].clone();
    let used = report(&intent, 7200 * 3 + 60, 9000);
    let object = world.pool(&pool).expect("a pool");
    let none = BTreeSet::new();
    let reports = Reports { about, sites: &sites, abandoned: &none };
    let mut index = ReportIndex::default();
    index.put(&world, &slurm("a"), used);
    let outcome = aggregate::pool(&world, object, &projection, &reports, &index, now());
    let found = serde_json::to_value(outcome.status).expect("a status");
    assert_eq!((condition(&found, "Ready").0, condition(&found, "Ready").1), ("False", "PartitionNotReady"));
    assert_eq!(condition(&found, "PartitionReady").2, "b: partition h100 is Down");
    assert_eq!(found["sites"].as_array().map(Vec::len), Some(2));
    assert_eq!(found["summary"], json!({"nodes": "2/2", "gpus": "0/8"}), "the nodes of a count once");
    assert_eq!(found["gpuHours"]["used"], 3);
}

#[test]
fn a_restarted_hub_keeps_what_a_kubernetes_site_has_reported_as_used() {
    let entry = |sites: Value| json!([{"name": "main", "poolRef": {"name": "pods"}, "gpuHours": 100, "maxGPUs": 8, "sites": sites}]);
    let both = entry(json!([]));
    // What ran when a closed used more than its part.
    let (found, _) = status(&grant(1, both.clone()), &mut Ledger::default(), [7000 * 60, 600], None);
    assert_eq!(found["sites"][0]["budgets"][0], json!({"name": "main", "unit": "device-minutes", "limit": 6000, "used": 7000}));
    let mut again = grant(1, both.clone());
    again["status"] = found.clone();
    let (_, assigned) = status(&again, &mut Ledger::default(), [7000 * 60, 600], Some("a"));
    assert_eq!(assigned, BTreeMap::from([(kubernetes("a"), 6000), (kubernetes("c"), 5000)]));

    // Moved to c alone: a may still use its part, until it reports what it used.
    let mut moved = grant(2, entry(json!([{"name": "c"}])));
    moved["status"] = found;
    let (_, assigned) = status(&moved, &mut Ledger::default(), [600, 600], None);
    assert_eq!(assigned, BTreeMap::from([(kubernetes("c"), 5000)]), "what a used is spent, and what it may still use was never c's");
}

#[test]
fn a_hub_that_begins_anew_raises_one_entry_whatever_other_entries_are_elsewhere() {
    let pools = |hours: i64| {
        json!([
            {"name": "main", "poolRef": {"name": "pods"}, "gpuHours": hours, "maxGPUs": 8, "sites": [{"name": "a"}]},
            {"name": "more", "poolRef": {"name": "more"}, "gpuHours": 100, "maxGPUs": 8, "sites": [{"name": "c"}]},
        ])
    };
    let (found, _) = status(&grant(2, pools(100)), &mut Ledger::default(), [600, 0], None);
    let mut raised = grant(3, pools(200));
    raised["status"] = found.clone();
    // Status is still about the former generation: the part is assigned as it is wanted now, and never a lower one for lack of knowledge.
    let (_, assigned) = status(&raised, &mut Ledger::default(), [600, 0], None);
    assert_eq!(assigned[&kubernetes("a")], 24_000);

    let mut again = grant(2, pools(100));
    again["status"] = found;
    let mut ledger = Ledger::default();
    status(&again, &mut ledger, [600, 0], None);
    raised["status"] = Value::Null;
    let (_, assigned) = status(&raised, &mut ledger, [600, 0], None);
    assert_eq!(assigned[&kubernetes("a")], 24_000, "site c never had anything of this entry");
}

#[test]
fn a_kubernetes_site_without_placements_goes_on_reporting_what_was_used() {
    let grant = grant(1, json!([{"name": "main", "poolRef": {"name": "pods"}, "gpuHours": 100, "maxGPUs": 8, "sites": [{"name": "c"}]}]));
    let world = world(&grant);
    let mut ledger = Ledger::default();
    let holders = BTreeSet::from([kubernetes("a")]);
    let projection = project::grant_within(&world, &alpha(), &holders, Some(&mut ledger), now()).expect("a projection");
    let left = &body(&projection.sites[&kubernetes("a")]).pools[0];
    assert_eq!((left.entry.as_str(), left.pool.as_str(), left.max_gpus, left.open, left.budget.device_minutes), ("main", "pods", 0, false, 0));
}

/// What a site plans for a grant whose Pods have used so much, in device-seconds.
fn planned(grant: &Value, used: i64, pods: &[(&str, &[(&str, bool)])], written: Option<&str>) -> Plan {
    let world = world(grant);
    let intent = project::grant(&world, &alpha(), &BTreeSet::new(), now()).expect("a projection").sites[&kubernetes("a")].clone();
    let site = project::site(&world, &HubId::new("hub"), &kubernetes("a"), None).expect("a site");
    let annotations = written.map(|pools| (labels::CANCEL_PODS.to_owned(), pools.to_owned())).into_iter().collect();
    let namespace = NamespaceView { uid: "1".to_owned(), state: labels::STATE_BOUND.to_owned(), annotations, ..NamespaceView::default() };
    let live = |bound: bool| LivePod { gpus: 2, bound, grace: Some(10) };
    let of = |pods: &[(&str, bool)]| pods.iter().map(|(name, bound)| ((*name).to_owned(), live(*bound))).collect();
    let hours = Hours {
        used: BTreeMap::from([("pods".to_owned(), EntryUsage { used, ..EntryUsage::default() })]),
        pods: pods.iter().map(|(pool, pods)| ((*pool).to_owned(), of(pods))).collect(),
        ..Hours::default()
    };
    let (objects, policy) = (ObservedObjects::new(), SitePolicy::default());
    let view = GrantView { namespace: Some(&namespace), hours: Some(hours), ..GrantView::of(&objects, &policy) };
    aifactory_plan::site::grant::plan(&site, &intent, body(&intent), &view, now())
}

fn actions(plan: &Plan) -> impl Iterator<Item = &Action> {
    plan.steps.iter().flat_map(|step| &step.actions)
}

/// The content of an object that the plan writes.
fn content<'p>(plan: &'p Plan, kind: ObjectKind, name: &str) -> &'p Value {
    let found = actions(plan).find_map(|action| match action {
        Action::Apply(object) if object.key.kind == kind && (name.is_empty() || object.key.name == name) => Some(&object.content),
        _ => None,
    });
    found.expect("the object")
}

fn ended(plan: &Plan) -> Vec<&str> {
    let pods = actions(plan).filter_map(|action| match action {
        Action::EndPod { name, .. } => Some(name.as_str()),
        _ => None,
    });
    pods.collect()
}

/// Of 6000 device-minutes for each site, four GPUs at each.
const LAST: i64 = 6000 * 60 - 4 * 15;

fn on_pods(running_work: &str) -> Value {
    let mut grant = grant(1, json!([{"name": "main", "poolRef": {"name": "pods"}, "gpuHours": 100, "maxGPUs": 8}]));
    grant["spec"]["expiry"] = json!({"runningWork": running_work});
    grant
}

#[test]
fn pods_of_a_used_up_pool_are_cancelled_once_the_namespace_is_marked_running_ones_where_the_grant_asks() {
    let pods: &[(&str, &[(&str, bool)])] = &[("pods", &[("train", true), ("waits", false)])];
    let mark = |plan: &Plan| content(plan, ObjectKind::NAMESPACE, "")["metadata"]["annotations"][labels::CANCEL_PODS].clone();
    let messages = |plan: &Plan| plan.findings.iter().map(|finding| finding.message.clone()).collect::<Vec<_>>().join("; ");

    let open = planned(&on_pods("Cancel"), LAST - 1, pods, None);
    assert_eq!((mark(&open), ended(&open), messages(&open)), (Value::Null, Vec::new(), String::new()));
    let finish = planned(&on_pods("Finish"), LAST, pods, Some("pods"));
    assert_eq!((mark(&finish), ended(&finish)), (json!("pods"), vec!["waits"]));
    assert!(messages(&finish).contains("pool pods: the GPU-hours for this site are used up; nothing more starts, what runs may finish"));
    let cancel = planned(&on_pods("Cancel"), LAST, pods, None);
    assert_eq!((mark(&cancel), ended(&cancel)), (json!("pods"), Vec::new()), "first the namespace");
    assert!(messages(&cancel).contains("what runs is cancelled"));
    assert_eq!(ended(&planned(&on_pods("Cancel"), LAST, pods, Some("pods"))), ["train", "waits"]);
    assert!(ended(&planned(&on_pods("Cancel"), LAST, pods, Some("other"))).is_empty());
    assert!(ended(&planned(&on_pods("Cancel"), LAST - 1, pods, Some("pods"))).is_empty());
}

#[test]
fn a_pool_counts_as_closed_when_that_is_written() {
    let plan = planned(&on_pods("Finish"), LAST, &[], None);
    let Detail::Grant(detail) = &plan.detail else { panic!("a grant") };
    assert!(!plan.steps.is_empty() && !detail.usage["main"].closed, "until then more may start");
}

#[test]
fn pods_of_a_used_up_pool_keep_their_gpus_and_take_none_from_the_others() {
    let grant = grant(
        1,
        json!([
            {"name": "main", "poolRef": {"name": "pods"}, "gpuHours": 100, "maxGPUs": 8},
            {"name": "more", "poolRef": {"name": "more"}, "gpuHours": 100, "maxGPUs": 6},
        ]),
    );
    let quota = |used: i64| {
        let plan = planned(&grant, used, &[("pods", &[("train", true)]), ("more", &[("other", true)])], None);
        content(&plan, ObjectKind::RESOURCE_QUOTA, "aifactory")["spec"]["hard"]["requests.nvidia.com/gpu"].clone()
    };
    assert_eq!(quota(0), "7", "four and three at this site");
    assert_eq!(quota(LAST), "5", "two that still run, and three");
}

#[test]
fn two_entries_of_one_pool_are_used_up_one_after_the_other() {
    let entry = |name: &str| json!({"name": name, "poolRef": {"name": "pods"}, "gpuHours": 100, "maxGPUs": 8});
    let grant = grant(1, json!([entry("first"), entry("second")]));
    let used = |used: i64| {
        let plan = planned(&grant, used, &[], None);
        let Detail::Grant(detail) = &plan.detail else { panic!("a grant") };
        (detail.usage["first"].used, detail.usage["second"].used)
    };
    assert_eq!(used(5000 * 60), (5000 * 60, 0));
    assert_eq!(used(8000 * 60), (6000 * 60, 2000 * 60));
    assert_eq!(used(13_000 * 60), (6000 * 60, 7000 * 60));
}
